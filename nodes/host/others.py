"""Who else has put a function of their own onto this model. Other packs are found by what they do, not by name.

A pack that answers in the model's place (a cache, say) must not be mixed with AdaCache: it would be given our
leftovers, and we would add ours to its answer. Most such packs run the model for a few steps before they first answer,
so looking at the answers comes too late.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

from torch import nn


def stands_in(module: nn.Module) -> str:
    """Whose function takes the place of the model's own forward (or `forward_orig`, `_forward`, ...).

    Compilers, patched attention and quantised loaders do not replace it.

    Args:
        module: the diffusion model.

    Returns:
        Its Python module and its name, as a person reads them; "" if all is the class's own.
    """
    for name, value in vars(module).items():
        own = getattr(type(module), name, None)
        # The host leaves the class's own method here when it takes a patch back.
        if "forward" in name and callable(value) and callable(own) and getattr(value, "__func__", None) is not own:
            return f"{module_of(value)} replaces this model's {name}"
    for owner in type(module).__mro__:
        for name, value in vars(owner).items():
            if "forward" in name and callable(value) and _package(module_of(value)) != _package(module_of(owner)):
                return f"{module_of(value)} replaces this model's {name}"
    return ""


def replaces_all(slot: str, replaced: Mapping[Any, Any], depth: int) -> str:
    """Whose functions take the place of every block: whether the blocks will run is then theirs to decide.

    The host's own functions run the blocks they replace (its block-sparse attention and its control nets do so).

    Args:
        slot: how the host names the blocks of the first container.
        replaced: the host's `patches_replace["dit"]` of a call.
        depth: number of these blocks.
    """
    patches = [replaced.get((slot, index)) for index in range(depth)]
    # Those of the host's control nets keep the function that was there before and call that.
    names = [module_of(getattr(patch, "previous", None) or patch) for patch in patches if patch is not None]
    theirs = [name for name in names if not is_of_host(name)]
    return theirs[0] if depth and len(theirs) == depth else ""


def is_of_host(module: str) -> bool:
    """Whether this Python module is the host's own."""
    return module.startswith(("comfy.", "comfy_extras."))


def module_of(function: Any) -> str:
    """The Python module of a function, method, partial or object; of a custom node with the name of its folder."""
    function = getattr(function, "func", function)  # a partial's
    function = getattr(function, "__func__", function)  # a method's
    name = getattr(function, "__module__", None) or type(function).__module__
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    of_a_pack = re.search(r"custom_nodes[/\\](.+?)(\.py)?$", file if "custom_nodes" in file else name)
    return re.sub(r"[/\\]", ".", of_a_pack[1]).removesuffix(".__init__") if of_a_pack else name


def _package(module: str) -> str:
    return module.split(".", 1)[0]
