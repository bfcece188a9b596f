"""The plan has enough videos, none that was used for tuning, and none twice."""

from collections import Counter

import pytest
import torch

from research import clips
from research.benchmark import plan
from research.benchmark.library import FewerSteps
from research.benchmark.plan import CONDITIONS, VIDEOS_OF_A_CLASS, Condition
from research.small_models import DISTILLED_LEVELS, MODELS


def videos(model, condition=None):
    """All videos of a model under one condition."""
    chosen = condition or CONDITIONS[model][0]
    return [case for number in range(VIDEOS_OF_A_CLASS) for case in plan.cases(model, chosen, number)]


def test_every_model_has_conditions_and_every_condition_a_name_of_its_own():
    assert CONDITIONS.keys() == MODELS.keys()
    for several in CONDITIONS.values():
        assert len({condition.name for condition in several}) == len(several)


def test_names_differ_in_whatever_conditions_differ_in():
    base = {"sampler": "euler", "steps": 20, "shift": 5.0, "cfg": 4.0}
    changes = [{}, {"sampler": "lcm"}, {"steps": 12}, {"shift": 3.0}, {"cfg": 1.0}, {"scheduler": "beta"}]
    changes += [{"levels": "LTX-2.3"}, {"stages": 10}, {"denoise": 0.6}]
    assert len({Condition(**base | change).name for change in changes}) == len(changes)


def test_distilled_conditions_take_a_whole_list_of_levels():
    for condition in CONDITIONS["distilled"]:
        assert condition.steps == len(DISTILLED_LEVELS[condition.levels]) - 1


@pytest.mark.parametrize("model", CONDITIONS)
def test_every_class_has_four_videos_all_different(model):
    cases = videos(model)
    assert {*Counter(case.motion_class for case in cases).values()} == {4}
    assert len(cases) == 16
    assert len({case.prompt for case in cases}) == len({case.seed for case in cases}) == 16


@pytest.mark.parametrize("model", CONDITIONS)
def test_nobody_calibrates_on_what_is_measured(model):
    cases = videos(model)
    calibrating = plan.calibration(cases[0])
    assert len({case.prompt for case in calibrating}) == 4
    assert not {case.prompt for case in calibrating} & {case.prompt for case in cases}
    assert not {case.seed for case in calibrating} & {case.seed for case in cases}
    assert {(case.model, case.condition) for case in calibrating} == {(model, cases[0].condition)}


@pytest.mark.parametrize("part", [None, (0, 10), (10, 20)])
def test_a_part_has_its_own_number_of_steps(part):
    case = plan.Case("demo", Condition("euler", 20, 8.0, 4.0, stages=10), "slow", "a prompt", 1, part)
    assert case.steps == (10 if part else 20)
    assert case.condition.parts == ((0, 10), (10, 20))


@pytest.mark.parametrize("model", ["demo", "clips"])
def test_a_context_has_the_empty_prompt_behind_the_prompt_only_where_there_is_guidance(model):
    guided, plain = (videos(model, Condition("euler", 20, 5.0, cfg))[0].context for cfg in (4.0, 1.0))
    assert (guided.shape, plain.shape) == ((2, 6, 4096), (1, 6, 4096))
    assert torch.equal(guided[:1], plain)
    assert plain.any()
    assert not guided[1].any()


def test_one_video_of_each_class_and_condition_comes_before_the_second_of_any():
    cases = list(plan.wanted(list(CONDITIONS)))
    assert len(cases) == len({*cases})
    for model, conditions in CONDITIONS.items():
        for place, condition in enumerate(conditions):
            made = [case for case in cases if (case.model, case.condition) == (model, condition)]
            assert len(made) == (16 if place < plan.MOST_WANTED else 8)
    of_each = [Counter() for _ in range(VIDEOS_OF_A_CLASS)]
    begun = 0
    for case in cases:
        what = case.model, case.condition, case.motion_class
        turn = next(turn for turn, seen in enumerate(of_each) if what not in seen)
        of_each[turn][what] += 1
        assert turn >= begun
        begun = turn


def test_the_most_wanted_condition_of_every_model_comes_first():
    first = list(plan.wanted(list(CONDITIONS), 1))[: 4 * len(CONDITIONS)]
    assert {(case.model, case.condition) for case in first} == {(model, some[0]) for model, some in CONDITIONS.items()}


def test_quick_is_one_video_of_each_model_in_few_steps_and_guided_as_it_is_made_for():
    cases = plan.quick(list(CONDITIONS))
    assert [case.model for case in cases] == list(CONDITIONS)
    assert all(case.steps <= 16 for case in cases)
    assert [case.condition.cfg for case in cases] == [some[0].cfg for some in CONDITIONS.values()]


@pytest.mark.parametrize("model", ["demo", "two_streams"])
def test_a_drawn_clip_is_one_of_its_prompt_in_the_shape_of_its_model(model):
    (condition,) = (condition for condition in CONDITIONS[model] if condition.denoise < 1)
    case = next(case for case in videos(model, condition) if "one red" in case.prompt)
    latent = plan.drawn_clip(case)
    assert latent.shape == case.subject.latent
    assert torch.equal(latent, plan.drawn_clip(case))
    red, green, blue = clips.decode(latent)[0].amax(dim=(1, 2, 3))
    assert red > max(green, blue)


def test_who_is_not_measured_everywhere_is_on_few_videos_under_the_most_wanted_conditions_of_each_model():
    some, all_of_them = FewerSteps("some", {}, everywhere=False), FewerSteps("all", {})
    for model, conditions in plan.CONDITIONS.items():
        cases = [plan.cases(model, condition, 0)[0] for condition in conditions]
        assert [some.fits(case) for case in cases] == [place < plan.MOST_WANTED for place in range(len(cases))]
        assert all(map(all_of_them.fits, cases))
        videos = [plan.cases(model, conditions[0], number)[0] for number in range(plan.VIDEOS_OF_A_CLASS)]
        assert [some.fits(video) for video in videos] == [number < plan.FEWER_VIDEOS for number in range(len(videos))]
        assert all(map(all_of_them.fits, videos))
        assert some.fits(plan.quick([model])[0])  # a condition that is not in the plan
