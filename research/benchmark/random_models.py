"""Small video transformers of diffusers' own classes with random weights, to measure cost, not pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    CogVideoXTransformer3DModel,
    DiTTransformer2DModel,
    LatteTransformer3DModel,
    WanTransformer3DModel,
)
from torch import Tensor, nn

from adacache_core import AdaCache, CacheConfig, Codebook, MotionConfig, RunReport

# Metrics of random weights mean nothing. With this table the schedule is fixed: every second step is computed.
EVERY_OTHER = CacheConfig(Codebook(((1.0, 2),), steps=100), MotionConfig())

# Two steps of a run with it: a computed one, with everything that a computed step may have to do, and a reused one.
COMPUTED, REUSED = 3, 4


@dataclass(frozen=True)
class RandomModel:
    """A transformer, an input to it, and what AdaCache needs to know.

    Attributes:
        inputs: keyword arguments of forward.
        blocks, head: as for `AdaCache`.
        tokens, width: of the stream between the blocks, for all frames together.
        frames: number of frames; 0 if a sample does not hold all frames, one after another.
    """

    module: nn.Module
    inputs: dict[str, Any]
    blocks: tuple[str, ...]
    head: str
    tokens: int
    width: int
    frames: int = 0

    @property
    def residual_bytes(self) -> int:
        """Bytes of one residual of the whole stack, for one conditioning."""
        return self.tokens * self.width * self.inputs["hidden_states"].element_size()

    @property
    def all_blocks(self) -> list[nn.Module]:
        return [block for path in self.blocks for block in self.module.get_submodule(path)]

    def __call__(self) -> Tensor:
        return self.module(**self.inputs, return_dict=False)[0]

    def cached(self, config: CacheConfig = EVERY_OTHER) -> AdaCache:
        return AdaCache(self.module, blocks=self.blocks, head=self.head, steps=100, config=config)

    def evaluate(self, run: AdaCache, step: int) -> Tensor:
        """The output of the model at this step of a run."""
        positions = self.tokens // self.frames if self.frames else None
        with run.evaluation(step), run.call("key", self.frames or None, positions):
            return self()

    def report(self, steps: int) -> RunReport:
        """The report of a run in which every second step is reused."""
        with self.cached() as run:
            for step in range(steps):
                self.evaluate(run, step)
        return run.report


def wan(
    layers: int = 12, heads: int = 4, frames: int = 6, height: int = 20, width: int = 50, text: int = 77
) -> RandomModel:
    """Wan 2.1. `frames`, `height` and `width` are those of the latent, `text` counts tokens; heads have width 128."""
    torch.manual_seed(0)
    module = WanTransformer3DModel(
        num_attention_heads=heads, attention_head_dim=128, ffn_dim=512 * heads, num_layers=layers
    )
    inputs = {
        "hidden_states": torch.randn(1, 16, frames, height, width),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": torch.randn(1, text, 4096),
    }
    return RandomModel(
        module.eval(), inputs, ("blocks",), "norm_out", frames * height * width // 4, 128 * heads, frames
    )


def cogvideox(layers: int = 4, frames: int = 4, height: int = 16, width: int = 24, text: int = 16) -> RandomModel:
    """CogVideoX: its blocks take and return both text and video."""
    torch.manual_seed(0)
    module = CogVideoXTransformer3DModel(
        num_attention_heads=4,
        num_layers=layers,
        text_embed_dim=64,
        max_text_seq_length=text,
        sample_frames=4 * frames - 3,
        sample_height=height,
        sample_width=width,
    )
    inputs = {
        "hidden_states": torch.randn(1, frames, 16, height, width),
        "encoder_hidden_states": torch.randn(1, text, 64),
        "timestep": torch.tensor([500]),
    }
    tokens = frames * height * width // 4
    return RandomModel(module.eval(), inputs, ("transformer_blocks",), "norm_final", tokens, 256, frames)


def latte(layers: int = 4, frames: int = 4, size: int = 16, text: int = 16) -> RandomModel:
    """Latte: spatial and temporal blocks alternate; between blocks, each frame is a sample of its own."""
    torch.manual_seed(0)
    module = LatteTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=64,
        in_channels=4,
        out_channels=8,
        num_layers=layers,
        cross_attention_dim=256,
        attention_bias=True,
        sample_size=size,
        patch_size=2,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        caption_channels=64,
        video_length=frames,
    )
    inputs = {
        "hidden_states": torch.randn(1, 4, frames, size, size),
        "timestep": torch.tensor([500]),
        "encoder_hidden_states": torch.randn(1, text, 64),
    }
    blocks = ("transformer_blocks", "temporal_transformer_blocks")
    return RandomModel(module.eval(), inputs, blocks, "norm_out", frames * size * size // 4, 256)


def dit(layers: int = 4, size: int = 32) -> RandomModel:
    """DiT: makes one image of a class."""
    torch.manual_seed(0)
    module = DiTTransformer2DModel(
        num_attention_heads=4, attention_head_dim=64, num_layers=layers, sample_size=size, patch_size=2
    )
    inputs = {
        "hidden_states": torch.randn(1, 4, size, size),
        "timestep": torch.tensor([500]),
        "class_labels": torch.tensor([1]),
    }
    return RandomModel(module.eval(), inputs, ("transformer_blocks",), "norm_out", size * size // 4, 256)
