"""Finds what TeaCache and MagCache must know about a model in advance, in the way of their authors.

Both use plain runs: `seen` records them, `fit` computes the constants.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from torch import Tensor, nn


@dataclass(frozen=True)
class Seen:
    """One call of a Wan model in its original layout. Rows are the conditionings, in the order of the batch.

    Attributes:
        embedding: of the timestep, (rows, width).
        projection: of the embedding, for the blocks, (rows, 6 width).
        residual: output of the last block minus input of the first, (rows, tokens, width).
        output: of the model, (rows, channels, frames, height, width).
    """

    embedding: Tensor
    projection: Tensor
    residual: Tensor
    output: Tensor


@dataclass(frozen=True)
class Fitted:
    """The result of `fit`.

    Attributes:
        teacache, teacache_retention: coefficients for the change of the embedding and of the projection.
        magcache: ratios of the residual's length, (steps,).
    """

    teacache: list[float]
    teacache_retention: list[float]
    magcache: np.ndarray


@contextmanager
def seen(model: nn.Module) -> Iterator[list[Seen]]:
    """Records the calls of the model inside the context, in order."""
    calls: list[Seen] = []
    now: dict[str, Tensor] = {}

    def keep(name: str):
        def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
            now[name] = output.clone()

        return hook

    def enter(block: nn.Module, args: tuple) -> None:
        now["input"] = args[0].clone()

    def leave(module: nn.Module, args: tuple, output: Tensor) -> None:
        residual = now["stack"] - now["input"]
        calls.append(Seen(now["embedding"], now["projection"], residual, output.clone()))

    handles = [
        model.time_embedding.register_forward_hook(keep("embedding")),
        model.time_projection.register_forward_hook(keep("projection")),
        model.blocks[0].register_forward_pre_hook(enter),
        model.blocks[-1].register_forward_hook(keep("stack")),
        model.register_forward_hook(leave),
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def fit(runs: Iterable[list[Seen]]) -> Fitted:
    """Computes the constants from the calls of plain runs, all with the same number of steps."""
    runs = list(runs)
    return Fitted(
        teacache=_polynomial(runs, "embedding"),
        teacache_retention=_polynomial(runs, "projection"),
        magcache=np.mean([_ratios(run) for run in runs], axis=0),
    )


def _polynomial(runs: list[list[Seen]], signal: str) -> list[float]:
    """Coefficients, highest power first, of a polynomial of degree 4: change of `signal` -> change of the output.

    As in Liu et al. 2024 (arXiv 2411.19108) and the authors' answer in ali-vilab/TeaCache#2: `np.polyfit` over all
    steps of all videos. Each conditioning counts by itself, as in TeaCache.
    """
    changes = [
        [_relative_l1(getattr(before, what)[row], getattr(after, what)[row]) for what in (signal, "output")]
        for run in runs
        for before, after in pairwise(run)
        for row in range(len(after.output))
    ]
    return np.polyfit(*np.transpose(changes), 4).tolist()


def _relative_l1(before: Tensor, after: Tensor) -> float:
    return ((after - before).abs().mean() / before.abs().mean()).item()


def _ratios(run: list[Seen]) -> np.ndarray:
    """Length of each residual over the length at the call before, mean over tokens and conditionings; the first is 1.

    Ma et al. 2025 (arXiv 2506.09045).
    """
    ratios = [(after.residual.norm(dim=-1) / before.residual.norm(dim=-1)).mean() for before, after in pairwise(run)]
    return np.array([1.0, *map(float, ratios)])
