"""AdaCache Compare: plays two videos side by side and measures how far apart they are."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from comfy_api.latest import io, ui
from PIL import Image
from torch import Tensor

from ..adacache_core.documents import finite
from ..adacache_core.errors import AdaCacheError
from ..adacache_core.tell.frames import PSNR_MAX, psnr, share_kept
from ..adacache_core.tell.picture import beside
from ..adacache_core.tell.report import RunReport
from .demo.preview import pictures_of
from .host.attach import attachment_of
from .schema import CATEGORY, as_image, found_by

SSIM_WINDOW = 11  # pixels (Wang et al. 2004); for smaller frames, the largest odd size that fits
ALEXNET = "alexnet-owt-7be5be79.pth"  # torchvision's weights; without the file, LPIPS would download it
LPIPS_SMALLEST = 64  # pixels; LPIPS' network reduces smaller frames to nothing
LATENT_PIXEL = 8  # pixels in the picture for one number of a latent
WIDEST = 1024  # pixels; the video shown in the node is made smaller than this, so that it loads fast. The output is not


@dataclass(frozen=True)
class Comparison:
    """One video against another.

    Attributes:
        frames: how many were compared.
        psnr: dB, mean over frames, at most PSNR_MAX.
        ssim: mean over frames, channels and places; 1 is equal.
        lpips: perceptual distance (Zhang et al. 2018), mean over frames; None for latents, for frames smaller than
            LPIPS_SMALLEST, and if LPIPS is not installed.
        motion_kept: mean absolute difference of neighbouring frames over that of the reference; 1 is equal, inf if only
            the changed video moves.
        temporal_difference: mean absolute difference between the two videos' differences of neighbouring frames; 1 is
            the whole range of values.
        worst_frame: the frame with the lowest PSNR, from 0.
        worst_psnr: PSNR of that frame, dB.
    """

    frames: int
    psnr: float
    ssim: float
    lpips: float | None
    motion_kept: float
    temporal_difference: float
    worst_frame: int
    worst_psnr: float


class AdaCacheCompare(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AdaCacheCompare",
            display_name="AdaCache Compare",
            category=CATEGORY,
            description="Plays two videos of the same seed side by side, such as without and with AdaCache, and "
            "measures how far apart they are.",
            **found_by("PSNR", "SSIM", "LPIPS", "difference of two videos", "quality"),
            is_output_node=True,
            inputs=[
                io.MultiType.Input(
                    "reference", types=[io.Image, io.Latent], tooltip="The video without AdaCache (preset off)."
                ),
                io.MultiType.Input(
                    "changed",
                    types=[io.Image, io.Latent],
                    tooltip="The video with AdaCache, of the same seed and size.",
                ),
                io.Float.Input(
                    "amplify",
                    default=4.0,
                    min=1.0,
                    max=100.0,
                    step=1.0,
                    tooltip="How many times brighter the differences are drawn. Start from 4.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The MODEL from the AdaCache node. Latents are then compared as pictures, in its colours, "
                    "and the steps that were computed stand above the videos.",
                ),
                io.Float.Input(
                    "fps",
                    default=16.0,
                    min=1.0,
                    max=120.0,
                    step=1.0,
                    optional=True,
                    tooltip="Frames per second of the video that this node shows. Start from your video's own: 16 for "
                    "Wan, 24 for HunyuanVideo and LTXV.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="difference"),
                io.String.Output(display_name="report"),
                io.Float.Output(display_name="psnr"),
                io.Float.Output(display_name="ssim"),
                io.Float.Output(display_name="motion_kept"),
                io.Int.Output(display_name="worst_frame"),
                io.Image.Output(display_name="side_by_side"),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(
        cls,
        reference: Tensor | dict,
        changed: Tensor | dict,
        amplify: float,
        model: Any = None,
        fps: float = 16.0,
    ) -> io.NodeOutput:
        report = None if model is None else _report_of(model, changed)
        is_latent = not isinstance(reference, Tensor)
        if model is not None:
            reference, changed = (_as_pictures(each, model) for each in (reference, changed))
        pair = frames_of(reference), frames_of(changed)
        if pair[0].shape != pair[1].shape:
            sizes = " and ".join(f"{len(each)} frames of {each.shape[3]} x {each.shape[2]}" for each in pair)
            raise AdaCacheError(
                f"videos of {sizes} ({pair[0].shape[1]} and {pair[1].shape[1]} channels) cannot be compared"
            )
        found = compare(*pair)
        video = side_by_side(*pair, found, report)
        return io.NodeOutput(
            difference(*pair, amplify, LATENT_PIXEL if is_latent else 1),
            json.dumps(finite(asdict(found)), indent=1),
            found.psnr,
            found.ssim,
            found.motion_kept,
            found.worst_frame,
            _as_images(video),
            ui=_shown(video, fps, cls),
        )


def _report_of(model: Any, changed: Tensor | dict) -> RunReport | None:
    """The report of the run that made this latent; for an IMAGE, the report of the newest run."""
    attachment = attachment_of(model)
    if attachment is None:
        return None
    report, which = attachment.report_for(None if isinstance(changed, Tensor) else changed["samples"])
    return report if isinstance(changed, Tensor) or not which else None


def _as_pictures(video: Tensor | dict, model: Any) -> Tensor:
    return video if isinstance(video, Tensor) else pictures_of(model, video["samples"])


def side_by_side(reference: Tensor, changed: Tensor, found: Comparison, report: RunReport | None) -> list[Image.Image]:
    """Both videos in one, with captions.

    Args:
        reference, changed: (frames, channels, height, width); latents are shown in grey.
        found: their comparison.
        report: of the run that made `changed`.
    """
    lowest, span = reference.min(), span_of(reference)
    videos = []
    for video in (reference, changed):
        grey = None if is_picture(reference) else ((video - lowest) / span).mean(dim=1, keepdim=True)
        shown = video if grey is None else grey.expand(-1, 3, -1, -1)
        pixels = (shown.float().clamp(0, 1) * 255).round().byte().movedim(1, -1).cpu().numpy()
        videos.append([Image.fromarray(frame) for frame in pixels])
    return beside(videos, report, "equal" if found.psnr == PSNR_MAX else f"{found.psnr:.1f} dB PSNR")


def _as_images(frames: list[Image.Image]) -> Tensor:
    return torch.cat([as_image(frame) for frame in frames])


def _shown(frames: list[Image.Image], fps: float, node: type[io.ComfyNode]) -> ui.SavedImages:
    """Saves the video for the node, which plays it."""
    small = [frame.copy() for frame in frames]
    for frame in small:
        frame.thumbnail((WIDEST, WIDEST))
    saved = ui.ImageSaveHelper.save_animated_webp(
        _as_images(small), "adacache_compare", io.FolderType.temp, node, fps, lossless=False, quality=90, method=4
    )
    return ui.SavedImages([saved], is_animated=True)


def frames_of(video: Tensor | dict) -> Tensor:
    """The frames as (frames, channels, height, width), the videos of a batch one after another.

    Args:
        video: IMAGE or LATENT; if it has sound, only the video is used.
    """
    if isinstance(video, Tensor):
        return video.movedim(-1, 1)
    samples = video["samples"]
    samples = samples.unbind()[0] if getattr(samples, "is_nested", False) else samples
    return samples.movedim(2, 1).flatten(0, 1) if samples.ndim == 5 else samples


def is_picture(video: Tensor) -> bool:
    """Whether the values are colours (three channels, 0 to 1), not numbers of a latent."""
    return video.shape[1] == 3 and video.min().item() >= 0 and video.max().item() <= 1


def span_of(video: Tensor) -> float:
    """Largest minus smallest value, never 0."""
    return max((video.max() - video.min()).item(), torch.finfo(torch.float32).tiny)


def compare(reference: Tensor, changed: Tensor) -> Comparison:
    """Compares `changed` with `reference`, (frames, channels, height, width) each.

    PSNR and SSIM take as range of values 1 for pictures, and the range of the reference for latents.
    """
    from kornia.metrics import ssim  # ComfyUI installs it; imported here so that the other nodes load without it

    picture = is_picture(reference)
    lowest, span = (0.0, 1.0) if picture else (reference.min().item(), span_of(reference))
    window = min(SSIM_WINDOW, *((side - 1) // 2 * 2 + 1 for side in reference.shape[2:]))
    of_frames, alike, moved, moves, apart = [], [], [], [], []
    before = None
    for pair in zip(reference, changed, strict=True):  # one by one: SSIM of a whole video takes 40 times its memory
        plain, other = ((frame[None].double() - lowest) / span for frame in pair)
        of_frames.append(psnr(plain, other).clamp(max=PSNR_MAX).item())
        alike.append(ssim(other, plain, window, eps=0.0, padding="valid").nan_to_num(1.0).mean().item())
        if before is not None:
            step, other_step = plain - before[0], other - before[1]
            moved.append(step.abs().mean().item())
            moves.append(other_step.abs().mean().item())
            apart.append((other_step - step).abs().mean().item())
        before = plain, other
    return Comparison(
        frames=len(reference),
        psnr=fmean(of_frames),
        ssim=fmean(alike),
        lpips=_lpips(reference, changed) if picture and min(reference.shape[2:]) >= LPIPS_SMALLEST else None,
        motion_kept=share_kept(sum(moved), sum(moves)),
        temporal_difference=fmean(apart) if apart else 0.0,
        worst_frame=min(range(len(of_frames)), key=of_frames.__getitem__),
        worst_psnr=min(of_frames),
    )


def _lpips(reference: Tensor, changed: Tensor) -> float | None:
    """Mean LPIPS over frames; None unless the package and its weights are installed. Downloads nothing."""
    if find_spec("lpips") is None or not (Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET).exists():
        return None
    from lpips import LPIPS

    network = LPIPS(net="alex", verbose=False)
    with torch.inference_mode():
        pairs = zip(reference, changed, strict=True)
        distances = [network(*(2 * frame[None].float() - 1 for frame in pair)).item() for pair in pairs]
    return sum(distances) / len(distances)


def difference(reference: Tensor, changed: Tensor, amplify: float, pixel: int) -> Tensor:
    """IMAGE of the differences: white where they reach the range of values / `amplify`, black where there are none."""
    apart = torch.stack([(pair[1] - pair[0]).abs().mean(dim=0) for pair in zip(reference, changed, strict=True)])
    grey = (amplify / span_of(reference) * apart).clamp(0, 1).cpu().float()
    grey = grey.repeat_interleave(pixel, dim=1).repeat_interleave(pixel, dim=2)
    return grey[..., None].repeat(1, 1, 1, 3)
