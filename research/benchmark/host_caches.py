"""Methods that patch ComfyUI's MODEL: its EasyCache and LazyCache, our node, other packs' nodes. Measures nothing.

A setting holds the inputs of the method's own node.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from tools.host import ROOT, find_host, version_of

from . import fitted
from .library import Bench, FewerSteps, Method, OnHost, Unavailable
from .meter import Meter
from .plan import Case, calibration

WAN_MODELS = ("demo", "clips")


def sweep(control: str, values: tuple[float, ...], **others: Any) -> dict[str, dict[str, Any]]:
    """Settings that differ in one input of a node."""
    return {f"{control} {value:g}": {control: value, **others} for value in values}


# --- ComfyUI's own caches --------------------------------------------------------------------------------------------


def easycache(bench: Bench, model: Any, setting: dict[str, Any], case: Case) -> Any:
    from comfy_extras.nodes_easycache import EasyCacheNode

    return EasyCacheNode.execute(_with_input_of_its_own(model), **setting).args[0]


def _with_input_of_its_own(model: Any) -> Any:
    """The MODEL with a copy of its input, so that a cache may write into the input.

    EasyCache does so when it reuses. In half precision, ComfyUI's cast has made a copy. In float32, in which we
    measure, it would write into the sampler's own x, and the video would be wrong for a reason that few users meet.
    """
    from comfy.patcher_extension import WrappersMP

    def copying(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return executor(x.clone(), *args, **kwargs)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "benchmark", copying)
    return model


def lazycache(bench: Bench, model: Any, setting: dict[str, Any], case: Case) -> Any:
    from comfy_extras.nodes_easycache import LazyCacheNode

    return LazyCacheNode.execute(model, **setting).args[0]


# The defaults of both nodes, which have the same widgets.
NATIVE = {"start_percent": 0.15, "end_percent": 0.95, "verbose": False}

# --- Ours ------------------------------------------------------------------------------------------------------------


def adacache(bench: Bench, model: Any, setting: dict[str, Any], case: Case) -> Any:
    return pack().nodes.apply.AdaCacheApply.execute(model, **OUR_NODE | setting).args[0]


def fixed(bench: Bench, model: Any, setting: tuple[str, Callable[[int], set[int]]], case: Case) -> Any:
    """Our node with a fixed schedule. `setting`: a preset, and a function: number of steps -> steps to compute."""
    preset, planned = setting
    computed = planned(case.steps)
    schedule = pack().adacache_core.Schedule(tuple(step in computed for step in range(case.steps)))
    return adacache(bench, model, {"preset": preset, "schedule": schedule}, case)


def every(interval: int) -> Callable[[int], set[int]]:
    """FORA's schedule: the first step and every `interval`-th after it."""
    return lambda steps: set(range(0, steps, interval))


def protected(fraction: float) -> Callable[[int], set[int]]:
    """This fraction of all steps, evenly spread, including those that we always compute: the first and the last two."""
    return lambda steps: evenly(round(fraction * steps), steps)


def evenly(computed: int, steps: int) -> set[int]:
    """The first step, the last two, and `computed` - 3 others, evenly spread between them."""
    between = max(computed - 1, 2)
    return {round(index * (steps - 2) / (between - 1)) for index in range(between)} | {steps - 2, steps - 1}


OUR_NODE = {"start_percent": 0.0, "end_percent": 1.0, "probe_position": 0.5, "cache_device": "main", "speedup": 2.0}

# The settings of ours that are compared with other methods: fixed here, before anything is measured.
DIAL = (1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0)

OURS: tuple[Method, ...] = (
    OnHost(
        "AdaCache auto",
        {f"{speedup:g}x": {"preset": "auto", "speedup": speedup} for speedup in DIAL},
        {"preset": "off"},
        attach=adacache,
    ),
    OnHost("AdaCache fast (published table)", {"as published": {"preset": "fast"}}, {"preset": "off"}, attach=adacache),
    OnHost(
        "AdaCache auto on even steps",
        {f"{share:g} of all": ("auto", protected(share)) for share in (0.67, 0.5, 0.33)},
        ("auto", protected(1.0)),
        everywhere=False,  # an ablation: what it brings to choose the steps by the video
        attach=fixed,
    ),
    OnHost(
        "fixed interval (FORA)",
        {f"every {interval}": ("fast", every(interval)) for interval in (2, 3)},
        ("fast", every(1)),
        everywhere=False,
        attach=fixed,
    ),
)

# --- Fewer steps -----------------------------------------------------------------------------------------------------

SHARES = {f"{share:g} of the steps": share for share in (0.75, 0.67, 0.5, 0.33)}

FEWER: tuple[Method, ...] = (
    FewerSteps("fewer steps", SHARES, 1.0),
    *(
        FewerSteps(f"fewer steps ({name})", SHARES, everywhere=False, sampler=name)
        for name in ("dpmpp_2m", "res_multistep", "uni_pc")
    ),
)

NATIVES: tuple[Method, ...] = (
    OnHost(
        "EasyCache",
        sweep("reuse_threshold", (0.02, 0.05, 0.1, 0.2), **NATIVE),
        NATIVE | {"reuse_threshold": 0.0},
        attach=easycache,
    ),
    OnHost(
        "LazyCache",
        sweep("reuse_threshold", (0.05, 0.2, 0.4), **NATIVE),
        NATIVE | {"reuse_threshold": 0.0},
        everywhere=False,
        attach=lazycache,
    ),
)

# --- Packs for the present ComfyUI -----------------------------------------------------------------------------------

# The inputs of its node, at their defaults; the last two say how much is skipped.
SPECTRUM = {
    "backend": "auto",
    "transition_mode": "separate_fit",
    "enabled": True,
    "blend_weight": 1.0,
    "degree": 4,
    "ridge_lambda": 0.1,
    "history_size": 16,
    "debug": False,
    "forecaster_cache_mode": "legacy_dense_coeff",
    "warmup_steps": 5,
}


def spectrum(bench: Bench, model: Any, setting: dict[str, Any], case: Case) -> Any:
    """Forecasts the output of the blocks with Chebyshev polynomials (arXiv 2603.01623), in the pack for Wan."""
    module = load(pack_folder(bench, "ComfyUI-Spectrum-WAN-Proper") / "__init__.py")
    return module.NODE_CLASS_MAPPINGS["SpectrumApplyWAN"]().apply(model, **SPECTRUM | setting)[0]


PACKS: tuple[Method, ...] = (
    OnHost(
        "Spectrum (WAN-Proper)",
        {
            f"window {window:g}, flex {flex:g}": {"window_size": window, "flex_window": flex}
            for window, flex in ((2.0, 0.0), (2.0, 0.75), (3.0, 1.5))
        },
        {"enabled": False, "window_size": 2.0, "flex_window": 0.0},
        WAN_MODELS,
        attach=spectrum,
    ),
)


def pack_folder(bench: Bench, name: str) -> Path:
    """The folder of another pack: in COMFYUI_PACKS_PATH, in `packs` beside ComfyUI, or in its custom_nodes.

    Raises:
        Unavailable: in none of them.
    """
    named = os.environ.get("COMFYUI_PACKS_PATH")
    places = [Path(named).expanduser()] if named else [bench.host.parent / "packs", bench.host / "custom_nodes"]
    for place in places:
        if (place / name).is_dir():
            return place / name
    raise Unavailable(f"the pack {name} is in none of {', '.join(place.name for place in places)}")


# --- Packs for an older ComfyUI --------------------------------------------------------------------------------------

# The name under which the packs know our small model, beside the models in their own tables.
WAN = "wan2.1_small"


def teacache(bench: Bench, model: Any, setting: dict[str, Any], case: Case) -> Any:
    pack, fit = load(_old_packs(bench.host)["TeaCache"] / "nodes.py"), fitted_on(bench, case)
    pack.SUPPORTED_MODELS_COEFFICIENTS[WAN] = fit.teacache
    pack.SUPPORTED_MODELS_COEFFICIENTS[f"{WAN}_ret_mode"] = fit.teacache_retention
    return pack.TeaCache().apply_teacache(model, **setting)[0]


def magcache(bench: Bench, model: Any, setting: dict[str, Any], case: Case) -> Any:
    """Gives both conditionings the same ratios.

    The pack computes a step only if both conditionings ask for it. With separate ratios, which differ by a thousandth,
    they asked at different steps, and 21 steps in a row were skipped although `magcache_K` allows 4.
    """
    pack = load(_old_packs(bench.host)["MagCache"] / "nodes.py")
    pack.SUPPORTED_MODELS_MAG_RATIOS[WAN] = fitted_on(bench, case).magcache.repeat(2)
    return pack.MagCache().apply_magcache(model, **setting)[0]


_FITTED: dict[tuple, fitted.Fitted] = {}


def fitted_on(bench: Bench, case: Case) -> fitted.Fitted:
    """Fitted on plain runs of the condition's calibration videos, once."""
    key = case.model, case.condition, case.part
    if key not in _FITTED:
        runs: list[list[fitted.Seen]] = []
        with ExitStack() as stack:

            def look(bench: Bench, model: Any, setting: None, case: Case) -> Any:
                runs.append(stack.enter_context(fitted.seen(model.model.diffusion_model)))
                return model

            for other in calibration(replace(case, part=None)):
                bench.sample(other, Meter(), OnHost("looked at", {}, attach=look))
        parts = case.condition.parts  # a run in two stages is fitted twice
        for number, part in enumerate(parts):
            _FITTED[case.model, case.condition, part] = fitted.fit(runs[number :: len(parts)])
    return _FITTED[key]


# The settings in the packs' tables for Wan 2.1 1.3B. The cache is on the CPU, like everything here.
TEACACHE = {"model_type": WAN, "start_percent": 0.0, "end_percent": 1.0, "cache_device": "cpu"}
RETENTION = TEACACHE | {"model_type": f"{WAN}_ret_mode", "start_percent": 0.1}
MAGCACHE = {"model_type": WAN, "retention_ratio": 0.2, "magcache_K": 4, "start_step": 0, "end_step": -1}

OLD_PACKS: tuple[Method, ...] = (
    OnHost(
        "TeaCache pack",
        sweep("rel_l1_thresh", (0.05, 0.08, 0.15), **TEACACHE),
        TEACACHE | {"rel_l1_thresh": 10.0, "start_percent": 1.0},
        WAN_MODELS,
        everywhere=False,
        attach=teacache,
    ),
    OnHost(
        "TeaCache pack, retention",
        sweep("rel_l1_thresh", (0.05, 0.08, 0.15), **RETENTION),
        RETENTION | {"rel_l1_thresh": 10.0, "start_percent": 1.0},
        WAN_MODELS,
        everywhere=False,
        attach=teacache,
    ),
    OnHost(
        "MagCache pack",
        sweep("magcache_thresh", (0.04, 0.12, 0.24), **MAGCACHE),
        MAGCACHE | {"magcache_thresh": 0.3, "start_step": 100},
        WAN_MODELS,
        everywhere=False,
        attach=magcache,
    ),
)


def old_host() -> Path:
    """The ComfyUI on which TeaCache and MagCache import: COMFYUI_OLD_PATH, else the oldest beside the other ComfyUI.

    Raises:
        Unavailable: no such ComfyUI has both packs in its custom_nodes.
    """
    named, main = os.environ.get("COMFYUI_OLD_PATH"), find_host()
    places = [Path(named).expanduser()] if named else main.parent.iterdir() if main else []
    found = [place for place in places if _old_packs(place).keys() >= {"TeaCache", "MagCache"}]
    if not found:
        raise Unavailable("found no ComfyUI with the packs TeaCache and MagCache (COMFYUI_OLD_PATH, or beside yours)")
    return min(found, key=lambda place: [int(number) for number in re.findall(r"\d+", version_of(place))])


def _old_packs(host: Path) -> dict[str, Path]:
    """Pack -> its folder: ComfyUI-TeaCache if it was cloned, teacache if the Manager installed it."""
    if not (host / "comfyui_version.py").exists():
        return {}
    folders = {path.parent.name.lower(): path.parent for path in host.glob("custom_nodes/*/nodes.py")}
    return {
        pack: folders[name]
        for pack in ("TeaCache", "MagCache")
        for name in (pack.lower(), f"comfyui-{pack.lower()}")
        if name in folders
    }


# --- Loading ---------------------------------------------------------------------------------------------------------


def pack() -> Any:
    """Our pack, loaded as ComfyUI loads it."""
    return load(ROOT / "__init__.py")


def load(path: Path) -> ModuleType:
    """Loads a node pack, or one of its files, by its path as ComfyUI does; once.

    Raises:
        Unavailable: it does not import in this ComfyUI.
    """
    name = str(path).replace(".", "_x_")
    if name not in sys.modules:
        inside = [str(path.parent)] if path.name == "__init__.py" else None
        spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=inside)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except ImportError as error:
            del sys.modules[name]
            raise Unavailable(f"{path.parent.name} does not import in this ComfyUI: {error}") from error
    return sys.modules[name]
