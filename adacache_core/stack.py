"""Run a module's block stack, record what it added, or skip it: without touching blocks or forward.

For the length of one call the block containers are exchanged for look-alikes that share the
original's `_modules` (names, length, indexing, LoRA keys, compiled children stay right) and differ
in what *iteration* yields: recording wrappers round two of the blocks, or nothing at all. The head is
wrapped to record its input, or to receive `x + R`. Knows no schedule and no model by name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, ItemsView, Iterator, KeysView, ValuesView
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from .errors import AdaCacheError

# The fractional part of the golden ratio spreads picks evenly, whatever the width of a frame.
_GOLDEN = 0.618033988749895


@dataclass(frozen=True)
class StackLayout:
    """Where a module keeps what we need.

    Attributes:
        blocks: dotted paths of the ModuleLists or ModuleDicts, in the order in which they run.
        head: dotted path of the module whose first positional argument is the stack's output; several, if a call
            uses one of several.
        stream: the keyword under which a block takes the hidden states when it is not given them
            as its first positional argument.
        output: which element of a block's output tuple is the hidden states.
        head_takes: where a model cuts tokens (references, say) off the stream before the head:
            whether the "first" or the "last" ones go on.
    """

    blocks: tuple[str, ...]
    head: str | tuple[str, ...]
    stream: str = "hidden_states"
    output: int = 0
    head_takes: str = "first"


@dataclass(frozen=True)
class Grid:
    """Where the video is in the token stream: frame-major, `frames * positions` tokens from `start`.

    Attributes:
        frames: latent frames after patching.
        positions: tokens per frame.
        start: tokens before the video (references).
    """

    frames: int
    positions: int
    start: int = 0

    def fits(self, tokens: int) -> bool:
        return self.frames > 0 and self.positions > 0 and self.start + self.frames * self.positions <= tokens


def probe_positions(tokens: int, grid: Grid | None, stride: int, device: torch.device | None = None) -> Tensor | None:
    """Which tokens the probe looks at: one in `stride`, the same positions in every frame.

    Args:
        tokens: length of the stream.
        grid: where the video is, or None if unknown (then the whole stream counts as one frame).
        stride: 1 takes every token of the video.
        device: where the indices are made; nothing is moved there.

    Returns:
        Token indices, int64, (n,), frame-major; None means the whole stream as it is.
    """
    if grid is None:
        grid = Grid(1, tokens)
    if stride == 1 and grid.start == 0 and grid.frames * grid.positions == tokens:
        return None
    count = max(1, grid.positions // stride)
    picks = torch.arange(count, device=device)
    picks = picks * stride + (picks * _GOLDEN % 1 * stride).long()
    frames = torch.arange(grid.frames, device=device) * grid.positions + grid.start
    return (frames[:, None] + picks[None, :]).flatten()


@dataclass
class Tape:
    """What one recorded call leaves behind.

    Attributes:
        grid, stride: which tokens to probe; `want_probe` False: no probe at all.
        stack_input: what the first block got, (batch, tokens, width), a copy.
        residual: head input - stack input, (batch, tokens, width), one tensor per chunk.
        probe: what the probe block added at the probe's tokens, (batch, n, width).
    """

    chunks: int = 1
    want_probe: bool = False
    grid: Grid | None = None
    stride: int = 4
    stack_input: Tensor | None = None
    residual: list[Tensor] = field(default_factory=list)
    probe: Tensor | None = None

    def note_stack_input(self, x: Tensor) -> None:
        # A copy, always: many models work in place on what they hand to their blocks.
        if self.stack_input is None:
            self.stack_input = x.clone()

    def sample(self, x: Tensor) -> Tensor:
        """The probe's tokens of a stream, as a copy."""
        flat = x.flatten(1, -2)
        if self.grid is not None and not self.grid.fits(flat.shape[1]):
            self.grid = None
        positions = probe_positions(flat.shape[1], self.grid, self.stride, flat.device)
        return flat.clone() if positions is None else flat[:, positions]


class BlockStack:
    """The block stack of one module instance.

    Args:
        module: holds the containers and the head somewhere below it.
        layout: where.
        probe_position: fraction of the depth of the first container that has blocks.

    Raises:
        AdaCacheError: a path of the layout leads nowhere, or no container has blocks.
    """

    def __init__(self, module: nn.Module, layout: StackLayout, probe_position: float = 0.5) -> None:
        self.layout = layout
        self._tape = Tape()
        self._residual: list[Tensor] = []
        containers = [_resolve(module, path) for path in layout.blocks]
        filled = [place for place in containers if place.child._modules]
        if not filled:
            raise AdaCacheError(f"{type(module).__name__} has no blocks under {', '.join(layout.blocks)}")
        self.depth = len(filled[0].child._modules)
        self.probe_index = min(int(probe_position * self.depth), self.depth - 1)
        paths = (layout.head,) if isinstance(layout.head, str) else layout.head
        heads = [_resolve(module, path) for path in paths]
        self._first = filled[0]
        self._recording_heads: list[_Exchange] = [(head, _Head(head.child, self._record_head)) for head in heads]
        self._recordings: dict[int, list[_Exchange]] = {}
        self._skipping: list[_Exchange] = [(place, _look_alike(place.child, {})) for place in containers]
        self._skipping += [(head, _Head(head.child, self._add_residual)) for head in heads]

    def _recording(self, avoid: Collection[int]) -> list[_Exchange]:
        """Look-alikes that record the first block and the probe: the nearest to its place that runs."""
        by_distance = sorted(range(self.depth), key=lambda index: abs(index - self.probe_index))
        probe = next((index for index in by_distance if index not in avoid), self.probe_index)
        if probe not in self._recordings:
            blocks = {
                name: _Recorder(block, self, first=index == 0, probe=index == probe) if index in (0, probe) else block
                for index, (name, block) in enumerate(cast(dict[str, nn.Module], self._first.child._modules).items())
            }
            self._recordings[probe] = [(self._first, _look_alike(self._first.child, blocks)), *self._recording_heads]
        return self._recordings[probe]

    @contextmanager
    def recording(self, tape: Tape, avoid: Collection[int] = ()) -> Iterator[None]:
        """For one call of the module: all blocks run, and `tape` receives what they added.

        Args:
            tape: empty, filled by the call.
            avoid: indices of blocks that somebody replaced for this call; they cannot be the probe.
        """
        self._tape = tape
        try:
            with _exchanged(self._recording(avoid)):
                yield
        finally:
            self._tape = Tape()

    @contextmanager
    def skipping(self, residual: list[Tensor]) -> Iterator[None]:
        """For one call of the module: no block runs, the head receives its input plus `residual`.

        Args:
            residual: one (batch, tokens, width) per chunk of the batch, not written to.
        """
        self._residual = residual
        try:
            with _exchanged(self._skipping):
                yield
        finally:
            self._residual = []

    def _record_head(self, x: Tensor) -> Tensor:
        tape = self._tape
        if tape.stack_input is not None:
            before = self._as_head_sees(tape.stack_input, x).chunk(tape.chunks)
            after = x.to(tape.stack_input.dtype).chunk(tape.chunks)
            tape.residual = [a - b for a, b in zip(after, before, strict=True)]
            tape.stack_input = None
        return x

    def _add_residual(self, x: Tensor) -> Tensor:
        parts = [part.to(x) for part in self._residual]
        return x + (parts[0] if len(parts) == 1 else torch.cat(parts)).view_as(x)

    def _as_head_sees(self, stack_input: Tensor, x: Tensor) -> Tensor:
        if stack_input.numel() == x.numel():
            return stack_input.view_as(x)
        tokens = x.shape[1]
        return stack_input[:, :tokens] if self.layout.head_takes == "first" else stack_input[:, -tokens:]


@dataclass(frozen=True)
class _Place:
    """A child module by the parent that holds it."""

    parent: nn.Module
    name: str

    @property
    def child(self) -> nn.Module:
        return cast(nn.Module, self.parent._modules[self.name])


_Exchange = tuple[_Place, nn.Module]


def _resolve(module: nn.Module, path: str) -> _Place:
    *parents, name = path.split(".")
    for part in parents:
        module = _child(module, part, getattr(module, part, None))
    _child(module, name, module._modules.get(name))
    return _Place(module, name)


def _child(parent: nn.Module, name: str, child: Any) -> nn.Module:
    if not isinstance(child, nn.Module):
        raise AdaCacheError(f"{type(parent).__name__} has no submodule {name!r}")
    return child


@contextmanager
def _exchanged(exchange: list[_Exchange]) -> Iterator[None]:
    originals = [(place, place.child) for place, _ in exchange]
    try:
        for place, stand_in in exchange:
            place.parent._modules[place.name] = stand_in
        yield
    finally:
        for place, original in originals:
            place.parent._modules[place.name] = original


def _look_alike(container: nn.Module, yields: dict[str, nn.Module]) -> nn.Module:
    """The container, but iteration yields other modules."""
    kind = _DictLookAlike if isinstance(container, nn.ModuleDict) else _ListLookAlike
    return kind(container, yields)


class _ListLookAlike(nn.ModuleList):
    _yields: dict[str, nn.Module]

    def __init__(self, original: nn.Module, yields: dict[str, nn.Module]) -> None:
        super().__init__()
        self.__dict__["_modules"] = original._modules
        self.__dict__["_yields"] = yields

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self._yields.values())

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):  # somebody iterates over a part
            return list(self)[index]
        return super().__getitem__(index)


class _DictLookAlike(nn.ModuleDict):
    _yields: dict[str, nn.Module]

    def __init__(self, original: nn.Module, yields: dict[str, nn.Module]) -> None:
        super().__init__()
        self.__dict__["_modules"] = original._modules
        self.__dict__["_yields"] = yields

    def __iter__(self) -> Iterator[str]:
        return iter(self._yields)

    def keys(self) -> KeysView[str]:
        return self._yields.keys()

    def values(self) -> ValuesView[nn.Module]:
        return self._yields.values()

    def items(self) -> ItemsView[str, nn.Module]:
        return self._yields.items()


class _Wrapper(nn.Module):
    """A module in place of another, whose attributes it passes through."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)


class _Recorder(_Wrapper):
    """A block that also notes its input (the first one) or what it adds (the probe)."""

    def __init__(self, block: nn.Module, stack: BlockStack, *, first: bool, probe: bool) -> None:
        super().__init__(block)
        self.__dict__["_stack"] = stack
        self._first = first
        self._probe = probe

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        tape, layout = self._stack._tape, self._stack.layout
        x = args[0] if args else kwargs[layout.stream]
        if self._first:
            tape.note_stack_input(x)
        probing = self._probe and tape.want_probe
        before = tape.sample(x) if probing else None
        out = self.inner(*args, **kwargs)
        if probing:
            # At once: what comes next may write into the block's output.
            tape.probe = tape.sample(out if isinstance(out, Tensor) else out[layout.output]) - before
        return out


class _Head(_Wrapper):
    """The head, whose first argument is seen or changed on its way in."""

    def __init__(self, head: nn.Module, on_input: Callable[[Tensor], Tensor]) -> None:
        super().__init__(head)
        self.__dict__["on_input"] = on_input

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.inner(self.on_input(x), *args, **kwargs)
