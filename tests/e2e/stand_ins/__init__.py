"""A pack of nodes for `test_official.py` alone: what it takes to run official templates without files of many GB.

The diffusion models are real files, tiny and random, that the host's own loaders read into its own classes. Texts,
VAEs and the upscaler have no small files: they are made up here, of the right shapes, and the host's own nodes encode,
decode and save with them. What is seen in such a video says nothing.
"""

from __future__ import annotations

import hashlib
import json
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import comfy.model_patcher
import folder_paths
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "host"))

from tiny import VARIANTS, Variant
from tiny.variant import fill
from tiny.wan import wan

MODELS = VARIANTS | {"Wan 2.2 i2v": Variant(wan(in_dim=36))}  # which sees no picture through CLIP
RANK = 2  # of LoRAs


class Weights:
    """Writes a file of weights."""

    OUTPUT_NODE, RETURN_TYPES, FUNCTION, CATEGORY = True, (), "write", "stand-ins"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"kind": (list(MODELS),), "folder": ("STRING", {}), "name": ("STRING", {})}}

    def write(self, kind: str, folder: str, name: str) -> dict:
        import comfy.ops

        made = MODELS[kind]
        settings = {"operations": comfy.ops.disable_weight_init, "dtype": torch.float32, "device": "meta"}
        weights = {key: each.contiguous() for key, each in fill(made.architecture(settings | made.sizes)).items()}
        metadata = {"config": json.dumps({"transformer": made.sizes})} if made.sizes else None
        if folder == "loras":
            weights = lora(weights)
        if folder == "checkpoints":
            weights = {f"model.diffusion_model.{key}": each for key, each in weights.items()}
        path = Path(folder_paths.get_folder_paths(folder)[0]) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(weights, path, metadata)
        return {}


def lora(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A LoRA for the first block of a model with these weights."""
    dice, made = torch.Generator().manual_seed(5), {}
    for key, each in weights.items():
        if each.ndim == 2 and "blocks.0." in key:
            name = f"diffusion_model.{key.removesuffix('.weight')}"
            made[f"{name}.lora_A.weight"] = 0.1 * torch.randn(RANK, each.shape[1], generator=dice)
            made[f"{name}.lora_B.weight"] = 0.1 * torch.randn(each.shape[0], RANK, generator=dice)
    return made


class Text:
    """What a text encoder does, with six tokens of any text."""

    def __init__(self, width: int, extras: dict[str, Any]) -> None:
        self.width, self.extras = width, extras
        self.cond_stage_model, self.tokenizer = nn.Identity(), SimpleNamespace()
        self.patcher = SimpleNamespace(set_attachments=lambda *_: None)

    def tokenize(self, text: str, **_: Any) -> str:
        return text

    def encode_from_tokens_scheduled(self, text: str) -> list:
        return [[dice(text, 1, 6, self.width), dict(self.extras)]]

    def generate(self, text: str, **_: Any) -> str:
        return text

    def decode(self, text: str, **_: Any) -> str:
        return text

    def clone(self) -> Text:
        return self

    def add_patches(self, *_: Any) -> list:
        return []


def dice(text: str, *shape: int) -> Tensor:
    """Random numbers, the same for the same text."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(zlib.crc32(text.encode())))


class Pictures:
    """What a VAE of videos does to shapes."""

    def __init__(
        self, channels: int, space: int, latent_frames: Callable[[int], int], frames: Callable[[int], int]
    ) -> None:
        self.channels, self.space, self.latent_frames, self.frames = channels, space, latent_frames, frames
        self.downscale_index_formula = (frames(2) - frames(1), space, space)
        self.latent_channels = channels
        same = SimpleNamespace(normalize=lambda latent: latent, un_normalize=lambda latent: latent)
        self.first_stage_model = SimpleNamespace(per_channel_statistics=same)

    def encode(self, pixels: Tensor) -> Tensor:
        frames, height, width = pixels.shape[-4:-1]
        of = f"{pixels.mean().item():.6f}"
        return dice(of, 1, self.channels, self.latent_frames(frames), height // self.space, width // self.space)

    def decode(self, latent: Tensor) -> Tensor:
        frames, height, width = latent.shape[-3:]
        size = self.frames(frames), self.space * height, self.space * width
        return nn.functional.interpolate(latent[:, :3].float(), size=size).sigmoid().movedim(1, -1)

    def decode_tiled(self, latent: Tensor, **_: Any) -> Tensor:
        return self.decode(latent)

    def spacial_compression_decode(self) -> int:
        return self.space

    spacial_compression_encode = spacial_compression_decode

    def temporal_compression_decode(self) -> int:
        return self.downscale_index_formula[0]


class Sound:
    """What a VAE of sound does to shapes: `rate` samples a second, of which each latent frame is `hop`."""

    def __init__(self, rate: int, hop: int, shape: Callable[[int], tuple[int, ...]], along: int) -> None:
        self.audio_sample_rate, self.hop, self.shape, self.along = rate, hop, shape, along
        self.latent_channels, self.first_stage_model = shape(1)[1], self
        self.output_sample_rate, self.latent_frequency_bins = rate, shape(1)[-1]

    def num_of_latents_from_frames(self, frames: int, rate: float) -> int:
        return max(1, round(frames / rate * self.audio_sample_rate / self.hop))

    def encode(self, waveform: Tensor) -> Tensor:
        return dice(f"{waveform.mean().item():.6f}", *self.shape(max(1, waveform.shape[1] // self.hop)))

    def decode(self, latent: Tensor) -> Tensor:
        samples = self.hop * latent.shape[self.along]
        wave = nn.functional.interpolate(latent.float().flatten(1)[:, None], size=samples)
        return wave.tanh().expand(-1, 2, -1).movedim(1, -1).clone()


def every(number: int) -> dict[str, Callable[[int], int]]:
    """Of one frame a latent frame, then of so many."""
    return {
        "latent_frames": lambda frames: (frames - 1) // number + 1,
        "frames": lambda latent_frames: (latent_frames - 1) * number + 1,
    }


MINIMAX = {  # 5 frames in two, then 17 in five
    "latent_frames": lambda frames: 2 + 5 * max(0, (frames - 5) // 17) if frames > 1 else 1,
    "frames": lambda latent_frames: 5 + 17 * ((latent_frames - 2) // 5) if latent_frames > 1 else 1,
}
VAES = {
    "wan": lambda: Pictures(16, 8, **every(4)),
    "minimax": lambda: Pictures(24, 16, **MINIMAX),
    "minimax sound": lambda: Sound(32000, 800, lambda frames: (1, 32, 2, frames), along=3),
    "ltx": lambda: Pictures(128, 32, **every(8)),
    "ltx sound": lambda: Sound(16000, 640, lambda frames: (1, 8, frames, 16), along=2),
}
TEXTS = {
    "wan": lambda: Text(4096, {}),
    "minimax": lambda: Text(48, {}),
    "ltx": lambda: Text(48, {"attention_mask": torch.ones(1, 6, dtype=torch.int64)}),
    "ltx 2": lambda: Text(64, {"attention_mask": torch.ones(1, 6, dtype=torch.int64)}),
}


def loader(made: dict[str, Callable[[], Any]], of_type: str) -> type:
    """A node that gives one of these."""

    class Loader:
        RETURN_TYPES, FUNCTION, CATEGORY = (of_type,), "load", "stand-ins"

        @classmethod
        def INPUT_TYPES(cls) -> dict:
            return {"required": {"kind": (list(made),)}}

        def load(self, kind: str) -> tuple:
            return (made[kind](),)

    return Loader


class Twice(nn.Module):
    """Makes latents twice as wide and as high."""

    def forward(self, latent: Tensor) -> Tensor:
        return nn.functional.interpolate(latent, scale_factor=(1, 2, 2))

    def get_dtype(self) -> torch.dtype:
        return torch.float32


def upscaler() -> Any:
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(Twice(), load_device=cpu, offload_device=cpu)


class Witness:
    """Says which latent came to it, bit for bit, and how often diffusion models were called so far."""

    OUTPUT_NODE, RETURN_TYPES, FUNCTION, CATEGORY = True, (), "say", "stand-ins"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"latent": ("LATENT",)}}

    def say(self, latent: dict) -> dict:
        samples = latent["samples"]
        parts = samples.unbind() if samples.is_nested else [samples]
        assert all(part.isfinite().all() for part in parts)
        digest = hashlib.sha256(b"".join(part.contiguous().numpy().tobytes() for part in parts)).hexdigest()
        return {"ui": {"text": [digest, str(calls)]}}


calls = 0


def count(module: nn.Module, _: Any) -> None:
    """Counts inside of torch, where no pack has a say."""
    global calls
    if type(module).__name__ in ("WanModel", "CameraWanModel", "MiniMaxH3Model", "LTXAVModel"):
        calls += 1


nn.modules.module.register_module_forward_pre_hook(count)

NODE_CLASS_MAPPINGS = {
    "StandInWeights": Weights,
    "StandInText": loader(TEXTS, "CLIP"),
    "StandInVAE": loader(VAES, "VAE"),
    "StandInUpscaler": loader({"twice": upscaler}, "LATENT_UPSCALE_MODEL"),
    "StandInWitness": Witness,
}
