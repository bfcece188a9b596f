"""AdaCache Measure: makes one video three times on the user's model; the result is a picture and a file to share."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import comfy.samplers
import folder_paths
import torch
from comfy_api.latest import io, ui
from PIL import Image
from torch import Tensor

from ..adacache_core.config import CacheConfig
from ..adacache_core.decide.fixed import Off
from ..adacache_core.errors import AdaCacheError
from ..adacache_core.presets import auto, quality
from ..adacache_core.tell.measured import (
    AUTO,
    CLOSENESS,
    LONGEST_TEXT,
    PLAIN,
    QUALITY,
    SPEEDUP,
    Measured,
    MeasuredRun,
    Settings,
)
from ..adacache_core.tell.measured_picture import draw
from .apply import name_of
from .compare import frames_of
from .demo.preview import pictures_of
from .host.attach import attach, attachment_of
from .host.library import write
from .host.measuring import WARM_UP, Bar, Sampling, facts, likeness
from .schema import CATEGORY, as_image, found_by

PREFIX = "adacache_measured/measured"  # in ComfyUI's output folder
CONFIGS = {PLAIN: CacheConfig(Off()), AUTO: auto(SPEEDUP), QUALITY: quality(CLOSENESS)}
SHARE = "github.com/comfyui-adacache/ComfyUI-AdaCache/issues/new?template=measured.yml"

log = logging.getLogger(__name__)


class AdaCacheMeasure(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AdaCacheMeasure",
            display_name="AdaCache Measure",
            category=CATEGORY,
            description="Makes one video three times: without AdaCache, with auto at 2x, and with quality. Shows what "
            "each took and how close it came. Connect what your KSampler has. The figures are saved as a file that you "
            "can share; there is nothing of your prompt in it.",
            **found_by("benchmark", "test my model", "how fast", "speed test", "time", "quality"),
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="Your model, after LoRAs and model sampling, as your sampler gets it."),
                io.Conditioning.Input("positive", tooltip="The prompt, as your sampler gets it."),
                io.Conditioning.Input("negative", tooltip="The negative prompt, as your sampler gets it."),
                io.Latent.Input(
                    "latent_image", tooltip="The empty latent of your video's size, or what you start from."
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="The seed of the noise, the same for all three videos. Change it to measure another video.",
                ),
                io.Int.Input(
                    "steps", default=20, min=2, max=10000, tooltip="As many as you usually take. Start from 20 to 30."
                ),
                io.Float.Input(
                    "cfg",
                    default=6.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="Guidance, as you usually set it.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=comfy.samplers.KSampler.SAMPLERS,
                    default="euler",
                    tooltip="The sampler that you usually take. Start from euler.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=comfy.samplers.KSampler.SCHEDULERS,
                    default="simple",
                    tooltip="The scheduler that you usually take. Start from simple.",
                ),
                io.Sampler.Input(
                    "sampler",
                    optional=True,
                    tooltip="Connect it if your workflow has a SAMPLER. It replaces sampler_name.",
                ),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="Connect it if your workflow has SIGMAS, from LTXVScheduler for example. They "
                    "replace steps and scheduler.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="For sharp frames. Without it you see frames in the colours of the live preview. The "
                    "figures are the same.",
                ),
                io.String.Input(
                    "title",
                    default="",
                    optional=True,
                    tooltip="What to call this model in the picture and in the shared file, such as Wan 2.1 14B fp8.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="picture"),
                io.Image.Output(display_name="videos"),
                io.String.Output(display_name="report"),
                io.Latent.Output(display_name="plain"),
                io.Latent.Output(display_name="auto"),
                io.Latent.Output(display_name="quality"),
            ],
        )

    @classmethod
    def execute(cls, model: Any, vae: Any = None, title: str = "", **sampler_inputs: Any) -> io.NodeOutput:
        title = " ".join(title.split())
        if len(title) > LONGEST_TEXT or not title.isprintable():
            raise AdaCacheError(f"the title must be one line of at most {LONGEST_TEXT} letters")
        how = Sampling.of(model, **sampler_inputs)
        settings = Settings(title=title, adacache=version(), **facts(model, how))
        runs, latents = measure(model, how)
        measured = Measured(settings, runs)
        videos = [_frames_of(each, model, vae) for each in latents.values()]
        text = measured.to_json()
        picture, saved = _saved(measured, videos, text)
        return io.NodeOutput(
            picture, torch.cat(videos, dim=2), text, *latents.values(), ui=ui.SavedImages([saved]).as_dict()
        )


def measure(model: Any, how: Sampling) -> tuple[dict[str, MeasuredRun], dict[str, dict]]:
    """Makes the runs; returns them, and the LATENT that each made.

    A few steps run first and are not measured: loading, compiling and the first use of memory are slow, and would
    otherwise count for the first run.
    """
    bar = Bar(model, WARM_UP + len(CONFIGS) * how.steps)
    how.run(_with(model, PLAIN)[0], bar.next(WARM_UP), WARM_UP)
    runs: dict[str, MeasuredRun] = {}
    latents: dict[str, dict] = {}
    for name in CONFIGS:
        patched, attachment = _with(model, name)
        latents[name] = how.run(patched, bar.next(how.steps))
        report = attachment.finished[-1].report
        if not report.evaluations:
            raise AdaCacheError(f"there is nothing to measure: {'; '.join(report.notes) or 'the model was not called'}")
        near = None if name == PLAIN else likeness(model, latents[PLAIN], latents[name])
        runs[name] = MeasuredRun(report, near)
    return runs, latents


def _with(model: Any, name: str) -> tuple[Any, Any]:
    patched = attach(model, CONFIGS[name], name_of(CONFIGS[name].policy))
    return patched, attachment_of(patched)


def _frames_of(latent: dict, model: Any, vae: Any) -> Tensor:
    """Frames (frames, height, width, 3) in [0, 1]: decoded by the VAE, else as the live preview, else in grey."""
    samples = latent["samples"]
    if vae is not None:
        video = samples.unbind()[0] if getattr(samples, "is_nested", False) else samples
        decoded = vae.decode(video)
        return decoded.flatten(0, 1) if decoded.ndim == 5 else decoded
    try:
        return pictures_of(model, samples).cpu()
    except AdaCacheError:  # a latent format without colours
        grey = frames_of(latent).float().mean(dim=1).cpu()
        grey = (grey - grey.min()) / max((grey.max() - grey.min()).item(), 1e-9)
        return grey[..., None].expand(-1, -1, -1, 3)


def _saved(measured: Measured, videos: list[Tensor], text: str) -> tuple[Tensor, ui.SavedResult]:
    """Saves the picture, and the file beside it under the same name; returns the picture and where it is.

    Unlike ComfyUI's own pictures, they do not contain the workflow, because the workflow contains the prompt.
    """
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(PREFIX, folder_paths.get_output_directory())
    place = f"{subfolder}/{name}_{counter:05}_.json"
    notes = [f"{run.report.preset}: {note}" for run in measured.runs.values() for note in run.report.notes]
    notes += [f"Saved in ComfyUI's output folder as {place}. There is nothing of your prompt in it. Share it: {SHARE}"]
    likeness_of_auto = measured.runs[AUTO].likeness
    worst = 0 if likeness_of_auto is None else likeness_of_auto.worst_frame
    shown = min(worst * len(videos[0]) // (measured.settings.frames * measured.settings.batch), len(videos[0]) - 1)
    frames = [Image.fromarray((video[shown].clamp(0, 1) * 255).round().byte().cpu().numpy()) for video in videos]
    which = f"The same moment of all three: frame {shown + 1} of {len(videos[0])}, where auto is least close."
    picture = as_image(draw(measured, frames, which, notes))
    (saved,) = ui.ImageSaveHelper.save_images(picture, PREFIX, io.FolderType.output, None)
    path = Path(folder) / Path(saved.filename).with_suffix(".json").name
    write(path, text)
    log.info("AdaCache: measured, saved as %s", path)
    return picture, saved


def version() -> str:
    """The version of this pack."""
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^version = "(.+)"', text, re.MULTILINE)
    return found[1] if found else ""
