"""MiniMax-H3 as people run it: video and sound in one latent, its samplers, step counts, conditionings and nodes.

Newer hosts have more nodes for it; what this host has not is skipped, and named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from inspect import signature
from types import SimpleNamespace

import pytest
import torch
from host.running import Witness, row_of, sample
from host.tiny.variant import fill, noise
from torch import nn

KIND = "MiniMax-H3"
FULL = {"steps": 20, "sampler_name": "res_multistep", "cfg": 1.0}  # the official workflow
PLAN = (0, 1, 2, 5, 8, 11, 14, 17, 18, 19)  # of these steps
SKIPPED = [step for step in range(FULL["steps"]) if step not in PLAN]
DISTILLED = {  # turbo takes 4 to 8 steps, FastH3 8
    "turbo, 4 steps": {"steps": 4, "sampler_name": "euler", "cfg": 1.0},
    "turbo, 6 steps": {"steps": 6, "sampler_name": "res_multistep", "cfg": 1.0},
    "turbo, 8 steps": {"steps": 8, "sampler_name": "res_multistep", "cfg": 1.0},
    "FastH3, 8 steps": {"steps": 8, "sampler_name": "euler", "cfg": 1.0},
}


# What its conditionings hold


def text():
    return {}


def tagged_text():
    """Of whose tokens some stand for pictures and sounds."""
    return {"minimax_token_tags": torch.tensor([[1, 1, 0, 0, 2, 1]])}


def first_frame():
    return {"minimax_keyframes": [{"resolved_frame_index": 0, "latent": noise(1, 24, 1, 8, 8)}]}


def clips():
    """Guides of several frames in the middle, one of them with sound."""
    first = {"resolved_frame_index": 0, "latent": noise(1, 24, 2, 8, 8)}
    second = {"resolved_frame_index": 5, "latent": noise(1, 24, 2, 8, 8, seed=12), "audio_latent": noise(1, 32, 2, 2)}
    return {"minimax_keyframes": [first, second]}


def references():
    """A picture, a video of several frames with its sound, a voice."""
    picture = {"kind": "image", "latent_h": 4, "latent_w": 6, "latent": noise(1, 24, 1, 4, 6)}
    video = {"kind": "video_audio", "latent_t": 3, "latent_h": 4, "latent_w": 4, "latent": noise(1, 24, 3, 4, 4)}
    voice = {"kind": "audio", "ref_audio_t": 2, "audio_latent": noise(1, 32, 2, 2)}
    return {"minimax_refs": [picture, video | {"ref_audio_t": 3, "audio_latent": noise(1, 32, 2, 3)}, voice]}


# What is put on its MODEL


def nothing(tiny):
    return tiny.model


def lora(tiny):
    model = tiny.model.clone()
    key = "diffusion_model.blocks.1.mlp.fc2.weight"
    shape = tiny.module.blocks[1].mlp.fc2.weight.shape
    assert model.add_patches({key: ("diff", (0.1 * noise(*shape),))}) == [key]
    return model


def other_shifts(tiny):
    from comfy_extras.nodes_minimax_h3 import MiniMaxH3SigmaShift

    return MiniMaxH3SigmaShift.execute(tiny.model, 8.0, 2.0).args[0]


def sparse_attention(tiny):
    """Its kernels need a GPU: here every block is replaced as it is there, and attends as without the node."""
    name = "comfy_extras.nodes_sparse_attention"
    node = pytest.importorskip(name, reason="this ComfyUI has no block-sparse attention").BlockSparseAttention
    selection = {"selection": "sol-attn", "tau": 1.3}
    return node.execute(tiny.model, selection, 0.0, 1.0, min_tokens=0).args[0]


def control(tiny, start=0.0, end=1.0):
    nodes = pytest.importorskip("comfy_extras.nodes_minimax_h3")
    if not hasattr(nodes, "MiniMaxH3FunControlNetApply"):
        pytest.skip("this ComfyUI has no control net for MiniMax-H3")
    import comfy.ops
    from comfy.ldm.minimax.controlnet import MiniMaxH3FunControl
    from comfy.model_patcher import ModelPatcher
    from host.tiny.video import _MINIMAX

    shared = ("hidden_size", "num_attention_heads", "attention_head_dim", "ffn_hidden_size", "time_embed_dim")
    made = MiniMaxH3FunControl(
        24,
        (0, 2),
        **{name: _MINIMAX[name] for name in shared},
        operations=comfy.ops.disable_weight_init,
        dtype=torch.float32,
        device="cpu",
    )
    made.requires_grad_(False).load_state_dict(fill(made))
    vae = SimpleNamespace(spacial_compression_encode=lambda: 16, encode=lambda frames: noise(1, 24, 4, 8, 8, seed=13))
    patch = ModelPatcher(made, torch.device("cpu"), torch.device("cpu"))
    return nodes.MiniMaxH3FunControlNetApply.execute(
        tiny.model, patch, vae, 1.0, start, end, control_video=torch.rand(5, 128, 128, 3)
    ).args[0]


def heads_by_noise_level(tiny):
    """A bank of heads, of which a step takes those between its noise level and the next one's."""
    import comfy.ops

    layer = tiny.module.final_layer
    if "sample_sigmas" not in signature(type(layer).forward).parameters:
        pytest.skip("the MiniMax-H3 of this ComfyUI has one head")
    model = tiny.model.clone()
    for seed, name in enumerate(("video_out", "audio_out")):
        head = getattr(layer, name)
        bank = comfy.ops.disable_weight_init.Linear(head.in_features, head.out_features)
        for part in ("weight", "bias"):
            first = getattr(head, part)[: head.out_features]  # the bank of another test may still be in its place
            others = [0.1 * noise(*first.shape, seed=seed + each) for each in range(3)]
            setattr(bank, part, nn.Parameter(torch.cat([first, *others]), requires_grad=False))
        model.add_object_patch(f"diffusion_model.final_layer.{name}", bank)
    return model


def control_on_sparse_attention(tiny):
    return control(replace(tiny, model=sparse_attention(tiny)))


CONDITIONINGS = (text, tagged_text, first_frame, clips, references)
PATCHES = (lora, other_shifts, heads_by_noise_level, sparse_attention, control, control_on_sparse_attention)
CASES = [*((conditioning, nothing) for conditioning in CONDITIONINGS), *((references, patch) for patch in PATCHES)]

every_case = pytest.mark.parametrize(
    ("conditioning", "patch"), CASES, ids=[f"{patch.__name__}-{conditioning.__name__}" for conditioning, patch in CASES]
)


@pytest.fixture(scope="module")
def case(tiny):
    """`case(conditioning, patch)` -> (tiny model, MODEL with the patch on it, arguments of `sample`)."""

    def make(conditioning: Callable, patch: Callable, settings: dict = FULL):
        minimax = tiny(KIND)
        extras = conditioning()
        prompts = {
            name: [[words, held | extras] for words, held in getattr(minimax, name)]
            for name in ("positive", "negative")
        }
        return minimax, patch(minimax), settings | prompts

    return make


@pytest.fixture(scope="module")
def plain(case):
    """`plain(conditioning, patch)` -> its video and sound without AdaCache."""

    def run(conditioning, patch):
        minimax, model, run_of = case(conditioning, patch)
        return sample(minimax, model, **run_of)

    return cache(run)


def skipped_in(report):
    return [record.step for record in report.evaluations if record.state == "reused"]


def test_all_cases_are_different_runs(plain):
    """Else a test of one of them would be a test of another."""
    videos = [plain(conditioning, patch) for conditioning, patch in CASES if patch not in PATCHES[2:]]
    assert all(not torch.equal(one, other) for index, one in enumerate(videos) for other in videos[:index])


@every_case
def test_off_is_off(conditioning, patch, case, adacache, plain):
    minimax, model, run_of = case(conditioning, patch)
    off, attachment = adacache(model, target=2.0, enabled=False)
    assert torch.equal(sample(minimax, off, **run_of), plain(conditioning, patch))
    report = attachment.finished[-1].report
    assert (report.computed, report.total, report.cache_bytes_max) == (20, 20, 0)


@every_case
def test_what_is_planned_is_skipped_exactly_and_a_second_run_equals_the_first(
    conditioning, patch, case, planned, plain
):
    minimax, model, run_of = case(conditioning, patch)
    with_plan, attachment = planned(model, PLAN, FULL["steps"])
    with Witness(minimax) as witness:
        video = sample(minimax, witness.watched(with_plan), **run_of)
    report = attachment.finished[-1].report
    assert witness.row() == [(1, 1) if step in PLAN else (0, 0) for step in range(FULL["steps"])]
    assert row_of(report) == witness.row()
    assert (skipped_in(report), report.notes) == (SKIPPED, [])
    assert video.isfinite().all()
    assert not torch.equal(video, plain(conditioning, patch))
    assert torch.equal(sample(minimax, with_plan, **run_of), video)


@every_case
@pytest.mark.parametrize("settings", [{"target": 2.0}, {"closeness": 20.0}], ids=["auto", "quality"])
def test_what_auto_and_quality_say_they_did_is_what_ran(settings, conditioning, patch, case, adacache):
    minimax, model, run_of = case(conditioning, patch)
    patched, attachment = adacache(model, **settings)
    with Witness(minimax) as witness:
        video = sample(minimax, witness.watched(patched), **run_of)
    report = attachment.finished[-1].report
    assert video.isfinite().all()
    assert row_of(report) == witness.row()
    assert skipped_in(report) == [step for step, (calls, _) in enumerate(witness.row()) if not calls]
    assert not [note for note in report.notes if "cannot skip steps" in note]
    assert torch.equal(sample(minimax, patched, **run_of), video)
    again = attachment.finished[-1].report
    assert skipped_in(again) == skipped_in(report)


@every_case
def test_where_blocks_are_reused_the_report_is_true(conditioning, patch, case, adacache):
    minimax, model, run_of = case(conditioning, patch)
    patched, attachment = adacache(model, rate=3, steps=20)
    with Witness(minimax) as witness:
        video = sample(minimax, witness.watched(patched), **run_of)
    report = attachment.finished[-1].report
    assert video.isfinite().all()
    assert report.skipped
    assert row_of(report) == witness.row()
    assert not [note for note in report.notes if "cannot skip steps" in note]


@pytest.mark.parametrize("settings", [{"target": 2.0}, {"closeness": 20.0}], ids=["auto", "quality"])
@pytest.mark.parametrize("run", DISTILLED)
def test_distilled_runs(run, settings, case, adacache, as_short_runs_are):
    minimax, model, run_of = case(references, lora, DISTILLED[run])
    patched, attachment = adacache(model, **settings)
    with Witness(minimax) as witness:
        video = sample(minimax, witness.watched(patched), **run_of)
    report = attachment.finished[-1].report
    assert report.total == run_of["steps"]
    assert row_of(report) == witness.row()
    assert skipped_in(report) == [step for step, (calls, _) in enumerate(witness.row()) if not calls]
    assert report.computed >= 4
    assert torch.equal(video, sample(minimax, model, **run_of)) == (not report.skipped)
    assert torch.equal(sample(minimax, patched, **run_of), video)


def test_video_and_sound_come_back_as_they_went_in_and_both_are_forecast(case, planned):
    import comfy.sample

    minimax, model, run_of = case(text, nothing)
    with_plan, _ = planned(model, PLAN, FULL["steps"])

    def parts(model):
        latent = minimax.latent
        with torch.inference_mode():
            return comfy.sample.sample(
                model,
                comfy.sample.prepare_noise(latent, 1),
                latent_image=latent,
                scheduler="simple",
                seed=1,
                disable_pbar=True,
                **run_of,
            ).unbind()

    ours, without = parts(with_plan), parts(model)
    assert [part.shape for part in ours] == [part.shape for part in minimax.latent.unbind()]
    for part, expected in zip(ours, without, strict=True):
        assert part.isfinite().all()
        assert not torch.equal(part, expected)
        assert (part - expected).norm() < 0.5 * expected.norm()


@pytest.mark.parametrize("step", [5, 12])
def test_a_control_net_that_ends_is_known_to_end(step, tiny, case, planned):
    import comfy.samplers

    sampling = tiny(KIND).model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", FULL["steps"])
    between = float(sigmas[step - 1] + sigmas[step]) / 2
    end = next(percent / 1000 for percent in range(1000) if sampling.percent_to_sigma(percent / 1000) < between)
    minimax, model, run_of = case(text, lambda tiny: control(tiny, end=end))
    with_plan, attachment = planned(model, (0, 1), FULL["steps"])
    sample(minimax, with_plan, **run_of)
    report = attachment.finished[-1].report
    computed = {record.step: record.reason for record in report.evaluations if record.state != "reused"}
    assert computed[step] == "a ControlNet begins or ends"
