"""What is remembered of blocks between evaluations, by key: residuals and probes. Knows bytes, no schedules."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Entry:
    """A residual (batch, tokens, width), in the dtype of the stream, and the signature of the call that made it."""

    residual: Tensor
    signature: Hashable


def _in_main_memory(tensor: Tensor) -> Tensor:
    """From a GPU into pinned memory, without waiting: what reads it later goes through the same stream."""
    if tensor.device.type != "cuda":
        return tensor.cpu()
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)


class ResidualCache:
    """Residuals by key and probes by identity, of one run.

    Args:
        offload: keep everything in main memory.
    """

    def __init__(self, offload: bool = False) -> None:
        self.offload = offload
        self.bytes_max = 0
        self.bytes_each = 0
        self._entries: dict[Hashable, Entry] = {}
        self._probes: dict[Hashable, Tensor] = {}
        self._touched: set[Hashable] = set()

    def get(self, key: Hashable, signature: Hashable, device: torch.device | None = None) -> Tensor | None:
        """The residual under this key, on this device (None: where it is), if a call of the same signature made it."""
        entry = self._entries.get(key)
        if entry is None or entry.signature != signature:
            return None
        self._touched.add(key)
        residual = entry.residual
        return residual if device in (None, residual.device) else residual.to(device, non_blocking=True)

    def put(self, key: Hashable, signature: Hashable, residual: Tensor) -> None:
        self._entries[key] = Entry(_in_main_memory(residual) if self.offload else residual, signature)
        self._touched.add(key)
        self._note_bytes()

    def make_room(self, key: Hashable) -> None:
        """Forget what is not needed any more once this key is computed anew."""
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
    """Of the memory that is kept alive."""
    tensor = held if isinstance(held, Tensor) else held.residual
    return tensor.untyped_storage().nbytes()
