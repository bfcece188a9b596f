"""What one call of a block stack leaves behind: a `Recording` if its blocks ran, a `Skip` if they did not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .layout import Grid, Head, StackLayout, probe_positions


@dataclass
class Recording:
    """What the blocks added in one call.

    Attributes:
        chunks: number of equal parts of the batch.
        want_probe: whether to take a probe.
        grid, stride: which tokens to probe, see `probe_positions`.
        ran: whether any block ran.
        mismatch: what was not where the layout says, "" if everything was; if not "", nothing else here is valid.
        stack_input: copies of the first block's input, one for each stream, with the batch where the model has it.
        residual: output of the stack minus its input, one tensor per chunk: (batch, tokens, width); for several
            streams (batch, all their numbers).
        probe: what the probed block added, (batch, n, width).
    """

    chunks: int = 1
    want_probe: bool = False
    grid: Grid | None = None
    stride: int = 4
    ran: bool = False
    mismatch: str = ""
    stack_input: list[Tensor] = field(default_factory=list)
    residual: list[Tensor] = field(default_factory=list)
    probe: Tensor | None = None

    @contextmanager
    def looking(self) -> Iterator[None]:
        """For code that reads what passes through the model: its errors become a `mismatch`, and the call goes on."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # an unknown model may pass on anything
            self.mismatch = self.mismatch or f"{type(error).__name__}: {error}"

    def sample(self, x: Tensor) -> Tensor:
        """A copy of the probed tokens of a stream (batch, ..., width); gives up a grid that does not fit it."""
        flat = x.flatten(1, -2)
        if self.grid is not None and not self.grid.fits(flat.shape[1]):
            self.grid = None
        positions = probe_positions(flat.shape[1], self.grid, self.stride, flat.device)
        return flat.clone() if positions is None else flat[:, positions]

    def note_stack_input(self, x: Tensor | Sequence[Tensor]) -> None:
        """The first block is about to run, with this stream or these streams."""
        # Copies, because many models work in place on what they pass to their blocks.
        if not self.stack_input and not self.residual:
            self.stack_input = [stream.clone() for stream in streams_of(x)]

    def note_head_input(self, x: Tensor, head: Head, layout: StackLayout) -> None:
        """A head is about to run, with this stream."""
        with self.looking():
            if self.stack_input:
                before = layout.batch_first(self.stack_input.pop(0))
                after = x[None] if layout.batch is None else x
                self._note_residual(_as_head_gets(before, after, head), after, layout)

    def note_last_output(self, out: Tensor, layout: StackLayout) -> None:
        """The last block has returned, and no head will run."""
        if self.stack_input:
            before, after = layout.batch_first(self.stack_input.pop()), layout.batch_first(out)
            self._note_residual(before, after[:, -before.shape[1] :], layout)

    def _note_residual(self, before: Tensor, after: Tensor, layout: StackLayout) -> None:
        after = after.to(before.dtype)
        added = [a - b for a, b in zip(after.chunk(self.chunks), before.chunk(self.chunks), strict=True)]
        if layout.streams == 1:
            self.residual = added
            return
        added = [part.flatten(1) for part in added]
        earlier = self.residual or [part[:, :0] for part in added]
        self.residual = [torch.cat(parts, dim=1) for parts in zip(earlier, added, strict=True)]


@dataclass
class Skip:
    """What happened in one call without blocks.

    Attributes:
        residual: what to add, one tensor per chunk of the batch, as in `Recording`; it is not written to.
        walked: whether the model asked for its blocks. If not, another pack answered in the model's place.
        added: how many numbers of each sample's residual the heads have added; 0: another pack answered this call.
    """

    residual: list[Tensor]
    walked: bool = False
    added: int = 0

    def add(self, x: Tensor, layout: StackLayout) -> Tensor:
        """What a head gets instead of its input x: x plus the residual."""
        if not self.walked:  # x is another pack's answer
            return x
        on_card = x.device.type != "cpu"  # towards a card nothing needs to wait
        parts = [part.to(x, non_blocking=on_card) for part in self.residual]
        residual = parts[0] if len(parts) == 1 else torch.cat(parts)
        begin, self.added = self.added, self.added + x[0].numel()
        if layout.streams > 1:  # each head takes the next part
            residual = residual[:, begin : self.added]
        if layout.batch:
            residual = residual.movedim(0, layout.batch)
        if residual.numel() == x.numel():
            return x + residual.reshape(x.shape)
        return torch.cat([x[:, : -residual.shape[1]], x[:, -residual.shape[1] :] + residual], dim=1)


def streams_of(x: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    """The streams that a block takes: one tensor is one stream."""
    return [x] if isinstance(x, Tensor) else x


def _as_head_gets(stack_input: Tensor, x: Tensor, head: Head) -> Tensor:
    """The stack's input, cut and shaped like x, the input of a head."""
    if stack_input.numel() == x.numel():
        return stack_input.reshape(x.shape)
    tokens = x.shape[1]
    return stack_input[:, :tokens] if head.takes == "first" else stack_input[:, -tokens:]
