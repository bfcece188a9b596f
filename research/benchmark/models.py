"""AdaCache on CogVideoX, Latte and DiT from diffusers: whether it works, what a call costs, what is held.

The models are small and have random weights. The memory of caching per block is computed from the published sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

import torch
from torch import nn

from adacache_core import CacheConfig, Off
from tools.markdown import table

from .cost import memory, seconds
from .made import sentence
from .random_models import COMPUTED, REUSED, RandomModel, cogvideox, dit, latte

BUILDERS = {"CogVideoX": cogvideox, "Latte": latte, "DiT": dit}

OFF = CacheConfig(Off())
HALF = 2  # bytes of a number in bfloat16
PUBLISHED_PER_BLOCK = 2  # residuals for each block in the published code: attention; cross-attention with MLP


@dataclass(frozen=True)
class RealSize:
    """A published checkpoint, at the size that it is made for.

    Attributes:
        tokens: of one video (or image), without text.
        width: of a token.
        blocks: number of blocks of all kinds.
        source: of these numbers.
    """

    name: str
    tokens: int
    width: int
    blocks: int
    source: str

    @property
    def residual_bytes(self) -> int:
        return self.tokens * self.width * HALF

    @property
    def published_bytes(self) -> int:
        """Bytes held by caching per block, for one conditioning."""
        return self.blocks * PUBLISHED_PER_BLOCK * self.residual_bytes


REAL = {
    "CogVideoX": RealSize(
        "CogVideoX-2b, 720 x 480, 49 frames",
        13 * 30 * 45,
        30 * 64,
        30,
        "defaults of diffusers' CogVideoXTransformer3DModel, which are those of CogVideoX-2b",
    ),
    "Latte": RealSize(
        "Latte-1, 512 x 512, 16 frames", 16 * 32 * 32, 16 * 72, 28 + 28, "transformer/config.json of maxin-cn/Latte-1"
    ),
    "DiT": RealSize(
        "DiT-XL/2, 256 x 256",
        16 * 16,
        16 * 72,
        28,
        "defaults of diffusers' DiTTransformer2DModel, which are DiT-XL/2's",
    ),
}


def measure_models(repeats: int = 7) -> dict:
    """One row per model."""
    return {"rows": [{"model": name} | measure(build(), repeats) for name, build in BUILDERS.items()]}


def measure(model: RandomModel, repeats: int) -> dict:
    with torch.inference_mode():
        fits = fit(model)
        times = {name: median(each) for name, each in seconds(model, repeats).items()}
    shape = f"{len(model.all_blocks)} blocks, width {model.width}, {model.tokens} tokens"
    milliseconds = {f"{name}_ms": round(1000 * each, 2) for name, each in times.items()}
    return {"shape": shape} | fits | milliseconds | memory(model)


def fit(model: RandomModel) -> dict:
    """Whether AdaCache works here.

    Returns:
        `off_is_plain`: whether the output, when switched off, equals that of the plain model, bit for bit.
        `blocks_computed`, `blocks_reused`: how many blocks run in a computed call and in a reused call.
        `moreg`: why motion is not measured, "" if it is.
    """
    plain = model()
    with model.cached(OFF) as run:
        off = model.evaluate(run, 0)
    ran = _blocks_per_step(model)
    notes = [note for note in model.report(COMPUTED + 1).notes if note.startswith("MoReg off")]
    return {
        "off_is_plain": torch.equal(plain, off),
        "blocks_computed": ran[COMPUTED],
        "blocks_reused": ran[REUSED],
        "moreg": "".join(notes),
    }


def _blocks_per_step(model: RandomModel) -> list[int]:
    ran: list[nn.Module] = []
    hooks = [block.register_forward_pre_hook(lambda block, _: ran.append(block)) for block in model.all_blocks]
    counts = []
    with model.cached() as run:
        for step in range(REUSED + 1):
            ran.clear()
            model.evaluate(run, step)
            counts.append(len(ran))
    for hook in hooks:
        hook.remove()
    return counts


def section(stored: dict) -> str:
    """The section of docs/paper_tables.md, from what `measure_models` returned and how it was made."""
    rows = stored["rows"]
    lines = [
        "## CogVideoX, Latte and DiT\n",
        sentence(stored["made"]) + "\n",
        "Small transformers of diffusers' own classes, with random weights, one conditioning, in float32.\n",
        table(MEASURED, map(_measured, rows)),
        "\nThe next table is arithmetic for the published sizes, in bfloat16 and for one conditioning: we ran nothing",
        "of this size. A cache for each block, as published, holds tokens x width x blocks x",
        f"{PUBLISHED_PER_BLOCK} residuals x {HALF} bytes (for CogVideoX, its text tokens come on top). Ours holds",
        f"tokens x width x {HALF} bytes x the number of residuals in the table above.\n",
        table(AT_SIZE, map(_at_size, rows)),
    ]
    return "\n".join(lines) + "\n"


MEASURED = ["model", "shape", "off equals plain, bit for bit", "blocks run in a computed call, a reused call"]
MEASURED += ["plain ms", "computed ms", "reused ms", "residuals held", "peak beyond plain, residuals", "MoReg"]
AT_SIZE = ["model", "tokens", "width", "blocks", "per block, as published (MB)", "ours (MB)", "source of the sizes"]


def _measured(row: dict) -> list[str]:
    cells = [row["model"], row["shape"], "yes" if row["off_is_plain"] else "**no**"]
    cells += [f"{row['blocks_computed']}, {row['blocks_reused']}"]
    cells += [f"{row[name]:.1f}" for name in ("plain_ms", "computed_ms", "reused_ms")]
    return [*cells, str(row["held_residuals"]), str(row["peak_residuals"]), row["moreg"] or "on"]


def _at_size(row: dict) -> list[str]:
    real = REAL[row["model"]]
    ours = row["held_residuals"] * real.residual_bytes
    cells = [real.name, *(str(number) for number in (real.tokens, real.width, real.blocks))]
    return [*cells, f"{real.published_bytes / 1e6:.1f}", f"{ours / 1e6:.1f}", real.source]
