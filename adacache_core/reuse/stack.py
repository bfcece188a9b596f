"""Runs a module's block stack and records what it adds, or skips it, without changing blocks or forward.

For one call, look-alikes take the place of the block containers and wrapped heads that of the heads. In a recorded call
iteration yields wrapped blocks. In a skipped call it yields none, and the head gets its input plus what the blocks
added in a recorded call. Knows no schedule and no model by name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

from torch import Tensor, nn

from ..errors import AdaCacheError
from .layout import Head, Place, StackLayout, place_of
from .look_alike import Exchange, Replacement, WrappedBlock, WrappedHead, exchanged, look_alike
from .recording import Recording, Skip, streams_of


class BlockStack:
    """The block stack of one module instance.

    Args:
        module: holds the containers and heads.
        layout: where they are.
        probe_position: place of the probed block, as a fraction of the depth of the first container that has blocks.

    Raises:
        AdaCacheError: a path of the layout leads nowhere, or no container has blocks.
    """

    def __init__(self, module: nn.Module, layout: StackLayout, probe_position: float = 0.5) -> None:
        self.layout = layout
        self._recording, self._skip = Recording(), Skip([])  # of the current call
        containers = [place_of(module, path) for path in layout.blocks]
        self._filled = [place for place in containers if _blocks(place)]
        if not self._filled:
            raise AdaCacheError(f"{type(module).__name__} has no blocks under {', '.join(layout.blocks)}")
        self.depth = len(_blocks(self._filled[0]))
        self.probe_index = min(int(probe_position * self.depth), self.depth - 1)
        heads = [(place_of(module, head.path), head) for head in layout.heads]
        self._recording_heads: list[Exchange] = [
            (place, WrappedHead(place.child, partial(self._note_head_input, head))) for place, head in heads
        ]
        self._to_record: dict[int, list[Exchange]] = {}  # by index of the probed block
        self._to_count = self._wrapped_blocks(probe=None)
        self._to_skip = self._without_blocks(containers)
        self._to_skip += [(place, WrappedHead(place.child, self._add)) for place, _ in heads]

    def _without_blocks(self, containers: list[Place]) -> list[Exchange]:
        """Empty containers; without a head, the last one has a single block, which adds the residual."""
        instead: dict[Place, dict[str, nn.Module]] = {}
        if not self.layout.heads:
            block = next(iter(_blocks(self._filled[-1]).values()))
            instead[self._filled[-1]] = {"": Replacement(block, self._add)}
        return [
            (place, look_alike(place.child, instead.get(place, {}), self.layout.by_index, self._note_walk))
            for place in containers
        ]

    def _wrapped_blocks(self, probe: int | None) -> list[Exchange]:
        """Containers of wrapped blocks. Without a probed block, these only note that they run."""
        first, last = self._filled[0], None if self.layout.heads else self._filled[-1]
        counting = probe is None
        exchange: list[Exchange] = []
        for place in self._filled:
            blocks = _blocks(place)
            for index, (name, block) in enumerate(blocks.items()):
                is_first = place == first and index == 0 and not counting
                is_probe = place == first and index == probe
                is_last = place == last and index == len(blocks) - 1 and not counting
                around = partial(self._run_block, is_first, is_probe, is_last)
                blocks[name] = WrappedBlock(block, around, self.layout.method)
            exchange.append((place, look_alike(place.child, blocks, self.layout.by_index)))
        return exchange

    def _probing_around(self, replaced_blocks: Collection[int]) -> list[Exchange]:
        """What records a call whose probe is, of the blocks that run, the nearest to its place."""
        by_distance = sorted(range(self.depth), key=lambda index: abs(index - self.probe_index))
        probe = next((index for index in by_distance if index not in replaced_blocks), self.probe_index)
        if probe not in self._to_record:
            self._to_record[probe] = [*self._wrapped_blocks(probe), *self._recording_heads]
        return self._to_record[probe]

    @contextmanager
    def recording(self, recording: Recording, replaced_blocks: Collection[int] = ()) -> Iterator[None]:
        """For one call of the module: all blocks run, and it is recorded what they add.

        Args:
            recording: an empty one, which the call fills.
            replaced_blocks: indices of blocks of the first container that do not run, because another function
                takes their place; they are not probed.
        """
        with self._filling(recording, self._probing_around(replaced_blocks)):
            yield

    @contextmanager
    def counting(self, recording: Recording) -> Iterator[None]:
        """For one call of the module: all blocks run, and `recording.ran` says whether any did. Nothing is kept."""
        with self._filling(recording, self._to_count):
            yield

    @contextmanager
    def _filling(self, recording: Recording, exchange: list[Exchange]) -> Iterator[None]:
        self._recording = recording
        try:
            with exchanged(exchange):
                yield
        finally:
            self._recording = Recording()

    @contextmanager
    def skipping(self, residual: list[Tensor]) -> Iterator[Skip]:
        """For one call of the module: no block runs, and each head gets its input plus the residual.

        Args:
            residual: of a `Recording`; it is not written to.

        Yields:
            What happened, known after the call.
        """
        self._skip = Skip(residual)
        try:
            with exchanged(self._to_skip):
                yield self._skip
        finally:
            self._skip.residual = []
            self._skip = Skip([])

    def _note_walk(self) -> None:
        self._skip.walked = True

    def _add(self, x: Tensor) -> Tensor:
        return self._skip.add(x, self.layout)

    def _note_head_input(self, head: Head, x: Tensor) -> Tensor:
        self._recording.note_head_input(x, head, self.layout)
        return x

    def _run_block(
        self, first: bool, probe: bool, last: bool, inner: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:
        """Runs a block and notes its input if it is the first, what it adds as the probe, its output if it is the last.

        Args:
            first, probe, last: which of these the block is.
            inner: the block, or its method.
            *args, **kwargs: what the model calls it with.
        """
        recording, layout = self._recording, self.layout
        recording.ran = True
        probing, before = probe and recording.want_probe, None
        with recording.looking():
            if first or probing:
                x = layout.given(args, kwargs)
            if first and recording.residual:
                raise AdaCacheError("they run more than once in a call")
            if first:
                recording.note_stack_input(x)
            if probing:
                before = recording.sample(layout.batch_first(streams_of(x)[0]))
        out = inner(*args, **kwargs)
        with recording.looking():
            if before is not None:  # now, because what follows may write into the block's output
                recording.probe = recording.sample(layout.batch_first(layout.returned(out))) - before
            if last:
                recording.note_last_output(out, layout)
        return out


def _blocks(place: Place) -> dict[str, nn.Module]:
    """The blocks of a container by name, in order."""
    return cast(dict[str, nn.Module], dict(place.child._modules))
