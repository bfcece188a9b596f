"""Wan and models that are built on it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .variant import FRAMES, HEIGHT, WIDTH, Variant, noise, seen_by_clip


def wan(name: str = "WanModel", layers: int = 5, **settings: Any) -> Callable[[dict], nn.Module]:
    def architecture(common: dict) -> nn.Module:
        import comfy.ldm.wan
        import comfy.ldm.wan.model

        for file in pkgutil.iter_modules(comfy.ldm.wan.__path__):
            found = getattr(importlib.import_module(f"comfy.ldm.wan.{file.name}"), name, None)
            if found is not None:
                return found(dim=128, ffn_dim=256, num_heads=1, num_layers=layers, **settings, **common)
        raise ImportError(f"no class {name} in comfy.ldm.wan")

    return architecture


class _AnyMotion(nn.Module):
    """Replaces a motion encoder: 512 numbers of each face."""

    def get_motion(self, faces: Tensor) -> Tensor:
        return faces.flatten(1)[:, :512]


class _AnyFaces(nn.Module):
    """Replaces a face encoder: four tokens of width 128 for each latent frame."""

    def forward(self, motion: Tensor) -> Tensor:
        return motion[:, ::4].unflatten(-1, (4, 128))


class _AnySound(nn.Module):
    """Replaces a sound encoder: sixteen tokens of width 1536 for each latent frame."""

    def forward(self, audio: Tensor) -> Tensor:
        return audio.flatten(2)[..., : 16 * 1536].unflatten(-1, (16, 1536))


VARIANTS = {
    # An odd size: the patches of the last row and column are padded.
    "Wan t2v": Variant(wan(), size=(FRAMES, 7, 5)),
    "Wan i2v": Variant(
        wan(model_type="i2v", in_dim=36),
        lambda: {
            "concat_latent_image": noise(1, 16, FRAMES, HEIGHT, WIDTH),
            "concat_mask": torch.ones(1, 1, FRAMES, HEIGHT, WIDTH),
            "clip_vision_output": seen_by_clip(),
        },
    ),
    "Wan Fun control with a reference": Variant(
        wan(model_type="i2v", in_dim=48, in_dim_ref_conv=16),
        lambda: {
            "concat_latent_image": noise(1, 32, FRAMES, HEIGHT, WIDTH),
            "reference_latents": [noise(1, 16, 1, HEIGHT, WIDTH)],
        },
    ),
    "Wan Phantom": Variant(wan(), lambda: {"time_dim_concat": noise(1, 16, 2, HEIGHT, WIDTH)}),
    "Wan Camera": Variant(
        wan("CameraWanModel", model_type="camera", in_dim=32),
        lambda: {"camera_conditions": noise(1, 24, FRAMES, 8 * HEIGHT, 8 * WIDTH)},
    ),
    "Wan VACE": Variant(
        wan("VaceWanModel", vace_layers=2, vace_in_dim=96, layers=4),
        lambda: {
            "vace_frames": [noise(1, 32, FRAMES, HEIGHT, WIDTH)],
            "vace_mask": [torch.ones(1, 64, FRAMES, HEIGHT, WIDTH)],
            "vace_strength": [1.0],
        },
        between=("vace_blocks.0", "vace_blocks.1"),
    ),
    "Wan S2V": Variant(
        wan("WanModel_S2V"),
        lambda: {
            "audio_embed": noise(1, 25, 1024, 4 * FRAMES),
            "reference_latents": [noise(1, 16, 1, HEIGHT, WIDTH)],
            "reference_motion": noise(1, 16, 19, HEIGHT, WIDTH),
            "control_video": noise(1, 16, FRAMES, HEIGHT, WIDTH),
        },
        between=("audio_injector.injector.0", "audio_injector.injector.1"),
    ),
    "Wan HuMo": Variant(
        wan("HumoWanModel"),
        lambda: {"audio_embed": noise(1, FRAMES, 8, 5, 1280), "reference_latents": [noise(1, 16, 1, HEIGHT, WIDTH)]},
        stand_ins={"audio_proj": _AnySound},
    ),
    "Wan Animate": Variant(
        wan("AnimateWanModel", in_dim=36),
        lambda: {
            "face_video_pixels": noise(1, 3, 4 * (FRAMES - 1), 16, 16),
            "pose_video_latent": noise(1, 16, FRAMES - 1, HEIGHT, WIDTH),
            "concat_latent_image": noise(1, 16, FRAMES, HEIGHT, WIDTH),
            "clip_vision_output": seen_by_clip(),
        },
        between=("face_adapter.fuser_blocks.0",),
        stand_ins={"motion_encoder": _AnyMotion, "face_encoder": _AnyFaces},
    ),
    "Wan Animate 2": Variant(
        wan("WanAnimate2Model"),
        lambda: {
            "pose_video_latent": noise(1, 16, FRAMES - 1, HEIGHT, WIDTH),
            "concat_latent_image": noise(1, 16, FRAMES, HEIGHT, WIDTH),
            "clip_vision_output": seen_by_clip(),
        },
        method="forward_gen",
        sizes={"model_type": "animate2"},
    ),
    "Wan Dancer": Variant(
        wan("WanDancerModel", in_dim=36),
        lambda: {"audio_embed": noise(1, 8 * FRAMES, 35), "clip_vision_output_ref": seen_by_clip()},
        between=("music_injector.injector.0", "music_injector.injector.1"),
    ),
    "Wan Dancer at 24 frames per second": Variant(
        wan("WanDancerModel", in_dim=36),
        lambda: {"audio_embed": noise(1, 8 * FRAMES, 35), "fps": 24},
        between=("music_injector.injector.0", "music_injector.injector.1"),
        head="head_global",
    ),
    "SCAIL": Variant(
        wan("SCAILWanModel"),
        lambda: {
            "reference_latents": [noise(1, 16, 1, HEIGHT, WIDTH)],
            "pose_video_latent": noise(1, 16, FRAMES, HEIGHT // 2, WIDTH // 2),
        },
    ),
    "SCAIL 2": Variant(
        wan("SCAIL2WanModel"),
        lambda: {
            "reference_latents": [noise(1, 16, 1, HEIGHT, WIDTH), noise(1, 16, 1, HEIGHT, WIDTH, seed=12)],
            "pose_video_latent": noise(1, 16, FRAMES, HEIGHT // 2, WIDTH // 2),
            "driving_mask_28ch": torch.ones(1, FRAMES, 28, HEIGHT // 2, WIDTH // 2),
            "ref_mask_28ch": torch.ones(1, FRAMES + 2, 28, HEIGHT, WIDTH),
        },
    ),
}
