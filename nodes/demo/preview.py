"""A latent as pictures, without a VAE: by the colours that the model's own latent format has for previews."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from comfy_api.latest import io
from einops import rearrange, repeat
from torch import Tensor

from ...adacache_core.errors import AdaCacheError
from ..schema import CATEGORY, found_by
from .model import HOLDS_CLIPS, clip_of


class AdaCacheLatentPreview(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AdaCacheLatentPreview",
            display_name="AdaCache Latent Preview",
            category=CATEGORY,
            description="Shows a latent as the sampler's live preview does, but all of its frames. Needs no VAE.",
            **found_by("latent to image", "preview without VAE"),
            inputs=[
                io.Model.Input("model", tooltip="The model that made the latent: its format has the colours."),
                io.Latent.Input("latent", tooltip="What the sampler made. Videos of a batch follow one another."),
                io.Int.Input(
                    "scale",
                    default=8,
                    min=1,
                    max=16,
                    tooltip="Picture pixels per latent pixel, in each direction. Start from 8, the size of the "
                    "decoded video for most models; 1 gives the plain numbers.",
                ),
                io.Boolean.Input(
                    "smooth",
                    default=False,
                    optional=True,
                    tooltip="On enlarges without hard edges; of the demo model it then shows all 16 frames of 32 x 32 "
                    "pixels that a latent holds. Start from on; off shows every number as a square.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image")],
        )

    @classmethod
    def execute(cls, model: Any, latent: dict, scale: int, smooth: bool = False) -> io.NodeOutput:
        if smooth:
            size = [side * scale for side in _video_in(latent["samples"]).shape[-2:]]
            return io.NodeOutput(_enlarged(pictures_of(model, latent["samples"]), size))
        pictures = latent_to_rgb(model.model, latent["samples"])
        return io.NodeOutput(repeat(pictures, "n h w c -> n (h dy) (w dx) c", dy=scale, dx=scale))


def pictures_of(model: Any, samples: Tensor) -> Tensor:
    """Frames in the finest way that needs no VAE: of the demo model the clip itself, of others their previews.

    Args:
        model: the host's MODEL.
        samples: see `latent_to_rgb`, as are what is returned and raised.
    """
    if model.get_attachment(HOLDS_CLIPS) and samples.ndim == 5:
        return clip_of(model.model.process_latent_in(samples.float()))
    return latent_to_rgb(model.model, samples)


def _video_in(samples: Tensor) -> Tensor:
    """Of several streams the first."""
    return samples.unbind()[0] if samples.is_nested else samples


def _enlarged(pictures: Tensor, size: list[int]) -> Tensor:
    larger = F.interpolate(pictures.movedim(-1, 1), size, mode="bicubic")
    return larger.movedim(1, -1).clamp(0, 1)


def latent_to_rgb(model: Any, samples: Tensor) -> Tensor:
    """Every frame of every batch item, in the colours of the host's own preview.

    Args:
        model: the host's BaseModel.
        samples: what a LATENT holds, (batch, channels, [frames,] height, width); of a latent with
            several streams (video and sound) the first is shown.

    Returns:
        (batch * frames, height, width, 3) in [0, 1].

    Raises:
        AdaCacheError: the model's format has no colours, or the latent is not of this format.
    """
    latent_format = model.latent_format
    factors, bias = latent_format.latent_rgb_factors, latent_format.latent_rgb_factors_bias
    if factors is None:
        raise AdaCacheError(
            f"{type(model).__name__} (latent format {type(latent_format).__name__}) has no preview colours; "
            "use VAE Decode to see its latents"
        )
    samples = _video_in(samples)
    if samples.shape[1] not in (latent_format.latent_channels, len(factors)):
        raise AdaCacheError(
            f"a latent of {samples.shape[1]} channels does not come from {type(model).__name__}, which has "
            f"{latent_format.latent_channels}; connect the model that made it"
        )
    if latent_format.latent_dimensions == 3 and samples.ndim == 4:
        samples = samples.unsqueeze(2)  # a picture is a video of one frame, as in the host's samplers
    samples = model.process_latent_in(samples.float())
    if reshape := getattr(latent_format, "latent_rgb_factors_reshape", None):  # newer than the oldest hosts
        samples = reshape(samples)
    if samples.ndim == 5:
        samples = rearrange(samples, "b c t h w -> (b t) c h w")
    weight = torch.tensor(factors, device=samples.device).T
    offset = None if bias is None else torch.tensor(bias, device=samples.device)
    rgb = F.linear(samples.movedim(1, -1), weight, offset)  # in [-1, 1], as the host's previews are
    return ((rgb + 1) / 2).clamp(0, 1)
