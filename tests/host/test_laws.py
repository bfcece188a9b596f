"""The laws, on the real host, for every family: each test is one sentence of them."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import pytest
import torch
from host.running import (
    STEPS,
    Witness,
    assert_reuse_is_per_block,
    blocks_of,
    error_of,
    head_of,
    holding_no_new_tensor,
    percent_of,
    raising,
    row_of,
    sample,
    with_hook,
)
from host.tiny import VARIANTS

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

NEVER_BATCHED = ("HunyuanVideo with a reference", "MiniMax-H3")  # by the host

every_variant = pytest.mark.parametrize("variant", VARIANTS)
both_ways = pytest.mark.parametrize("way", ["blocks", "output"])  # what is reused: as a table does it, and as auto


def states(report):
    return [record.state for record in report.evaluations]


def test_every_class_of_the_table_has_a_tiny_model(tiny, pack):
    named = {name for family in pack.nodes.host.families.FAMILIES for name in family.classes}
    assert {pack.nodes.host.families.class_name(tiny(variant).module) for variant in VARIANTS} == named


@pytest.fixture(scope="module")
def plain(tiny):
    """`plain(variant)` -> the video of the unpatched model."""
    return cache(lambda variant: sample(tiny(variant)))


@pytest.fixture(scope="module")
def recorded(tiny, adacache, pack):
    """`recorded(variant)` -> (video, report) of a run that watches every step and skips none."""

    def run(variant):
        moreg = pack.adacache_core.MotionConfig(strength=0)
        model, attachment = adacache(
            tiny(variant).model, table=((0.0, 4), (1.0, 1)), moreg=moreg
        )  # no change is below 0
        return sample(tiny(variant), model), attachment.finished[-1].report

    return cache(run)


# Law 1


@every_variant
def test_law_1_off_is_off(variant, tiny, adacache, plain, record_property):
    errors = []
    for settings in ({"enabled": False, "rate": 3}, {"start": 0.4, "end": 0.4, "rate": 3}, {"rate": 1}):
        model, attachment = adacache(tiny(variant).model, **settings)
        video = sample(tiny(variant), model)
        errors.append(error_of(video, plain(variant)))
        assert torch.equal(video, plain(variant)), settings
        report = attachment.finished[-1].report
        assert report.computed == report.total == STEPS
        assert report.cache_bytes_max == 0
    record_property("error", max(errors))


@every_variant
def test_law_1_watching_changes_nothing(variant, plain, recorded, record_property):
    video, report = recorded(variant)
    record_property("error", error_of(video, plain(variant)))
    assert torch.equal(video, plain(variant))
    assert report.computed == report.total == STEPS
    assert report.cache_bytes_max > 0
    assert all(record.metric > 0 for record in report.evaluations[1:])


# Law 2


def structure(thing, depth=6):
    """Which objects a nested dict or list holds, as something that can be compared."""
    if depth and isinstance(thing, dict):
        return {key: structure(value, depth - 1) for key, value in thing.items()}
    if depth and isinstance(thing, (list, tuple)):
        return [structure(value, depth - 1) for value in thing]
    return id(thing)


def anatomy(model):
    """Every module with its identity and its own attributes, and what patches the MODEL holds."""
    modules = {
        name: (id(module), type(module), sorted(vars(module)), structure(module._modules))
        for name, module in model.model.named_modules()
    }
    return modules, structure([model.model_options, model.wrappers, model.callbacks, model.object_patches])


@both_ways
@every_variant
def test_law_2_the_model_is_untouched_and_a_second_run_equals_the_first(variant, way, tiny, by_output_or_blocks, plain):
    unpatched, before = plain(variant), anatomy(tiny(variant).model)
    model, attachment = by_output_or_blocks(way, tiny(variant).model)
    first = sample(tiny(variant), model)
    assert not torch.equal(first, unpatched)
    assert anatomy(tiny(variant).model) == before
    again = sample(tiny(variant), model)
    assert torch.equal(first, again)
    assert states(attachment.finished[0].report) == states(attachment.finished[1].report)
    assert torch.equal(sample(tiny(variant)), unpatched)


@both_ways
def test_law_2_a_guider_that_is_used_again_is_as_it_was(way, tiny, by_output_or_blocks):
    """The host keeps GUIDERs between prompts, as it keeps all outputs of nodes."""
    import comfy.sample
    import comfy.samplers

    wan = tiny("Wan t2v")
    model, attachment = by_output_or_blocks(way, wan.model)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(wan.positive, wan.negative)
    guider.set_cfg(4.0)
    options, before = guider.model_options, structure(guider.model_options)
    noise = comfy.sample.prepare_noise(wan.latent, 1)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS)
    videos = []
    for _ in range(2):
        with torch.inference_mode():
            sampler = comfy.samplers.sampler_object("euler")
            videos.append(guider.sample(noise, wan.latent, sampler, sigmas, disable_pbar=True, seed=1))
        assert guider.model_options is options
        assert structure(options) == before
    assert torch.equal(*videos)
    assert [run.report.total for run in attachment.finished] == [STEPS, STEPS]


@both_ways
@pytest.mark.parametrize("variant", ["Wan t2v", "HunyuanVideo", "LTXV"])
def test_law_2_a_run_at_another_size_in_between_changes_nothing(variant, way, tiny, by_output_or_blocks):
    model, attachment = by_output_or_blocks(way, tiny(variant).model)
    first = sample(tiny(variant), model)
    larger = torch.zeros(2, tiny(variant).latent.shape[1], 6, 8, 4)
    assert sample(tiny(variant), model, latent=larger).shape == larger.shape
    assert attachment.finished[-1].report.computed < STEPS
    assert torch.equal(sample(tiny(variant), model), first)


# Law 3


def at_the_biggest_gap(metrics):
    """A threshold that rounding cannot cross: in the widest gap (by ratio) between sorted metrics."""
    return max(pairwise(sorted(metrics)), key=lambda pair: pair[1] / pair[0])


@every_variant
def test_law_3_batched_separate_and_alternating_conditionings_make_the_same_video(
    variant, tiny, adacache, recorded, monkeypatch, record_property
):
    # Behind the third step from the end nothing can be skipped, whatever it measures.
    below, above = at_the_biggest_gap([record.metric for record in recorded(variant)[1].evaluations[1:-3]])
    model, attachment = adacache(tiny(variant).model, table=((math.sqrt(below * above), 3), (9.0, 1)))

    videos, rows = [], []
    for fits in (lambda evaluation: True, lambda evaluation: False, lambda evaluation: evaluation % 2 == 0):
        with Witness(tiny(variant)) as witness:

            def memory(shape, cond_shapes=None, fits=fits, witness=witness):
                return 0 if shape[0] == 1 or fits(witness.evaluations - 1) else math.inf

            monkeypatch.setattr(tiny(variant).model.model, "memory_required", memory)
            videos.append(sample(tiny(variant), witness.watched(model)))
        rows.append([calls for calls, _ in witness.row()])

    if variant not in NEVER_BATCHED:
        assert rows == [[1] * STEPS, [2] * STEPS, [1, 2] * (STEPS // 2) + [1]]
    batched, separate, alternating = (run.report for run in attachment.finished)
    assert states(batched) == states(separate) == states(alternating)
    assert batched.computed < STEPS
    error = max(error_of(video, videos[0]) for video in videos[1:])
    record_property("error", error)
    assert error <= 1e-4


# Law 4 and law 6: one run, looked at from inside


@pytest.fixture(scope="module")
def watched(tiny, adacache):
    """`watched(variant)` -> (what the witness saw, what the report says) of a run that skips two of three steps."""
    seen = {}

    def run(variant, dtype=torch.float32):
        if (variant, dtype) not in seen:
            model, attachment = adacache(tiny(variant, dtype).model, rate=3)
            with Witness(tiny(variant, dtype)) as witness:
                sample(tiny(variant, dtype), witness.watched(model))
            seen[variant, dtype] = witness, attachment.finished[-1].report
        return seen[variant, dtype]

    return run


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every_variant
def test_law_4_a_reused_step_equals_per_block_reuse(variant, dtype, tiny, watched, record_property):
    witness, _ = watched(variant, dtype)
    reused = assert_reuse_is_per_block(tiny(variant, dtype), witness)
    record_property("error", witness.error)
    assert reused == 4 * witness.row()[0][0]


@every_variant
def test_law_6_the_report_equals_what_counters_inside_the_blocks_saw(variant, tiny, watched):
    witness, report = watched(variant)
    assert row_of(report) == witness.row()
    assert states(report) == ["computed" if ran else "reused" for _, ran in witness.row()]
    assert [record.step for record in report.evaluations if record.state == "computed"] == [0, 1, 4, 7, 8]
    assert report.computed == 5
    everything = {*blocks_of(tiny(variant).module), *tiny(variant).variant.between}
    for call in witness.calls:
        assert call.ran == (dict.fromkeys(everything, 1) if call.computed else {})


def test_law_6_an_evaluation_of_which_only_some_calls_ran_the_blocks_is_partly_computed(tiny, adacache):
    wan = tiny("Wan t2v")
    model, attachment = adacache(wan.model, rate=3)
    starts = {"start_percent": percent_of(wan, 2)}
    late = [torch.cat([wan.positive[0][0]] * 2, dim=1), starts]  # longer: a call of its own
    with Witness(wan) as witness:
        sample(wan, witness.watched(model), positive=[*wan.positive, late])
    report = attachment.finished[-1].report
    assert row_of(report) == witness.row()
    assert states(report)[:5] == ["computed", "computed", "partly", "reused", "computed"]
    assert witness.row()[2] == (2, 1)


# Law 5

INTERRUPT, OUT_OF_MEMORY = "InterruptProcessingException", "OutOfMemoryError"


def strike_of(name):
    import comfy.model_management

    if name == INTERRUPT:
        return comfy.model_management.InterruptProcessingException()
    if name == OUT_OF_MEMORY:
        return torch.OutOfMemoryError("test")
    return RuntimeError("test")


def failing_run(tiny_model, model, place, error, calls):
    """Samples, and the error strikes in the 4th evaluation (a reused one) or, in a block, in the 5th.

    Each evaluation is so many calls of the model; it strikes in the first.
    """
    if place == "callback":

        def callback(step, *args):
            if step == 3:
                raise error

        return sample(tiny_model, model, callback=callback)
    if place == "block":
        block = list(blocks_of(tiny_model.module).values())[1]
        handle = raising(block, error, at=2 * calls + 1, method=tiny_model.variant.method)
    else:
        proofs = 1  # in the first evaluation; see `Engine.prove`
        handle = raising(head_of(tiny_model), error, at=proofs + 3 * calls + 1)
    with with_hook(handle):
        return sample(tiny_model, model)


STRIKES = [("callback", INTERRUPT), ("block", INTERRUPT), ("head", "RuntimeError"), ("block", OUT_OF_MEMORY)]


@pytest.mark.parametrize(
    ("variant", "way", "place", "name"),
    [
        *((variant, way, "block", "RuntimeError") for variant in VARIANTS for way in ("blocks", "output")),
        *((variant, "blocks", *strike) for variant in ("Wan VACE", "LTXV") for strike in STRIKES),
        *(("Wan VACE", "output", *strike) for strike in STRIKES if strike[0] != "head"),
    ],
)
def test_law_5_a_run_that_was_stopped_holds_nothing_and_leaves_no_trace(
    variant, way, place, name, tiny, by_output_or_blocks, pack
):
    model, attachment = by_output_or_blocks(way, tiny(variant).model)
    first = sample(tiny(variant), model)
    before = anatomy(tiny(variant).model)
    calls = 2 if variant in NEVER_BATCHED else 1

    with holding_no_new_tensor() as new_objects:
        with Witness(tiny(variant)) as witness, pytest.raises(type(strike_of(name))) as raised:
            failing_run(tiny(variant), witness.watched(model), place, strike_of(name), calls)
        asked = 4 if way == "blocks" else 2  # evaluations before, of which the model has seen something
        assert len(witness.calls) == asked * calls + (place == "block")
        engines = [thing for thing in new_objects() if isinstance(thing, pack.adacache_core.Engine)]
        assert [engine.output for engine in engines] == [None]  # only the traceback keeps it alive
        held = [engine.blocks.cache.bytes_held for engine in engines if engine.blocks is not None]
        assert held == [0] * (way == "blocks")
        del witness, raised, engines

    assert anatomy(tiny(variant).model) == before
    stopped = attachment.finished[-1]
    assert stopped.fingerprint is None
    assert 4 <= stopped.report.total <= 5
    by = "you" if name == INTERRUPT else f"an error ({name})"
    assert stopped.report.stopped == f"stopped by {by} at step {stopped.report.evaluations[-1].step + 1} of {STEPS}"
    assert stopped.report.notes == []
    assert torch.equal(sample(tiny(variant), model), first)


@both_ways
@every_variant
def test_law_5_a_finished_run_holds_nothing(variant, way, tiny, by_output_or_blocks):
    model, _ = by_output_or_blocks(way, tiny(variant).model)
    sample(tiny(variant), model)  # what the host keeps of a first run is its own
    with holding_no_new_tensor():
        sample(tiny(variant), model)
