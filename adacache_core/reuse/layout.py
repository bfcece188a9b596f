"""Where a model keeps its blocks and heads, and where the video is in its tokens. Knows no model by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import AdaCacheError

# Multiples of the golden ratio, modulo 1, are evenly spread: the probe does not fall into the same columns of a frame.
_GOLDEN = 0.618033988749895


@dataclass(frozen=True)
class Head:
    """A module whose first positional argument is the output of the block stack.

    Attributes:
        path: dotted path of the module.
        takes: which tokens it gets if the model drops some before it (those of references, say): the "first" or the
            "last" ones.
    """

    path: str
    takes: str = "first"


@dataclass(frozen=True)
class StackLayout:
    """Where a module keeps its blocks and heads, and how it calls them.

    Attributes:
        blocks: dotted paths of the ModuleLists or ModuleDicts, in the order in which they run.
        heads: several if a call uses one of them or each stream has its own; () if no module follows the last block:
            then the blocks of the last container must take the stream as their first argument and return nothing else.
        stream: keyword of the hidden states in a call of a block without positional arguments.
        output: index of the hidden states in the tuple that a block returns.
        argument: index of the hidden states among a block's positional arguments.
        batch: batch dimension of the hidden states; None: they have none.
        by_index: the model does not iterate over the blocks; it takes their number and gets each by its index.
        method: the method of a block that the model calls.
        streams: number of streams that blocks take and return as a tuple (video and audio, say). The first one is
            probed. Their heads are called in this order.
    """

    blocks: tuple[str, ...]
    heads: tuple[Head, ...]
    stream: str = "hidden_states"
    output: int = 0
    argument: int = 0
    batch: int | None = 0
    by_index: bool = False
    method: str = "forward"
    streams: int = 1

    def fits(self, module: nn.Module) -> bool:
        """Whether a module has all of these paths, and blocks in each container."""
        try:
            containers = [place_of(module, path).child for path in self.blocks]
            for head in self.heads:
                place_of(module, head.path)
        except AdaCacheError:
            return False
        classes = (nn.ModuleList, nn.ModuleDict)
        return all(isinstance(container, classes) and len(container) > 0 for container in containers)

    def given(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The hidden states among the arguments of a block; of several streams, a sequence."""
        return args[self.argument] if args else kwargs[self.stream]

    def returned(self, out: Any) -> Tensor:
        """The hidden states in what a block returns; of several streams, the first."""
        return out if isinstance(out, Tensor) else out[self.output]

    def batch_first(self, x: Tensor) -> Tensor:
        """A view of hidden states, (batch, ..., width)."""
        return x[None] if self.batch is None else x.movedim(self.batch, 0)


@dataclass(frozen=True)
class Place:
    """A child module, given by its parent and its name there."""

    parent: nn.Module
    name: str

    @property
    def child(self) -> nn.Module:
        return cast(nn.Module, self.parent._modules[self.name])


def place_of(module: nn.Module, path: str) -> Place:
    """The place of a submodule.

    Args:
        module: where the path begins.
        path: dotted.

    Raises:
        AdaCacheError: there is no such submodule.
    """
    *parents, name = path.split(".")
    for part in parents:
        module = _child(module, part, getattr(module, part, None))
    _child(module, name, module._modules.get(name))
    return Place(module, name)


def _child(parent: nn.Module, name: str, child: Any) -> nn.Module:
    if not isinstance(child, nn.Module):
        raise AdaCacheError(f"{type(parent).__name__} has no submodule {name!r}")
    return child


@dataclass(frozen=True)
class Grid:
    """Where the video is in the tokens: `frames * positions` of them from `start`, frame by frame.

    Attributes:
        frames: latent frames after patching.
        positions: tokens per frame.
        start: number of tokens before the video (references, say); a negative one counts from the end.
    """

    frames: int
    positions: int
    start: int = 0

    def begin(self, tokens: int) -> int:
        """Index of the video's first token in a stream of so many."""
        return self.start if self.start >= 0 else tokens + self.start

    def fits(self, tokens: int) -> bool:
        """Whether a stream of so many tokens holds the video."""
        begin = self.begin(tokens)
        return self.frames > 0 and self.positions > 0 and 0 <= begin <= tokens - self.frames * self.positions


def probe_positions(tokens: int, grid: Grid | None, stride: int, device: torch.device | None = None) -> Tensor | None:
    """Which tokens the probe looks at: one in `stride`, at the same positions in every frame.

    Args:
        tokens: length of the stream.
        grid: where the video is; None: unknown, and the whole stream counts as one frame.
        stride: 1 takes every token of the video.
        device: where the indices are made.

    Returns:
        Token indices, int64, (n,), frame by frame; None: the whole stream as it is.
    """
    if grid is None:
        grid = Grid(1, tokens)
    if stride == 1 and grid.frames * grid.positions == tokens:
        return None
    count = max(1, grid.positions // stride)
    picks = torch.arange(count, device=device)
    picks = picks * stride + (picks * _GOLDEN % 1 * stride).long()
    frames = torch.arange(grid.frames, device=device) * grid.positions + grid.begin(tokens)
    return (frames[:, None] + picks[None, :]).flatten()
