"""Whole evaluations skipped: who is asked, what the sampler is given instead, and when none may be skipped."""

import gc
import weakref
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from toys import Bell, Drifting, heun

from adacache_core import (
    FAST_30,
    SLOW_30,
    AdaCache,
    AdaCacheError,
    CacheConfig,
    Engine,
    Fixed,
    Head,
    Off,
    StackLayout,
    Watch,
    auto,
)
from adacache_core.correct.sampler import euler, probe_sampler
from adacache_core.decide import target as target_module
from adacache_core.schedule import Schedule

STEPS, SHAPE = 30, (1, 4, 3, 5, 5)
SIGMAS = [1 - step / STEPS for step in range(STEPS + 1)]
LATENT = 4 * 4 * 3 * 5 * 5  # bytes
THIRDS = Schedule(tuple(step % 3 == 0 for step in range(STEPS)))
PLANNED = CacheConfig(Fixed(THIRDS))


def noise(shape=SHAPE, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def multistep(model, x):
    """Remembers three videos."""
    videos = []
    for sigma, following in pairwise(SIGMAS):
        videos = [model(x, sigma), *videos][:3]
        weights = (1.5, -0.6, 0.1)[: len(videos)]
        ahead = sum(weight * video for weight, video in zip(weights, videos, strict=True)) / sum(weights)
        x = following / sigma * x + (1 - following / sigma) * ahead
    return x


def ancestral(model, x):
    """Draws the same noise every time, as the host's do when they are asked."""
    dice = torch.Generator().manual_seed(1)
    for sigma, following in pairwise(SIGMAS):
        fresh = torch.randn(x.shape, generator=dice)
        down = following / 2
        x = x + (down - sigma) * (x - model(x, sigma)) / sigma + down * fresh
    return x


def restarting(model, x):
    """Goes back to the tenth level once."""
    for sigma, following in pairwise([*SIGMAS[:20], *SIGMAS[10:]]):
        x = x + (following - sigma) * (x - model(x, sigma)) / sigma
    return x


def broken(model, x):
    raise KeyError("it wants more than a video")


class Asked:
    """A run on a model, which counts who was asked.

    Args:
        config: settings.
        velocity: of the model, from a latent and a level.
        sampler: that samples, and that the engine knows; `known` if it is told something else of it.
        engine: more arguments of Engine.
    """

    def __init__(self, config, velocity=None, sampler=None, known=None, **engine):
        self.model = Bell(SHAPE)
        self.velocity = velocity or self.model
        self.sampler = sampler or euler(SIGMAS)
        known = known or probe_sampler(self.sampler, SIGMAS)
        self.engine = Engine(config, STEPS, None, sampler=known, **engine)
        self.report = self.engine.report
        self.asked = []

    def __call__(self, x, sigma):
        """As the sampler sees it: the video."""
        step = max(step for step in range(STEPS) if sigma <= SIGMAS[step] + 1e-6)

        def video():
            self.asked.append(step)
            with self.engine.call(self.model, ["the model"]):
                return x - sigma * self.velocity(x, sigma)

        with self.engine.evaluation(step, sigma):
            return self.engine.answer(x, video)

    def sample(self):
        out = self.sampler(self, noise())
        self.engine.finish()
        return out

    @property
    def skipped(self):
        return [record.step for record in self.report.evaluations if record.state == "reused"]


def loop(run, model, sigmas=SIGMAS):
    """The loop that the documentation of AdaCache shows."""
    x = noise()
    for step, (sigma, following) in enumerate(pairwise(sigmas)):
        with run.evaluation(step, sigma):
            velocity = run.velocity(x, lambda x=x, sigma=sigma: model(x, sigma))
        x = x + (following - sigma) * velocity
    return x


def plain(model=None, sampler=None):
    model = model or Bell(SHAPE)
    return (sampler or euler(SIGMAS))(lambda x, sigma: x - sigma * model(x, sigma), noise())


def test_a_skipped_evaluation_asks_nobody_and_says_so():
    run = Asked(auto(2.0))
    out = run.sample()
    assert (out - plain()).norm() < 0.05 * plain().norm()
    assert len(run.skipped) >= STEPS / 3
    assert run.asked == [step for step in range(STEPS) if step not in run.skipped]
    assert run.model.ran == run.report.computed == len(run.asked)
    for record in run.report.evaluations:
        skipped = record.step in run.skipped
        assert (record.calls, record.calls_computed) == ((0, 0) if skipped else (1, 1))
        assert (record.error is None) == (skipped or record.step == 0)
        assert (record.reason == "below tolerance") == skipped
        assert record.metric is record.rate is None
    assert (run.report.reuse, run.report.codebook, run.report.target) == ("output", "", 2.0)
    assert run.report.notes == []


def test_the_latent_that_is_evaluated_is_left_as_it_is():
    x = noise()
    run = Asked(PLANNED)
    for step in range(4):
        run(x, SIGMAS[step])
    assert run.skipped == [1, 2]
    assert torch.equal(x, noise())


def test_a_table_of_the_paper_reuses_blocks_and_says_so():
    engine = Engine(CacheConfig(FAST_30), STEPS, StackLayout(("blocks",), (Head("head"),)))
    assert engine.report.reuse == "blocks"
    assert engine.report.codebook == str(FAST_30)
    assert engine.output is None


NEVER_SKIPS = {
    "target 1": auto(1.0),
    "not enabled": CacheConfig(Off()),
    "start is end": replace(auto(2.0), start=0.4, end=0.4),
    "all planned": CacheConfig(Fixed(Schedule((True,) * STEPS))),
}


@pytest.mark.parametrize("config", NEVER_SKIPS.values(), ids=NEVER_SKIPS)
def test_off_is_off_bit_for_bit(config):
    run = Asked(config)
    assert torch.equal(run.sample(), plain())
    assert run.asked == list(range(STEPS))
    assert {record.reason for record in run.report.evaluations} == {"off"}
    assert run.report.cache_bytes_max == 0
    assert run.report.notes == []


def test_until_the_first_skipped_step_the_run_is_the_plain_one_bit_for_bit():
    model, given = Bell(SHAPE), []
    with AdaCache(model, steps=STEPS, config=PLANNED, sigmas=SIGMAS) as run:
        for step in range(2):
            with run.evaluation(step, SIGMAS[step]):
                x = noise(seed=step)
                given.append((run.velocity(x, lambda x=x, step=step: model(x, SIGMAS[step])), model(x, SIGMAS[step])))
    assert torch.equal(*given[0])
    assert not torch.equal(*given[1])


def test_a_second_run_equals_the_first():
    first, second = Asked(auto(2.0)), Asked(auto(2.0))
    assert torch.equal(first.sample(), second.sample())
    assert first.skipped == second.skipped != []


def test_a_plan_is_followed_to_the_step():
    run = Asked(PLANNED)
    run.sample()
    assert run.asked == [0, *range(3, STEPS, 3)]
    assert {record.reason for record in run.report.evaluations[1:]} == {"as planned"}


def test_a_plan_for_other_steps_is_resampled_and_the_report_says_so():
    run = Asked(CacheConfig(Fixed(THIRDS.for_steps(60))))
    run.sample()
    assert run.asked == [0, *range(3, STEPS, 3)]
    assert run.report.notes == ["the schedule was made for 60 steps and is stretched to 30"]


@pytest.mark.parametrize(("target", "guard"), [(25.0, 1e9), (2.0, 1e-9)])
def test_a_target_that_is_missed_is_told_before_the_run(target, guard, monkeypatch):
    monkeypatch.setattr(target_module, "GUARD", guard)
    engine = Engine(auto(target), STEPS, None, sampler=probe_sampler(euler(SIGMAS), SIGMAS))
    assert engine.report.notes == [engine.output.controller.what_differs]
    assert engine.report.notes[0].startswith(f"{target:g}x ")


def test_a_harder_video_is_computed_more_often():
    dice = torch.Generator().manual_seed(1)

    def jittery(x, sigma):
        return Bell(SHAPE)(x, sigma) + 0.2 * torch.randn(SHAPE, generator=dice)

    easy, hard = Asked(auto(2.0)), Asked(auto(2.0), jittery)
    easy.sample(), hard.sample()
    assert hard.report.computed > easy.report.computed + 5


def test_outside_start_and_end_every_step_is_computed_and_says_why():
    run = Asked(replace(auto(2.0), start=0.4, end=0.8))
    run.sample()
    assert run.skipped
    assert all(12 <= step < 24 for step in run.skipped)
    outside = [record.step for record in run.report.evaluations if record.reason == "outside start..end"]
    assert outside == [*range(1, 12), *range(24, STEPS)]


def test_where_the_model_is_known_to_jump_it_is_computed_and_the_forecast_begins_anew():
    def jumping(x, sigma):
        return Bell(SHAPE)(x, sigma) + 3 * (sigma <= SIGMAS[7])

    seen = {}
    run = Asked(CacheConfig(Fixed(THIRDS)), jumping, changing={7: "a ControlNet begins or ends"}, known=silent())
    for step in range(9):
        x = noise(seed=step)
        seen[step] = (x - run(x, SIGMAS[step])) / SIGMAS[step], jumping(x, SIGMAS[step])
    assert run.skipped == [1, 2, 4, 5, 8]
    record = run.report.evaluations[7]
    assert (record.reason, record.error) == ("a ControlNet begins or ends", None)
    torch.testing.assert_close(seen[8][0], seen[7][1])  # held: what it changed by before the jump says nothing


def silent():
    """A sampler of which nothing is known but its levels: nothing is corrected."""
    return probe_sampler(broken, SIGMAS)


def test_a_sampler_that_is_not_known_is_not_corrected():
    run = Asked(auto(2.0), known=silent())
    run.sample()
    assert run.skipped
    assert not any(record.corrected for record in run.report.evaluations)


@pytest.mark.parametrize("sampler", [euler(SIGMAS), multistep], ids=["euler", "multistep"])
@torch.no_grad()
def test_a_correction_brings_the_sample_nearer_to_the_plain_one(sampler):
    model, prompt = Drifting(width=5), noise((1, 1, 5), seed=1)

    def velocity(x, sigma):
        return model(x.flatten(1, 3), sigma, prompt).view(SHAPE)

    runs = [Asked(PLANNED, velocity, sampler, known) for known in (silent(), None)]
    truth = plain(velocity, sampler)
    without, corrected = ((run.sample() - truth).norm() for run in runs)
    assert runs[0].skipped == runs[1].skipped == [step for step in range(STEPS) if step % 3]
    assert corrected < without / 1.5
    paid = [record.step for record in runs[1].report.evaluations if record.corrected]
    assert set(range(3, STEPS, 3)) <= set(paid)
    assert min(paid) == 3


def test_all_evaluations_of_a_step_are_asked_or_none():
    run = Asked(auto(2.0), sampler=heun(SIGMAS))
    run.sample()
    assert run.report.total == 2 * STEPS - 1
    computed = [{record.state for record in run.report.evaluations if record.step == step} for step in range(STEPS)]
    assert all(len(states) == 1 for states in computed)
    assert {"reused"} in computed
    assert run.model.ran == len(run.asked) == run.report.computed


def test_where_noise_is_drawn_a_plan_is_followed_the_video_goes_on_and_the_report_warns():
    run = Asked(PLANNED, sampler=ancestral)
    run.sample()
    assert run.asked == [0, *range(3, STEPS, 3)]
    assert [note.split(":")[0] for note in run.report.notes] == ["the sampler draws fresh noise"]


@pytest.mark.parametrize("masked", [True, False])
def test_errors_count_where_the_latent_is_made(masked):
    dice = torch.Generator().manual_seed(1)
    mask = torch.zeros(1, 1, 1, 1, 5)
    mask[..., :2] = 1

    def wild_outside(x, sigma):
        return Bell(SHAPE)(x, sigma) + (1 - mask) * torch.randn(SHAPE, generator=dice)

    run, calm = Asked(auto(2.0), wild_outside, mask=mask if masked else None), Asked(auto(2.0), mask=mask)
    run.sample(), calm.sample()
    assert (run.report.computed > calm.report.computed + 5) == (not masked)


def test_a_latent_of_another_shape_is_computed():
    run = Asked(PLANNED)
    for step in range(3):
        run(noise(), SIGMAS[step])
    run.velocity = lambda x, sigma: x
    larger = noise((2, *SHAPE[1:]))
    assert run(larger, SIGMAS[3]).shape == larger.shape
    assert run(noise(), SIGMAS[4]).shape == SHAPE
    assert run(noise(), SIGMAS[5]).shape == SHAPE
    records = run.report.evaluations
    assert run.skipped == [1, 2, 5]
    assert [(each.state, each.reason) for each in records[3:5]] == [
        ("computed", "as planned"),
        ("computed", "nothing to reuse"),
    ]
    assert records[3].error is records[4].error is None


# How a run ends up computing every step, and the sentence that says so.
IDLE = {
    "no noise levels": (None, "the noise levels of this run are not known, so nothing can be forecast"),
    "draws noise": (
        {"draws_noise": True},
        "euler_a draws fresh noise, so any skipped step would give another video",
    ),
    "starts over": ({"starts_over": True}, "euler_a starts over from fresh noise at every step"),
}


@pytest.mark.parametrize(("known", "sentence"), IDLE.values(), ids=IDLE)
def test_where_nothing_can_be_forecast_every_step_is_computed_and_says_why(known, sentence):
    sampler = None if known is None else replace(probe_sampler(euler(SIGMAS), SIGMAS), name="euler_a", **known)
    engine = Engine(auto(25.0), STEPS, None, sampler=sampler)  # that this is too much is of no interest then
    assert sentence in engine.idle_reason
    assert engine.report.notes == [engine.idle_reason]
    for step in range(STEPS):
        with engine.evaluation(step, SIGMAS[step]) as record:
            video = noise(seed=step)
            assert engine.answer(noise(), lambda video=video: asked(engine, video)) is video
        assert (record.state, record.reason) == ("computed", engine.idle_reason)
    assert engine.finish().cache_bytes_max == 0


def asked(engine, video):
    with engine.call(torch.nn.Identity(), ["the model"]):
        return video


def test_a_loop_that_names_no_noise_levels_is_computed_whole():
    model = Bell(SHAPE)
    x = noise()
    for sigma, following in pairwise(SIGMAS):
        x = x + (following - sigma) * model(x, sigma)
    with AdaCache(model, steps=STEPS, config=auto(2.0)) as run:
        assert torch.equal(loop(run, model), x)
    assert run.report.computed == STEPS
    assert "noise levels of this run are not known" in run.report.notes[0]


def few(schedule):
    """The report of a run of 8 steps."""
    sigmas, model = [1 - step / 8 for step in range(9)], Bell(SHAPE)
    config = CacheConfig(Fixed(schedule)) if schedule else auto(2.0)
    with AdaCache(model, steps=8, config=config, sigmas=sigmas) as run:
        loop(run, model, sigmas)
    return run.report


def test_a_run_of_few_steps_skips_hardly_any_and_says_so():
    report = few(None)
    assert report.computed >= 6
    assert [note[:3] for note in report.notes] == ["2x "]


def test_of_a_run_of_few_steps_what_a_plan_says_is_skipped():
    report = few(Schedule((True, False) * 4))
    assert report.schedule().computed == (True, False) * 4
    assert report.notes == []


@pytest.mark.parametrize(
    ("step", "sentence"), [(9, "the model was not called at step 10"), (6, "the model was not called at step 7")]
)
def test_where_the_model_is_not_called_nothing_is_skipped_any_more(step, sentence):
    run = Asked(PLANNED)
    for before in range(step):
        run(noise(), SIGMAS[before])
    answer = noise(seed=7)
    with run.engine.evaluation(step, SIGMAS[step]) as record:
        assert run.engine.answer(noise(), lambda: answer) is answer
    assert (record.state, record.calls, record.error) == ("answered", 0, None)
    rest_is_computed(run, step + 1)
    assert run.report.notes == [f"cannot skip steps: {sentence}; from there on every step is computed"]


def test_where_another_pack_answers_in_place_of_the_blocks_nothing_is_skipped_any_more():
    model = Drifting()
    config = CacheConfig(Fixed(THIRDS))
    with AdaCache(model, steps=STEPS, config=config, sigmas=SIGMAS, blocks="blocks", head="head") as run:
        answer = noise((1, 3, 8))
        with run.evaluation(0, 1.0), run.call("cond"):
            pass  # the model is never called
        with run.evaluation(1, SIGMAS[1]):
            assert run.velocity(answer, lambda: answer) is answer
    assert [record.state for record in run.report.evaluations] == ["answered", "answered"]
    assert "another pack answered in place of the model at step 1" in run.report.notes[0]


def test_who_stands_in_the_way_is_named():
    run = Asked(PLANNED)
    run.engine.others = " (some_pack)"
    with run.engine.evaluation(0, SIGMAS[0]):
        run.engine.answer(noise(), noise)
    assert "the model was not called (some_pack) at step 1" in run.report.notes[0]


def test_where_the_noise_level_rises_nothing_is_skipped_any_more():
    run = Asked(PLANNED, sampler=restarting, known=probe_sampler(euler(SIGMAS), SIGMAS))
    run.sample()
    assert run.skipped == [step for step in range(20) if step % 3]
    records = run.report.evaluations[20:]
    assert [record.step for record in records] == list(range(10, STEPS))
    assert {record.state for record in records} == {"computed"}
    sentence = "the noise level rises at step 11; from there on every step is computed"
    assert run.report.notes == [f"cannot skip steps: {sentence}"]


def test_a_run_stands_down_in_the_middle_when_it_is_told_to():
    run = Asked(PLANNED)
    for step in range(9):
        run(noise(), SIGMAS[step])
    run.engine.stand_down("somebody replaces this model")
    rest_is_computed(run, 9)
    assert run.report.evaluations[9].reason == "somebody replaces this model"
    assert run.report.notes == ["cannot skip steps: somebody replaces this model"]


def test_it_may_be_told_so_while_the_model_is_asked():
    run = Asked(PLANNED)
    for step in range(3):
        run(noise(), SIGMAS[step])
    run.velocity = lambda x, sigma: run.engine.stand_down("it is another model") or x
    video = run(noise(), SIGMAS[3])
    assert torch.equal(video, noise() - SIGMAS[3] * noise())
    assert (run.report.evaluations[3].state, run.report.evaluations[3].reason) == ("computed", "it is another model")
    run.velocity = run.model
    rest_is_computed(run, 4)


def rest_is_computed(run, first):
    """And given as the model says it, with nothing held."""
    for step in range(first, STEPS):
        x = noise(seed=step)
        assert torch.equal(run(x, SIGMAS[step]), x - SIGMAS[step] * run.model(x, SIGMAS[step]))
    assert {record.state for record in run.report.evaluations[first:]} == {"computed"}
    assert run.engine.output is None


@pytest.mark.parametrize(
    "sampler", [euler(SIGMAS), multistep, heun(SIGMAS), ancestral], ids=["euler", "multistep", "heun", "a"]
)
def test_what_is_held_is_a_few_latents(sampler):
    run = Asked(PLANNED, sampler=sampler)
    run.sample()
    assert run.skipped
    assert 2 * LATENT <= run.report.cache_bytes_max <= 10 * LATENT
    assert run.report.cache_bytes_each == 0


class Broke(Exception):
    pass


@pytest.mark.parametrize("step", [0, 1, 9, 29])
def test_an_error_in_the_model_leaves_the_run_usable(step):
    broke = []

    def once(x, sigma):
        if sigma == SIGMAS[step] and not broke:
            broke.append(sigma)
            raise Broke
        return Bell(SHAPE)(x, sigma)

    def retrying(model, x):
        def again(x, sigma):
            try:
                return model(x, sigma)
            except Broke:
                return model(x, sigma)

        return euler(SIGMAS)(again, x)

    schedule = Schedule(tuple(each in (0, 1, 9, 29) or each % 3 == 0 for each in range(STEPS)))
    config = CacheConfig(Fixed(schedule))
    run, undisturbed = Asked(config, once, sampler=retrying, known=probe_sampler(euler(SIGMAS), SIGMAS)), Asked(config)
    assert torch.equal(run.sample(), undisturbed.sample())
    assert broke
    assert run.report.total == STEPS + 1  # the one that failed was at the model
    assert run.skipped == undisturbed.skipped


def test_an_error_before_the_model_is_called_leaves_no_record():
    run = Asked(PLANNED)
    with pytest.raises(Broke), run.engine.evaluation(0, SIGMAS[0]):
        raise Broke
    assert run.report.evaluations == []
    run(noise(), SIGMAS[0])
    assert run.report.evaluations[0].state == "computed"


def test_a_cancelled_run_holds_nothing_and_its_report_is_true():
    run = Asked(PLANNED)

    def cancel(x, sigma):
        if sigma <= SIGMAS[9]:
            raise Broke
        return run.model(x, sigma)

    run.velocity = cancel
    with pytest.raises(Broke):
        run.sampler(run, noise())
    report = run.engine.finish()
    assert run.engine.output is None
    assert report.total == 10
    assert (report.evaluations[-1].state, report.evaluations[-1].error) == ("computed", None)
    assert run.model.ran == report.computed - 1
    assert all(record.seconds is not None for record in report.evaluations)


def test_after_a_run_nothing_is_held():
    given = []

    def remembered(x, sigma):
        velocity = Bell(SHAPE)(x, sigma)
        given.append(weakref.ref(velocity))
        return velocity

    run = Asked(PLANNED, remembered)
    for step in range(4):
        run(noise(), SIGMAS[step])
    forecast = weakref.ref(run.engine.output._forecast.velocity)
    assert forecast() is not None
    run.engine.finish()
    gc.collect()
    assert forecast() is None
    assert [each() for each in given] == [None] * 2
    assert run.engine.output is None


def test_adacache_needs_no_blocks_for_auto():
    model = Bell(SHAPE)
    with AdaCache(model, steps=STEPS, config=auto(2.0), sigmas=SIGMAS) as run:
        out = loop(run, model)
    by_engine = Asked(auto(2.0))
    torch.testing.assert_close(out, by_engine.sample())
    assert [record.state for record in run.report.evaluations] == [
        record.state for record in by_engine.report.evaluations
    ]
    assert model.ran == run.report.computed < 2 * STEPS / 3
    assert run.report.model == "Bell"


def test_what_the_model_says_is_handed_on_as_it_is():
    model = Bell(SHAPE)
    with AdaCache(model, steps=STEPS, config=auto(2.0), sigmas=SIGMAS) as run, run.evaluation(0, SIGMAS[0]):
        velocity = noise(seed=3)
        assert run.velocity(noise(), lambda: velocity) is velocity


def test_noise_levels_in_a_tensor_are_as_good_as_numbers():
    def videos(sigmas):
        model, x = Bell(SHAPE), noise()
        with AdaCache(model, steps=STEPS, config=auto(2.0), sigmas=sigmas) as run:
            for step, sigma in enumerate(sigmas[:-1]):
                with run.evaluation(step, sigma):
                    yield run.velocity(x, lambda sigma=sigma: model(x, float(sigma)))

    pairs = zip(videos(SIGMAS), videos(torch.tensor(SIGMAS, dtype=torch.float64)), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("model", [Bell, Drifting])
@pytest.mark.parametrize("config", [None, CacheConfig(SLOW_30), CacheConfig(Watch())])
def test_a_table_needs_to_know_where_the_blocks_are(model, config):
    with pytest.raises(AdaCacheError, match="name blocks and head"):
        AdaCache(model(), steps=STEPS, config=config, sigmas=SIGMAS)


@pytest.mark.parametrize("config", [auto(2.0), CacheConfig(SLOW_30)], ids=["auto", "slow"])
@torch.no_grad()
def test_with_blocks_the_calls_are_told_by_the_caller_and_counted_in_the_blocks(config):
    model, x, prompt = Drifting(), noise((1, 6, 8)), noise((1, 1, 8), seed=1)
    with AdaCache(model, steps=STEPS, blocks="blocks", head="head", config=config, sigmas=SIGMAS) as run:
        for step, (sigma, following) in enumerate(pairwise(SIGMAS)):

            def ask_twice(x=x, sigma=sigma):
                for key in ("cond", "uncond"):
                    with run.call(key, 3, 2):
                        velocity = model(x, sigma, prompt)
                return velocity

            with run.evaluation(step, sigma) as record:
                velocity = run.velocity(x, ask_twice)
            reused = record.state == "reused"
            assert record.calls == (0 if reused and config.at_output else 2)
            assert record.calls_computed == (0 if reused else 2)
            x = x + (following - sigma) * velocity
    assert model.ran == 2 * run.report.computed < 2 * STEPS


@pytest.mark.parametrize("sigma", [None, 0.0])
def test_velocity_needs_a_noise_level(sigma):
    with AdaCache(Bell(), steps=STEPS, config=auto(2.0), sigmas=SIGMAS) as run:
        with pytest.raises(AssertionError, match="inside evaluation"):
            run.velocity(noise(), noise)
        with pytest.raises(AssertionError, match="inside evaluation"), run.evaluation(0, sigma):
            run.velocity(noise(), noise)


def test_an_answer_outside_an_evaluation_is_a_mistake():
    with pytest.raises(AssertionError, match="inside evaluation"):
        Asked(auto(2.0)).engine.answer(noise(), noise)


def test_a_run_on_other_noise_scales_is_skipped_as_well():
    """A latent is video + sigma noise where the first level is above 1."""
    sigmas = [sigma / (1.001 - sigma) for sigma in SIGMAS]

    class Loud(Bell):
        def forward(self, x, sigma):  # the same model, asked at the flow level of the same noise
            level, scaled = sigma / (1 + sigma), x / (1 + sigma)
            video = scaled - level * super().forward(scaled, level)
            return (x - video) / sigma

    def sample(run, model):
        x = sigmas[0] * noise()
        for step, (sigma, following) in enumerate(pairwise(sigmas)):
            with run.evaluation(step, sigma):
                velocity = run.velocity(x, lambda x=x, sigma=sigma: model(x, sigma))
            x = x + (following - sigma) * velocity
        return x

    outs = []
    for target in (1.0, 2.0):
        model = Loud(SHAPE)
        with AdaCache(model, steps=STEPS, config=auto(target), sigmas=sigmas) as run:
            outs.append(sample(run, model))
    assert model.ran == run.report.computed < 2 * STEPS / 3
    assert (outs[1] - outs[0]).norm() < 0.05 * outs[0].norm()
