"""The runner of the benchmark: a small model through the host's samplers, alone and with a method on it.

In the host's own Python or one that has all it requires; without, what needs it is skipped, and says why.
"""

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from research import demo_model, small_models
from research.benchmark import diffusers_caches, host_caches, library, plan, worker
from research.benchmark.diffusers_caches import magnitude_ratios
from research.benchmark.guidance import in_two_calls, plain
from research.benchmark.library import Bench, FewerSteps, OnDiffusers, OnHost, Unavailable
from research.benchmark.meter import Meter
from research.benchmark.plan import Condition
from research.small_models import DISTILLED_LEVELS, MODELS

THROUGH_DIFFUSERS = OnDiffusers("none", {}, attach=plain)
ON_THE_HOST = (*host_caches.OURS, *host_caches.NATIVES, *host_caches.PACKS)
BLOCKS = 2 * demo_model.ARCHITECTURE["num_layers"]  # calls at a step with guidance


def case(*condition, **more) -> plan.Case:
    """The first video of the demo model under this condition."""
    return plan.cases("demo", Condition(*condition, **more), 0)[0]


def named(name):
    (found,) = (method for method in diffusers_caches.METHODS if method.name == name)
    return found


def near(latent, other, within=1e-4):
    """Equal up to this share of the largest number."""
    return (latent - other).abs().max() < within * other.abs().max()


@torch.no_grad()
def by_the_host(bench, case, stages: Sequence[dict]) -> torch.Tensor:
    """The plain video made by ComfyUI's KSampler, or by KSamplerAdvanced in several stages."""
    import comfy.sample

    condition = case.condition
    positive, negative = ([[text[None], {}]] for text in (case.context[0], case.context[-1]))
    noise = demo_model.noise_of(case.seed)
    model = bench.model(case, watched=False)
    clean = torch.zeros_like(noise)
    if condition.denoise < 1:
        clean = model.model.process_latent_out(plan.drawn_clip(case))
    for stage in stages:
        clean = comfy.sample.sample(
            model,
            torch.zeros_like(noise) if stage.get("disable_noise") else noise,
            condition.steps,
            condition.cfg,
            condition.sampler,
            condition.scheduler,
            positive,
            negative,
            clean,
            **stage,
            disable_pbar=True,
            seed=case.seed,
        )
    return model.model.process_latent_in(clean)


def test_the_plain_video_is_the_one_that_diffusers_makes(bench):
    video = case("euler", 4, demo_model.SHIFT, 4.0)
    latent, _ = demo_model.sample(demo_model.load("cpu"), video.prompt, video.seed, 4, 4.0)
    assert near(bench.sample(video, Meter()), latent)
    assert near(bench.sample(video, Meter(), THROUGH_DIFFUSERS), latent)


def test_the_host_knows_every_sampler_and_scheduler_of_the_plan(bench):
    """Otherwise it would silently use another one."""
    from comfy.samplers import KSampler

    planned = {condition for several in plan.CONDITIONS.values() for condition in several}
    assert {condition.sampler for condition in planned} <= {*KSampler.SAMPLERS}
    assert {condition.scheduler for condition in planned} <= {*KSampler.SCHEDULERS}


@pytest.mark.parametrize(
    "condition",
    [
        Condition("uni_pc", 4, 3.0, 4.0),  # for which ComfyUI leaves out the second to last level
        Condition("res_multistep", 4, 5.0, 1.0),
        Condition("euler_ancestral", 4, 1.0, 4.0, scheduler="beta"),  # draws noise of its own
        Condition("euler", 4, 5.0, 4.0, denoise=0.6),
    ],
    ids=lambda condition: condition.name,
)
def test_the_plain_video_is_the_one_that_the_hosts_ksampler_makes(bench, condition):
    video = case(**vars(condition))
    expected, meter = by_the_host(bench, video, [{"denoise": condition.denoise}]), Meter()
    assert near(bench.sample(video, meter), expected)
    assert near(bench.sample(video, Meter(), THROUGH_DIFFUSERS), expected)
    assert meter.block_calls == 4 * (BLOCKS // 2 if condition.cfg == 1 else BLOCKS)


def test_two_stages_are_those_of_ksampler_advanced(bench):
    video = case("euler", 4, 8.0, 3.5, stages=2)
    stages = [{"start_step": 0, "last_step": 2}]
    stages += [{"start_step": 2, "last_step": 4, "force_full_denoise": True, "disable_noise": True}]
    expected, meter = by_the_host(bench, video, stages), Meter()
    assert near(bench.sample(video, meter), expected)
    assert near(bench.sample(video, Meter(), THROUGH_DIFFUSERS), expected)
    assert meter.block_calls == 4 * BLOCKS


def test_a_list_of_levels_is_sampled_as_it_is(bench):
    """Made by our own Euler steps; shift and scheduler have no effect."""
    video = case("euler", 8, 5.0, 1.0, levels="LTX-2.3")
    evaluate, x = demo_model.guided(demo_model.load("cpu"), video.context, 1.0), demo_model.noise_of(video.seed)
    for step, (sigma, following) in enumerate(pairwise(DISTILLED_LEVELS["LTX-2.3"])):
        x = x + (following - sigma) * evaluate(x, step, sigma)
    assert near(bench.sample(video, Meter()), x)


@pytest.fixture
def two_streams(bench, monkeypatch, tmp_path):
    """A model of ComfyUI's own class with random weights, in place of the trained one."""
    import comfy.model_management

    # Restored after this test; older ComfyUIs have no such attribute.
    monkeypatch.setattr(comfy.model_management, "in_training", False, raising=False)
    model = small_models.new_two_streams().requires_grad_(False)
    torch.manual_seed(0)
    for weight in model.parameters():
        weight.copy_((0.05 * torch.randn_like(weight)).half())
    file = tmp_path / "two_streams.safetensors"
    small_models.export_plain(model, file)
    untrained = replace(MODELS["two_streams"], file=file)
    monkeypatch.setitem(MODELS, "two_streams", untrained)
    comfy.model_management.in_training = False
    return model


@torch.no_grad()
def test_a_model_of_the_hosts_own_class_is_sampled_and_all_its_blocks_are_counted(bench, two_streams):
    (video, *_), meter = plan.cases("two_streams", Condition("euler", 4, 5.0, 1.0), 0), Meter()
    x = torch.randn(video.subject.latent, generator=torch.manual_seed(video.seed))
    for sigma, following in pairwise(demo_model.sigmas(4, 5.0)):
        x = x + (following - sigma) * small_models.ask_two_streams(two_streams, x, sigma[None], video.context)
    assert near(bench.sample(video, meter), x)
    assert meter.block_calls == 4 * (len(two_streams.double_blocks) + len(two_streams.single_blocks))


@pytest.mark.parametrize("name", DISTILLED_LEVELS)
def test_with_fewer_steps_a_list_of_levels_is_walked_in_longer_ones_from_noise_to_video(bench, name):
    whole = DISTILLED_LEVELS[name]
    video = case("euler", 8, 5.0, 1.0, levels=name)
    half = FewerSteps("fewer", {}).condition(video.condition, 0.5)
    assert bench.levels(video, half).tolist() == pytest.approx(whole[::2])
    fewest = bench.levels(video, FewerSteps("fewer", {}).condition(video.condition, 0.33)).tolist()
    assert (len(fewest), fewest[0], fewest[-1]) == (4, 1, 0)
    assert all(following < level for level, following in pairwise(fewest))


@pytest.mark.parametrize("stages", [0, 4])
def test_fewer_steps_are_the_plain_run_of_as_many(bench, stages):
    video, meter = case("dpmpp_2m", 8, 3.0, 4.0, stages=stages), Meter()
    made = bench.sample(video, meter, FewerSteps("fewer", {}, sampler="euler"), 0.5)
    assert torch.equal(made, bench.sample(case("euler", 4, 3.0, 4.0, stages=stages // 2), Meter()))
    assert meter.block_calls == 4 * BLOCKS


def test_fewer_steps_keep_all_but_the_number_of_them_and_the_sampler_that_they_name():
    asked = Condition("euler", 20, 5.0, 4.0, scheduler="beta", denoise=0.6)
    assert FewerSteps("fewer", {}).condition(asked, 0.67) == replace(asked, steps=13)
    assert FewerSteps("fewer", {}, sampler="uni_pc").condition(asked, 1.0) == replace(asked, sampler="uni_pc")


def test_what_a_method_did_to_its_model_dies_with_the_run(bench):
    video = case("euler", 4, 8.0, 4.0)
    before = bench.sample(video, Meter()), bench.sample(video, Meter(), THROUGH_DIFFUSERS)
    for method in (*ON_THE_HOST, named("FirstBlockCache")):
        with suppress(Unavailable):
            bench.sample(video, Meter(), method, list(method.settings.values())[-1])
    assert torch.equal(bench.sample(video, Meter()), before[0])
    assert torch.equal(bench.sample(video, Meter(), THROUGH_DIFFUSERS), before[1])


def test_off_is_plain_bit_for_bit(bench):
    worker.check_off(bench, ON_THE_HOST)


@pytest.mark.parametrize(
    "method", [host_caches.OURS[0], named("FirstBlockCache")], ids=["AdaCache auto", "FirstBlockCache"]
)
def test_an_off_position_that_is_on_is_found_out(bench, method):
    boldest = list(method.settings.values())[-1]
    with pytest.raises(RuntimeError, match=f"{method.name} at .* is not the plain model"):
        worker.check_off(bench, [replace(method, off=boldest)])


# Methods that need plain runs first


@pytest.fixture
def one_of_each(monkeypatch):
    """One short video for calibration, and no earlier results."""
    monkeypatch.setattr(plan, "CALIBRATION", plan.CALIBRATION[2:3])
    monkeypatch.setattr(diffusers_caches, "_RATIOS", {})
    monkeypatch.setattr(host_caches, "_FITTED", {})


def test_calibrating_does_not_disturb_the_meter_of_the_run_that_it_is_for(bench, one_of_each):
    video = case("euler", 8, 8.0, 4.0, stages=4)
    whole, meter = Meter(), Meter()
    bench.sample(video, whole, THROUGH_DIFFUSERS)
    bench.sample(video, meter, named("MagCache (diffusers)"), (9.0, 1))
    # Each stage computes its first step, then every second one; a skipped step skips all blocks and nearly all work.
    assert meter.block_calls / whole.block_calls == 4 / 8
    assert meter.flops / whole.flops == pytest.approx(4 / 8, abs=0.02)


def test_magcaches_ratios_are_the_mean_length_of_the_conditional_residuals_over_the_one_before(bench, monkeypatch):
    monkeypatch.setattr(plan, "CALIBRATION", plan.CALIBRATION[1:3])
    monkeypatch.setattr(diffusers_caches, "_RATIOS", {})
    video = case("euler", 3, demo_model.SHIFT, 4.0)
    expected = torch.tensor([measured_ratios(other) for other in plan.calibration(video)]).mean(0)
    ratios = magnitude_ratios(bench, replace(video, part=(0, 3)))
    torch.testing.assert_close(torch.tensor(ratios), expected)


@torch.no_grad()
def measured_ratios(case):
    model, lengths, entered = demo_model.load("cpu"), [], []
    model.blocks[0].register_forward_pre_hook(lambda block, args: entered.append(args[0]))
    model.blocks[-1].register_forward_hook(lambda block, args, out: lengths.append((out - entered[-1]).norm(dim=-1)))
    demo_model.integrate(in_two_calls(model, case), demo_model.noise_of(case.seed), case.steps)
    conditional = lengths[::2]
    return [1.0] + [(now / before).mean().item() for before, now in pairwise(conditional)]


def fitted(bench, case):
    """With the calibration of the packs."""
    return host_caches.fitted_on(bench, case).magcache.tolist()


@pytest.mark.filterwarnings("ignore:Polyfit")  # on so few steps
@pytest.mark.parametrize(("ratios", "cfg"), [(magnitude_ratios, 1.0), (magnitude_ratios, 4.0), (fitted, 1.0)])
def test_each_of_two_stages_has_ratios_of_its_own_which_begin_with_1(bench, one_of_each, ratios, cfg):
    whole = ratios(bench, replace(case("euler", 8, 5.0, cfg), part=(0, 8)))
    staged = case("euler", 8, 5.0, cfg, stages=3)
    first, second = (ratios(bench, replace(staged, part=part)) for part in staged.condition.parts)
    assert list(first) == pytest.approx(whole[:3], rel=1e-3)
    assert list(second) == pytest.approx([1, *whole[4:]], rel=1e-3)
    assert whole[3] != pytest.approx(1, rel=1e-3)


# Where it cannot run


def test_without_a_host_nothing_is_measured(monkeypatch):
    monkeypatch.setattr(library, "find_host", lambda: None)
    with pytest.raises(Unavailable, match="COMFYUI_PATH"):
        Bench()


def test_a_python_that_lacks_what_the_host_requires_measures_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", sys.path.copy())
    for name in ("comfy", "comfy.cli_args"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(Unavailable, match="lacks what ComfyUI requires"):
        Bench(tmp_path)


def test_a_method_fits_its_models_and_where_there_is_guidance_if_it_needs_that():
    demo, unguided = case("euler", 4, 8.0, 4.0), case("euler", 4, 8.0, 1.0)
    assert OnDiffusers("a", {}).fits(demo)
    assert OnDiffusers("a", {}).fits(unguided)
    assert not OnDiffusers("a", {}).fits(replace(demo, model="two_streams"))
    assert OnHost("a", {}).fits(replace(demo, model="two_streams"))
    assert OnDiffusers("a", {}, needs_guidance=True).fits(demo)
    assert not OnDiffusers("a", {}, needs_guidance=True).fits(unguided)
