"""What is tried beside the real code of each pack, on the demo model; `beside_a_pack.py` runs it and prints it."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

STEPS, CFG, PROMPT, SEED = 12, 4.0, "triangle one green fast down light", 203
PLAN = (0, 1, 4, 7, 10, 11)  # of these steps


class Beside:
    """Our pack, another one, and the demo model.

    Args:
        ours, theirs: the two packages.
        demo_model: `research.demo_model`.
    """

    def __init__(self, ours: Any, theirs: Any, demo_model: Any) -> None:
        self.ours, self.theirs, self.demo_model = ours, theirs, demo_model
        texts = demo_model.guided_context(PROMPT, CFG)
        self.positive, self.negative = ([[text[None], {}]] for text in texts)
        self.noise = demo_model.noise_of(SEED)[:, :, :4, :8, :8]  # a small part of a video says as much, sooner

    def fresh(self) -> Any:
        """The host's MODEL of the shipped checkpoint, of which nobody has had anything yet."""
        import torch
        from comfy.sd import load_diffusion_model

        return load_diffusion_model(str(self.demo_model.SHIPPED), model_options={"dtype": torch.float32})

    def node(self, name: str) -> Any:
        return self.theirs.NODE_CLASS_MAPPINGS[name]()

    @property
    def core(self) -> Any:
        return self.ours.adacache_core

    def with_ours(self, model: Any, policy: Any) -> Any:
        return self.ours.nodes.host.attach.attach(model, self.core.CacheConfig(policy), "test")

    def planned(self, model: Any) -> Any:
        """Preset auto, told which steps to compute."""
        schedule = self.core.Schedule(tuple(step in PLAN for step in range(STEPS)))
        return self.with_ours(model, self.core.Fixed(schedule))

    def report_of(self, model: Any) -> Any:
        return self.ours.nodes.host.attach.attachment_of(model).finished[-1].report

    def sample(self, model: Any, sampler: str = "euler") -> Any:
        import comfy.sample
        import torch

        with torch.inference_mode():
            return comfy.sample.sample(
                model,
                self.noise,
                STEPS,
                CFG,
                sampler,
                "simple",
                self.positive,
                self.negative,
                torch.zeros_like(self.noise),
                seed=SEED,
                disable_pbar=True,
            )

    def tried(
        self,
        patch: Callable[[Any], Any] | None = None,
        run: Callable[[Any], Any] | None = None,
        fresh: Callable[[], Any] | None = None,
    ) -> dict:
        """What comes of something of theirs with AdaCache on the same MODEL.

        Args:
            patch: a MODEL -> that with their patch, if they have one.
            run: samples a MODEL; by default the host's KSampler does.
            fresh: makes the MODEL.
        """
        import torch

        run, fresh, theirs = run or self.sample, fresh or self.fresh, patch or (lambda model: model)
        alone = run(theirs(fresh()))
        off = run(self.with_ours(theirs(fresh()), self.core.Off()))
        found: dict[str, Any] = {"off is theirs alone": torch.equal(off, alone)}
        ways = {
            "planned": lambda: self.planned(theirs(fresh())),
            "auto": lambda: self.with_ours(theirs(fresh()), self.core.Target(1.5)),
            "table": lambda: self.with_ours(theirs(fresh()), self.core.FAST_30),
        }
        if patch is not None:
            found["changes the video by"] = _distance(alone, run(fresh()))
            ways["planned, ours first"] = lambda: theirs(self.planned(fresh()))
        for name, make in ways.items():
            found[name] = self._watched(make(), run, alone)
        return found

    def _watched(self, model: Any, run: Callable[[Any], Any], alone: Any) -> dict:
        import torch

        with calls_of(model) as (watched, calls, ran):
            video = run(watched)
        report = self.report_of(model)
        computed = [record.state in ("computed", "partly") for record in report.evaluations]
        at_output = report.reuse == "output"
        return {
            "computed": computed,
            "as planned": computed == [record.step in PLAN for record in report.evaluations],
            "skipped": report.skipped,
            "report is true": computed == [bool(count) for count in (calls if at_output else ran)],
            "finite": bool(video.isfinite().all()),
            "same": torch.equal(video, alone),
            "notes": report.notes,
        }


def _distance(video: Any, other: Any) -> float:
    return float((video - other).norm() / other.norm())


@contextmanager
def calls_of(model: Any) -> Iterator[tuple[Any, list[int], list[int]]]:
    """A clone to be sampled; in each evaluation, how often the model was called, and how many of its blocks ran."""
    from comfy.patcher_extension import WrappersMP

    calls: list[int] = []
    ran: list[int] = []

    def evaluation(executor: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(0)
        ran.append(0)
        return executor(*args, **kwargs)

    def counting(counts: list[int]) -> Callable:
        def hook(*_: Any) -> None:
            counts[-1] += 1

        return hook

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "witness", evaluation)
    module = model.model.diffusion_model
    hooks = [module.register_forward_pre_hook(counting(calls))]
    hooks += [block.register_forward_pre_hook(counting(ran)) for block in module.blocks._modules.values()]
    try:
        yield model, calls, ran
    finally:
        for hook in hooks:
            hook.remove()


def gguf(beside: Beside) -> dict:
    """The demo model, quantised, from a file of theirs, without and with a LoRA."""
    import comfy.sd
    import folder_paths
    import torch

    folder = tempfile.TemporaryDirectory()
    folder_paths.add_model_folder_path("diffusion_models", folder.name)
    down, up = (torch.randn(shape, generator=torch.Generator().manual_seed(1)) for shape in ((4, 256), (256, 4)))
    lora = {}
    for block in range(6):
        name = f"diffusion_model.blocks.{block}.self_attn.q.lora"
        lora |= {f"{name}_down.weight": 0.1 * down, f"{name}_up.weight": 0.1 * up}

    def with_lora(model: Any) -> Any:
        return comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)[0]

    found = {}
    for kind in ("Q8_0", "Q4_0"):
        file = Path(folder.name) / f"demo_{kind}.gguf"
        _write_gguf(beside.demo_model.SHIPPED, file, kind)

        def fresh(name: str = file.name) -> Any:
            return beside.node("UnetLoaderGGUF").load_unet(name)[0]

        plain = beside.sample(beside.fresh())
        distance = _distance(beside.sample(fresh()), plain)
        found[kind] = beside.tried(fresh=fresh) | {"from the plain": distance}
        found[f"{kind} with a LoRA"] = beside.tried(with_lora, fresh=fresh)
    folder.cleanup()
    return found


def _write_gguf(checkpoint: Path, file: Path, kind: str) -> None:
    """Matrices quantised, all else as it is; shapes of more dimensions than GGUF has are written beside."""
    import gguf
    from safetensors.torch import load_file

    quantised = gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(str(file), arch="wan")
    for name, weight in load_file(checkpoint).items():
        data = weight.float().numpy()
        if data.ndim == 2 and data.shape[1] % 32 == 0:
            writer.add_tensor(name, gguf.quants.quantize(data, quantised), raw_dtype=quantised)
            continue
        if data.ndim > 4:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", [int(size) for size in data.shape])
            data = data.reshape(data.shape[0], -1)
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def kjnodes(beside: Beside) -> dict:
    """Patches of the attention, of guidance and of the blocks, and compiled blocks."""
    import torch

    latent = {"samples": beside.noise}
    sys.modules["sageattention"] = _stand_in_for_sage()
    compiled = {
        "backend": "eager",  # graphs are cut and guarded as with any other, which takes minutes
        "fullgraph": False,
        "mode": "default",
        "compile_transformer_blocks_only": True,
        "dynamo_cache_size_limit": 64,
    }

    def advanced(model: Any) -> Any:
        patch = beside.node("TorchCompileModelAdvanced").patch
        return patch(model, dynamic="false", debug_compile_keys=False, **compiled)[0]

    other = [[beside.demo_model.guided_context("circle many red slow left checker", CFG)[0][None], {}]]
    patches = {
        "NAG": lambda model: beside.node("WanVideoNAG").patch(model, other, 11.0, 0.25, 2.5)[0],
        "sage attention, a stand-in for its kernel": lambda model: beside.node("PathchSageAttentionKJ").patch(
            model, "auto"
        )[0],
        "Enhance-A-Video": lambda model: beside.node("WanVideoEnhanceAVideoKJ").enhance(model, 2.0, latent)[0],
        "CFG-Zero*": lambda model: beside.node("CFGZeroStarAndInit").patch(model, True, 0)[0],
        "TorchCompileModelAdvanced": advanced,
        "TorchCompileModelWanVideoV2": lambda model: beside.node("TorchCompileModelWanVideoV2").patch(
            model, dynamic=False, **compiled
        )[0],
    }
    found = {name: beside.tried(patch) for name, patch in patches.items()}
    torch._dynamo.reset()
    scales = [6.0] * 5 + [3.0] * (STEPS - 5)
    found["ScheduledCFGGuidance, a scale for each step"] = _scheduled(beside, scales, 0.0, 1.0)
    found["ScheduledCFGGuidance, a part of the steps"] = _scheduled(beside, 6.0, 0.0, 0.5)
    return found


def _stand_in_for_sage() -> ModuleType:
    """Attention with some noise of the size that an int8 kernel has."""
    import torch

    def sageattn(q: Any, k: Any, v: Any, is_causal: bool, attn_mask: Any, tensor_layout: str) -> Any:
        heads_first = tensor_layout == "HND"
        q, k, v = (each if heads_first else each.transpose(1, 2) for each in (q.to(torch.bfloat16), k, v))
        q = q.to(k.dtype)
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, is_causal=is_causal)
        return out if heads_first else out.transpose(1, 2)

    stand_in = ModuleType("sageattention")
    stand_in.sageattn = sageattn
    return stand_in


def _scheduled(beside: Beside, scale: Any, start: float, end: float) -> dict:
    """Under their guider; a plan that would skip everything from the third step on shows what is computed all the same.

    Returns:
        As of `Beside.tried`, and the reasons of the steps that were computed.
    """
    import comfy.samplers
    import torch

    def run(model: Any) -> Any:
        guider = beside.node("ScheduledCFGGuidance").get_guider(
            model, scale, beside.positive, beside.negative, start, end
        )[0]
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS)
        with torch.inference_mode():
            return guider.sample(
                beside.noise,
                torch.zeros_like(beside.noise),
                comfy.samplers.ksampler("euler"),
                sigmas,
                disable_pbar=True,
                seed=SEED,
            )

    found = beside.tried(run=run)
    schedule = beside.core.Schedule(tuple(step < 2 for step in range(STEPS)))
    model = beside.with_ours(beside.fresh(), beside.core.Fixed(schedule))
    run(model)
    records = beside.report_of(model).evaluations
    found["computed all the same"] = [[each.step, each.reason] for each in records if each.state == "computed"]
    return found


def res4lyf(beside: Beside) -> dict:
    """Their samplers in the host's KSampler, their own KSampler, and their patched Wan."""
    found = {}
    for name in ("res_2s", "res_3m", "res_2s_ode", "res_3m_ode"):
        found[name] = beside.tried(run=lambda model, name=name: beside.sample(model, name))

    def clownshark(model: Any) -> Any:
        import torch

        given = {
            "model": model,
            "positive": beside.positive,
            "negative": beside.negative,
            "latent_image": {"samples": torch.zeros_like(beside.noise)},
            "steps": STEPS,
            "cfg": CFG,
            "seed": SEED,
            "sampler_name": "exponential/res_2s",
            "scheduler": "simple",
        }
        with torch.inference_mode():
            return beside.theirs.NODE_CLASS_MAPPINGS["ClownsharKSampler_Beta"].execute(**given).args[0]["samples"]

    found["ClownsharKSampler"] = beside.tried(run=clownshark)
    found["ReWanPatcher"] = beside.tried(lambda model: beside.node("ReWanPatcher").main(model, True)[0])
    return found


def video_helper_suite(beside: Beside) -> dict:
    """Whether files that their node saves hold the report."""
    import torch

    model = beside.planned(beside.fresh())
    latent = {"samples": beside.sample(model)}
    metadata: dict[str, Any] = {"workflow": {"extra": {}, "nodes": []}}
    hidden = SimpleNamespace(prompt=None, extra_pnginfo=metadata, unique_id="7")
    inspector = type("Inspector", (beside.ours.nodes.inspector.AdaCacheInspector,), {"hidden": hidden})
    inspector.execute(model, latent)
    images = torch.rand(4, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    found = {}
    for kind in ("h264-mp4", "webm", "ffv1-mkv", "ffmpeg-gif", "webp", "gif"):
        form = f"image/{kind}" if kind in ("webp", "gif") else f"video/{kind}"
        saved = beside.node("VHS_VideoCombine").combine_video(
            images=images,
            frame_rate=8,
            loop_count=0,
            filename_prefix=f"adacache_{kind}",
            format=form,
            prompt={},
            extra_pnginfo=metadata,
            save_metadata=True,
            pix_fmt="yuv420p",
            crf=20,
        )
        files = [Path(file) for file in saved["result"][0][1]]
        found[kind] = {
            file.suffix[1:]: _is_report(beside, _metadata_of(file).get("adacache"), metadata["adacache"])
            for file in files
        }
    return found


def _metadata_of(file: Path) -> dict:
    if file.suffix == ".png":
        from PIL import Image

        return dict(Image.open(file).info)
    if file.suffix in (".webp", ".gif"):
        from PIL import Image

        exif = Image.open(file).getexif()
        texts = [value for value in exif.values() if isinstance(value, str)]
        return dict(text.split(":", 1) for text in texts if ":" in text)
    import av

    with av.open(str(file)) as container:
        return {name.lower(): value for name, value in container.metadata.items()}


def _is_report(beside: Beside, text: str | None, expected: dict) -> bool:
    return text is not None and json.loads(text) == json.loads(json.dumps(expected))


def advanced_controlnet(beside: Beside) -> dict:
    """It wraps the host's sampling when it is loaded; there is no ControlNet of it for a video model."""
    return {"loaded": beside.tried()}


def rgthree(beside: Beside) -> dict:
    """A MODEL that goes through their nodes."""

    def context(model: Any) -> Any:
        out = beside.node("Context (rgthree)").convert(model=model)
        return beside.node("Any Switch (rgthree)").switch(any_01=None, any_02=out[1])[0]

    return {"Context and Any Switch": beside.tried(context), "loaded": beside.tried()}


def multi_gpu(beside: Beside) -> dict:
    """Their loaders, whose only device is the CPU here."""
    import folder_paths

    folder_paths.add_model_folder_path("diffusion_models", str(beside.demo_model.SHIPPED.parent))
    name = beside.demo_model.SHIPPED.name
    found = {}
    for loader, more in (
        ("UNETLoaderMultiGPU", {"device": "cpu"}),
        ("UNETLoaderDisTorch2MultiGPU", {"compute_device": "cpu", "virtual_vram_gb": 0.01, "donor_device": "cpu"}),
    ):

        def fresh(loader: str = loader, more: dict = more) -> Any:
            node = beside.node(loader)
            return getattr(node, node.FUNCTION)(unet_name=name, weight_dtype="default", **more)[0]

        found[loader] = beside.tried(fresh=fresh)
    return found


def manager(beside: Beside) -> dict:
    """It installs packs, and has no part in sampling."""
    return {"loaded": beside.tried()}


TRIALS = {
    "ComfyUI-GGUF": gguf,
    "ComfyUI-KJNodes": kjnodes,
    "RES4LYF": res4lyf,
    "ComfyUI-VideoHelperSuite": video_helper_suite,
    "ComfyUI-Advanced-ControlNet": advanced_controlnet,
    "rgthree-comfy": rgthree,
    "ComfyUI-MultiGPU": multi_gpu,
    "ComfyUI-Manager": manager,
}
