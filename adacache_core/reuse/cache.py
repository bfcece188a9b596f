"""Residuals and probes of blocks, kept between evaluations by key. Counts their bytes; knows no schedule."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Entry:
    """A residual as in `Recording`, in the dtype of the stream, and the signature of the call that made it."""

    residual: Tensor
    signature: Hashable


def _in_main_memory(tensor: Tensor) -> Tensor:
    """A copy in main memory. From a GPU it does not wait: later reads are queued behind it in the same stream."""
    if tensor.device.type != "cuda":
        return tensor.cpu()
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)


class ResidualCache:
    """Residuals and probes of one run, by key.

    Args:
        offload: whether to keep everything in main memory.

    Attributes:
        bytes_max: the most bytes that were held at once.
        bytes_each: the most bytes that one residual and one probe took together.
    """

    def __init__(self, offload: bool = False) -> None:
        self.offload = offload
        self.bytes_max = 0
        self.bytes_each = 0
        self._entries: dict[Hashable, Entry] = {}
        self._probes: dict[Hashable, Tensor] = {}
        self._touched: set[Hashable] = set()

    def get(self, key: Hashable, signature: Hashable) -> Tensor | None:
        """The residual of a key, where it is held; None if there is none or a call of another signature made it.

        Args:
            key: of a chunk of the batch.
            signature: of the call that would use it.
        """
        entry = self._entries.get(key)
        if entry is None or entry.signature != signature:
            return None
        self._touched.add(key)
        return entry.residual

    def put(self, key: Hashable, signature: Hashable, residual: Tensor) -> None:
        self._entries[key] = Entry(_in_main_memory(residual) if self.offload else residual, signature)
        self._touched.add(key)
        self._note_bytes()

    def make_room(self, key: Hashable) -> None:
        """Forgets the residual of a key that is about to be computed again."""
        self._entries.pop(key, None)

    def probe(self, key: Hashable) -> Tensor | None:
        return self._probes.get(key)

    def put_probe(self, key: Hashable, probe: Tensor) -> None:
        self._probes[key] = _in_main_memory(probe) if self.offload else probe
        self._touched.add(key)
        self._note_bytes()

    def keep_probe(self, key: Hashable) -> None:
        """Marks a probe as used by this evaluation."""
        self._touched.add(key)

    def begin(self) -> None:
        """A new evaluation begins: it has used nothing yet."""
        self._touched.clear()

    def evict_untouched(self) -> None:
        """Forgets what this evaluation did not use (of context windows that moved, conditionings that ended)."""
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
        """Updates `bytes_max` and `bytes_each`."""
        self.bytes_max = max(self.bytes_max, self.bytes_held)
        residual = max(map(_bytes, self._entries.values()), default=0)
        probe = max(map(_bytes, self._probes.values()), default=0)
        self.bytes_each = max(self.bytes_each, residual + probe)


def _bytes(held: Entry | Tensor) -> int:
    """Bytes of the memory that a tensor keeps alive."""
    tensor = held if isinstance(held, Tensor) else held.residual
    return tensor.untyped_storage().nbytes()
