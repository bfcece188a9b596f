"""What is remembered between evaluations: residuals and probes, by key. Knows bytes, no schedules."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from torch import Tensor


@dataclass
class Entry:
    """One residual, and what the call that made it looked like."""

    residual: Tensor  # (batch, tokens, width), in the dtype of the stream
    signature: Hashable


class ResidualCache:
    """Residuals of one run, and the probes they are judged by.

    Args:
        offload: keep residuals in main memory; probes stay where they are compared.
    """

    def __init__(self, offload: bool = False) -> None:
        self.offload = offload
        self.bytes_max = 0
        self._entries: dict[Hashable, Entry] = {}
        self._probes: dict[Hashable, Tensor] = {}
        self._touched: set[Hashable] = set()

    def get(self, key: Hashable, signature: Hashable) -> Tensor | None:
        """The residual under this key, if a call of the same signature made it."""
        entry = self._entries.get(key)
        if entry is None or entry.signature != signature:
            return None
        self._touched.add(key)
        return entry.residual

    def put(self, key: Hashable, signature: Hashable, residual: Tensor) -> None:
        self._entries[key] = Entry(residual.cpu() if self.offload else residual, signature)
        self._touched.add(key)
        self._note_bytes()

    def drop(self, key: Hashable) -> None:
        self._entries.pop(key, None)

    def probe(self, identity: Hashable) -> Tensor | None:
        return self._probes.get(identity)

    def put_probe(self, identity: Hashable, probe: Tensor) -> None:
        self._probes[identity] = probe
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
        held = [entry.residual for entry in self._entries.values()] + list(self._probes.values())
        return sum(tensor.untyped_storage().nbytes() for tensor in held)

    def _note_bytes(self) -> None:
        self.bytes_max = max(self.bytes_max, self.bytes_held)
