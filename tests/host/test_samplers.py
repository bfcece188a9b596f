"""Samplers, schedulers, stages and windows: which evaluation belongs to which step, and what is done with it."""

from __future__ import annotations

from inspect import signature

import pytest
import torch
from host.running import PLAN, STEPS, WATCH, Witness, assert_reuse_is_per_block, assert_right, row_of, sample

WAN = "Wan t2v"


@pytest.fixture(scope="module")
def step_of(pack):
    return pack.adacache_core.correct.sampler.step_of


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
    *("euler", "euler_ancestral", "ddim", "ddpm", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m_sde", "uni_pc"),
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


@pytest.mark.parametrize("steps", [4, 8, 11])
def test_a_run_of_few_steps_is_left_alone_and_says_so(steps, tiny, adacache, caplog, as_short_runs_are):
    model, attachment = adacache(tiny(WAN).model, rate=3)
    with caplog.at_level("WARNING"):
        assert torch.equal(sample(tiny(WAN), model, steps=steps), sample(tiny(WAN), steps=steps))
    report = attachment.finished[-1].report
    (note,) = report.notes
    assert note.startswith(f"{steps} steps are too few to skip any: every step is computed.")
    assert report.computed == report.total == steps
    assert caplog.text.count(note) == 1
    assert "faster" not in report.summary()


# Levels of distilled models' official workflows: LTX-2.3 (first stage), and 8 steps of a shift of 12.
DISTILLED = {
    "LTX-2.3": [1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0],
    "8 steps, shift 12": [12 * t / (1 + 11 * t) for t in (1 - step / 8 for step in range(9))],
}


def by_levels(wan, model, sigmas, sampler="euler", latent=None, **options):
    import comfy.sample
    import comfy.samplers

    latent = wan.latent if latent is None else latent
    noise = comfy.sample.prepare_noise(latent, 1)
    kind = comfy.samplers.ksampler(sampler, options) if isinstance(sampler, str) else sampler
    with torch.inference_mode():
        return comfy.sample.sample_custom(
            model, noise, 4.0, kind, sigmas, wan.positive, wan.negative, latent, disable_pbar=True, seed=1
        )


@pytest.mark.parametrize("name", DISTILLED)
def test_distilled_levels_are_left_alone(name, tiny, adacache, as_short_runs_are):
    wan = tiny(WAN)
    model, attachment = adacache(wan.model, rate=3)
    sigmas = torch.tensor(DISTILLED[name])
    assert torch.equal(by_levels(wan, model, sigmas), by_levels(wan, wan.model, sigmas))
    assert "8 steps are too few" in attachment.finished[-1].report.notes[0]


@pytest.mark.parametrize("name", DISTILLED)
def test_of_distilled_levels_auto_skips_hardly_any_and_says_so(name, tiny, adacache, as_short_runs_are):
    model, attachment = adacache(tiny(WAN).model, target=2.0)
    by_levels(tiny(WAN), model, torch.tensor(DISTILLED[name]))
    report = attachment.finished[-1].report
    assert report.computed >= 6
    assert [note[:3] for note in report.notes] == ["2x "]


@pytest.mark.parametrize(
    ("run", "skips"),
    [
        ({"steps": 12}, True),
        ({"steps": 12, "last_step": 6}, True),  # the first of two stages of 6: half of the way
        ({"steps": 12, "start_step": 6}, True),  # and the second
        ({"steps": 20, "last_step": 10}, True),
        ({"steps": 6, "denoise": 0.5}, True),  # as fine as 12
        ({"steps": 10, "last_step": 5}, False),
        ({"steps": 6, "denoise": 0.6}, False),
        ({"steps": 11}, False),
    ],
)
@pytest.mark.parametrize("shift", [1.0, 8.0])
def test_how_far_steps_are_apart_decides_and_not_their_number(run, skips, shift, tiny, adacache, as_short_runs_are):
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    shifted = ModelSamplingSD3().patch(tiny(WAN).model, shift)[0]
    model, attachment = adacache(shifted, rate=2, steps=6)
    sample(tiny(WAN), model, **run)
    report = attachment.finished[-1].report
    assert (report.skipped > 0) == skips
    assert any("too few" in note for note in report.notes) != skips


@pytest.mark.parametrize("sampler", ["euler", "lcm"])
@pytest.mark.parametrize("how", [{"rate": 2}, {"target": 2.0}], ids=["blocks", "output"])
def test_a_schedule_is_followed_however_short_the_run(how, sampler, tiny, adacache, pack, as_short_runs_are):
    schedule = pack.adacache_core.Schedule((True, True, False, True, False, True, False, True))
    model, attachment = adacache(tiny(WAN).model, schedule=schedule, **how)
    sample(tiny(WAN), model, steps=8, sampler_name=sampler)
    assert attachment.finished[-1].report.schedule().computed == schedule.computed


def test_a_sampler_that_starts_over_at_every_step_is_left_alone_and_it_is_said(tiny, adacache):
    model, attachment = adacache(tiny(WAN).model, rate=3)
    assert torch.equal(sample(tiny(WAN), model, sampler_name="lcm"), sample(tiny(WAN), sampler_name="lcm"))
    report = attachment.finished[-1].report
    assert report.computed == report.total == STEPS
    (note,) = report.notes
    assert note.startswith("lcm starts over from fresh noise at every step")


DRAW_NOISE = {
    *("euler_ancestral", "euler_ancestral_cfg_pp", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde"),
    *("dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde", "ddpm", "er_sde", "seeds_2", "seeds_3", "sa_solver"),
    *("res_multistep_ancestral", "exp_heun_2_x0_sde", "sa_solver_pece", "lcm"),
}


def test_every_sampler_that_draws_noise_says_so_and_no_other(tiny, adacache):
    import comfy.samplers

    said, silent = set(), set()
    for name in comfy.samplers.SAMPLER_NAMES:
        model, attachment = adacache(tiny(WAN).model, rate=3)
        try:
            sample(tiny(WAN), model, sampler_name=name)
        except Exception:  # noqa: S112 (some samplers are for other models)
            continue
        notes = attachment.finished[-1].report.notes
        (said if any("fresh noise" in note for note in notes) else silent).add(name)
    assert not said & silent
    assert len(silent) > 10
    missed = {name for name in silent if "ancestral" in name or "sde" in name}
    assert {name.removesuffix("_gpu").removesuffix("_cfg_pp") for name in said} <= {
        name.removesuffix("_cfg_pp") for name in DRAW_NOISE
    }
    assert missed == set()


@pytest.mark.parametrize("way", ["blocks", "output"])
def test_without_its_noise_an_ancestral_sampler_is_as_any_other(way, tiny, adacache, planned):
    wan = tiny(WAN).model
    model, attachment = planned(wan, (0, 1, 4, 8, 11), 12) if way == "output" else adacache(wan, rate=3)
    by_levels(tiny(WAN), model, torch.linspace(1, 0, 13), "euler_ancestral", eta=0.0)
    assert attachment.finished[-1].report.notes == []
    assert attachment.finished[-1].report.skipped


# Those that a plan can be followed with: their evaluations belong to steps, which come in order.
IN_ORDER = [name for name in SAMPLERS if name in BY_THE_STEP - BACKWARDS]


@pytest.mark.parametrize("name", IN_ORDER)
def test_whole_steps_are_skipped_whatever_the_sampler_takes_for_one(name, tiny, planned):
    import comfy.samplers

    if name not in comfy.samplers.SAMPLER_NAMES:
        pytest.skip(f"this ComfyUI has no sampler {name}")
    model, attachment = planned(tiny(WAN).model)
    with Witness(tiny(WAN)) as witness:
        video = sample(tiny(WAN), witness.watched(model), sampler_name=name)
    report = attachment.finished[-1].report
    assert video.isfinite().all()
    assert row_of(report) == witness.row()
    assert witness.row() == [(1, 1) if record.step in PLAN else (0, 0) for record in report.evaluations]
    assert {record.step for record in report.evaluations} == set(range(STEPS))


@pytest.mark.parametrize("name", ["dpm_fast", "dpm_adaptive"])
def test_where_a_sampler_has_steps_of_its_own_the_report_is_true(name, tiny, planned):
    model, attachment = planned(tiny(WAN).model)
    with Witness(tiny(WAN)) as witness:
        video = sample(tiny(WAN), witness.watched(model), sampler_name=name)
    assert video.isfinite().all()
    assert row_of(attachment.finished[-1].report) == witness.row()


def test_where_a_sampler_comes_back_to_a_step_before_the_rest_is_computed_and_it_is_said(tiny, planned):
    model, attachment = planned(tiny(WAN).model)
    with Witness(tiny(WAN)) as witness:
        sample(tiny(WAN), witness.watched(model), sampler_name="heunpp2")
    report = attachment.finished[-1].report
    assert row_of(report) == witness.row()
    steps = [record.step for record in report.evaluations]
    first = next(index for index in range(1, len(steps)) if steps[index] < steps[index - 1])
    assert {record.state for record in report.evaluations[first:]} == {"computed"}
    assert report.notes == [
        f"cannot skip steps: the noise level rises at step {steps[first] + 1}; from there on every step is computed"
    ]


def test_samplers_that_want_more_than_a_video_of_the_model_are_left_alone_and_it_is_said(tiny, planned):
    """CFG++ goes on with the unconditional prediction, which a forecast of what guidance made of both does not have."""
    import comfy.samplers

    names = [name for name in comfy.samplers.SAMPLER_NAMES if "cfg_pp" in name]
    assert "euler_cfg_pp" in names
    for name in names:
        model, attachment = planned(tiny(WAN).model)
        with Witness(tiny(WAN)) as witness:
            video = sample(tiny(WAN), witness.watched(model), sampler_name=name)
        assert torch.equal(video, sample(tiny(WAN), sampler_name=name)), name
        report = attachment.finished[-1].report
        assert row_of(report) == witness.row()
        assert report.computed == report.total
        assert report.notes == [f"cannot skip steps: {name} uses more of the model than its denoised output"]


def test_of_the_hosts_cfgpp_node_too(tiny, planned):
    """Its samplers are not among those that are probed."""
    from comfy_extras.nodes_advanced_samplers import SamplerEulerCFGpp

    wan, sigmas = tiny(WAN), torch.linspace(1, 0, 11)
    for version in ("regular", "alternative"):
        (sampler,) = SamplerEulerCFGpp.execute(version).args
        model, attachment = planned(wan.model)
        video = by_levels(wan, model, sigmas, sampler=sampler)
        assert torch.equal(video, by_levels(wan, wan.model, sigmas, sampler=sampler)), version
        report = attachment.finished[-1].report
        assert (report.computed, report.total) == (10, 10)
        assert "uses more of the model than its denoised output" in report.notes[0]


def test_a_function_of_somebody_else_after_guidance_is_no_reason_to_stop(tiny, planned):
    model = tiny(WAN).model.clone()
    model.set_model_sampler_post_cfg_function(lambda args: args["denoised"])
    model, attachment = planned(model)
    sample(tiny(WAN), model)
    assert attachment.finished[-1].report.computed < attachment.finished[-1].report.total


def test_to_probe_a_sampler_seeds_no_card(tiny, pack, monkeypatch):
    import comfy.samplers

    monkeypatch.setattr(torch, "manual_seed", lambda seed: pytest.fail("this also seeds cards"))
    guider, before = comfy.samplers.CFGGuider(tiny(WAN).model), torch.random.get_rng_state()
    for name in ("euler", "euler_ancestral"):
        pack.nodes.host.run._known_of(guider, comfy.samplers.sampler_object(name), torch.linspace(1, 0, 11))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("how", [{"rate": 3}, {"target": 2.0}], ids=["blocks", "output"])
def test_rising_levels_skip_nothing_and_say_why(how, tiny, adacache):
    wan = tiny(WAN)
    model, attachment = adacache(wan.model, **how)
    sigmas, video = torch.linspace(0.05, 1, 13), sample(wan)
    unsampled = by_levels(wan, model, sigmas, latent=video)
    assert torch.equal(unsampled, by_levels(wan, wan.model, sigmas, latent=video))
    report = attachment.finished[-1].report
    assert (report.computed, report.total) == (12, 12)
    assert [record.step for record in report.evaluations] == list(range(12))
    assert report.notes == [
        "cannot skip steps: the noise levels rise, from video to noise (unsampling), so every step is computed"
    ]


@pytest.mark.parametrize("how", [{"rate": 3}, {"target": 2.0}], ids=["blocks", "output"])
@pytest.mark.parametrize("level", [0.0, 0.7])
def test_a_run_of_no_steps_is_left_as_it_is(level, how, tiny, adacache):
    """What the host's SplitSigmas leaves for the second sampler if the first one takes all steps."""
    wan = tiny(WAN)
    model, attachment = adacache(wan.model, **how)
    sigmas, latent = torch.tensor([level]), torch.randn(wan.latent.shape, generator=torch.manual_seed(4))
    assert torch.equal(by_levels(wan, model, sigmas, latent=latent), by_levels(wan, wan.model, sigmas, latent=latent))
    assert not attachment.finished


SENSELESS = {
    "several that are equal": [*[1.0] * 4, *torch.linspace(0.9, 0, 12).tolist()],
    "of another kind of model": torch.linspace(14.6, 0, 13).tolist(),
}


@pytest.mark.parametrize("sigmas", SENSELESS.values(), ids=SENSELESS)
def test_levels_that_make_no_sense_are_no_reason_to_fail(sigmas, tiny, adacache):
    wan = tiny(WAN)
    model, attachment = adacache(wan.model, target=2.0)
    assert by_levels(wan, model, torch.tensor(sigmas)).isfinite().all()
    assert attachment.finished[-1].report.total == len(sigmas) - 1


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


def test_the_second_of_two_stages_goes_on_with_the_budget_of_the_first(tiny, adacache, pack, monkeypatch):
    begun = []
    made = pack.nodes.host.attach.Run
    monkeypatch.setattr(pack.nodes.host.attach, "Run", lambda *args: begun.append(args[-1]) or made(*args))
    model, attachment = adacache(tiny(WAN).model, target=2.0)
    whole = {"steps": 24, "latent": torch.zeros_like(tiny(WAN).latent)}
    half = sample(tiny(WAN), model, last_step=12, **whole)
    rest = {"steps": 24, "start_step": 12, "disable_noise": True, "noise": torch.zeros_like(half)}
    for latent in (half, half.flip(-1), half):
        sample(tiny(WAN), model, latent=latent, **rest)
    first, second, other, again = attachment.finished
    assert first.left is not None
    assert begun == [None, first.left, None, first.left]
    assert second.left is other.left is None  # their videos are finished
    assert second.fingerprint == again.fingerprint


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
    ("variant", "schedule", "causal"),
    [
        (WAN, "standard_static", False),
        (WAN, "standard_static", True),
        (WAN, "batched", False),
        (WAN, "batched", True),
        ("LTX-2", "standard_static", False),
    ],
)
def test_each_context_window_reuses_what_it_made_itself(variant, schedule, causal, tiny, adacache):
    """Of a latent with sound, too, each of whose windows is a window of both."""
    import comfy.context_windows

    if tiny(variant).variant.sound and not hasattr(
        comfy.context_windows.IndexListContextWindow, "get_window_for_modality"
    ):
        pytest.skip("this ComfyUI cuts no windows of video and sound")
    windowed = with_windows(tiny(variant).model, schedule, causal)
    witness, _ = assert_right(tiny(variant), windowed, adacache, long)
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
