"""A small STDiT3 (the network of Open-Sora 1.2) after the description in `golden/README.md`, and its sampler.

Plain modules and loops; it knows nothing of caching. Each block keeps what it last added, for the probes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

EPS = 1e-6

STREAM, WITHIN_FRAME, ACROSS_FRAMES = "b (t s) d", "(b t) s d", "(b s) t d"


class STDiT3(nn.Module):
    """Velocity of a latent video, (batch, channels, T, H, W), at a timestep in 0..1000.

    Args:
        config: `model_config` of the golden model runs.
    """

    def __init__(self, config: Mapping) -> None:
        super().__init__()
        dim, depth = config["hidden_size"], config["depth"]
        self.channels = config["in_channels"]
        self.patch = tuple(config["patch_size"])
        out = self.channels * (2 if config["pred_sigma"] else 1)
        self.x_embedder = PatchEmbed(self.channels, dim, self.patch, config["input_sq_size"])
        self.t_embedder, self.fps_embedder = ScalarEmbed(dim), ScalarEmbed(dim)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.y_embedder = CaptionEmbed(config["caption_channels"], dim, config["model_max_length"])
        self.rope = Rope(dim // config["num_heads"])
        self.spatial_blocks = nn.ModuleList(Block(dim, config, WITHIN_FRAME) for _ in range(depth))
        self.temporal_blocks = nn.ModuleList(Block(dim, config, ACROSS_FRAMES) for _ in range(depth))
        self.final_layer = Head(dim, math.prod(self.patch) * out)

    def forward(self, z: Tensor, t: Tensor, captions: Tensor, masks: Tensor, micro: Mapping) -> Tensor:
        """
        Args:
            z: (batch, channels, T, H, W). t: (batch,).
            captions: (batch, L, caption width). masks: (batch, L), 1 for a real token.
            micro: `micro_conditioning` of the golden model runs.
        """
        frames, rows, columns = (size // step for size, step in zip(z.shape[2:], self.patch, strict=True))
        x = self.x_embedder(z, math.sqrt(micro["height"] * micro["width"]))
        te = self.t_embedder(t) + self.fps_embedder(torch.full_like(t, micro["fps"]))
        t6 = rearrange(self.t_block(te), "b (six d) -> six b 1 d", six=6)
        captions = [rows[mask.bool()] for rows, mask in zip(self.y_embedder(captions), masks, strict=True)]
        for spatial, temporal in zip(self.spatial_blocks, self.temporal_blocks, strict=True):
            x = spatial(x, captions, t6, frames)
            x = temporal(x, captions, t6, frames, self.rope)
        out = self.final_layer(x, te)
        grid = dict(zip(("t", "h", "w", "pt", "ph", "pw"), (frames, rows, columns, *self.patch), strict=True))
        return rearrange(out, "b (t h w) (pt ph pw c) -> b c (t pt) (h ph) (w pw)", **grid)[:, : self.channels]


class PatchEmbed(nn.Module):
    """Tokens, frame-major, then row, then column, with their positions added: what the block stack is given."""

    def __init__(self, channels: int, dim: int, patch: tuple[int, ...], input_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(channels, dim, patch, patch)
        self.input_size = input_size

    def forward(self, z: Tensor, size: float) -> Tensor:
        x = self.proj(z)
        dim, _, rows, columns = x.shape[1:]
        base = round(math.sqrt(rows * columns)) / (size / self.input_size)
        row = _sines(torch.arange(rows) * base / rows, dim // 2)[:, None].expand(-1, columns, -1)
        column = _sines(torch.arange(columns) * base / columns, dim // 2)[None].expand(rows, -1, -1)
        positions = rearrange(torch.cat([column, row], -1), "h w d -> (h w) d")
        return rearrange(rearrange(x, "b d t h w -> b t (h w) d") + positions, "b t s d -> b (t s) d")


def _sines(positions: Tensor, width: int) -> Tensor:
    angles = positions[:, None] / 10000 ** (torch.arange(0, width, 2) / width)
    return torch.cat([angles.sin(), angles.cos()], -1)


class ScalarEmbed(nn.Module):
    """A number per sample, as 128 cosines and 128 sines through two linear maps."""

    half = 128

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * self.half, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None] * torch.exp(-math.log(10000) * torch.arange(self.half) / self.half)
        return self.mlp(torch.cat([angles.cos(), angles.sin()], -1))


class CaptionEmbed(nn.Module):
    """Caption tokens in the width of the stream; keeps the null caption, (L, caption width)."""

    def __init__(self, channels: int, dim: int, length: int) -> None:
        super().__init__()
        self.y_proj = Mlp(channels, dim, dim)
        self.register_buffer("y_embedding", torch.zeros(length, channels))

    def forward(self, captions: Tensor) -> Tensor:
        return self.y_proj(captions)


class Block(nn.Module):
    """Attention among the tokens of a group, then cross-attention, then an mlp.

    Attributes:
        groups: WITHIN_FRAME or ACROSS_FRAMES.
        added: what the last call added to the stream, (batch, tokens, width), by kind of residual:
            "attn" after its gate, "ca-mlp" cross-attention and gated mlp in one sum.
    """

    def __init__(self, dim: int, config: Mapping, groups: str) -> None:
        super().__init__()
        heads = config["num_heads"]
        self.groups = groups
        self.attn = Attention(dim, heads)
        self.cross_attn = CrossAttention(dim, heads)
        self.mlp = Mlp(dim, int(dim * config["mlp_ratio"]), dim)
        self.scale_shift_table = nn.Parameter(torch.zeros(6, dim))
        self.added: dict[str, Tensor] = {}

    def forward(self, x: Tensor, captions: list[Tensor], t6: Tensor, frames: int, rope: Rope | None = None) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.scale_shift_table[:, None, None] + t6
        groups = rearrange(_modulate(x, shift_a, scale_a), f"{STREAM} -> {self.groups}", t=frames)
        attention = rearrange(self.attn(groups, rope), f"{self.groups} -> {STREAM}", t=frames, b=len(x))
        a = gate_a * attention
        x = x + a
        c = self.cross_attn(x, captions)
        x = x + c
        m = gate_m * self.mlp(_modulate(x, shift_m, scale_m))
        self.added = {"attn": a, "ca-mlp": c + m}
        return x + m


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=EPS) * (1 + scale) + shift


class Attention(nn.Module):
    """Self-attention over the tokens of each group, (groups, tokens, width)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm, self.k_norm = RMSNorm(dim // heads), RMSNorm(dim // heads)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rope: Rope | None) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "g n (three h d) -> three g h n d", three=3, h=self.heads)
        q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = rope(q), rope(k)
        return self.proj(rearrange(_attend(q, k, v), "g h n d -> g n (h d)"))


class CrossAttention(nn.Module):
    """Every token of a sample looks at the sample's own caption tokens."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_linear = nn.Linear(dim, dim)
        self.kv_linear = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, captions: list[Tensor]) -> Tensor:
        queries = rearrange(self.q_linear(x), "b n (h d) -> b h n d", h=self.heads)
        seen = []
        for q, caption in zip(queries, captions, strict=True):
            k, v = rearrange(self.kv_linear(caption), "l (two h d) -> two h l d", two=2, h=self.heads)
            seen.append(_attend(q, k, v))
        return self.proj(rearrange(torch.stack(seen), "b h n d -> b n (h d)"))


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ v


class RMSNorm(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * self.weight


class Rope(nn.Module):
    """Rotates neighbouring channels of (..., tokens, width) by token index times `freqs`."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.zeros(head_dim // 2))

    def forward(self, x: Tensor) -> Tensor:
        angles = torch.arange(x.shape[-2])[:, None] * self.freqs
        even, odd = x[..., 0::2], x[..., 1::2]
        turned = even * angles.cos() - odd * angles.sin(), odd * angles.cos() + even * angles.sin()
        return torch.stack(turned, -1).flatten(-2)


class Mlp(nn.Module):
    def __init__(self, inner: int, hidden: int, out: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(inner, hidden), nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Head(nn.Module):
    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.zeros(2, dim))
        self.linear = nn.Linear(dim, out)

    def forward(self, x: Tensor, te: Tensor) -> Tensor:
        shift, scale = (self.scale_shift_table[:, None] + te)[:, :, None]
        return self.linear(_modulate(x, shift, scale))


def timesteps(steps: int, micro: Mapping, span: int) -> list[float]:
    """Rectified flow from `span` (noise) towards 0, crowded towards the noise for large videos."""
    ratio = math.sqrt(micro["height"] * micro["width"] / 512**2) * math.sqrt(micro["num_frames"] // 17 * 5)
    u = [1 - i / steps for i in range(steps)]
    return [span * ratio * u_i / (1 + (ratio - 1) * u_i) for u_i in u]


@torch.no_grad()
def sample(
    model: STDiT3,
    prompts: list[Mapping[str, Tensor]],
    steps: int,
    cfg_scale: float,
    micro: Mapping,
    span: int,
    around: Callable[[int, float], AbstractContextManager],
) -> Tensor:
    """One video per prompt, all in one batch, with classifier-free guidance.

    Args:
        prompts: "caption" (1, 1, L, width), "mask" (1, L) and "noise" (1, channels, T, H, W) of each.
        span: number of timesteps the model was made for.
        around: (step from 0, timestep) -> what the model call of that step happens in.

    Returns:
        Final latents, (prompts, channels, T, H, W).
    """
    z, captions, masks = (torch.cat([prompt[name] for prompt in prompts]) for name in ("noise", "caption", "mask"))
    captions = torch.cat([captions[:, 0], model.y_embedder.y_embedding.expand(len(z), -1, -1)])
    masks = torch.cat([masks, masks])
    times = timesteps(steps, micro, span)
    for step, (t, after) in enumerate(zip(times, [*times[1:], 0.0], strict=True)):
        with around(step, t):
            batch = torch.cat([z, z])
            out = model(batch, torch.full((len(batch),), t), captions, masks, micro)
        v_prompt, v_null = out.chunk(2)
        z = z + (v_null + cfg_scale * (v_prompt - v_null)) * ((t - after) / span)
    return z
