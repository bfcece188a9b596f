"""Modules that take the place of others for the length of one call.

A look-alike of a container shares the original's `_modules`: names, length, indexing, LoRA keys and compiled children
stay right. Only iteration yields something else. A wrapped block or head passes the original's attributes through.
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, KeysView, Sequence, ValuesView
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from .layout import Place

Exchange = tuple[Place, nn.Module]  # where, and what takes that place


@contextmanager
def exchanged(exchange: Sequence[Exchange]) -> Iterator[None]:
    """For the length of a call these modules are in these places."""
    originals = [(place, place.child) for place, _ in exchange]
    try:
        for place, stand_in in exchange:
            place.parent._modules[place.name] = stand_in
        yield
    finally:
        for place, original in originals:
            place.parent._modules[place.name] = original


def look_alike(
    container: nn.Module, blocks: dict[str, nn.Module], by_index: bool, on_walk: Callable[[], None] | None = None
) -> nn.Module:
    """A container that is the original in all but iteration.

    Args:
        container: the original, a ModuleList or ModuleDict.
        blocks: what iteration yields, by name.
        by_index: see `StackLayout`.
        on_walk: called when an iteration begins.
    """
    if by_index:
        return _IndexedLookAlike(container, blocks, on_walk)
    return (_DictLookAlike if isinstance(container, nn.ModuleDict) else _ListLookAlike)(container, blocks, on_walk)


class _LookAlike(nn.Module):
    _blocks: dict[str, nn.Module]
    _on_walk: Callable[[], None] | None

    def __init__(
        self, original: nn.Module, blocks: dict[str, nn.Module], on_walk: Callable[[], None] | None = None
    ) -> None:
        super().__init__()
        self.__dict__["_modules"] = original._modules
        self.__dict__["_blocks"] = blocks
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
        if isinstance(index, slice):  # iteration over a part
            return list(self)[index]
        return list(self._blocks.values())[index] if self._blocks else super().__getitem__(index)


class _IndexedLookAlike(_ListLookAlike):
    """For a model that does not iterate: the length is that of what it would yield."""

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


class WrappedBlock(_Wrapper):
    """A block whose calls go through a function.

    Args:
        block: the original.
        around: (the original's method, its arguments) -> what it returns.
        method: the method of the block that the model calls.
    """

    def __init__(self, block: nn.Module, around: Callable[..., Any], method: str = "forward") -> None:
        super().__init__(block)
        self.__dict__["_around"] = around
        if method != "forward":
            self.__dict__[method] = partial(around, getattr(block, method))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._around(self.inner, *args, **kwargs)


class Replacement(_Wrapper):
    """Replaces a block: what it returns is a function of its first positional argument."""

    def __init__(self, block: nn.Module, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__(block)
        self.__dict__["_function"] = function

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self._function(x)


class WrappedHead(_Wrapper):
    """A head whose first positional argument goes through a function."""

    def __init__(self, head: nn.Module, on_input: Callable[[Tensor], Tensor]) -> None:
        super().__init__(head)
        self.__dict__["_on_input"] = on_input

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.inner(self._on_input(x), *args, **kwargs)
