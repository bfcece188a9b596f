"""What a stretch of work costs: operations, calls of transformer blocks, bytes, seconds. Knows no method."""

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

# torch knows attention by its kernels on a GPU; the CPU's does the same arithmetic under another name.
FORMULAS = flop_registry | {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda query, key, value, *_, **__: sdpa_flop_count(
        query.shape, key.shape, value.shape
    )
}


class Meter(TorchDispatchMode):
    """Counts what torch executes while it is entered, whoever asked for it. Not to be used in inference mode.

    The formulas are those of `torch.utils.flop_counter`. Its own mode also follows modules, which makes a
    small model half as slow again; this one costs every method the same few percent. In inference mode torch
    shows composite operations whole, and a linear layer would count nothing.

    Attributes:
        flops: floating-point operations of matrix products, convolutions and attention.
        block_calls: how often one of the watched blocks did run, each row of a batch for itself: who asks for
            conditional and unconditional in two calls runs no more blocks than who asks in one.
        seconds: that this process computed between entering and leaving. With one thread on a CPU that is the wall
            time on a machine that does nothing else, whatever else this one does.
        held_bytes: the most bytes of tensors made in here that were alive at one of the `mark`s.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.block_calls = self.held_bytes = 0
        self.seconds = 0.0
        self._alive: WeakSet = WeakSet()

    def watch(self, blocks: Iterable[nn.Module]) -> None:
        """Count the calls of these modules' forward, whose first argument is (rows, ...).

        To be asked before a cache is attached: what then stands in for `forward` is a cache that may or may not
        call ours.
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
        """Note what is alive now: between two evaluations, that is what a cache holds, and the latent."""
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
