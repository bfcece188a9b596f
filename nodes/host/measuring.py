"""What AdaCache Measure needs from ComfyUI: it samples one video as ComfyUI's samplers do, and describes the run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfyui_version import __version__ as host_version
from latent_preview import prepare_callback
from torch import Tensor

from ...adacache_core.closeness import closeness
from ...adacache_core.errors import AdaCacheError
from ...adacache_core.tell.frames import motion, motion_kept
from ...adacache_core.tell.measured import Likeness
from .attach import called

WARM_UP = 2  # steps


class Bar:
    """ComfyUI's progress bar with previews, over several runs."""

    def __init__(self, model: Any, steps: int) -> None:
        self._told = prepare_callback(model, steps)
        self._steps = steps
        self._before = 0

    def next(self, steps: int) -> Callable[..., None]:
        """The callback for the next run, which has this many steps."""
        before = self._before
        self._before += steps
        return lambda step, x0, x, _: self._told(before + step, x0, x, self._steps)


@dataclass(frozen=True)
class Sampling:
    """How one video is sampled: all that a sampler node gets, except the model.

    Attributes:
        positive, negative: CONDITIONING.
        latent: LATENT to start from, with as many channels as the model has.
        seed: of the noise.
        cfg: scale of the guidance.
        sampler_name: ComfyUI's name for `sampler`, or the name of its function.
        scheduler: that the noise levels are from; None if the user gave them as SIGMAS.
        sampler: SAMPLER.
        sigmas: noise levels, (steps + 1,).
    """

    positive: Any
    negative: Any
    latent: dict
    seed: int
    cfg: float
    sampler_name: str
    scheduler: str | None
    sampler: Any
    sigmas: Tensor

    @classmethod
    def of(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        latent_image: dict,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        sampler: Any = None,
        sigmas: Tensor | None = None,
    ) -> Sampling:
        """From the inputs of a KSampler node; `sampler` replaces `sampler_name`, `sigmas` replace the scheduler.

        Raises:
            AdaCacheError: there are fewer than WARM_UP steps.
        """
        if sigmas is None:
            # ComfyUI computes the noise levels, because some of its samplers leave one out.
            levels = comfy.samplers.KSampler(model, steps, model.load_device, sampler_name, scheduler).sigmas
        else:
            levels, scheduler = sigmas, None
        if len(levels) < WARM_UP + 1:
            raise AdaCacheError(f"too few steps to measure: {max(len(levels) - 1, 0)}; take {WARM_UP} or more")
        if sampler is None:
            sampler = comfy.samplers.sampler_object(sampler_name)
        else:
            function = getattr(sampler, "sampler_function", sampler)
            sampler_name = getattr(function, "__name__", type(function).__name__).removeprefix("sample_")
        # Newer ComfyUIs store a latent's "downscale_ratio"s for this one call.
        ratios = {key: value for key, value in latent_image.items() if key.startswith("downscale_ratio")}
        samples = comfy.sample.fix_empty_latent_channels(model, latent_image["samples"], **ratios)
        latent = {key: value for key, value in latent_image.items() if key not in ratios} | {"samples": samples}
        return cls(positive, negative, latent, seed, cfg, sampler_name, scheduler, sampler, levels)

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    def run(self, model: Any, told: Callable[..., None], steps: int | None = None) -> dict:
        """Samples and returns the LATENT; with `steps`, only the first few. `told` is the sampler's callback."""
        latent = self.latent["samples"]
        noise = comfy.sample.prepare_noise(latent, self.seed, self.latent.get("batch_index"))
        sigmas = self.sigmas if steps is None else self.sigmas[: steps + 1]
        samples = comfy.sample.sample_custom(
            model,
            noise,
            self.cfg,
            self.sampler,
            sigmas,
            self.positive,
            self.negative,
            latent,
            noise_mask=self.latent.get("noise_mask"),
            callback=told,
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=self.seed,
        )
        return {**self.latent, "samples": samples}


def facts(model: Any, how: Sampling) -> dict[str, Any]:
    """The fields of `measured.Settings`, except the title and our own version."""
    base = model.model
    samples = how.latent["samples"]
    video = samples.unbind()[0] if getattr(samples, "is_nested", False) else samples
    batch, channels, *frames, height, width = video.shape
    shift = getattr(model.get_model_object("model_sampling"), "shift", None)
    module = getattr(base.diffusion_model, "_orig_mod", base.diffusion_model)
    return {
        "model": type(module).__name__,
        "kind": called(model),
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "sampler": how.sampler_name,
        "scheduler": how.scheduler,
        "steps": how.steps,
        "cfg": float(how.cfg),
        "shift": float(shift) if isinstance(shift, (int, float)) else None,
        "batch": batch,
        "channels": channels,
        "frames": math.prod(frames),
        "height": height,
        "width": width,
        "device": _name_of(model.load_device),
        "comfyui": host_version,
        "torch": str(torch.__version__),
    }


def _name_of(device: Any) -> str:
    """The name of a graphics card by its driver, else the kind of device."""
    module = getattr(torch, device.type, None)
    if hasattr(module, "get_device_name"):
        return module.get_device_name(device)
    return device.type.upper()


def likeness(model: Any, plain: dict, other: dict) -> Likeness:
    """How close a LATENT is to the plain one, in the numbers that the model works with.

    Raises:
        AdaCacheError: one of the two has numbers that are not finite.
    """
    (reference, frames), (changed, changed_frames) = (_as_the_model_sees(model, each) for each in (plain, other))
    for which, samples in (("without", reference), ("with", changed)):
        if not samples.isfinite().all():
            raise AdaCacheError(
                f"the video {which} AdaCache came out broken: its latent has numbers that are not finite"
            )
    of_frames = [closeness(*pair) for pair in zip(frames, changed_frames, strict=True)]
    worst = min(range(len(of_frames)), key=of_frames.__getitem__)
    return Likeness(
        closeness=closeness(reference, changed),
        motion_kept=motion_kept(frames, changed_frames) if motion(frames) else None,
        worst_frame=worst,
        worst_frame_db=of_frames[worst],
    )


def _as_the_model_sees(model: Any, latent: dict) -> tuple[Tensor, Tensor]:
    """All numbers, and the video as (frames, channels, height, width), the videos of a batch one after another."""
    samples = latent["samples"]
    if getattr(samples, "is_nested", False):  # ComfyUI's sampler has video and sound in one row
        packed, shapes = comfy.utils.pack_latents(samples.unbind())
        inside = model.model.process_latent_in(packed.double())
        video = comfy.utils.unpack_latents(inside, shapes)[0]
    else:
        inside = video = model.model.process_latent_in(samples.double())
    return inside, video.movedim(2, 1).flatten(0, 1) if video.ndim == 5 else video
