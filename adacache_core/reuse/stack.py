"""Run a module's block stack, record what it added, or skip it: without touching blocks or forward.

For the length of one call the block containers are exchanged for look-alikes that share the
original's `_modules` (names, length, indexing, LoRA keys, compiled children stay right) and differ
in what *iteration* yields: recording wrappers round two of the blocks, or nothing at all. The head is
wrapped to record its input, or to receive `x + R`. Knows no schedule and no model by name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, ItemsView, Iterator, KeysView, Sequence, ValuesView
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import AdaCacheError

# The fractional part of the golden ratio spreads picks evenly, whatever the width of a frame.
_GOLDEN = 0.618033988749895


@dataclass(frozen=True)
class Head:
    """A module whose first positional argument is the stack's output.

    Attributes:
        path: dotted.
        takes: where a model cuts tokens (references, say) off the stream before the head: whether the "first" or
            the "last" ones go on.
    """

    path: str
    takes: str = "first"


@dataclass(frozen=True)
class StackLayout:
    """Where a module keeps what we need.

    Attributes:
        blocks: dotted paths of the ModuleLists or ModuleDicts, in the order in which they run.
        head: dotted path of the head; several `Head`s, if a call uses one of several or each stream has its own; none
            (), if something else than a module comes behind the last block: blocks of the last container must then
            take the stream first, and return nothing else.
        stream: the keyword under which a block takes the hidden states when it is not given them
            among its positional arguments.
        argument: place of the hidden states among a block's positional arguments.
        output: which element of a block's output tuple is the hidden states.
        head_takes: see `Head.takes`, for a head that is given by its path alone.
        batch: which dimension of the hidden states is the batch, None if they have none.
        by_index: the model does not iterate, it asks for the number of blocks, and for each by its index.
        method: the method of a block that the model calls.
        streams: how many streams blocks take and return in a tuple (video and audio, say), if more than one; the
            first is probed, and their heads are called in this order.
    """

    blocks: tuple[str, ...]
    head: str | tuple[Head, ...]
    stream: str = "hidden_states"
    output: int = 0
    head_takes: str = "first"
    argument: int = 0
    batch: int | None = 0
    by_index: bool = False
    method: str = "forward"
    streams: int = 1

    @property
    def heads(self) -> tuple[Head, ...]:
        return (Head(self.head, takes=self.head_takes),) if isinstance(self.head, str) else self.head

    def fits(self, module: nn.Module) -> bool:
        """Whether a module has all of these paths, and blocks in each container."""
        try:
            containers = [_resolve(module, path).child for path in self.blocks]
            for head in self.heads:
                _resolve(module, head.path)
        except AdaCacheError:
            return False
        kinds = (nn.ModuleList, nn.ModuleDict)
        return all(isinstance(container, kinds) and len(container) > 0 for container in containers)

    def batch_first(self, x: Tensor) -> Tensor:
        """A view of hidden states, (batch, ..., width)."""
        return x[None] if self.batch is None else x.movedim(self.batch, 0)


@dataclass(frozen=True)
class Grid:
    """Where the video is in the token stream: frame-major, `frames * positions` tokens from `start`.

    Attributes:
        frames: latent frames after patching.
        positions: tokens per frame.
        start: tokens before the video (references); a negative one counts from the end of the stream.
    """

    frames: int
    positions: int
    start: int = 0

    def begin(self, tokens: int) -> int:
        """Index of the video's first token in a stream of so many."""
        return self.start if self.start >= 0 else tokens + self.start

    def fits(self, tokens: int) -> bool:
        begin = self.begin(tokens)
        return self.frames > 0 and self.positions > 0 and 0 <= begin <= tokens - self.frames * self.positions


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
    if stride == 1 and grid.frames * grid.positions == tokens:
        return None
    count = max(1, grid.positions // stride)
    picks = torch.arange(count, device=device)
    picks = picks * stride + (picks * _GOLDEN % 1 * stride).long()
    frames = torch.arange(grid.frames, device=device) * grid.positions + grid.begin(tokens)
    return (frames[:, None] + picks[None, :]).flatten()


@dataclass
class Tape:
    """What one recorded call leaves behind.

    Attributes:
        chunks: how many equal parts the batch has.
        grid, stride: which tokens to probe; `want_probe` False: no probe at all.
        ran: whether any block ran.
        strange: what was not where the layout says, "" if all was; nothing else here is to be used then.
        stack_input: what the first block got, copies, one for each stream, with the batch where the model has it.
        residual: stack's output - stack input, (batch, tokens, width), one tensor per chunk; of several streams
            (batch, all their numbers).
        probe: what the probe block added at the probe's tokens, (batch, n, width).
    """

    chunks: int = 1
    want_probe: bool = False
    grid: Grid | None = None
    stride: int = 4
    ran: bool = False
    strange: str = ""
    stack_input: list[Tensor] = field(default_factory=list)
    residual: list[Tensor] = field(default_factory=list)
    probe: Tensor | None = None

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Looks at what passes. A model that is built otherwise than expected costs the recording, not the call."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever it may be that a model of others hands on
            self.strange = self.strange or f"{type(error).__name__}: {error}"

    def note_stack_input(self, x: Tensor | Sequence[Tensor]) -> None:
        # A copy, always: many models work in place on what they hand to their blocks.
        if not self.stack_input and not self.residual:
            self.stack_input = [stream.clone() for stream in _streams(x)]

    def sample(self, x: Tensor) -> Tensor:
        """The probe's tokens of a stream (batch, ..., width), as a copy."""
        flat = x.flatten(1, -2)
        if self.grid is not None and not self.grid.fits(flat.shape[1]):
            self.grid = None
        positions = probe_positions(flat.shape[1], self.grid, self.stride, flat.device)
        return flat.clone() if positions is None else flat[:, positions]


@dataclass
class Skip:
    """What becomes of one skipped call.

    Attributes:
        residual: to be added, one (batch, tokens, width) per chunk.
        walked: whether the model asked for its blocks. A pack that answers in the model's place does not.
        added: how many numbers of each sample's residual the heads have taken; 0: another pack answered this call.
    """

    residual: list[Tensor]
    walked: bool = False
    added: int = 0


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
        self._skip = Skip([])
        containers = [_resolve(module, path) for path in layout.blocks]
        filled = [place for place in containers if _blocks(place.child)]
        if not filled:
            raise AdaCacheError(f"{type(module).__name__} has no blocks under {', '.join(layout.blocks)}")
        self.depth = len(_blocks(filled[0].child))
        self.probe_index = min(int(probe_position * self.depth), self.depth - 1)
        heads = [_resolve(module, head.path) for head in layout.heads]
        self._containers = filled
        self._recording_heads = [
            (place, _Head(place.child, partial(self._record, head)))
            for place, head in zip(heads, layout.heads, strict=True)
        ]
        self._recordings: dict[int, list[_Exchange]] = {}
        self._counting = self._recording_containers(-1, counting=True)
        left: dict[_Place, dict[str, nn.Module]] = {}
        if not heads:
            any_block = next(iter(_blocks(filled[-1].child).values()))
            left[filled[-1]] = {"": _Adder(any_block, self._add_residual)}
        self._skipping: list[_Exchange] = [
            (place, _look_alike(place.child, left.get(place, {}), layout, self._note_walk)) for place in containers
        ]
        self._skipping += [(place, _Head(place.child, self._add_residual)) for place in heads]

    def _recording(self, avoid: Collection[int]) -> list[_Exchange]:
        """Look-alikes that record the first block and the probe: the nearest to its place that runs."""
        by_distance = sorted(range(self.depth), key=lambda index: abs(index - self.probe_index))
        probe = next((index for index in by_distance if index not in avoid), self.probe_index)
        if probe not in self._recordings:
            self._recordings[probe] = [*self._recording_containers(probe), *self._recording_heads]
        return self._recordings[probe]

    def _recording_containers(self, probe: int, counting: bool = False) -> list[_Exchange]:
        """Look-alikes of all containers, whose blocks tell that they ran.

        The first block also notes its input, the probe what it adds, and the last one its output where no head ends
        the stack; with `counting` none of them does.
        """
        begin, end = self._containers[0], None if self.layout.heads else self._containers[-1]
        exchange: list[_Exchange] = []
        for place in self._containers:
            blocks = _blocks(place.child)
            for index, (name, block) in enumerate(blocks.items()):
                first, at_probe = place == begin and index == 0, place == begin and index == probe
                last = place == end and index == len(blocks) - 1
                blocks[name] = _Recorder(
                    block, self, first=first and not counting, probe=at_probe, last=last and not counting
                )
            exchange.append((place, _look_alike(place.child, blocks, self.layout)))
        return exchange

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
    def counting(self, tape: Tape) -> Iterator[None]:
        """For one call of the module: nothing is touched or kept, and `tape` learns whether any block ran."""
        self._tape = tape
        try:
            with _exchanged(self._counting):
                yield
        finally:
            self._tape = Tape()

    @contextmanager
    def skipping(self, residual: list[Tensor]) -> Iterator[Skip]:
        """For one call of the module: no block runs, the head receives its input plus `residual`.

        Args:
            residual: one (batch, tokens, width) per chunk of the batch, not written to.

        Yields:
            What becomes of it, known after the call.
        """
        self._skip = Skip(residual)
        try:
            with _exchanged(self._skipping):
                yield self._skip
        finally:
            self._skip.residual = []
            self._skip = Skip([])

    def _note_walk(self) -> None:
        self._skip.walked = True

    def _record(self, head: Head, x: Tensor) -> Tensor:
        """A head is reached: notes what the blocks added to its stream."""
        tape = self._tape
        with tape.looking():
            if tape.stack_input:
                stack_input = tape.stack_input.pop(0)
                after = x[None] if self.layout.batch is None else x
                before = self.layout.batch_first(stack_input)
                self._note_residual(_as_head_sees(before, after, head), after)
        return x

    def _note_residual(self, before: Tensor, after: Tensor) -> None:
        tape = self._tape
        after = after.to(before.dtype)
        added = [a - b for a, b in zip(after.chunk(tape.chunks), before.chunk(tape.chunks), strict=True)]
        if self.layout.streams == 1:
            tape.residual = added
            return
        added = [part.flatten(1) for part in added]
        earlier = tape.residual or [part[:, :0] for part in added]
        tape.residual = [torch.cat(parts, dim=1) for parts in zip(earlier, added, strict=True)]

    def _record_end(self, out: Tensor) -> None:
        """The last block is left, and no head will be reached."""
        tape = self._tape
        if tape.stack_input:
            before, after = self.layout.batch_first(tape.stack_input.pop()), self.layout.batch_first(out)
            self._note_residual(before, after[:, -before.shape[1] :])

    def _add_residual(self, x: Tensor) -> Tensor:
        skip = self._skip
        if not skip.walked:  # nobody asked for the blocks: what reaches the head is another pack's answer
            return x
        parts = [part.to(x) for part in skip.residual]
        residual = parts[0] if len(parts) == 1 else torch.cat(parts)
        begin, skip.added = skip.added, skip.added + x[0].numel()
        if self.layout.streams > 1:  # each head takes what comes next
            residual = residual[:, begin : skip.added]
        if self.layout.batch:
            residual = residual.movedim(0, self.layout.batch)
        if residual.numel() == x.numel():
            return x + residual.reshape(x.shape)
        return torch.cat([x[:, : -residual.shape[1]], x[:, -residual.shape[1] :] + residual], dim=1)


def _as_head_sees(stack_input: Tensor, x: Tensor, head: Head) -> Tensor:
    if stack_input.numel() == x.numel():
        return stack_input.reshape(x.shape)
    tokens = x.shape[1]
    return stack_input[:, :tokens] if head.takes == "first" else stack_input[:, -tokens:]


def _streams(x: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return [x] if isinstance(x, Tensor) else x


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


def _blocks(container: nn.Module) -> dict[str, nn.Module]:
    """By name, in order."""
    return cast(dict[str, nn.Module], dict(container._modules))


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


def _look_alike(
    container: nn.Module, yields: dict[str, nn.Module], layout: StackLayout, on_walk: Callable[[], None] | None = None
) -> nn.Module:
    """The container, but iteration yields other modules, and `on_walk` is told when it begins."""
    kind = _DictLookAlike if isinstance(container, nn.ModuleDict) else _ListLookAlike
    return (_IndexedLookAlike if layout.by_index else kind)(container, yields, on_walk)


class _LookAlike(nn.Module):
    _blocks: dict[str, nn.Module]
    _on_walk: Callable[[], None] | None

    def __init__(
        self, original: nn.Module, yields: dict[str, nn.Module], on_walk: Callable[[], None] | None = None
    ) -> None:
        super().__init__()
        self.__dict__["_modules"] = original._modules
        self.__dict__["_blocks"] = yields
        self.__dict__["_on_walk"] = on_walk

    @property
    def _yields(self) -> dict[str, nn.Module]:
        if self._on_walk is not None:
            self._on_walk()
        return self._blocks


class _ListLookAlike(_LookAlike, nn.ModuleList):
    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self._yields.values())

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):  # somebody iterates over a part
            return list(self)[index]
        return list(self._blocks.values())[index] if self._blocks else super().__getitem__(index)


class _IndexedLookAlike(_ListLookAlike):
    """For a model that does not iterate: its length is that of what it yields."""

    def __len__(self) -> int:
        return len(self._yields)

    def __getitem__(self, index: int | slice) -> Any:
        return list(self)[index]


class _DictLookAlike(_LookAlike, nn.ModuleDict):
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
    """A block that tells that it ran, and notes its input (first), what it adds (probe) or its output (last)."""

    def __init__(self, block: nn.Module, stack: BlockStack, *, first: bool, probe: bool, last: bool) -> None:
        super().__init__(block)
        self.__dict__["_stack"] = stack
        self._first, self._probe, self._last = first, probe, last
        method = stack.layout.method
        if method != "forward":
            self.__dict__[method] = partial(self._recorded, getattr(block, method))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._recorded(self.inner, *args, **kwargs)

    def _recorded(self, inner: Callable, *args: Any, **kwargs: Any) -> Any:
        tape, layout = self._stack._tape, self._stack.layout
        tape.ran = True
        probing, before = self._probe and tape.want_probe, None
        with tape.looking():
            if self._first or probing:
                x = args[layout.argument] if args else kwargs[layout.stream]
            if self._first and tape.residual:
                raise AdaCacheError("they run more than once in a call")
            if self._first:
                tape.note_stack_input(x)
            if probing:
                before = tape.sample(layout.batch_first(_streams(x)[0]))
        out = inner(*args, **kwargs)
        with tape.looking():
            if before is not None:
                # At once: what comes next may write into the block's output.
                made = out if isinstance(out, Tensor) else out[layout.output]
                tape.probe = tape.sample(layout.batch_first(made)) - before
            if self._last:
                self._stack._record_end(out)
        return out


class _Adder(_Wrapper):
    """In place of all blocks where no head can do it: adds to the first positional argument what they added."""

    def __init__(self, block: nn.Module, add: Callable[[Tensor], Tensor]) -> None:
        super().__init__(block)
        self.__dict__["_add"] = add

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self._add(x)


class _Head(_Wrapper):
    """The head, whose first argument is seen or changed on its way in."""

    def __init__(self, head: nn.Module, on_input: Callable[[Tensor], Tensor]) -> None:
        super().__init__(head)
        self.__dict__["on_input"] = on_input

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.inner(self.on_input(x), *args, **kwargs)
