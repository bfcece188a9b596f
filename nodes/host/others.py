"""Functions of other packs on a model. Packs are found by what they do, not by name.

A pack that answers in place of the model (a cache, say) does not mix with AdaCache: each would reuse what the other
made. Most of these packs let the model run for some steps before their first answer, so looking at the answers would be
too late.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

from torch import nn


def stands_in(module: nn.Module) -> str:
    """Whose function replaces the model's own forward (or `forward_orig`, `_forward`, ...).

    Compilers, patched attention and quantised loaders do not replace it.

    Args:
        module: the diffusion model.

    Returns:
        A sentence with the function's Python module and name; "" if the model has its own.
    """
    for name, value in vars(module).items():
        own = getattr(type(module), name, None)
        # When the host removes a patch, it leaves the class's own method here.
        if "forward" in name and callable(value) and callable(own) and getattr(value, "__func__", None) is not own:
            return f"{module_of(value)} replaces this model's {name}"
    for owner in type(module).__mro__:
        for name, value in vars(owner).items():
            if "forward" in name and callable(value) and _package(module_of(value)) != _package(module_of(owner)):
                return f"{module_of(value)} replaces this model's {name}"
    return ""


def replaces_all(slot: str, replaced: Mapping[Any, Any], depth: int) -> str:
    """Whose functions replace every block, and so decide whether the blocks run; "" if nobody's do.

    The host's own functions do not count: they run the blocks that they replace (block-sparse attention, ControlNets).

    Args:
        slot: see `Family`.
        replaced: the host's `patches_replace["dit"]` of a call.
        depth: number of these blocks.
    """
    patches = [replaced.get((slot, index)) for index in range(depth)]
    # The host's ControlNets keep the function that was there before and call it.
    names = [module_of(getattr(patch, "previous", None) or patch) for patch in patches if patch is not None]
    theirs = [name for name in names if not is_of_host(name)]
    return theirs[0] if depth and len(theirs) == depth else ""


def is_of_host(module: str) -> bool:
    """Whether a Python module belongs to the host."""
    return module.startswith(("comfy.", "comfy_extras."))


def module_of(function: Any) -> str:
    """The Python module of a function, method, partial or object; in a custom node it begins with the folder's name."""
    function = getattr(function, "func", function)  # a partial's
    function = getattr(function, "__func__", function)  # a method's
    name = getattr(function, "__module__", None) or type(function).__module__
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    of_a_pack = re.search(r"custom_nodes[/\\](.+?)(\.py)?$", file if "custom_nodes" in file else name)
    return re.sub(r"[/\\]", ".", of_a_pack[1]).removesuffix(".__init__") if of_a_pack else name


def _package(module: str) -> str:
    return module.split(".", 1)[0]
