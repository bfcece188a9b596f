"""ComfyUI's video transformers at real sizes, with random weights made on the device. Knows nothing of AdaCache.

Has a table of shapes, builds a model with ComfyUI's own detection, and samples it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .hosted import STEPS


@dataclass(frozen=True)
class Shape:
    """One model and one video.

    Attributes:
        says: description for the page.
        architecture: "module:class" in ComfyUI.
        settings: of that class.
        latent: channels, frames, height, width.
        text: number of tokens, width.
        options: other fields of the conditioning.
        sound: shape of the sound's latent, if the model makes sound.
        stacks: attributes that hold the blocks.
    """

    says: str
    architecture: str
    settings: Mapping[str, Any]
    latent: tuple[int, int, int, int]
    text: tuple[int, int]
    options: Callable[[], dict[str, Any]] = dict
    sound: tuple[int, int, int] | tuple[()] = ()
    stacks: tuple[str, ...] = ("blocks",)


WAN = "comfy.ldm.wan.model:WanModel"
HUNYUAN = "comfy.ldm.hunyuan_video.model:HunyuanVideo"
MINIMAX = "comfy.ldm.minimax.model:MiniMaxH3Model"

_HUNYUAN = {
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": 768,
    "context_in_dim": 4096,
    "mlp_ratio": 4.0,
    "axes_dim": [16, 56, 56],
    "theta": 256,
    "patch_size": [1, 2, 2],
    "qkv_bias": True,
    "guidance_embed": True,
    "byt5": False,
    "meanflow": False,
    "use_cond_type_embedding": False,
    "vision_in_dim": None,
    "meanflow_sum": False,
}
_HUNYUAN_STACKS = ("double_blocks", "single_blocks")


def _pooled() -> dict[str, Any]:
    return {"pooled_output": torch.zeros(1, 768), "guidance": 6.0}


SHAPES: dict[str, Shape] = {
    "Wan 1.3B": Shape(
        "Wan 2.1 1.3B, 832 x 480, 81 frames",
        WAN,
        {"dim": 1536, "ffn_dim": 8960, "num_heads": 12, "num_layers": 30},
        (16, 21, 60, 104),
        (512, 4096),
    ),
    "Wan 14B": Shape(
        "Wan 2.1 14B, 832 x 480, 81 frames",
        WAN,
        {"dim": 5120, "ffn_dim": 13824, "num_heads": 40, "num_layers": 40},
        (16, 21, 60, 104),
        (512, 4096),
    ),
    "HunyuanVideo": Shape(
        "HunyuanVideo 13B, 960 x 544, 61 frames",
        HUNYUAN,
        _HUNYUAN | {"hidden_size": 3072, "num_heads": 24, "depth": 20, "depth_single_blocks": 40},
        (16, 16, 68, 120),
        (256, 4096),
        _pooled,
        stacks=_HUNYUAN_STACKS,
    ),
    "MiniMax-H3": Shape(
        "MiniMax-H3, 20 of its 50 blocks, latent 21 x 60 x 104, with sound",
        MINIMAX,
        {"num_layers": 20},
        (24, 21, 60, 104),
        (256, 5120),
        sound=(32, 2, 200),
    ),
    "Wan, shallow": Shape(
        "Wan of width 1536, 6 blocks, latent 5 x 32 x 32",
        WAN,
        {"dim": 1536, "ffn_dim": 4096, "num_heads": 12, "num_layers": 6},
        (16, 5, 32, 32),
        (64, 4096),
    ),
    "HunyuanVideo, shallow": Shape(
        "HunyuanVideo of width 1536, 3 + 3 blocks, latent 5 x 32 x 32",
        HUNYUAN,
        _HUNYUAN | {"hidden_size": 1536, "num_heads": 12, "depth": 3, "depth_single_blocks": 3},
        (16, 5, 32, 32),
        (64, 4096),
        _pooled,
        stacks=_HUNYUAN_STACKS,
    ),
    "Wan, tiny": Shape(
        "Wan of width 128, 4 blocks, latent 3 x 8 x 8",
        WAN,
        {"dim": 128, "ffn_dim": 256, "num_heads": 1, "num_layers": 4},
        (16, 3, 8, 8),
        (6, 4096),
    ),
    "MiniMax-H3, tiny": Shape(
        "MiniMax-H3 of width 256, 3 blocks, latent 3 x 8 x 8, with sound",
        MINIMAX,
        {
            "hidden_size": 256,
            "num_layers": 3,
            "token_refiner_num_layers": 1,
            "num_attention_heads": 2,
            "ffn_hidden_size": 256,
            "text_dim": 64,
            "time_embed_hidden_size": 64,
            "time_embed_dim": 32,
        },
        (24, 3, 8, 8),
        (6, 64),
        sound=(32, 2, 5),
    ),
    "HunyuanVideo, tiny": Shape(
        "HunyuanVideo of width 128, 2 + 2 blocks, latent 3 x 8 x 8",
        HUNYUAN,
        _HUNYUAN | {"hidden_size": 128, "num_heads": 1, "depth": 2, "depth_single_blocks": 2},
        (16, 3, 8, 8),
        (6, 4096),
        _pooled,
        stacks=_HUNYUAN_STACKS,
    ),
}


@dataclass(frozen=True)
class Made:
    """A model that can be sampled."""

    shape: Shape
    model: Any
    latent: Any
    text: Tensor = field(repr=False)

    @property
    def module(self) -> nn.Module:
        return self.model.model.diffusion_model

    @property
    def blocks(self) -> dict[str, nn.Module]:
        """Name in the module -> block."""
        return {
            f"{stack}.{name}": block
            for stack in self.shape.stacks
            for name, block in getattr(self.module, stack).named_children()
        }


def build(name: str, weights: torch.dtype, computing: torch.dtype, *, loaded: bool = False) -> Made:
    """Makes one of SHAPES.

    Args:
        weights: dtype in which the weights are stored.
        computing: dtype in which the model computes.
        loaded: whether ComfyUI's loader loads the weights and decides where they are, or they are made on the device.
    """
    import comfy.model_detection
    import comfy.model_management as management
    import comfy.model_patcher
    import comfy.sd

    shape = SHAPES[name]
    path, _, kind = shape.architecture.partition(":")
    architecture = getattr(importlib.import_module(path), kind)
    empty = architecture(**shape.settings, dtype=weights, device="meta", operations=nn)
    torch.manual_seed(0)
    if loaded:
        state = {key: filled(torch.empty_like(each, device="cpu"), key) for key, each in empty.state_dict().items()}
        model = comfy.sd.load_diffusion_model_state_dict(state, model_options={"dtype": weights})
    else:
        config = comfy.model_detection.model_config_from_unet(empty.state_dict(), "")
        config.set_inference_dtype(weights, None if weights == computing else computing)
        here = management.get_torch_device()
        inner = config.get_model(empty.state_dict(), "", device=here)
        with torch.no_grad():
            for key, each in inner.diffusion_model.state_dict().items():
                filled(each, key)
        inner.to(here)
        model = comfy.model_patcher.ModelPatcher(inner, load_device=here, offload_device=here)
    latent: Any = torch.zeros(1, *shape.latent)
    if shape.sound:
        import comfy.nested_tensor

        latent = comfy.nested_tensor.NestedTensor([latent, torch.zeros(1, *shape.sound)])
    text = torch.randn(1, *shape.text, generator=torch.Generator().manual_seed(7))
    return Made(shape, model, latent, text)


def filled(weight: Tensor, name: str) -> Tensor:
    """Random weights that keep activations at a normal size: norms 1, small biases, matrices N(0, 1 / fan-in)."""
    if not weight.is_floating_point():
        return weight.zero_()
    if weight.ndim == 1:
        return weight.fill_(1.0) if name.endswith("weight") else weight.fill_(0.01)
    if weight.element_size() == 1:  # torch draws no random numbers in eight bits
        return weight.copy_(torch.randn(weight.shape, device=weight.device) / weight[0].numel() ** 0.5)
    return weight.normal_(std=weight[0].numel() ** -0.5)


def sample(
    made: Made, model: Any = None, steps: int = STEPS, callback: Callable[..., None] | None = None, latent: Any = None
) -> Tensor:
    """Samples as ComfyUI's KSampler does, with one conditioning, in inference mode as in ComfyUI's executor.

    Args:
        model: a patched clone of the MODEL; by default the MODEL itself.
        callback: as for ComfyUI's samplers.
        latent: if another than the model's own.

    Returns:
        The video on the CPU; with sound, video and sound in one row.
    """
    import comfy.sample

    latent = made.latent if latent is None else latent
    conditioning = [[made.text, made.shape.options()]]
    with torch.inference_mode():
        video = comfy.sample.sample(
            model or made.model,
            comfy.sample.prepare_noise(latent, 1),
            steps,
            1.0,
            "euler",
            "simple",
            conditioning,
            conditioning,
            latent,
            callback=callback,
            disable_pbar=True,
            seed=1,
        )
    return torch.cat([part.flatten() for part in video.unbind()]) if video.is_nested else video
