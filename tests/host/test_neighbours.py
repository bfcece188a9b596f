"""Other nodes on the same MODEL: compilers, caches, guidance, patches, LoRAs, and a second AdaCache."""

from __future__ import annotations

import pytest
import torch
from host.running import (
    WATCH,
    Witness,
    assert_reuse_is_per_block,
    blocks_of,
    on_call,
    percent_of,
    replay,
    row_of,
    sample,
    with_hook,
)
from host.tiny.variant import noise


def test_a_second_adacache_takes_the_place_of_the_first(tiny, adacache):
    wan = tiny("Wan t2v")
    first, of_first = adacache(wan.model, rate=2)
    second, of_second = adacache(first, rate=3)
    alone, _ = adacache(wan.model, rate=3)
    assert torch.equal(sample(wan, second), sample(wan, alone))
    assert len(of_first.finished) == 0
    assert len(of_second.finished) == 1


@pytest.mark.parametrize("way", ["blocks", "output"])
@pytest.mark.parametrize("node", ["EasyCacheNode", "LazyCacheNode"])
@pytest.mark.parametrize("ours_first", [True, False])
def test_beside_another_cache_adacache_stands_down(node, ours_first, way, tiny, by_output_or_blocks):
    import comfy_extras.nodes_easycache

    def other(model):
        return getattr(comfy_extras.nodes_easycache, node).execute(model, 2.0, 0.1, 0.9, False).args[0]

    wan = tiny("Wan t2v")
    if ours_first:
        ours, attachment = by_output_or_blocks(way, wan.model)
        both = other(ours)
    else:
        both, attachment = by_output_or_blocks(way, other(wan.model))
    alone = sample(wan, other(wan.model))
    assert not torch.equal(alone, sample(wan))  # it does skip something
    assert torch.equal(sample(wan, both), alone)
    report = attachment.finished[-1].report
    said = "cannot skip steps: EasyCache or LazyCache is on this model; to use AdaCache, take its node out"
    assert report.notes == [said]
    assert report.total == 0  # it did not look, so it does not claim that anything was computed


class CountingBackend:
    """Compiles nothing; knows how often each graph attends and how often it ran."""

    def __init__(self):
        self.attentions: list[int] = []
        self.runs: list[int] = []

    def __call__(self, graph, inputs, **options):
        number = len(self.runs)
        self.attentions.append(sum("scaled_dot_product" in str(node.target) for node in graph.graph.nodes))
        self.runs.append(0)

        def run(*args):
            self.runs[number] += 1
            return graph.forward(*args)

        return run


@pytest.mark.parametrize(
    ("variant", "outside", "ours_first"), [("Wan VACE", 0, True), ("Wan VACE", 0, False), ("HunyuanVideo", 2, True)]
)
def test_a_compiled_model_really_skips_its_blocks_with_two_graphs_and_no_more(
    variant, outside, ours_first, tiny, adacache
):
    """The host's TorchCompileModel drops the guards on transformer options: a decision made there would freeze."""
    import torch._dynamo
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    torch._dynamo.reset()
    backend = CountingBackend()
    if ours_first:
        ours, attachment = adacache(tiny(variant).model, rate=3)
        model = TorchCompileModel.execute(ours, backend).args[0]
    else:
        model, attachment = adacache(TorchCompileModel.execute(tiny(variant).model, backend).args[0], rate=3)
    video = sample(tiny(variant), model)
    assert attachment.finished[-1].report.computed == 5
    assert sorted(backend.runs) == [4, 5]
    of_reused, of_computed = (backend.attentions[backend.runs.index(runs)] for runs in (4, 5))
    assert of_reused == outside  # HunyuanVideo refines its text before the blocks
    assert of_computed >= outside + len(blocks_of(tiny(variant).module))

    eager, _ = adacache(tiny(variant).model, rate=3)
    torch.testing.assert_close(video, sample(tiny(variant), eager), rtol=0, atol=1e-4 * video.abs().max().item())


@pytest.mark.parametrize("ours_first", [True, False])
def test_with_auto_a_compiled_model_is_one_graph_that_runs_at_computed_steps(ours_first, tiny, planned):
    import torch._dynamo
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    torch._dynamo.reset()
    wan, backend = tiny("Wan VACE"), CountingBackend()
    if ours_first:
        ours, attachment = planned(wan.model)
        model = TorchCompileModel.execute(ours, backend).args[0]
    else:
        model, attachment = planned(TorchCompileModel.execute(wan.model, backend).args[0])
    video = sample(wan, model)
    assert attachment.finished[-1].report.computed == 5
    assert backend.runs == [5]
    eager, _ = planned(wan.model)
    torch.testing.assert_close(video, sample(wan, eager), rtol=0, atol=1e-4 * video.abs().max().item())


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("ours_first", [True, False])
def test_blocks_that_are_compiled_one_by_one_are_skipped_like_others(backend, ours_first, tiny, adacache):
    import torch._dynamo
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    torch._dynamo.reset()
    wan = tiny("Wan VACE")
    keys = [f"diffusion_model.{name}" for name in blocks_of(wan.module)]

    def compiled(model):
        model = model.clone()
        set_torch_compile_wrapper(model, backend, keys=keys)
        return model

    ours, _ = adacache(wan.model, rate=3)
    eager = sample(wan, ours)
    both = compiled(ours) if ours_first else adacache(compiled(wan.model), rate=3)[0]
    with Witness(wan) as witness:
        video = sample(wan, witness.watched(both))
    assert [bool(ran) for _, ran in witness.row()] == [step in (0, 1, 4, 7, 8) for step in range(9)]
    torch.testing.assert_close(video, eager, rtol=0, atol=1e-4 * eager.abs().max().item())
    assert torch.equal(sample(wan, adacache(compiled(wan.model), table=WATCH)[0]), sample(wan, compiled(wan.model)))


def passes_on(args, extra):
    return extra["original_block"](args)


def skips(args, extra):
    return {key: args[key] for key in ("img", "txt") if key in args}


@pytest.mark.parametrize(
    "variant",
    [
        *("Wan VACE", "Wan Animate 2", "HunyuanVideo", "LTXV", "LTX-2", "Mochi", "MiniMax-H3"),
        *("Chroma", "Qwen-Image", "SD3", "AuraFlow", "HunyuanDiT"),
    ],
)
@pytest.mark.parametrize("place", ["first", "probe"])
def test_a_patch_that_calls_its_block_changes_nothing(variant, place, tiny, adacache):
    depth = sum(not name.startswith("single") for name in blocks_of(tiny(variant).module))
    patched = tiny(variant).model.clone()
    patched.set_model_patch_replace(passes_on, "dit", "double_block", 0 if place == "first" else depth // 2)
    assert torch.equal(sample(tiny(variant), patched), sample(tiny(variant)))
    with_both, attachment = adacache(patched, rate=3)
    alone, _ = adacache(tiny(variant).model, rate=3)
    assert torch.equal(sample(tiny(variant), with_both), sample(tiny(variant), alone))
    assert attachment.finished[-1].report.computed == 5


@pytest.mark.parametrize("variant", ["Wan VACE", "Wan Animate 2", "HunyuanVideo", "LTXV", "Mochi"])
@pytest.mark.parametrize("replaced", [[0], [2], [0, 2]])
def test_a_patch_in_place_of_its_block_is_in_what_is_reused(variant, replaced, tiny, adacache):
    """Also in place of the first block, which then cannot show what the stack was given."""
    given = []

    def skips_and_notes(args, extra):
        given.append(args["img"].clone())
        return skips(args, extra)

    patched = tiny(variant).model.clone()
    for index in replaced:
        patched.set_model_patch_replace(skips_and_notes if index == 0 else skips, "dit", "double_block", index)
    watching, _ = adacache(patched, table=WATCH)
    assert torch.equal(sample(tiny(variant), watching), sample(tiny(variant), patched))

    model, attachment = adacache(patched, rate=3)
    with Witness(tiny(variant)) as witness:
        sample(tiny(variant), witness.watched(model))
    assert [
        (record.calls, record.calls_computed) for record in attachment.finished[-1].report.evaluations
    ] == witness.row()
    if 0 not in replaced:
        assert assert_reuse_is_per_block(tiny(variant), witness) == 4
        return
    given.clear()
    last = None
    reused = 0
    for call in witness.calls:
        output = replay(tiny(variant), call)
        stack_input = given.pop()
        if call.computed:
            assert torch.equal(output, call.output)
            last = call.head_in - stack_input
        else:
            reused += 1
            torch.testing.assert_close(call.head_in, stack_input + last, rtol=1e-5, atol=1e-5)
    assert reused == 4


@pytest.mark.parametrize("node", [False, True])
@pytest.mark.parametrize("frames", [4, 8])
def test_a_branch_beside_the_blocks_rests_while_they_do_and_its_own_cache_is_filled_once(node, frames, tiny, adacache):
    """Wan Animate 2's poses; a node of the host remembers them from step to step, in windows for each of them."""
    animate, model = tiny("Wan Animate 2"), tiny("Wan Animate 2").model
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode
    from comfy_extras.nodes_wan import WanAnimate2Cache

    if frames > 4:
        model = ContextWindowsManualNode.execute(model, 4, 2, "standard_static", 1, False, "pyramid", 2, False).args[0]
    pose = {"pose_video_latent": noise(1, 16, frames - 1, 8, 8), "cross_attn_pose": animate.positive[0][0]}
    image = {"concat_latent_image": noise(1, 16, frames, 8, 8)}
    conditionings = {
        name: [[text, options | pose | image]]
        for name, [[text, options]] in (("positive", animate.positive), ("negative", animate.negative))
    }
    run = {"latent": torch.zeros(1, 16, frames, 8, 8), **conditionings}
    alone, _ = adacache(model, rate=3)
    expected = sample(animate, alone, **run)
    if node:
        model = WanAnimate2Cache.execute(model, "cpu").args[0]
    with_both, attachment = adacache(model, rate=3)
    ran = []
    blocks = blocks_of(animate.module).values()
    with with_hook(*(on_call(each, lambda *called: ran.append(1), method="forward_pose") for each in blocks)):
        video = sample(animate, with_both, **run)
    torch.testing.assert_close(video, expected, rtol=0, atol=1e-4 * expected.abs().max().item())
    windows = 1 if frames == 4 else 3
    assert row_of(attachment.finished[-1].report).count((windows, windows)) == 5
    assert len(ran) == len(blocks) * windows * (1 if node else 5)


@pytest.mark.parametrize("variant", ["Flux", "Chroma", "Qwen-Image", "SD3", "HunyuanDiT"])
def test_control_is_in_what_is_reused_and_none_of_it_is_missed(variant, tiny, adacache):
    """HunyuanDiT takes one part of it in each of the two later blocks, and fails if any is left over."""
    import comfy.controlnet

    class Control(comfy.controlnet.ControlBase):
        def get_control(self, x, *args):
            parts = [torch.full((1, 1, width), 0.5) for _ in range(2)]
            return {"input": parts[:], "output": parts[:]}

    width = {"SD3": 192, "HunyuanDiT": 64}.get(variant, 128)
    control = Control()
    conditionings = {
        name: [[text, {**extras, "control": control}] for text, extras in getattr(tiny(variant), name)]
        for name in ("positive", "negative")
    }
    plain = sample(tiny(variant), **conditionings)
    assert not torch.equal(plain, sample(tiny(variant)))
    watching, _ = adacache(tiny(variant).model, table=WATCH)
    assert torch.equal(sample(tiny(variant), watching, **conditionings), plain)
    model, _ = adacache(tiny(variant).model, rate=3)
    with Witness(tiny(variant)) as witness:
        sample(tiny(variant), witness.watched(model), **conditionings)
    assert assert_reuse_is_per_block(tiny(variant), witness) == 4 * witness.row()[0][0]
    few = {**conditionings, "steps": 4}  # too few for anything to be skipped
    assert torch.equal(sample(tiny(variant), model, **few), sample(tiny(variant), **few))


@pytest.mark.parametrize("way", ["blocks", "output"])
def test_where_every_block_is_replaced_adacache_stands_down(way, tiny, by_output_or_blocks):
    wan = tiny("Wan t2v")
    patched = wan.model.clone()
    for index in range(len(blocks_of(wan.module))):
        patched.set_model_patch_replace(skips, "dit", "double_block", index)
    model, attachment = by_output_or_blocks(way, patched)
    assert torch.equal(sample(wan, model), sample(wan, patched))
    report = attachment.finished[-1].report
    assert {record.state for record in report.evaluations} == {"answered"}  # no block ran
    assert report.notes == [f"cannot skip steps: {__name__} replaces every block of this model"]


def of_the_host(args, extra):
    """As the block-sparse attention of newer hosts has it: the block runs, with another attention in it."""
    return extra["original_block"](args)


of_the_host.__module__ = "comfy_extras.nodes_sparse_attention"


class ControlOfTheHost:
    """As the control net of newer hosts for MiniMax-H3 has it: it calls the function that was there before."""

    def __init__(self, previous=None):
        self.previous = previous

    def __call__(self, args, extra):
        out = extra["original_block"](args) if self.previous is None else self.previous(args, extra)
        return out | {"img": out["img"] + 0.1}


ControlOfTheHost.__module__ = "comfy_extras.nodes_minimax_h3"


@pytest.mark.parametrize("way", ["blocks", "output"])
@pytest.mark.parametrize("variant", ["Wan t2v", "MiniMax-H3"])
@pytest.mark.parametrize("control", [None, ControlOfTheHost(), ControlOfTheHost(of_the_host)])
def test_functions_of_the_hosts_own_may_replace_every_block(way, variant, control, tiny, by_output_or_blocks):
    patched = tiny(variant).model.clone()
    for index in range(len(blocks_of(tiny(variant).module))):
        patched.set_model_patch_replace(of_the_host, "dit", "double_block", index)
    if control is not None:
        patched.set_model_patch_replace(control, "dit", "double_block", 0)
    model, attachment = by_output_or_blocks(way, patched)
    with Witness(tiny(variant)) as witness:
        sample(tiny(variant), witness.watched(model))
    report = attachment.finished[-1].report
    assert (report.computed, report.notes) == (5, [])
    assert row_of(report) == witness.row()


@pytest.mark.parametrize("way", ["blocks", "output"])
def test_a_function_behind_the_hosts_own_is_found(way, tiny, by_output_or_blocks):
    wan = tiny("Wan t2v")
    patched = wan.model.clone()
    for index in range(len(blocks_of(wan.module))):
        patched.set_model_patch_replace(ControlOfTheHost(skips), "dit", "double_block", index)
    model, attachment = by_output_or_blocks(way, patched)
    sample(wan, model)
    assert attachment.finished[-1].report.notes == [f"cannot skip steps: {__name__} replaces every block of this model"]


@pytest.mark.parametrize("layers", ["1", "0, 1"])
def test_skip_layer_guidance_reuses_its_own_pass_and_stays_out_of_the_metric(layers, tiny, adacache):
    from comfy_extras.nodes_slg import SkipLayerGuidanceDiT

    wan = tiny("Wan t2v")
    guided = SkipLayerGuidanceDiT.execute(wan.model, 3.0, 0.0, 1.0, double_layers=layers).args[0]
    watching, attachment = adacache(guided, table=WATCH, probe_stride=1)
    with Witness(wan) as witness:
        video = sample(wan, witness.watched(watching))
    assert torch.equal(video, sample(wan, guided))
    old, _, new, _ = (call.left["blocks.2"] - call.entered["blocks.2"] for call in witness.calls[:4])
    change = (new - old).abs().sum() / old.abs().sum()
    assert attachment.finished[-1].report.evaluations[1].metric == pytest.approx(change.item(), rel=1e-4)

    model, attachment = adacache(guided, rate=3)
    with Witness(wan) as witness:
        sample(wan, witness.watched(model))
    assert witness.row() == [(2, 2), (2, 2), (2, 0), (2, 0), (2, 2), (2, 0), (2, 0), (2, 2), (2, 2)]
    assert [
        (record.calls, record.calls_computed) for record in attachment.finished[-1].report.evaluations
    ] == witness.row()
    if "0" not in layers:
        assert assert_reuse_is_per_block(wan, witness) == 8


def test_a_conditioning_whose_layers_begin_to_be_skipped_does_not_reuse_what_it_made_before(tiny, adacache):
    from comfy_extras.nodes_slg import SkipLayerGuidanceDiTSimple

    wan = tiny("Wan t2v")
    guided = SkipLayerGuidanceDiTSimple.execute(wan.model, percent_of(wan, 2), 1.0, double_layers="1").args[0]
    model, attachment = adacache(guided, rate=3)
    with Witness(wan) as witness:
        sample(wan, witness.watched(model))
    assert witness.row() == [(1, 1), (1, 1), (2, 1), (2, 0), (2, 2), (2, 0), (2, 0), (2, 2), (2, 2)]
    assert row_of(attachment.finished[-1].report) == witness.row()
    assert attachment.finished[-1].report.evaluations[2].state == "partly"


@pytest.mark.parametrize("way", ["blocks", "output"])
def test_where_a_wrapper_answers_in_place_of_the_model_adacache_stands_down_and_says_whose_it_was(
    way, tiny, by_output_or_blocks
):
    from comfy.patcher_extension import WrappersMP

    wan, calls = tiny("Wan t2v"), []

    def answers_some(executor, x, *args, **kwargs):
        calls.append(x)
        return 0.1 * x if len(calls) in (2, 3, 6) else executor(x, *args, **kwargs)

    strange = wan.model.clone()
    strange.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", answers_some)
    model, attachment = by_output_or_blocks(way, strange)
    with Witness(wan) as witness:
        sample(wan, witness.watched(model))
    report = attachment.finished[-1].report
    assert row_of(report) == witness.row()
    assert witness.row() == [(1, 1), (1, 0), (1, 0), (1, 1), (1, 1), (1, 0), (1, 1), (1, 1), (1, 1)]
    assert [record.state == "answered" for record in report.evaluations] == [ran == 0 for _, ran in witness.row()]
    assert report.notes == [
        f"cannot skip steps: another pack answered in place of the model ({__name__}) at step 2; "
        "from there on every step is computed"
    ]


def test_with_auto_a_wrapper_round_the_model_is_called_at_computed_steps_only(tiny, planned):
    wan, asked = tiny("Wan t2v"), []

    def noting(function, call):
        asked.append(float(call["timestep"].max()))
        return function(call["input"], call["timestep"], **call["c"])

    wrapped = wan.model.clone()
    wrapped.set_model_unet_function_wrapper(noting)
    model, attachment = planned(wrapped)
    assert torch.equal(sample(wan, model), sample(wan, planned(wan.model)[0]))
    assert len(asked) == attachment.finished[-1].report.computed == 5


def test_a_wrapper_that_cuts_the_batch_into_calls_of_its_own_gets_the_same_video(tiny, adacache):
    wan = tiny("Wan t2v")

    def one_by_one(function, call):
        parts = []
        for index in range(len(call["input"])):
            own = {
                name: value[index : index + 1] if torch.is_tensor(value) else value for name, value in call["c"].items()
            }
            parts.append(function(call["input"][index : index + 1], call["timestep"][index : index + 1], **own))
        return torch.cat(parts)

    cut = wan.model.clone()
    cut.set_model_unet_function_wrapper(one_by_one)
    model, attachment = adacache(cut, rate=3)
    with Witness(wan) as witness:
        video = sample(wan, witness.watched(model))
    assert witness.row() == [(2, 2), (2, 2), (2, 0), (2, 0), (2, 2), (2, 0), (2, 0), (2, 2), (2, 2)]
    assert row_of(attachment.finished[-1].report) == witness.row()
    assert assert_reuse_is_per_block(wan, witness) == 8
    whole, _ = adacache(wan.model, rate=3)
    torch.testing.assert_close(video, sample(wan, whole), rtol=0, atol=1e-4 * video.abs().max().item())


@pytest.mark.parametrize("way", ["blocks", "output"])
def test_a_model_call_outside_of_the_evaluations_is_left_alone_and_noted(way, tiny, adacache, planned):
    import comfy.sample
    import comfy.samplers

    wan = tiny("Wan t2v")
    guesses = []

    def peeks_and_steps(model, x, sigmas, extra_args=None, callback=None, disable=None):
        guesses.append(model.inner_model.predict_noise(x, sigmas[:1], extra_args["model_options"]))
        for _ in sigmas[:-1]:
            x = 0.5 * (x + model(x, sigmas[:1], **extra_args))
        return x

    def run(model):
        noise = comfy.sample.prepare_noise(wan.latent, 1)
        sigmas = torch.linspace(1, 0, 10)
        sampler = comfy.samplers.KSAMPLER(peeks_and_steps)
        with torch.inference_mode():
            return comfy.sample.sample_custom(
                model, noise, 4.0, sampler, sigmas, wan.positive, wan.negative, wan.latent, disable_pbar=True, seed=1
            )

    model, attachment = planned(wan.model) if way == "output" else adacache(wan.model, table=WATCH)
    assert torch.equal(run(model), run(wan.model))
    assert torch.equal(*guesses)
    assert attachment.finished[-1].report.total == 9
    assert attachment.finished[-1].report.notes == [
        "the model was also called outside of the sampler's evaluations; AdaCache did not touch that"
    ]


def test_weight_patches_are_applied(tiny, adacache):
    wan = tiny("Wan t2v")
    key = "diffusion_model.blocks.2.self_attn.q.weight"
    change = torch.randn(128, 128, generator=torch.Generator().manual_seed(5))
    lora = wan.model.clone()
    assert lora.add_patches({key: ("diff", (change,))}) == [key]
    watching, _ = adacache(lora, table=WATCH)
    with_lora = sample(wan, lora)
    assert torch.equal(sample(wan, watching), with_lora)
    model, _ = adacache(wan.model, rate=3)
    before = sample(wan, model)
    assert model.add_patches({key: ("diff", (change,))}) == [key]
    assert not torch.equal(sample(wan, model), before)
    assert not torch.equal(with_lora, sample(wan))
