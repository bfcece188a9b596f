"""The same MODEL in many places of a graph and queued again; two models in a row; patches, loaders, devices."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from host.running import (
    STEPS,
    WATCH,
    Witness,
    blocks_of,
    holding_no_new_tensor,
    on_call,
    row_of,
    sample,
    with_hook,
)
from host.tiny.variant import noise
from torch.utils._python_dispatch import TorchDispatchMode

WAN = "Wan t2v"
FAMILIES = ["Wan t2v", "HunyuanVideo", "LTXV"]

both_ways = pytest.mark.parametrize("way", ["blocks", "output"])  # what is reused


@pytest.fixture
def wan(tiny):
    return tiny(WAN)


@both_ways
def test_two_branches_with_the_same_model_do_not_see_each_other(way, wan, by_output_or_blocks):
    model, _ = by_output_or_blocks(way, wan.model)
    alone = [sample(wan, model, seed=seed, noise=noise(1, 16, 4, 7, 5, seed=seed)) for seed in (1, 2)]
    again = [sample(wan, model, seed=seed, noise=noise(1, 16, 4, 7, 5, seed=seed)) for seed in (2, 1, 2)]
    assert torch.equal(again[0], alone[1])
    assert torch.equal(again[1], alone[0])
    assert torch.equal(again[2], alone[1])


@both_ways
@pytest.mark.parametrize("variant", FAMILIES)
def test_queued_again_with_another_seed_size_length_or_number_of_steps_it_is_as_if_it_were_the_first(
    variant, way, tiny, by_output_or_blocks
):
    model, attachment = by_output_or_blocks(way, tiny(variant).model)
    channels = tiny(variant).latent.shape[1]
    changes = [
        {},
        {"seed": 2, "noise": noise(*tiny(variant).latent.shape, seed=2)},
        {"latent": torch.zeros(1, channels, 4, 4, 8)},
        {"latent": torch.zeros(1, channels, 7, 4, 4)},
        {"steps": 14},
        {},
    ]
    queued = [sample(tiny(variant), model, **change) for change in changes]
    assert torch.equal(queued[0], queued[-1])
    for change, video in zip(changes, queued, strict=True):
        fresh, _ = by_output_or_blocks(way, tiny(variant).model)
        assert torch.equal(sample(tiny(variant), fresh, **change), video)
    assert [run.report.total for run in attachment.finished] == [STEPS] * 4 + [14, STEPS]


def test_two_models_for_high_and_low_noise_one_after_the_other(tiny, adacache, pack):
    """Wan 2.2: each has its own residuals and report, and the inspector puts both into one."""
    high, low = tiny(WAN), tiny("Wan VACE")
    steps = {"steps": 2 * STEPS}
    (first, of_first), (second, of_second) = adacache(high.model, rate=3), adacache(low.model, rate=3)
    half = sample(high, first, last_step=STEPS, latent=torch.zeros(1, 16, 4, 8, 8), **steps)
    rest = {"start_step": STEPS, "disable_noise": True, "noise": torch.zeros_like(half)}
    with Witness(low) as witness:
        sample(low, witness.watched(second), latent=half, **rest, **steps)
    assert row_of(of_second.finished[-1].report) == witness.row()
    assert of_first.finished[-1].report.computed == 4  # it does not end, so there is no end to protect
    assert of_second.finished[-1].report.computed == 5
    inspector = pack.nodes.inspector.AdaCacheInspector
    of_the_first = inspector.execute(first, {"samples": half}).args
    both = inspector.execute(second, {"samples": half}, reports=of_the_first[-1]).args
    assert (both[4], both[5]) == (9, 18)


# What else is put on a MODEL


def patched_lora(wan):
    change = torch.randn(128, 128, generator=torch.Generator().manual_seed(5))
    lora = wan.model.clone()
    assert lora.add_patches({"diffusion_model.blocks.2.self_attn.q.weight": ("diff", (change,))})
    return lora


def model_sampling(wan):
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    return ModelSamplingSD3().patch(wan.model, 5.0)[0]


def rescaled(wan):
    from comfy_extras.nodes_model_advanced import RescaleCFG

    return RescaleCFG().patch(wan.model, 0.7)[0]


def cfg_zero_star(wan):
    from comfy_extras.nodes_cfg import CFGZeroStar

    return CFGZeroStar.execute(wan.model).args[0]


PATCHES = [patched_lora, model_sampling, rescaled, cfg_zero_star]


@pytest.mark.parametrize("patch", PATCHES)
def test_a_patch_before_adacache_is_in_what_is_reused(patch, wan, adacache):
    patched = patch(wan)
    assert not torch.equal(sample(wan, patched), sample(wan))
    watching, _ = adacache(patched, table=WATCH)
    assert torch.equal(sample(wan, watching), sample(wan, patched))
    model, attachment = adacache(patched, rate=3)
    with Witness(wan) as witness:
        sample(wan, witness.watched(model))
    assert row_of(attachment.finished[-1].report) == witness.row()
    assert attachment.finished[-1].report.computed == 5


@pytest.mark.parametrize("patch", [model_sampling, rescaled, cfg_zero_star])
def test_before_or_behind_adacache_makes_no_difference(patch, wan, adacache):
    class Behind:
        model = adacache(wan.model, rate=3)[0]

    before, _ = adacache(patch(wan), rate=3)
    assert torch.equal(sample(wan, before), sample(wan, patch(Behind)))


def test_a_lora_that_is_patched_is_what_it_is_merged(wan, adacache):
    patched, _ = adacache(patched_lora(wan), rate=3)
    video = sample(wan, patched)
    change = torch.randn(128, 128, generator=torch.Generator().manual_seed(5))
    sample(wan, steps=1)  # the host takes the patch off
    weight = wan.module.blocks[2].self_attn.q.weight
    before = weight.data.clone()
    try:
        weight.data += change
        merged, _ = adacache(wan.model, rate=3)
        torch.testing.assert_close(sample(wan, merged), video, rtol=0, atol=1e-4 * video.abs().max().item())
    finally:
        weight.data.copy_(before)


@pytest.mark.parametrize("variant", FAMILIES)
def test_weights_that_are_cast_as_they_are_needed(variant, tiny, adacache):
    """The low-VRAM path: weights stay where they are, and each layer casts its own when it runs."""
    import comfy.model_management

    casting = tiny(variant).model.clone()
    comfy.model_management.unload_all_models()
    casting.model.lowvram_patch_counter = 0
    loaded = sample(tiny(variant), adacache(tiny(variant).model, rate=3)[0])
    ran = []
    modules = [module for module in casting.model.modules() if hasattr(module, "comfy_cast_weights")]
    assert modules
    for module in modules:
        module.prev_comfy_cast_weights = module.comfy_cast_weights
        module.comfy_cast_weights = True
    try:
        model, attachment = adacache(casting, rate=3)
        with Witness(tiny(variant)) as witness:
            video = sample(tiny(variant), witness.watched(model))
        ran = witness.row()
    finally:
        for module in modules:
            module.comfy_cast_weights = module.prev_comfy_cast_weights
            del module.prev_comfy_cast_weights
    assert row_of(attachment.finished[-1].report) == ran
    torch.testing.assert_close(video, loaded, rtol=0, atol=1e-4 * loaded.abs().max().item())


@both_ways
def test_hosts_that_record_allocations_are_told_not_to_where_blocks_are_skipped(
    way, wan, by_output_or_blocks, monkeypatch
):
    from comfy.cli_args import args

    model, _ = by_output_or_blocks(way, wan.model)
    seen = []

    def callback(step, *rest):
        seen.append(args.disable_comfy_compiler)

    monkeypatch.setattr(args, "disable_comfy_compiler", False, raising=False)
    sample(wan, model, callback=callback)
    assert seen == [way == "blocks"] * STEPS
    assert args.disable_comfy_compiler is False
    with pytest.raises(ZeroDivisionError):
        sample(wan, model, callback=lambda *_: 1 / 0)
    assert args.disable_comfy_compiler is False


class Allocations(TorchDispatchMode):
    """Counts the tensors that are made while the model is called, as a host does that records them."""

    def __init__(self, module):
        super().__init__()
        self.module, self.calls, self.inside = module, [], False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if self.inside:
            self.calls[-1][str(func)] += 1
        return made

    def begin(self, *_):
        self.calls.append(Counter())
        self.inside = True

    def end(self, *_):
        self.inside = False


@pytest.mark.parametrize("settings", [{"target": 2.0}, {"closeness": 20.0}])
def test_auto_and_quality_leave_every_call_of_the_model_as_it_is(settings, wan, adacache):
    """So the host may record what one call allocates, and replay it in the next."""

    def calls_of(model):
        allocations = Allocations(wan.module)
        with allocations, with_hook(on_call(wan.module, allocations.begin, allocations.end)):
            sample(wan, model, steps=16)
        return allocations.calls

    untouched = calls_of(wan.model)
    model, attachment = adacache(wan.model, **settings)
    ours = calls_of(model)
    assert attachment.finished[-1].report.skipped
    assert len(ours) < len(untouched)
    assert all(call == untouched[1] for call in (*untouched[1:], *ours[1:]))


@both_ways
def test_two_hundred_runs_of_changing_sizes_leave_memory_as_it_was(way, wan, by_output_or_blocks):
    model, attachment = by_output_or_blocks(way, wan.model)
    sizes = [torch.zeros(1, 16, frames, 4, width) for frames in (1, 2, 3) for width in (4, 5, 6, 8)]
    for latent in sizes:  # what the host keeps of first runs is its own
        sample(wan, model, latent=latent, steps=8)
    with holding_no_new_tensor():
        for index in range(200):
            sample(wan, model, latent=sizes[index % len(sizes)], steps=8 + index % 3)
    assert len(attachment.finished) == 16  # reports are kept, and not all of them


# Several GPUs


@both_ways
def test_on_two_devices_it_is_what_it_is_on_one(way, tiny, by_output_or_blocks, monkeypatch):
    """The host's own way: conditionings in threads of their own, on clones of the model. The devices are one CPU."""
    import comfy.samplers
    import comfy.sd

    multigpu = pytest.importorskip("comfy.multigpu")
    wan = tiny(WAN)
    single, of_single = by_output_or_blocks(way, wan.model)
    expected = sample(wan, single)

    first, second = torch.device("cpu"), torch.device("cpu", 0)
    clone = wan.variant.build().model
    clone.load_device = second

    def with_two(guider, *args, **kwargs):
        guider.model_options["multigpu_clones"] = {first: guider.model_patcher, second: clone}
        pool = guider.model_options["multigpu_thread_pool"] = multigpu.MultiGPUThreadPool([first, second])
        try:
            return inner(guider, *args, **kwargs)
        finally:
            pool.shutdown()

    inner = comfy.samplers.CFGGuider.inner_sample
    monkeypatch.setattr(comfy.samplers.CFGGuider, "inner_sample", with_two)
    monkeypatch.setattr(multigpu.comfy.model_management, "set_torch_device", lambda device: None, raising=False)
    clone.model.current_patcher = clone
    model, attachment = by_output_or_blocks(way, wan.model)
    ran = []
    hooks = [
        blocks_of(module)["blocks.0"].register_forward_pre_hook(lambda *_, module=module: ran.append(module))
        for module in (wan.module, clone.model.diffusion_model)
    ]
    video = sample(wan, model)
    for hook in hooks:
        hook.remove()
    report = attachment.finished[-1].report
    assert {id(module) for module in ran} == {id(wan.module), id(clone.model.diffusion_model)}
    assert [record.state for record in report.evaluations] == [
        record.state for record in of_single.finished[-1].report.evaluations
    ]
    assert report.skipped
    for record in report.evaluations:
        assert record.calls == (0 if way == "output" and record.state == "reused" else 2)
    torch.testing.assert_close(video, expected, rtol=0, atol=1e-4 * expected.abs().max().item())
