"""What is remembered between evaluations, by key: residuals, how they go on, probes. Knows bytes, no schedules."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass
class Entry:
    """A residual and, where it is forecast, how it goes on.

    Attributes:
        residual: (batch, tokens, width), in the dtype of the stream.
        signature: of the call that made it.
        step: at which it was computed.
        slope: its change per step since the one before, of its shape; None: it is held as it is.
        trust: which part of the forecast before would have come true, 0-dim in [0, 1].
    """

    residual: Tensor
    signature: Hashable
    step: int = 0
    slope: Tensor | None = None
    trust: Tensor | None = None

    def at(self, step: int) -> Tensor:
        """The residual that is expected at this step; not to be written to."""
        if self.slope is None or self.trust is None or step == self.step:
            return self.residual
        return torch.addcmul(self.residual, self.slope, (self.trust * (step - self.step)).to(self.slope))

    def followed_by(self, residual: Tensor, step: int) -> Entry:
        """The entry of a residual that was computed after this one, with what this one's forecast was worth."""
        slope = (residual - self.residual) / (step - self.step)
        trust = None if self.slope is None else _part_that_came_true(self.slope, slope)
        return Entry(residual, self.signature, step, slope, trust)

    def on(self, device: torch.device | None) -> Entry:
        """With its tensors on this device; None leaves them where they are."""
        if device is None or device == self.residual.device:
            return self
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def in_main_memory(self) -> Entry:
        return self._each(_in_main_memory)

    def _each(self, move: Callable[[Tensor], Tensor]) -> Entry:
        slope, trust = (None if tensor is None else move(tensor) for tensor in (self.slope, self.trust))
        return replace(self, residual=move(self.residual), slope=slope, trust=trust)


def _in_main_memory(tensor: Tensor) -> Tensor:
    """From a GPU into pinned memory, without waiting: what reads it later goes through the same stream."""
    if tensor.device.type != "cuda":
        return tensor.cpu()
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)


def _part_that_came_true(forecast: Tensor, change: Tensor) -> Tensor:
    """The t in [0, 1] for which t * forecast is nearest to the change, both per step; 0-dim, float32.

    A quarter of the tokens is looked at.
    """
    forecast, change = forecast[:, ::4].float(), change[:, ::4].float()
    return ((forecast * change).sum() / forecast.square().sum()).nan_to_num(0.0).clamp(0.0, 1.0)


class ResidualCache:
    """Residuals by key and probes by identity, of one run.

    Args:
        offload: keep everything in main memory.
        forecast: let residuals go on as they last changed, as far as that came true before, if that was at most so
            many steps; the first two of a key are held, with 0 all are. Takes a second tensor of the residual's size.
    """

    def __init__(self, offload: bool = False, forecast: int = 0) -> None:
        self.offload = offload
        self.forecast = forecast
        self.bytes_max = 0
        self.bytes_each = 0
        self._entries: dict[Hashable, Entry] = {}
        self._probes: dict[Hashable, Tensor] = {}
        self._touched: set[Hashable] = set()

    def get(
        self, key: Hashable, signature: Hashable, step: int = 0, device: torch.device | None = None
    ) -> Tensor | None:
        """The residual under this key for this step, on this device, if a call of the same signature made it."""
        entry = self._entries.get(key)
        if entry is None or entry.signature != signature:
            return None
        self._touched.add(key)
        return entry.on(device).at(step)

    def put(self, key: Hashable, signature: Hashable, residual: Tensor, step: int = 0) -> None:
        old, entry = self._entries.get(key), Entry(residual, signature, step)
        if old is not None and old.signature == signature and step - old.step <= self.forecast:
            # A step's further evaluations say nothing new of how residuals change from step to step.
            old = old.on(residual.device)
            entry = old.followed_by(residual, step) if step > old.step else replace(old, residual=residual)
        self._entries[key] = entry.in_main_memory() if self.offload else entry
        self._touched.add(key)
        self._note_bytes()

    def make_room(self, key: Hashable) -> None:
        """Forget what is not needed any more once this key is computed anew."""
        if not self.forecast:
            self._entries.pop(key, None)

    def probe(self, identity: Hashable) -> Tensor | None:
        return self._probes.get(identity)

    def put_probe(self, identity: Hashable, probe: Tensor) -> None:
        self._probes[identity] = _in_main_memory(probe) if self.offload else probe
        self._touched.add(identity)
        self._note_bytes()

    def keep_probe(self, identity: Hashable) -> None:
        self._touched.add(identity)

    def begin(self) -> None:
        """A new evaluation: nothing touched yet."""
        self._touched.clear()

    def evict_untouched(self) -> None:
        """Forgets what this evaluation had no use for (windows that moved on, conditionings that ended)."""
        self._entries = {key: entry for key, entry in self._entries.items() if key in self._touched}
        self._probes = {key: probe for key, probe in self._probes.items() if key in self._touched}

    def clear(self) -> None:
        self._entries.clear()
        self._probes.clear()
        self._touched.clear()

    @property
    def bytes_held(self) -> int:
        """Bytes of all residuals and probes."""
        return sum(map(_bytes, self._entries.values())) + sum(map(_bytes, self._probes.values()))

    def _note_bytes(self) -> None:
        """Notes the most bytes that were held at once: in all, and by the residual and the probe of one key."""
        self.bytes_max = max(self.bytes_max, self.bytes_held)
        residual = max(map(_bytes, self._entries.values()), default=0)
        probe = max(map(_bytes, self._probes.values()), default=0)
        self.bytes_each = max(self.bytes_each, residual + probe)


def _bytes(held: Entry | Tensor) -> int:
    """Of the memory that is kept alive; a factor that is a single number is not worth counting."""
    tensors = [held] if isinstance(held, Tensor) else [held.residual, held.slope]
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors if tensor is not None)
