"""One run of a toy video model: what is computed, what is reused, what is held, and whether the report is true."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
import torch
from toys import Double, Drifting, Plain, Stack, tokens

from adacache_core import (
    FAST_30,
    AdaCache,
    AdaCacheError,
    CacheConfig,
    Codebook,
    Engine,
    Grid,
    Head,
    MotionConfig,
    Off,
    RunReport,
    StackLayout,
)

STEPS, FRAMES, POSITIONS, WIDTH = 30, 3, 8, 8
LAYOUT = StackLayout(("blocks",), (Head("head"),))
FAST = CacheConfig(FAST_30)
EVERY_THIRD = CacheConfig(Codebook(((1.0, 3),), STEPS))


def attach(model, config=FAST, steps=STEPS):
    return AdaCache(model, blocks="blocks", head="head", steps=steps, config=config)


def begin(seed=0):
    """Noise and two prompts."""
    dice = torch.Generator().manual_seed(seed)
    x = torch.randn(1, FRAMES * POSITIONS, WIDTH, generator=dice)
    return x, {key: torch.randn(1, 1, WIDTH, generator=dice) for key in ("cond", "uncond")}


@torch.no_grad()
def sample(model, run, steps=STEPS, way="batched", before_call=lambda step: None):
    """An Euler loop with guidance; `way` is how the two prompts reach the model."""
    x, prompts = begin()
    grid = (FRAMES, POSITIONS)
    for step in range(steps):
        t = 1 - step / steps
        with run.evaluation(step, t):
            out = {}
            if way == "batched":
                with run.call(list(prompts), *grid):
                    before_call(step)
                    both = model(torch.cat([x, x]), t, torch.cat(list(prompts.values())))
                out = dict(zip(prompts, both.chunk(2), strict=True))
            else:
                keys = list(prompts)
                for key in keys[::-1] if way == "alternating" and step % 2 else keys:
                    with run.call(key, *grid):
                        before_call(step)
                        out[key] = model(x, t, prompts[key])
        x = x + 0.3 * (out["uncond"] + 2 * (out["cond"] - out["uncond"])) / steps
    return x


def states(report):
    return [record.state for record in report.evaluations]


def test_a_model_whose_blocks_take_something_else_is_computed_and_it_is_said():
    """Its blocks are where the layout says, and are given the hidden states by another name."""

    class ByName(Drifting):
        def forward(self, x, t, prompt):
            for block in self.blocks:
                x = block(hidden_states=x, t=t, prompt=prompt)
            return self.head(x)

    layout = StackLayout(("blocks",), (Head("head"),), stream="x")
    model, run = ByName(), Engine(EVERY_THIRD, STEPS, layout)
    x, prompts = begin()
    for step in range(STEPS):
        with run.evaluation(step, 1 - step / STEPS), run.call(model, ["cond"]):
            made = model(x, 1 - step / STEPS, prompts["cond"])
        assert torch.equal(made, model(x, 1 - step / STEPS, prompts["cond"]))
    report = run.finish()
    assert report.computed == report.total == STEPS
    assert report.notes == ["cannot skip steps: this model uses its blocks in an unexpected way (KeyError: 'x')"]


NEVER_SKIPS = {
    "rates of one": CacheConfig(Codebook(((0.5, 1), (1.0, 1)), STEPS)),
    "start is end": CacheConfig(FAST_30, start=0.4, end=0.4),
    "not enabled": CacheConfig(Off()),
}


@pytest.mark.parametrize("config", NEVER_SKIPS.values(), ids=NEVER_SKIPS)
def test_off_is_off_bit_for_bit(config):
    model = Drifting()
    plain = sample(model, Plain())
    with attach(model, config) as run:
        assert torch.equal(sample(model, run), plain)
    assert states(run.report) == ["computed"] * STEPS
    assert run.report.cache_bytes_max == 0


def test_a_recorded_call_is_the_plain_call_bit_for_bit():
    model = Drifting()
    x, prompts = begin()
    plain = model(x, 0.5, prompts["cond"])
    with attach(model) as run, run.evaluation(0), run.call("cond", FRAMES, POSITIONS):
        assert torch.equal(model(x, 0.5, prompts["cond"]), plain)


def test_a_run_skips_much_of_its_work_and_stays_near_the_plain_one():
    model = Drifting()
    plain = sample(model, Plain())
    with attach(model) as run:
        cached = sample(model, run)
    assert run.report.computed <= STEPS / 2
    assert (cached - plain).norm() < 0.05 * plain.norm()


def test_a_second_run_equals_the_first_and_the_model_is_left_as_it_was():
    model = Drifting()
    plain = sample(model, Plain())
    results = []
    for _ in range(2):
        with attach(model) as run:
            results.append(sample(model, run))
    assert torch.equal(*results)
    assert torch.equal(sample(model, Plain()), plain)


@pytest.mark.parametrize("way", ["batched", "separate", "alternating"])
def test_the_report_is_what_a_counter_in_the_blocks_saw(way):
    model = Drifting()
    ran = []
    with attach(model, CacheConfig(FAST_30, MotionConfig())) as run:
        sample(model, run, way=way, before_call=lambda step: ran.append((step, model.ran)))
    ran.append((STEPS, model.ran))
    calls = [0] * STEPS
    for (step, before), (_, after) in pairwise(ran):
        calls[step] += after - before
    assert calls == [record.calls_computed for record in run.report.evaluations]
    assert states(run.report) == ["computed" if count else "reused" for count in calls]
    assert {"computed", "reused"} == set(states(run.report))


@torch.no_grad()
def test_a_reused_step_equals_block_by_block_reuse():
    """Every block adds what it added when it last ran, to whatever stream comes along."""
    model = Drifting()
    x, prompts = begin()
    added = {}
    for block in model.blocks:
        block.register_forward_hook(lambda block, args, out: added.__setitem__(block, out - args[0]))
    compared = 0
    with attach(model) as run:
        for step in range(STEPS):
            before = model.ran
            with run.evaluation(step), run.call("cond", FRAMES, POSITIONS):
                out = model(x, 1 - step / STEPS, prompts["cond"])
            if model.ran == before:
                stream = x
                for block in model.blocks:
                    stream = stream + added[block]
                torch.testing.assert_close(out, model.head(stream), rtol=1e-5, atol=1e-5)
                compared += 1
            x = x + out / STEPS
    assert compared >= STEPS / 2


@pytest.mark.parametrize("way", ["separate", "alternating"])
@pytest.mark.parametrize("moreg", [None, MotionConfig()], ids=["plain", "moreg"])
def test_batched_separate_and_alternating_prompts_give_the_same_schedule_and_picture(way, moreg):
    results = {}
    for how in ("batched", way):
        model = Drifting()
        with attach(model, CacheConfig(FAST_30, moreg)) as run:
            results[how] = sample(model, run, way=how), run.report
    (batched, report), (other, other_report) = results.values()
    assert states(report) == states(other_report)
    assert [record.rate for record in report.evaluations] == [record.rate for record in other_report.evaluations]
    metrics = [[record.metric or 0 for record in one.evaluations] for one in (report, other_report)]
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-3)
    torch.testing.assert_close(batched, other, rtol=1e-4, atol=1e-4)


class Doubling:
    """A run on two doubling blocks, whose calls are told apart by key, variant and signature."""

    def __init__(self, config=EVERY_THIRD, steps=STEPS, **engine):
        self.model = Stack(Double(), Double())
        self.engine = Engine(config, steps, LAYOUT, **engine)
        self.outs = []

    def step(self, step, *calls):
        """Each call is (keys, extra arguments of Engine.call) and has another input than the others.

        Returns:
            Which calls ran the blocks, and the step's record.
        """
        ran = []
        with self.engine.evaluation(step) as record:
            for index, (keys, extra) in enumerate(calls):
                before = self.model.blocks[0].ran
                with self.engine.call(self.model, keys, **extra):
                    self.outs.append(self.model(torch.cat([tokens(1.0 + step * (1 + index), 1, 2, 3)] * len(keys))))
                ran.append(self.model.blocks[0].ran > before)
        return ran, record

    def steps(self, steps, *calls):
        return [self.step(step, *calls) for step in steps][-1]


A, B = (["a"], {}), (["b"], {})


def test_a_key_that_was_not_there_when_the_step_was_computed_computes_now_and_is_kept():
    run = Doubling()
    run.steps(range(2), A)
    ran, record = run.step(2, A, B)
    assert ran == [False, True]
    assert (record.state, record.reason) == ("partly", "nothing to reuse")
    assert (record.calls, record.calls_computed) == (2, 1)
    ran, record = run.step(3, A, B)
    assert ran == [False, False]
    assert record.state == "reused"


def test_another_signature_computes_and_takes_the_place_of_the_old_one():
    run = Doubling()
    small, large = (["a"], {"signature": "small"}), (["a"], {"signature": "large"})
    run.steps(range(2), small)
    assert run.step(2, large)[0] == [True]
    assert run.step(3, large)[0] == [False]


def test_a_residual_made_anew_in_between_does_not_move_the_point_from_which_change_is_measured():
    steady, interrupted = Doubling(), Doubling()
    for step in range(5):  # 0, 1 and 4 compute
        _, record = steady.step(step, A)
        ran, again = interrupted.step(step, (["a"], {"signature": step >= 2}))
    assert ran == [True]
    assert again.metric == record.metric


def test_a_probe_of_another_size_is_not_compared_with():
    run = Doubling()
    run.steps(range(4), A)
    with run.engine.evaluation(4) as record, run.engine.call(run.model, ["a"], signature="larger"):
        run.model(tokens(*range(8)))
    assert record.state == "computed"
    assert record.metric is None


def test_all_of_a_batch_must_be_there_for_it_to_be_reused():
    run = Doubling()
    run.steps(range(2), A)
    assert run.step(2, (["a", "b"], {}))[0] == [True]
    assert run.step(3, (["b", "a"], {}))[0] == [False]


def test_a_computed_call_while_others_are_reused_does_not_touch_the_schedule():
    one, other = Doubling(), Doubling()
    for step in range(STEPS):
        _, record = one.step(step, A)
        _, disturbed = other.step(step, A, *([B] if record.state == "reused" else []))
        assert (record.rate, record.metric) == (disturbed.rate, disturbed.metric)
    assert "partly" in states(other.engine.report)


@pytest.mark.parametrize("again", [{}, {"variant": "a layer skipped"}])
def test_a_second_visit_has_a_residual_of_its_own_and_never_feeds_the_metric(again):
    once, twice, alone = (Doubling(CacheConfig(FAST_30)) for _ in range(3))
    second = (["a"], again)
    for step in range(STEPS):
        ran, record = once.step(step, A)
        ran_twice, record_twice = twice.step(step, A, second)
        assert ran_twice == ran * 2
        assert record.metric == record_twice.metric
    for step in range(STEPS):
        alone.step(step, A, B)
    assert all(map(torch.equal, twice.outs, alone.outs))


def test_a_key_that_looks_like_another_key_with_its_variant_is_a_visitor_of_its_own():
    run, alone = Doubling(CacheConfig(FAST_30)), Doubling(CacheConfig(FAST_30))
    for step in range(2):
        _, record = run.step(step, A, ([("a", None)], {}))
        _, expected = alone.step(step, A, B)
    assert record.metric == expected.metric


@pytest.mark.parametrize("begin", [2, 4], ids=["a step to be reused", "a step to be computed"])
def test_where_somebody_else_answers_nothing_is_skipped_any_more_and_nothing_is_held(begin):
    run = Doubling()
    run.steps(range(begin), A)
    for step in range(begin, 6):
        with run.engine.evaluation(step), run.engine.call(run.model, ["a"]):
            pass  # the model is never called
        assert run.engine.blocks.cache.bytes_held == 0
    run.steps(range(6, 9), A)
    records = run.engine.report.evaluations[begin:]
    assert [record.state for record in records] == ["answered"] * (6 - begin) + ["computed"] * 3
    assert [record.calls_computed for record in records] == [0] * (6 - begin) + [1] * 3
    assert run.engine.report.notes == [
        f"cannot skip steps: another pack answered in place of the model at step {begin + 1}; "
        "from there on every step is computed"
    ]


def test_an_evaluation_without_a_call_is_not_called_computed():
    run = Doubling()
    run.steps(range(2), A)
    with run.engine.evaluation(2):
        pass
    assert run.engine.report.evaluations[2].state == "answered"
    assert run.engine.report.computed == 2
    assert "the model was not called at step 3" in run.engine.report.notes[0]


@pytest.mark.parametrize("moving", [1, 2])
def test_keys_that_move_on_are_forgotten(moving):
    """Context windows: each computed evaluation has other keys. What is held must not grow with the run."""
    run = Doubling(CacheConfig(Codebook(((1.0, 2),), STEPS)))
    held = []
    for step in range(STEPS):
        run.step(step, A, ([("window", step // moving)], {}))
        held.append(run.engine.blocks.cache.bytes_held)
    one = tokens(1, 1, 2, 3).nbytes
    assert max(held) <= 2 * (one + one / 4)
    assert run.engine.finish().cache_bytes_max <= 3 * (one + one / 4)


@pytest.mark.parametrize("depth", [4, 40])
def test_what_is_held_is_one_residual_and_a_quarter_however_deep_the_model(depth):
    model = Drifting(depth)
    with attach(model) as run:
        sample(model, run)
    per_prompt = FRAMES * POSITIONS * WIDTH * 4
    assert 2 * per_prompt < run.report.cache_bytes_max <= 2 * 1.25 * per_prompt
    assert 2 * run.report.cache_bytes_each == run.report.cache_bytes_max


def test_after_a_run_nothing_is_held():
    model = Drifting()
    with attach(model) as run:
        sample(model, run)
        held = [weakref.ref(entry.residual) for entry in run.engine.blocks.cache._entries.values()]
        assert len(held) == 2
    gc.collect()
    assert run.engine.blocks.cache.bytes_held == 0
    assert [reference() for reference in held] == [None, None]


def test_after_a_run_the_engine_does_not_keep_the_model_alive():
    run = Doubling()
    run.steps(range(STEPS), A)
    run.engine.finish()
    model = weakref.ref(run.model)
    del run.model
    gc.collect()
    assert model() is None


class Cancelled(Exception):
    pass


def cancel_at(when):
    def before_call(step):
        if step == when:
            raise Cancelled

    return before_call


@pytest.mark.parametrize(("when", "state"), [(0, "computed"), (3, "reused"), (28, "computed")])
def test_after_a_cancelled_run_nothing_is_held_and_its_report_is_true(when, state):
    model = Drifting()
    run = attach(model)
    with pytest.raises(Cancelled), run:
        sample(model, run, before_call=cancel_at(when))
    assert run.engine.blocks.cache.bytes_held == 0
    assert states(run.report)[-1] == state
    assert run.report.total == when + 1
    assert model.ran == run.report.computed - (state == "computed")
    assert all(record.seconds is not None for record in run.report.evaluations)
    assert (run.report.cache_bytes_max > 0) == (when > 0)


def test_an_exception_within_the_blocks_leaves_the_model_as_it_was():
    model = Drifting()
    plain = sample(model, Plain())
    hook = model.blocks[2].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), attach(model) as run:
        sample(model, run)
    hook.remove()
    assert torch.equal(sample(model, Plain()), plain)


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 11])
def test_a_run_of_few_steps_is_left_alone_and_says_so(steps):
    model = Drifting()
    plain = sample(model, Plain(), steps)
    with attach(model, steps=steps) as run:
        assert torch.equal(sample(model, run, steps), plain)
    assert states(run.report) == ["computed"] * steps
    assert any("too few" in note for note in run.report.notes)


def test_a_table_that_skips_nothing_at_this_number_of_steps_says_so():
    model = Drifting()
    with attach(model, CacheConfig(Codebook(((0.1, 2), (1.0, 1)), 100)), steps=12) as run:
        sample(model, run, 12)
    assert states(run.report) == ["computed"] * 12
    assert any("allows no skipped step" in note for note in run.report.notes)


def test_motion_is_measured_where_the_frames_are_known():
    model = Drifting()
    with attach(model, CacheConfig(FAST_30, MotionConfig(window=(0.0, 1.0)))) as run:
        sample(model, run)
    measured = [record for record in run.report.evaluations if record.metric is not None]
    assert len(measured) == run.report.computed - 1  # the first has nothing to compare with
    assert all(0 < record.motion < 1 and record.moreg > 0 for record in measured)
    assert run.report.notes == []


@pytest.mark.parametrize(
    ("grid", "reason"),
    [
        (None, "frames are not found"),
        (Grid(1, 4), "1 latent frames are not enough for stride 1"),
        (Grid(2, 1000), "frames are not found"),
    ],
)
def test_without_usable_frames_moreg_is_off_and_the_report_says_why(grid, reason):
    plain, run = Doubling(CacheConfig(FAST_30)), Doubling(CacheConfig(FAST_30, MotionConfig()))
    call = (["a"], {"grid": grid})
    for step in range(STEPS):
        _, record = run.step(step, call)
        assert record.moreg is None
        assert record.metric == plain.step(step, call)[1].metric
    assert [reason in note for note in run.engine.report.notes] == [True]


def test_only_the_first_evaluation_of_a_step_takes_a_probe():
    run = Doubling()
    taken = []
    for _ in range(2):
        with run.engine.evaluation(0), run.engine.call(run.model, ["a"]) as recording:
            run.model(tokens(1, 2, 3, 4))
        taken.append(recording.probe is not None)
    assert taken == [True, False]


def test_a_call_outside_an_evaluation_is_a_mistake():
    run = Doubling()
    run.step(0, A)
    with pytest.raises(AssertionError, match="inside evaluation"), run.engine.call(run.model, ["a"]):
        run.model(tokens(1))


def test_a_sampler_with_two_evaluations_per_step_skips_as_large_a_share():
    run = Doubling(CacheConfig(Codebook(((1.0, 3),), STEPS)))
    computed = [[run.step(step, A)[1].state == "computed" for _ in range(2)] for step in range(STEPS)]
    assert computed[0] == computed[-2] == computed[-1] == [True, True]
    assert computed[1:-2] == [[step % 3 == 1, False] for step in range(1, STEPS - 2)]


def test_prompts_on_two_devices_run_at_the_same_time_under_one_schedule():
    """Each on a clone of the model, in threads of their own."""
    models = [Stack(Double(), Double()) for _ in range(4)]
    engine = Engine(EVERY_THIRD, STEPS, LAYOUT)

    def one_call(number):
        with engine.call(models[number], [number]):
            return models[number](tokens(1, 2, 3, 4))

    with ThreadPoolExecutor(4) as pool:
        for step in range(STEPS):
            with engine.evaluation(step):
                outs = list(pool.map(one_call, range(4)))
            assert all(torch.equal(out, tokens(40, 80, 120, 160)) for out in outs)
    assert {record.calls for record in engine.report.evaluations} == {4}
    assert {record.calls_computed for record in engine.report.evaluations} == {0, 4}
    assert [model.blocks[0].ran for model in models] == [engine.report.computed] * 4


def test_times_are_known_when_the_run_has_ended():
    run = Doubling()
    run.steps(range(STEPS), A)
    assert run.engine.report.measured_speedup is None
    assert run.engine.finish().measured_speedup > 0


def test_the_report_given_is_the_one_that_is_filled():
    report = RunReport(model="mine", preset="fast")
    run = Doubling(CacheConfig(FAST_30), steps=100, report=report)
    run.steps(range(100), A)
    assert run.engine.finish() is report
    assert (report.model, report.preset, report.sampler_steps, report.total) == ("mine", "fast", 100, 100)
    assert report.codebook.startswith("0.03:12, 0.05:10")


@pytest.mark.parametrize("wrong", [{"blocks": "layers"}, {"head": "norm_out"}])
def test_a_wrong_path_is_told_before_the_first_step(wrong):
    with pytest.raises(AdaCacheError, match=next(iter(wrong.values()))):
        AdaCache(Drifting(), **({"blocks": "blocks", "head": "head", "steps": STEPS} | wrong))


def test_a_tuple_is_one_key_and_a_list_is_one_key_per_chunk():
    model = Stack(Double())
    with attach(model) as run, run.evaluation(0):
        with run.call(("cond", 0)):
            model(tokens(1))
        with run.call(["cond", "uncond"]):
            model(torch.cat([tokens(1), tokens(2)]))
        assert len(run.engine.blocks.cache._entries) == 3


def test_more_keys_than_the_batch_has_samples_are_refused():
    model = Stack(Double())
    complaint = pytest.raises(AdaCacheError, match="2 keys were given for a batch of 1")
    with attach(model) as run, run.evaluation(0), complaint, run.call(["cond", "uncond"]):
        model(tokens(1))
