"""What is switched within a run is known beforehand: auto computes the step at which it is, and says what it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
from host.running import STEPS, Witness, percent_of, row_of, sample
from host.test_conditionings import control, guided_by, lora_with_keyframes, prompt

WAN, HUNYUAN = "Wan t2v", "HunyuanVideo"
COMPUTED = (0, 1)  # by plan; all others are skipped, but where something changes

CONDITIONING = "a conditioning begins or ends"
CONTROLNET = "a ControlNet begins or ends"
KEYFRAME = "a hook has a keyframe"
GUIDANCE = "guidance changes"


@pytest.fixture
def switched(planned):
    """`switched(tiny, run)` -> {step: why} of the steps that a run computes beside those that are planned.

    Args:
        tiny: what is sampled.
        run: (tiny, model) -> the video, with something that is switched.
    """

    def find(tiny, run=sample, **changes):
        model, attachment = planned(tiny.model, COMPUTED)
        with Witness(tiny) as witness:
            video = run(tiny, witness.watched(model), **changes)
        report = attachment.finished[-1].report
        assert video.isfinite().all()
        assert row_of(report) == witness.row()
        computed = {record.step: record.reason for record in report.evaluations if record.state != "reused"}
        assert {step for step, (calls, _) in enumerate(witness.row()) if calls} == set(computed)
        assert all(report.evaluations[step].error is None for step in set(computed) - set(COMPUTED))
        return {step: reason for step, reason in computed.items() if step not in COMPUTED}

    return find


def calls_of(tiny, **changes):
    """How many calls of the model the unpatched run has at each step, and with how many prompts."""
    with Witness(tiny) as witness:
        sample(tiny, witness.watched(tiny.model), **changes)
    return [[len(call.arguments[0][0]) for call in witness.calls if call.evaluation == step] for step in range(STEPS)]


def test_where_nothing_is_switched_the_plan_is_followed(tiny, switched):
    assert switched(tiny(WAN)) == {}


@pytest.mark.parametrize("step", [3, 6])
def test_a_prompt_that_begins_or_ends(step, tiny, switched):
    from nodes import ConditioningSetTimestepRange

    wan, percent = tiny(WAN), percent_of(tiny(WAN), step)
    (early,) = ConditioningSetTimestepRange().set_range(wan.positive, 0.0, percent)
    (late,) = ConditioningSetTimestepRange().set_range([prompt(21)], percent, 1.0)
    assert switched(wan, positive=[*early, *late]) == {step: CONDITIONING}


@pytest.mark.parametrize("is_end", [True, False])
@pytest.mark.parametrize("step", [2, 5])
def test_exactly_at_the_level_of_a_step_as_the_host_has_it(step, is_end, tiny, switched):
    """What ends there is still in, what begins there is in already."""
    import comfy.samplers

    wan = tiny(WAN)
    sampling = wan.model.get_model_object("model_sampling")
    level = float(comfy.samplers.calculate_sigmas(sampling, "simple", STEPS)[step])
    levels = {0.5: level}
    switch = {"end_percent": 0.5} if is_end else {"start_percent": 0.5}
    conditionings = {"positive": [*wan.positive, prompt(21, **switch)], "negative": wan.negative, "cfg": 1.0}
    before = type(sampling).percent_to_sigma
    try:
        type(sampling).percent_to_sigma = lambda self, percent: levels.get(percent, before(self, percent))
        batches = calls_of(wan, **conditionings)
        expected = next(at for at in range(1, STEPS) if batches[at] != batches[at - 1])
        assert expected == step + is_end
        assert switched(wan, **conditionings) == {expected: CONDITIONING}
    finally:
        type(sampling).percent_to_sigma = before


class ControlPatch:
    """A control net that is a patch of the model, as the host's own are: it knows from which noise level to which."""

    def __init__(self, sigma_start, sigma_end):
        self.sigma_start, self.sigma_end = sigma_start, sigma_end

    def __call__(self, args, extra=None):
        if extra is None:
            return args
        return extra["original_block"](args)


class BlockPatch(ControlPatch):
    def __init__(self, control_patch):
        self.control_patch = control_patch


@pytest.mark.parametrize("in_place_of_a_block", [False, True])
def test_a_control_net_that_is_a_patch_of_the_model(in_place_of_a_block, tiny, switched):
    wan = tiny(WAN)
    sampling = wan.model.get_model_object("model_sampling")
    levels = [float(sampling.percent_to_sigma(percent_of(wan, step))) for step in (3, 6)]
    patched = wan.model.clone()
    control = ControlPatch(*levels)
    if in_place_of_a_block:
        patched.set_model_patch_replace(BlockPatch(control), "dit", "double_block", 0)
    else:
        patched.set_model_double_block_patch(control)
    assert switched(replace(wan, model=patched)) == {3: CONTROLNET, 6: CONTROLNET}


def test_what_is_there_from_the_beginning_to_the_end_or_never_is_no_switch(tiny, switched):
    wan = tiny(WAN)
    always = [wan.positive[0][0], {"start_percent": 0.0, "end_percent": 1.0}]
    assert switched(wan, positive=[always, prompt(21, start_percent=1.0)]) == {}


def test_of_a_run_from_the_middle_on_what_was_switched_before_is_no_switch(tiny, planned):
    wan = tiny(WAN)
    model, attachment = planned(wan.model, COMPUTED)
    late = prompt(21, start_percent=percent_of(wan, 2))
    sample(wan, model, positive=[*wan.positive, late], denoise=0.5)
    report = attachment.finished[-1].report
    assert {record.step for record in report.evaluations if record.state == "computed"} == set(COMPUTED)


def test_a_controlnet_that_ends(tiny, switched):
    hunyuan = tiny(HUNYUAN)
    with_it = {"control": control(percent_of(hunyuan, 4)), "control_apply_to_uncond": False}
    (text, values), *_ = hunyuan.positive
    assert switched(hunyuan, positive=[[text, values | with_it]]) == {4: CONTROLNET}


def test_of_several_controlnets_each(tiny, switched):
    hunyuan = tiny(HUNYUAN)
    first, second = control(percent_of(hunyuan, 3)), control(percent_of(hunyuan, 6))
    second.set_previous_controlnet(first)
    (text, values), *_ = hunyuan.positive
    with_them = [[text, values | {"control": second, "control_apply_to_uncond": False}]]
    assert switched(hunyuan, positive=with_them) == {3: CONTROLNET, 6: CONTROLNET}


def test_a_controlnet_that_begins(tiny, switched):
    hunyuan = tiny(HUNYUAN)
    late = control(1.0)
    late.timestep_percent_range = (percent_of(hunyuan, 5), 1.0)
    (text, values), *_ = hunyuan.positive
    with_it = [[text, values | {"control": late, "control_apply_to_uncond": False}]]
    assert switched(hunyuan, positive=with_it) == {5: CONTROLNET}


def test_keyframes_of_a_hook(tiny, switched):
    import comfy.hooks

    wan = tiny(WAN)
    hooks = lora_with_keyframes({0.0: 0.5, percent_of(wan, 3): 1.0, percent_of(wan, 6): 0.0})
    with_it = comfy.hooks.set_hooks_for_conditioning(wan.positive, hooks)
    assert switched(wan, positive=with_it) == {3: KEYFRAME, 6: KEYFRAME}


def scheduled_guider(cfg, start=0.0, end=1.0):
    """KJNodes' guider: a scale, or one for each step, within a part of the steps; outside of it there is none."""

    def make(tiny, model):
        import comfy.samplers

        class Scheduled(comfy.samplers.CFGGuider):
            def predict_noise(self, x, timestep, model_options=None, seed=None):
                levels = model_options["transformer_options"]["sample_sigmas"]
                step = int((levels == timestep[0]).nonzero()[0])
                scale, negative = 1.0, None
                if self.start_percent <= step / (len(levels) - 1) <= self.end_percent:
                    scale = self.cfg[step] if isinstance(self.cfg, list) else self.cfg
                    negative = self.conds["negative"]
                return comfy.samplers.sampling_function(
                    *(self.inner_model, x, timestep, negative, self.conds["positive"], scale),
                    model_options=model_options,
                    seed=seed,
                )

        guide = Scheduled(model)
        guide.set_conds(tiny.positive, tiny.negative)
        guide.cfg, guide.start_percent, guide.end_percent = cfg, start, end
        return guide

    return guided_by(make)


@pytest.mark.parametrize(
    ("guider", "steps"),
    [
        (scheduled_guider(4.0), []),
        (scheduled_guider([4.0] * STEPS), []),
        (scheduled_guider([6.0] * 3 + [4.0] * 3 + [1.0] * 3), [3, 6]),
        (scheduled_guider([8.0, 7.0, 6.0, 5.0, 4.0, 4.0, 4.0, 3.0, 3.0]), [2, 3, 4, 7]),
        (scheduled_guider(4.0, 0.0, 0.5), [5]),
        (scheduled_guider(4.0, 0.3, 0.7), [3, 7]),
        (scheduled_guider([6.0] * 4 + [4.0] * 5, 0.0, 0.7), [4, 7]),
    ],
)
def test_a_guider_that_changes_its_scale(guider, steps, tiny, switched):
    assert switched(tiny(WAN), guider) == dict.fromkeys(steps, GUIDANCE)


def test_a_scale_that_another_node_changes_is_seen_once_it_has_changed(tiny, switched):
    """As the host's CFGOverride does: no guider tells of it before the run."""
    from comfy.patcher_extension import WrappersMP

    wan = tiny(WAN)
    low = percent_of(wan, 4)
    sampling = wan.model.get_model_object("model_sampling")

    def overriding(executor, x, timestep, *args, **kwargs):
        guider = executor.class_obj
        saved = guider.cfg
        if float(timestep.max()) <= sampling.percent_to_sigma(low):
            guider.cfg = 1.5
        try:
            return executor(x, timestep, *args, **kwargs)
        finally:
            guider.cfg = saved

    def run(tiny, model):
        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "override", overriding)
        return sample(tiny, model)

    assert switched(wan, run) == {4: GUIDANCE}


def test_auto_computes_what_is_switched_however_easy_the_video_is(demo, adacache, pack):
    """Without a plan, too, and the forecast begins anew there: no error is counted."""
    from host.test_auto import demo_prompt, demo_video

    sampling = demo.get_model_object("model_sampling")
    plain, of_plain = adacache(demo, target=2.0)
    demo_video(plain, 30)
    skipped = [record.step for record in of_plain.finished[-1].report.evaluations if record.state == "reused"]
    step = skipped[len(skipped) // 2]

    import comfy.samplers

    sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", 30)
    between = float(sigmas[step - 1] + sigmas[step]) / 2
    percent = next(each / 1000 for each in range(1000) if sampling.percent_to_sigma(each / 1000) < between)
    text, other = demo_prompt(), demo_prompt("circle few red slow left dark")
    positive = [[text, {"end_percent": percent}], [other, {"start_percent": percent}]]
    model, attachment = adacache(demo, target=2.0)
    demo_video(model, 30, positive=positive)
    record = attachment.finished[-1].report.evaluations[step]
    assert (record.state, record.reason, record.error) == ("computed", CONDITIONING, None)


def test_a_table_of_the_paper_takes_no_notice(tiny, adacache):
    """Its residuals are found by who asks: what is switched has none, and is computed for that."""
    wan = tiny(WAN)
    model, attachment = adacache(wan.model, rate=3)
    sample(wan, model, positive=[*wan.positive, prompt(21, start_percent=percent_of(wan, 2))])
    assert CONDITIONING not in {record.reason for record in attachment.finished[-1].report.evaluations}
