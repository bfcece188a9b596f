"""Every block with a schedule of its own. The paper says that this is unstable and lets all blocks share one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import mean
from typing import Any

from diffusers import WanTransformer3DModel
from torch import Tensor, nn
from tqdm import tqdm

from adacache_core import FAST_30, CacheConfig, Codebook
from adacache_core.decide.base import Course
from adacache_core.decide.change import change_sums
from adacache_core.decide.metric import Sums
from research import demo_model
from research.quality import compare
from tools.markdown import table

from .made import sentence
from .videos import CFG, Video, videos


class OwnSchedule(nn.Module):
    """A block that watches what it adds itself, and skips itself when that changes little.

    Attributes:
        step: of the sampler, to be set before each model call.
        computed: the steps at which the block ran.
    """

    def __init__(self, block: nn.Module, config: CacheConfig, steps: int) -> None:
        super().__init__()
        self.block = block
        self.controller = config.policy.controller(Course(steps))
        self.state = self.controller.begin()
        self.step = 0
        self.computed: list[int] = []
        self._added: Tensor | None = None

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self._added is not None and not self.controller.decide(self.state, self.step).compute:
            return x + self._added
        out = self.block(x, *args, **kwargs)
        added = out - x
        sums = None if self._added is None else Sums(change_sums(added, self._added))
        self.state = self.controller.computed(self.state, self.step, sums)
        self.computed.append(self.step)
        self._added = added
        return out


def stricter(table: Codebook, factor: float) -> Codebook:
    """The table with every threshold but the last times `factor`."""
    *rows, last = table.entries
    return Codebook((*((threshold * factor, rate) for threshold, rate in rows), last), table.steps)


@contextmanager
def scheduled_apart(
    containers: Sequence[nn.ModuleList], config: CacheConfig, steps: int
) -> Iterator[list[OwnSchedule]]:
    """Each block of the containers decides for itself, for one run.

    Args:
        containers: of blocks that take the stream first and return it.
        config: settings of every block; its probe is all of what the block adds.
        steps: of the sampler; what is yielded has to be told the present one.
    """
    originals = [list(container) for container in containers]
    own = [[OwnSchedule(block, config, steps) for block in blocks] for blocks in originals]
    try:
        _fill(containers, own)
        yield [block for blocks in own for block in blocks]
    finally:
        _fill(containers, originals)


def _fill(containers: Sequence[nn.ModuleList], blocks: Sequence[Sequence[nn.Module]]) -> None:
    for container, inhabitants in zip(containers, blocks, strict=True):
        for index, block in enumerate(inhabitants):
            container[index] = block


# Of the fast table's thresholds: three strengths, so that one kind of schedule can be compared with the other.
FACTORS = (0.5, 0.7, 1.0)


def measure_per_layer(model: WanTransformer3DModel | None = None, chosen: Sequence[Video] | None = None) -> dict:
    """The demo model with one schedule for all blocks and with one for each.

    Args:
        model: from `demo_model.load`, by default.
        chosen: which videos; by default one of each motion class, 30 Euler steps.
    """
    model = model or demo_model.load()
    chosen = chosen or videos()
    plain = {video: demo_model.preview(_integrated(video, _guided(model, video))) for video in chosen}
    rows = []
    for factor in FACTORS:
        config = CacheConfig(stricter(FAST_30, factor), probe_stride=1)
        for kind, sample in (("one for all", _with_one), ("one for each block", _with_many)):
            results = [(video, *sample(model, video, config)) for video in tqdm(chosen, desc=f"{kind}, x {factor:g}")]
            qualities = [compare(plain[video], demo_model.preview(latent)) for video, latent, _ in results]
            row = {"schedule": kind, "thresholds": factor}
            row["block_calls"] = round(mean(share for *_, share in results), 4)
            row["psnr"] = round(mean(quality.psnr for quality in qualities), 3)
            row["ssim"] = round(mean(quality.ssim for quality in qualities), 4)
            rows.append(row)
    return {"videos": len(chosen), "steps": chosen[0].steps, "cfg": CFG, "rows": rows}


def _with_one(model: WanTransformer3DModel, video: Video, config: CacheConfig) -> tuple[Tensor, float]:
    latent, report = demo_model.sample(model, video.prompt, video.seed, video.steps, CFG, config)
    assert report is not None
    return latent, report.computed / report.total


def _with_many(model: WanTransformer3DModel, video: Video, config: CacheConfig) -> tuple[Tensor, float]:
    with scheduled_apart([model.blocks], config, video.steps) as blocks:

        @contextmanager
        def around(step: int, sigma: float) -> Iterator[None]:
            for block in blocks:
                block.step = step
            yield

        latent = _integrated(video, _guided(model, video, around))
    return latent, mean(len(block.computed) for block in blocks) / video.steps


def _guided(model: WanTransformer3DModel, video: Video, *around: Any) -> demo_model.Evaluate:
    return demo_model.guided(model, demo_model.guided_context(video.prompt, CFG), CFG, *around)


def _integrated(video: Video, evaluate: demo_model.Evaluate) -> Tensor:
    return demo_model.integrate(evaluate, demo_model.noise_of(video.seed), video.steps)


def section(stored: dict) -> str:
    """The page's part, from what `measure_per_layer` returned and how it was made."""
    heads = ("schedule", "thresholds", "block calls", "PSNR", "SSIM")
    rows = [
        (
            row["schedule"],
            f"x {row['thresholds']:g}",
            f"{row['block_calls']:.3f}",
            f"{row['psnr']:.2f}",
            f"{row['ssim']:.3f}",
        )
        for row in stored["rows"]
    ]
    return f"""\
## A schedule for each block

{sentence(stored["made"])}

The paper lets all blocks share one schedule. It calls schedules of their own unstable, without figures. This table
shows why: the demo model, {stored["videos"]} videos, {stored["steps"]} Euler steps, cfg {stored["cfg"]:g}, and the fast
table with its thresholds times a factor. Either the middle block decides for all, or each block watches what it adds
itself. A block that runs among skipped ones gets an input that no full run has. What it makes of it misleads the next
blocks and its own metric. Only blocks that run cost anything, so compare PSNR at equal block calls.
`tests/parity/test_per_layer.py` shows the same on a network like the reference's.

{table(heads, rows)}
"""
