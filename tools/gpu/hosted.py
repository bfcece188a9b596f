"""Starts ComfyUI in this process, on the device to be tested, as its own `main.py` does, and loads the pack.

ComfyUI is imported only inside functions.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from tools.host import PLACES, ROOT, find_host

from .job import Job, NotRun

# Ways to start ComfyUI that change where weights are.
VRAM_MODES: dict[str, list[str]] = {
    "defaults": [],
    "--disable-dynamic-vram": ["--disable-dynamic-vram"],
    "--lowvram": ["--lowvram", "--disable-dynamic-vram"],  # with dynamic VRAM it does nothing
    "--highvram": ["--highvram"],
}
CPU = ["--cpu", "--use-pytorch-cross-attention", "--disable-xformers"]

PACK = "odd folder_x_name"  # ComfyUI makes such names, too


def options_of(job: Job, mode: str = "defaults") -> list[str]:
    """The options to start ComfyUI with; a rehearsal always runs on the CPU."""
    return CPU if job.rehearse else VRAM_MODES[mode]


def start(options: Sequence[str]) -> str:
    """Makes ComfyUI's modules importable, in place of ours with the same names.

    Returns:
        "on" or "off" for dynamic VRAM, or why it failed.

    Raises:
        NotRun: there is no ComfyUI.
    """
    folder = find_host()
    if folder is None:
        raise NotRun(f"no ComfyUI was found (looked at {PLACES})")
    # Our `nodes` would hide ComfyUI's. Modules of `tools` that are imported already still find their files.
    sys.path[:] = [str(folder), *(each for each in sys.path if Path(each or ".").absolute() != ROOT)]
    sys.argv = [sys.argv[0], *options]
    import comfy.options

    comfy.options.enable_args_parsing()
    _tell_allocator()
    try:
        return "on" if _dynamic_vram() else "off"
    except (OSError, RuntimeError) as error:  # dynamic VRAM does not work on every machine; ComfyUI itself does
        return f"failed: {error}"


def _tell_allocator() -> None:
    """Tells ComfyUI which allocator is used: its `main.py` would choose one, but here the environment has chosen it."""
    import torch
    from comfy.cli_args import args

    if torch.cuda.is_available() and hasattr(args, "cuda_malloc"):
        args.cuda_malloc = torch.cuda.get_allocator_backend() == "cudaMallocAsync"


def _dynamic_vram() -> bool:
    """Switches dynamic VRAM on, as ComfyUI's `main.py` does by default on an NVIDIA card."""
    try:
        import comfy_aimdo.control
        from comfy.cli_args import args, enables_dynamic_vram
    except ImportError:  # an older ComfyUI has none
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
    """The pack, loaded once, by its path as ComfyUI does."""
    if PACK not in sys.modules:
        spec = importlib.util.spec_from_file_location(PACK, ROOT / "__init__.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[PACK] = module
        spec.loader.exec_module(module)
    return sys.modules[PACK]


def with_adacache(model: Any, way: str, **settings: Any) -> tuple[Any, Any]:
    """(MODEL with AdaCache, its attachment).

    Args:
        model: ComfyUI's MODEL.
        way: AUTO: the preset, at twice the speed. TABLE: residuals of blocks are reused, on a fixed schedule, because
            metrics of random weights mean nothing; metric and motion are still measured.
        settings: other fields of `CacheConfig`.
    """
    core, attach = pack().adacache_core, pack().nodes.host.attach
    if way == AUTO:
        config = replace(core.auto(SPEEDUP), **settings)
    else:
        table = core.Codebook(((1.0, STEPS),), steps=STEPS)  # only the steps that are always computed
        config = core.CacheConfig(table, core.MotionConfig(), **settings)
    patched = attach.attach(model, config, way)
    return patched, attach.attachment_of(patched)


AUTO, TABLE = WAYS = ("auto", "table")
SPEEDUP = 2.0  # that auto is asked for
STEPS = 12  # the fewest steps with which the pack skips any
COMPUTED = 4  # by the table: the first two, which give the metric, and the last two
