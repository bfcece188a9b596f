"""Residuals by key: found again if they fit, forgotten if nobody asks, and weighed."""

import pytest
import torch

from adacache_core.cache import ResidualCache


def residual(value=1.0, tokens=4, width=8, dtype=torch.float32):
    return torch.full((1, tokens, width), value, dtype=dtype)


def test_a_residual_is_found_under_its_key():
    cache = ResidualCache()
    cache.put("cond", "shape", residual(3))
    assert cache.get("cond", "shape").eq(3).all()


@pytest.mark.parametrize(("key", "signature"), [("uncond", "shape"), ("cond", "other shape")])
def test_another_key_or_another_signature_finds_nothing(key, signature):
    cache = ResidualCache()
    cache.put("cond", "shape", residual())
    assert cache.get(key, signature) is None


def test_what_an_evaluation_did_not_touch_is_forgotten():
    cache = ResidualCache()
    for key in ("old", "read", "rewritten"):
        cache.put(key, None, residual())
        cache.put_probe(("probe", key), residual())
    cache.begin()
    cache.get("read", None)
    cache.keep_probe(("probe", "read"))
    cache.put("rewritten", None, residual())
    cache.evict_untouched()
    assert [cache.get(key, None) is None for key in ("old", "read", "rewritten")] == [True, False, False]
    assert [cache.probe(("probe", key)) is None for key in ("old", "read", "rewritten")] == [True, False, True]


def test_a_residual_that_did_not_fit_was_not_touched():
    cache = ResidualCache()
    cache.put("cond", "shape", residual())
    cache.begin()
    cache.get("cond", "other shape")
    cache.evict_untouched()
    assert cache.get("cond", "shape") is None


def test_bytes_are_those_of_residuals_and_probes_and_the_most_is_remembered():
    cache = ResidualCache()
    cache.put("a", None, residual(tokens=4, width=8))  # 4 x 8 x 4 bytes
    cache.put("b", None, residual(tokens=4, width=8, dtype=torch.bfloat16))  # half of it
    cache.put_probe("a", residual(tokens=1, width=8))
    assert cache.bytes_held == cache.bytes_max == 128 + 64 + 32
    cache.put("a", None, residual(tokens=1, width=8))
    cache.make_room("b")
    assert cache.bytes_held == 32 + 32
    assert cache.bytes_max == 224


def test_a_part_of_a_larger_tensor_weighs_what_it_keeps_alive():
    cache = ResidualCache()
    cache.put("a", None, residual(tokens=100)[:, :1])
    assert cache.bytes_held == 100 * 8 * 4


def test_clearing_leaves_nothing():
    cache = ResidualCache()
    cache.put("a", None, residual())
    cache.put_probe("a", residual())
    cache.clear()
    assert cache.bytes_held == 0
    assert cache.get("a", None) is None


@pytest.fixture
def main_memory(monkeypatch):
    """Stands for another device, of which this machine may have none: what goes there becomes float64."""
    monkeypatch.setattr("adacache_core.cache._in_main_memory", lambda tensor: tensor.double())
    monkeypatch.setattr(
        "adacache_core.cache.Entry.on", lambda entry, device: entry._each(lambda tensor: tensor.float())
    )


def test_offloaded_everything_lies_in_main_memory_and_comes_back(main_memory):
    cache = ResidualCache(offload=True, forecast=9)
    for step, value in ((0, 1), (2, 3), (4, 5)):
        cache.put("a", None, residual(value), step)
        cache.put_probe("p", residual(value))
    entry = cache._entries["a"]
    assert {tensor.dtype for tensor in (entry.residual, entry.slope, entry.trust)} == {torch.float64}
    assert cache.probe("p").dtype == torch.float64
    assert torch.equal(cache.get("a", None, 5, torch.device("cpu")), residual(6))


def test_otherwise_they_stay_where_they_are():
    cache, tensor = ResidualCache(), residual()
    cache.put("a", None, tensor)
    assert cache.get("a", None) is tensor


def forecasting(*values, step=2, signature=None):
    """A cache whose residual "a" took these values at every second step."""
    cache = ResidualCache(forecast=9)
    for index, value in enumerate(values):
        cache.put("a", signature, residual(value), step * index)
    return cache


@pytest.mark.parametrize("values", [[1], [1, 3]])
def test_what_was_never_forecast_before_is_held(values):
    assert forecasting(*values).get("a", None, 7).eq(values[-1]).all()


@pytest.mark.parametrize(
    ("third", "expected"),
    [
        (5, 5 + 1.0 * 2),  # all of 3 + 2 came true
        (4, 4 + 0.5 * 1),  # half of it: half of what it now changes by per step
        (9, 9 + 1.0 * 6),  # more than forecast: never more than all
        (1, 1),  # it turned round: held
    ],
)
def test_it_goes_on_as_far_as_the_forecast_before_came_true(third, expected):
    cache = forecasting(1, 3, third)
    assert cache.get("a", None, 4).eq(third).all()
    torch.testing.assert_close(cache.get("a", None, 6), residual(expected))


def test_a_forecast_of_nothing_is_trusted_in_nothing():
    assert forecasting(1, 1, 3).get("a", None, 9).eq(3).all()


def test_a_forecast_goes_by_steps_however_far_apart():
    cache = forecasting(0, 2, 4)
    cache.put("a", None, residual(10), 10)
    torch.testing.assert_close(cache.get("a", None, 13), residual(13.0))


def test_a_second_residual_of_a_step_takes_the_place_of_the_first_and_goes_on_as_that_did():
    """Of the several evaluations of a step none says how residuals change from step to step."""
    cache = forecasting(1, 3, 5)
    for step in (4, 3):  # and heunpp2 comes back to steps before
        cache.put("a", None, residual(9), step)
        assert cache.get("a", None, 4).eq(9).all()
        torch.testing.assert_close(cache.get("a", None, 6), residual(11.0))


@pytest.mark.parametrize(("signature", "step"), [("other shape", 6), ("shape", 14)])
def test_a_residual_of_another_signature_or_from_too_far_begins_anew(signature, step):
    cache = forecasting(1, 3, 5, signature="shape")
    cache.put("a", signature, residual(9), step=step)
    assert cache.get("a", signature, 19).eq(9).all()


def test_the_forecast_of_half_precision_neither_overflows_nor_changes_its_dtype():
    cache = ResidualCache(forecast=9)
    for step, value in enumerate((0.0, 300.0, 600.0)):
        cache.put("a", None, residual(value).half(), step)
    torch.testing.assert_close(cache.get("a", None, 4), residual(1200.0).half())


def test_a_forecast_takes_a_second_tensor_and_needs_both_until_the_next():
    cache = forecasting(1)
    assert cache.bytes_held == 128
    cache.put("a", None, residual(3), step=2)
    assert cache.bytes_held == 2 * 128
    cache.make_room("a")
    assert cache.bytes_held == 2 * 128


def test_what_is_held_and_not_forecast_makes_room_entirely():
    cache = ResidualCache()
    cache.put("a", None, residual(1))
    cache.make_room("a")
    assert cache.bytes_held == 0
