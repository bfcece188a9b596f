"""The host in this process, on the device that it is to be tried on, started as its own `main.py` starts it.

Knows the host's start and how the pack gets in; imports the host only inside functions.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from tools.host import PLACES, ROOT, find_host

from .job import Job, NotRun

# How a user may start the host, as far as that changes where weights are.
VRAM_MODES: dict[str, list[str]] = {
    "as it comes": [],
    "--disable-dynamic-vram": ["--disable-dynamic-vram"],
    "--lowvram": ["--lowvram", "--disable-dynamic-vram"],  # beside dynamic VRAM it does nothing
    "--highvram": ["--highvram"],
}
CPU = ["--cpu", "--use-pytorch-cross-attention", "--disable-xformers"]

PACK = "odd folder_x_name"  # the host makes such names, too


def options_of(job: Job, mode: str = "as it comes") -> list[str]:
    """What the host is started with; a rehearsal has one device, whatever the mode."""
    return CPU if job.rehearse else VRAM_MODES[mode]


def start(options: Sequence[str]) -> str:
    """Makes the host's modules importable, in place of ours of the same name.

    Returns:
        "on" if dynamic VRAM is, else "off", or why it failed.

    Raises:
        NotRun: there is no host.
    """
    folder = find_host()
    if folder is None:
        raise NotRun(f"no ComfyUI was found (looked at {PLACES})")
    # Our `nodes` would hide the host's; what is imported of `tools` goes on finding its own files.
    sys.path[:] = [str(folder), *(each for each in sys.path if Path(each or ".").absolute() != ROOT)]
    sys.argv = [sys.argv[0], *options]
    import comfy.options

    comfy.options.enable_args_parsing()
    _tell_allocator()
    try:
        return "on" if _dynamic_vram() else "off"
    except (OSError, RuntimeError) as error:  # what it is built on does not work on every machine; the host does
        return f"failed: {error}"


def _tell_allocator() -> None:
    """Its own `main.py` would choose one, before torch is imported; here the environment has."""
    import torch
    from comfy.cli_args import args

    if torch.cuda.is_available() and hasattr(args, "cuda_malloc"):
        args.cuda_malloc = torch.cuda.get_allocator_backend() == "cudaMallocAsync"


def _dynamic_vram() -> bool:
    """As the host has it on an NVIDIA card unless it is told not to; only its `main.py` would do that."""
    try:
        import comfy_aimdo.control
        from comfy.cli_args import args, enables_dynamic_vram
    except ImportError:  # an older host has none
        return False
    if not enables_dynamic_vram():
        return False
    comfy_aimdo.control.init()
    import comfy.memory_management
    import comfy.model_management as management
    import comfy.model_patcher

    headroom = int(getattr(args, "vram_headroom", 0) * 1024**3)
    if not management.is_nvidia() or not comfy_aimdo.control.init_devices(
        (device.index or 0, headroom) for device in management.get_all_torch_devices()
    ):
        return False
    comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
    comfy.memory_management.aimdo_enabled = True
    return True


def pack() -> ModuleType:
    """The pack, loaded once, by its path as the host does it."""
    if PACK not in sys.modules:
        spec = importlib.util.spec_from_file_location(PACK, ROOT / "__init__.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[PACK] = module
        spec.loader.exec_module(module)
    return sys.modules[PACK]


def with_adacache(model: Any, **settings: Any) -> tuple[Any, Any]:
    """(MODEL with AdaCache on it, its attachment): residuals of blocks, on a schedule that is known.

    Metrics of random weights say nothing, so they decide nothing, and are taken all the same; motion too.

    Args:
        model: the host's MODEL.
        settings: other fields of `CacheConfig`.
    """
    core, attach = pack().adacache_core, pack().nodes.host.attach
    table = core.Codebook(((1.0, STEPS),), steps=STEPS)  # nothing is computed but what always is
    config = core.CacheConfig(table, core.MotionConfig(), **settings)
    patched = attach.attach(model, config, "what always is")
    return patched, attach.attachment_of(patched)


STEPS = 12  # the fewest that the pack does not leave alone
COMPUTED = 4  # of them: the first two, of which the metric comes, and the last two
