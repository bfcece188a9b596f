"""Residuals by key: found again if they fit, forgotten if nobody asks, and weighed."""

import pytest
import torch

from adacache_core.reuse.cache import ResidualCache


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
    monkeypatch.setattr("adacache_core.reuse.cache._in_main_memory", lambda tensor: tensor.double())


def test_offloaded_everything_lies_in_main_memory(main_memory):
    cache = ResidualCache(offload=True)
    cache.put("a", None, residual(5))
    cache.put_probe("p", residual(5))
    assert cache._entries["a"].residual.dtype == cache.probe("p").dtype == torch.float64
    assert cache.bytes_held == 2 * 2 * 128


def test_residuals_stay_where_they_are():
    cache, tensor = ResidualCache(), residual()
    cache.put("a", None, tensor)
    assert cache.get("a", None) is tensor


def test_what_is_made_room_for_is_gone():
    cache = ResidualCache()
    cache.put("a", None, residual(1))
    cache.make_room("a")
    assert cache.bytes_held == 0
    assert cache.get("a", None) is None
