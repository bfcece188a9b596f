"""Preset auto and quality on models that no row of the table was made for, and what the tables say of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import pytest
import torch
from host.running import PLAN, STEPS, assert_right, row_of, sample, with_hook
from host.tiny.elsewhere import VARIANTS

# Whose blocks are where a row has them: they are tried, and proved.
TRIED = {
    "Ideogram 4": "Lumina 2 and Z-Image",
    "Hunyuan3D 2": "HunyuanVideo",
    "Hunyuan3D 2.1": "Cosmos-Predict2",
}
# Of these it turns out that their blocks are given the hidden states otherwise.
TRIED_IN_VAIN = {"Lens": "LTXV", "Mage-Flow": "LTXV"}
# Other models of a class that has a row.
KNOWN = {"LongCat-Image": "Flux", "HunyuanImage 2.1": "HunyuanVideo"}
LEFT_OUT = {
    "Wan, frame after frame": "it makes one frame after another, each from its memory of the last",
    "SeedVR2": "it takes a single step, so nothing can be skipped",
}
SKIPPED = [variant for variant in VARIANTS if variant not in LEFT_OUT]
REFUSED = [variant for variant in SKIPPED if variant not in (*TRIED, *TRIED_IN_VAIN, *KNOWN)]


@pytest.fixture(scope="module")
def elsewhere(host, needs):
    """`elsewhere("SD 1.5")` -> the tiny model of that name, made once."""

    def build(variant):
        needs(variant, VARIANTS[variant].since)
        try:
            return VARIANTS[variant].build()
        except ImportError as missing:
            pytest.skip(f"this ComfyUI has no {variant}: {missing}")

    return cache(build)


@pytest.fixture(scope="module")
def plain(elsewhere):
    """`plain(variant)` -> the video of the unpatched model."""
    return cache(lambda variant: run(elsewhere(variant)))


def run(made, model=None):
    """A run that finds nothing in the model of those before it."""
    if hasattr(made.module, "clear_kv_cache"):  # HiDream-O1 remembers its prompts from one run to the next
        made.module.clear_kv_cache()
    return sample(made, model)


@contextmanager
def called(made, model) -> Iterator[tuple]:
    """A clone to be sampled, and how often the module is called in each of its evaluations."""
    from comfy.patcher_extension import WrappersMP

    calls: list[int] = []

    def evaluation(executor, *args, **kwargs):
        calls.append(0)
        return executor(*args, **kwargs)

    def call(module, args):
        calls[-1] += 1

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "test", evaluation)
    with with_hook(made.module.register_forward_pre_hook(call)):
        yield model, calls


def finished(attachment):
    return attachment.finished[-1].report


@pytest.mark.parametrize("variant", SKIPPED)
def test_what_auto_skips_never_reaches_the_model_and_the_report_is_true(variant, elsewhere, planned, plain):
    made = elsewhere(variant)
    model, attachment = planned(made.model)
    with called(made, model) as (watched, calls):
        video = run(made, watched)
    report = finished(attachment)
    assert calls == [calls[0] if step in PLAN else 0 for step in range(STEPS)]
    assert calls[0] > 0
    assert row_of(report) == [(count, count) for count in calls]
    assert [record.step for record in report.evaluations if record.state == "reused"] == [2, 3, 5, 6]
    assert report.notes == []
    assert report.family == KNOWN.get(variant, "")
    assert video.isfinite().all()
    assert not torch.equal(video, plain(variant))
    assert torch.equal(run(made, model), video)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_speedup_of_one_is_off(variant, elsewhere, adacache, plain):
    model, attachment = adacache(elsewhere(variant).model, target=1.0)
    assert torch.equal(run(elsewhere(variant), model), plain(variant))
    assert finished(attachment).computed == finished(attachment).total == STEPS


@pytest.mark.parametrize("variant", SKIPPED)
@pytest.mark.parametrize("settings", [{"target": 1.25}, {"closeness": 18.0}], ids=["auto", "quality"])
def test_what_the_errors_say_is_done_and_nothing_is_said_that_is_not_so(settings, variant, elsewhere, adacache, plain):
    made = elsewhere(variant)
    model, attachment = adacache(made.model, **settings)
    with called(made, model) as (watched, calls):
        video = run(made, watched)
    report = finished(attachment)
    assert video.isfinite().all()
    assert row_of(report) == [(count, count) for count in calls]
    assert report.skipped == calls.count(0)
    assert torch.equal(video, plain(variant)) == (report.skipped == 0)
    if report.expected is not None:
        assert report.skipped
        assert report.expected.low <= report.expected.db <= report.expected.high
    assert not [note for note in report.notes if not note.startswith("1.25x would change this video visibly")]


@pytest.mark.parametrize("variant", LEFT_OUT)
def test_a_model_that_is_left_out_is_computed_and_it_is_said(variant, elsewhere, planned, plain):
    model, attachment = planned(elsewhere(variant).model)
    assert torch.equal(run(elsewhere(variant), model), plain(variant))
    assert finished(attachment).notes == [f"cannot skip steps: {LEFT_OUT[variant]}, so every step is computed"]


# The paper's tables


@pytest.mark.parametrize("variant", REFUSED)
def test_the_tables_refuse_what_they_find_no_blocks_in(variant, elsewhere, adacache, pack):
    made = elsewhere(variant)
    with pytest.raises(pack.adacache_core.AdaCacheError) as raised:
        adacache(made.model, rate=3)
    name, module = type(made.module).__name__, type(made.module).__module__
    called_by_the_host = type(made.model.model.model_config).__name__
    assert str(raised.value).startswith(
        f"AdaCache cannot find the blocks of {called_by_the_host} ({name} from {module}). "
        "Use preset auto or quality, which work on any model."
    )


@pytest.mark.parametrize("variant", LEFT_OUT)
def test_the_tables_say_why_a_model_is_left_out(variant, elsewhere, adacache, pack):
    with pytest.raises(pack.adacache_core.AdaCacheError) as raised:
        adacache(elsewhere(variant).model, rate=3)
    assert LEFT_OUT[variant] in str(raised.value)


@pytest.mark.parametrize("variant", [*TRIED, *KNOWN])
def test_the_tables_skip_blocks_that_are_where_a_row_has_them(variant, elsewhere, adacache):
    witness, report = assert_right(elsewhere(variant), elsewhere(variant).model, adacache)
    assert report.skipped == STEPS - len(PLAN)
    assert len(witness.proofs) == 1
    if variant in KNOWN:
        assert (report.family, report.notes) == (KNOWN[variant], [])
    else:
        note = f"this model is new to AdaCache, which treats it like {TRIED[variant]} and checks that at step 1"
        assert (report.family, report.notes) == (TRIED[variant], [note])


@pytest.mark.parametrize("variant", TRIED_IN_VAIN)
def test_the_tables_stand_down_where_blocks_are_given_something_else(variant, elsewhere, adacache, plain):
    model, attachment = adacache(elsewhere(variant).model, rate=3)
    assert torch.equal(run(elsewhere(variant), model), plain(variant))
    report = finished(attachment)
    assert report.computed == report.total == STEPS
    stood_down, tried = report.notes
    assert (
        tried
        == f"this model is new to AdaCache, which treats it like {TRIED_IN_VAIN[variant]} and checks that at step 1"
    )
    assert stood_down.startswith("cannot skip steps: this model uses its blocks in an unexpected way")
