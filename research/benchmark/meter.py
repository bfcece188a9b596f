"""Counts what a piece of work costs: operations, calls of transformer blocks, bytes, seconds."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import wraps
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

# torch counts attention by the names of its GPU kernels; the CPU kernel does the same arithmetic under another name.
FORMULAS = flop_registry | {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda query, key, value, *_, **__: sdpa_flop_count(
        query.shape, key.shape, value.shape
    )
}


class Meter(TorchDispatchMode):
    """Counts everything that torch executes while the meter is entered. Does not work in inference mode.

    The formulas are those of `torch.utils.flop_counter`. Torch's own mode also follows modules, which makes a small
    model half as slow again; this one slows every method by the same few percent. In inference mode torch shows
    composite operations as a whole, so a linear layer would not be counted.

    Attributes:
        flops: floating-point operations of matrix products, convolutions and attention.
        block_calls: how often the watched blocks ran, once for each row of a batch: a method that makes separate calls
            for conditional and unconditional runs as many blocks as one that makes one call.
        seconds: processor time of this process while entered. With one thread on a CPU, this is the wall time on an
            idle machine.
        held_bytes: the most bytes, at any `mark`, of live tensors that were made while entered.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.block_calls = self.held_bytes = 0
        self.seconds = 0.0
        self._alive: WeakSet = WeakSet()

    def watch(self, blocks: Iterable[nn.Module]) -> None:
        """Counts the calls of these modules' forward, whose first argument is (rows, ...).

        Call this before a cache is attached: the cache then replaces this `forward`, and may or may not call it.
        """
        for block in blocks:
            block.forward = self._counted(block.forward)

    def _counted(self, forward):
        @wraps(forward)  # some caches read the signature
        def counted(*args, **kwargs):
            self.block_calls += len([*args, *kwargs.values()][0])
            return forward(*args, **kwargs)

        return counted

    def mark(self) -> None:
        """Notes what is alive now: between two evaluations, this is what a cache holds, and the latent."""
        self.held_bytes = max(self.held_bytes, self._bytes())

    def _bytes(self) -> int:
        return sum(storage.nbytes() for storage in self._alive)

    def __enter__(self) -> Meter:
        if torch.is_inference_mode_enabled():
            raise RuntimeError("a Meter counts nothing in inference mode")
        self._begin = time.process_time()
        return super().__enter__()

    def __exit__(self, *exception) -> None:
        super().__exit__(*exception)
        self.seconds += time.process_time() - self._begin

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        out = operation(*args, **(kwargs or {}))
        formula = FORMULAS.get(operation._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._alive.add(tensor.untyped_storage())
        return out
