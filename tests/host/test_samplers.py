"""Samplers, schedulers, stages and windows: which evaluation belongs to which step, and what is done with it."""

from __future__ import annotations

from inspect import signature

import pytest
import torch
from host.running import STEPS, WATCH, Witness, assert_reuse_is_per_block, assert_right, row_of, sample

WAN = "Wan t2v"


@pytest.fixture(scope="module")
def step_of(pack):
    return pack.nodes.host.run.step_of


def sigmas_of(tiny_model, scheduler, steps, shift):
    import comfy.model_sampling
    import comfy.samplers

    sampling = tiny_model.model.get_model_object("model_sampling")
    before = sampling.shift
    sampling.set_parameters(shift=shift, multiplier=1000)
    try:
        return [float(sigma) for sigma in comfy.samplers.calculate_sigmas(sampling, scheduler, steps)]
    finally:
        sampling.set_parameters(shift=before, multiplier=1000)


@pytest.mark.parametrize("scheduler", ["simple", "beta", "sgm_uniform", "kl_optimal"])
@pytest.mark.parametrize(("steps", "shift"), [(9, 1.0), (30, 8.0), (100, 17.0), (300, 30.0)])
def test_every_sigma_of_a_schedule_is_its_own_step_even_if_a_sampler_moves_it_a_little(
    scheduler, steps, shift, tiny, step_of
):
    sigmas = sigmas_of(tiny(WAN), scheduler, steps, shift)
    last = len(sigmas) - 2
    distinct = [index for index in range(last + 1) if index == last or sigmas[index] > sigmas[index + 1]]
    assert [step_of(sigmas[index], sigmas) for index in distinct] == distinct
    for index in distinct[1:]:
        gap = sigmas[index - 1] - sigmas[index]
        moved = sigmas[index] + min(gap / 8, 5e-5 * sigmas[index])
        assert step_of(moved, sigmas) == index


def test_a_sigma_between_two_steps_belongs_to_the_earlier_one(step_of):
    sigmas = [10.0, 5.0, 2.0, 1.0, 0.0]
    assert [step_of(sigma, sigmas) for sigma in (11.0, 7.0, 4.9, 1.5, 0.3, 0.0)] == [0, 0, 1, 2, 3, 3]


def test_of_steps_with_the_same_sigma_the_last_one_counts(step_of):
    assert step_of(0.8, [1.0, 0.8, 0.8, 0.5, 0.0]) == 2


# Of one evaluation a step, of two, with some between the steps, with noise, and with a choice of its own.
SAMPLERS = (
    *("euler", "euler_ancestral", "ddim", "ddpm", "lcm", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m_sde", "uni_pc"),
    *("res_multistep", "er_sde", "sa_solver", "gradient_estimation", "ipndm", "deis", "lms"),
    *("heun", "heunpp2", "dpm_2", "dpmpp_2s_ancestral", "dpmpp_sde", "seeds_2", "seeds_3"),
    *("dpm_fast", "dpm_adaptive"),
)
BY_THE_STEP = set(SAMPLERS) - {"dpm_fast", "dpm_adaptive"}  # which have steps of their own
BACKWARDS = {"heunpp2"}  # looks ahead, and evaluates a step that it has left once more


@pytest.mark.parametrize("name", SAMPLERS)
def test_watched_a_sampler_makes_the_same_video_and_skipping_it_computes_first_and_last_steps(name, tiny, adacache):
    import comfy.samplers

    if name not in comfy.samplers.SAMPLER_NAMES:
        pytest.skip(f"this ComfyUI has no sampler {name}")
    watching, _ = adacache(tiny(WAN).model, table=WATCH)
    assert torch.equal(sample(tiny(WAN), watching, sampler_name=name), sample(tiny(WAN), sampler_name=name))

    model, attachment = adacache(tiny(WAN).model, rate=3)
    with Witness(tiny(WAN)) as witness:
        video = sample(tiny(WAN), witness.watched(model), sampler_name=name)
    report = attachment.finished[-1].report
    assert video.isfinite().all()
    assert row_of(report) == witness.row()
    assert assert_reuse_is_per_block(tiny(WAN), witness) == sum(calls - ran for calls, ran in witness.row()) > 0
    assert report.computed <= 0.6 * report.total
    for record in report.evaluations:
        if record.step in (0, STEPS - 2, STEPS - 1):
            assert record.state == "computed", record
    if name in BY_THE_STEP - BACKWARDS:
        assert {record.step for record in report.evaluations if record.state == "computed"} == {0, 1, 4, 7, 8}


@pytest.mark.parametrize("scheduler", ["simple", "beta", "normal", "linear_quadratic", "sgm_uniform", "kl_optimal"])
def test_schedulers(scheduler, tiny, adacache):
    def run(tiny_model, model):
        return sample(tiny_model, model, scheduler=scheduler)

    witness, report = assert_right(tiny(WAN), tiny(WAN).model, adacache, run)
    assert len(witness.row()) == report.total == STEPS
    assert report.computed == 5


def test_the_second_evaluation_of_a_step_is_reused_as_the_steps_between_are(tiny, adacache):
    model, attachment = adacache(tiny(WAN).model, rate=3)
    sample(tiny(WAN), model, sampler_name="heun")
    done = [(record.step, record.state == "computed") for record in attachment.finished[-1].report.evaluations]
    steps = [0, *(step for step in range(1, STEPS) for _ in range(2))]
    assert [step for step, _ in done] == steps
    assert [place for place, (_, computed) in enumerate(done) if computed] == [0, 1, 7, 13, 14, 15, 16]


def test_a_run_of_few_steps_is_left_alone_and_says_so(tiny, adacache, caplog):
    model, attachment = adacache(tiny(WAN).model, rate=3)
    with caplog.at_level("WARNING"):
        assert torch.equal(sample(tiny(WAN), model, steps=4), sample(tiny(WAN), steps=4))
    report = attachment.finished[-1].report
    reason = "4 steps are too few to skip any; every step is computed"
    assert report.computed == report.total == 4
    assert report.notes == [reason]
    assert caplog.text.count(reason) == 1


def test_the_first_of_two_stages_has_no_end_to_protect_and_the_second_starts_anew(tiny, adacache):
    model, attachment = adacache(tiny(WAN).model, rate=3)
    whole = {"steps": 2 * STEPS, "latent": torch.zeros_like(tiny(WAN).latent)}
    half = sample(tiny(WAN), model, last_step=STEPS, **whole)
    rest = {"start_step": STEPS, "disable_noise": True, "noise": torch.zeros_like(half)}
    sample(tiny(WAN), model, steps=2 * STEPS, latent=half, **rest)
    first, second = (run.report for run in attachment.finished)
    assert [record.step for record in first.evaluations if record.state == "computed"] == [0, 1, 4, 7]
    assert [record.step for record in second.evaluations if record.state == "computed"] == [0, 1, 4, 7, 8]
    assert first.evaluations[-1].sigma > second.evaluations[0].sigma


@pytest.mark.parametrize(
    ("share", "computed"),
    [
        ({"start": 0.5}, [0, 1, 2, 3, 4, 7, 8]),
        ({"end": 0.5}, [0, 1, 4, 5, 6, 7, 8]),
        ({"start": 0.2, "end": 0.4}, [0, 1, 4, 5, 6, 7, 8]),
    ],
)
def test_steps_outside_start_and_end_are_computed(share, computed, tiny, adacache):
    model, attachment = adacache(tiny(WAN).model, rate=3, **share)
    sample(tiny(WAN), model)
    report = attachment.finished[-1].report
    assert [record.step for record in report.evaluations if record.state == "computed"] == computed
    assert any(record.reason == "outside start..end" for record in report.evaluations)


def with_windows(model, schedule, causal=False):
    """Context windows of the host's own node; `causal` puts a frame in front of all of them but the first."""
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode as Windows

    newer = {"freenoise": False, "causal_window_fix": causal}
    known = {name: value for name, value in newer.items() if name in signature(Windows.execute).parameters}
    if causal and "causal_window_fix" not in known:
        pytest.skip("this ComfyUI has no causal_window_fix")
    return Windows.execute(model, 4, 2, schedule, 1, False, "pyramid", 2, **known).args[0]


def twice_as_long(latent):
    if latent.is_nested:
        return type(latent)(map(twice_as_long, latent.unbind()))
    return torch.cat([latent] * 2, dim=2)


def long(tiny_model, model):
    return sample(tiny_model, model, latent=twice_as_long(tiny_model.latent))


@pytest.mark.parametrize(
    ("kind", "schedule", "causal"),
    [
        (WAN, "standard_static", False),
        (WAN, "standard_static", True),
        (WAN, "batched", False),
        (WAN, "batched", True),
        ("LTX-2", "standard_static", False),
    ],
)
def test_each_context_window_reuses_what_it_made_itself(kind, schedule, causal, tiny, adacache):
    """Of a latent with sound, too, each of whose windows is a window of both."""
    import comfy.context_windows

    if tiny(kind).kind.sound and not hasattr(comfy.context_windows.IndexListContextWindow, "get_window_for_modality"):
        pytest.skip("this ComfyUI cuts no windows of video and sound")
    windowed = with_windows(tiny(kind).model, schedule, causal)
    witness, _ = assert_right(tiny(kind), windowed, adacache, long)
    (windows,) = {calls for calls, _ in witness.row()}
    assert [ran for _, ran in witness.row()] == [windows * (step in (0, 1, 4, 7, 8)) for step in range(STEPS)]
    assert windows == (3 if schedule == "standard_static" else 2)


@pytest.mark.parametrize("schedule", ["standard_uniform", "looped_uniform"])
def test_windows_that_move_compute_where_they_have_nothing_to_reuse_and_leave_nothing_behind(schedule, tiny, adacache):
    windowed = with_windows(tiny(WAN).model, schedule, causal=False)
    witness, report = assert_right(tiny(WAN), windowed, adacache, long)
    assert {record.reason for record in report.evaluations} >= {"nothing to reuse"}
    windows = max(calls for calls, _ in witness.row())
    stream = 2 * witness.calls[0].head_in[0].numel() * 4
    assert report.cache_bytes_max <= 2 * windows * 1.25 * stream
