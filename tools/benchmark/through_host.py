"""The demo model through ComfyUI, and the methods that run there: its own EasyCache and LazyCache, our node, packs.

A setting is what the method's own node takes. The host is imported inside functions: whether there is one can be asked
in any Python.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from tools import demo_model
from tools.host import PLACES, ROOT, HostError, find_host, find_python, version_of

from . import fitted
from .library import Library, Method, NotHere
from .meter import Meter
from .videos import CALIBRATION, CFG, Video

# What the packs will take for a Wan: the demo model, beside the models of their own tables.
WAN = "wan2.1_demo"


def sweep(control: str, values: tuple[float, ...], **others: Any) -> dict[str, dict[str, Any]]:
    """Settings that differ in one input of a node."""
    return {f"{control} {value:g}": {control: value, **others} for value in values}


def easycache(host: Host, model: Any, setting: dict[str, Any], video: Video) -> Any:
    from comfy_extras.nodes_easycache import EasyCacheNode

    return EasyCacheNode.execute(_with_input_of_its_own(model), **setting).args[0]


def _with_input_of_its_own(model: Any) -> Any:
    """The MODEL, whose diffusion model may write into its input.

    EasyCache does, when it reuses. In half precision the host's cast has made a copy; in float32, in which everybody is
    measured, it would be the sampler's own x, and the video wrong for a reason that few users meet.
    """
    from comfy.patcher_extension import WrappersMP

    def copying(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return executor(x.clone(), *args, **kwargs)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "benchmark", copying)
    return model


def lazycache(host: Host, model: Any, setting: dict[str, Any], video: Video) -> Any:
    from comfy_extras.nodes_easycache import LazyCacheNode

    return LazyCacheNode.execute(model, **setting).args[0]


def adacache(host: Host, model: Any, setting: dict[str, Any], video: Video) -> Any:
    pack = load(ROOT / "__init__.py")
    return pack.nodes.apply.AdaCacheApply.execute(model, **setting).args[0]


def teacache(host: HostWithPacks, model: Any, setting: dict[str, Any], video: Video) -> Any:
    pack, fit = host.packs["TeaCache"], host.fitted(video)
    pack.SUPPORTED_MODELS_COEFFICIENTS[WAN] = fit.teacache
    pack.SUPPORTED_MODELS_COEFFICIENTS[f"{WAN}_ret_mode"] = fit.teacache_retention
    return pack.TeaCache().apply_teacache(model, **setting)[0]


def magcache(host: HostWithPacks, model: Any, setting: dict[str, Any], video: Video) -> Any:
    """Both conditionings get the same ratios.

    The pack computes only if both want to; with ratios of their own, which differ by a thousandth, they came to want it
    at different steps, and 21 were skipped in a row where `magcache_K` allows 4.
    """
    pack = host.packs["MagCache"]
    pack.SUPPORTED_MODELS_MAG_RATIOS[WAN] = host.fitted(video).magcache.repeat(2)
    return pack.MagCache().apply_magcache(model, **setting)[0]


# The defaults of both nodes, which share a widget list.
NATIVE = {"start_percent": 0.15, "end_percent": 0.95, "verbose": False}

OUR_NODE = {"start_percent": 0.0, "end_percent": 1.0, "probe_position": 0.5, "cache_device": "main"}

# As the packs' tables have them for Wan 2.1 1.3B. On a GPU the cache would stay there; here all is the CPU.
TEACACHE = {"model_type": WAN, "start_percent": 0.0, "end_percent": 1.0, "cache_device": "cpu"}
RETENTION = TEACACHE | {"model_type": f"{WAN}_ret_mode", "start_percent": 0.1}
MAGCACHE = {"model_type": WAN, "retention_ratio": 0.2, "magcache_K": 4, "start_step": 0, "end_step": -1}


class Host(Library):
    """Methods attach by `attach(library, model, setting, video)`, which gives a patched clone of the host's MODEL."""

    methods = (
        Method(
            "EasyCache",
            sweep("reuse_threshold", (0.01, 0.03, 0.1, 0.2, 0.6), **NATIVE),
            easycache,
            off=NATIVE | {"reuse_threshold": 0.0},
        ),
        Method(
            "LazyCache",
            sweep("reuse_threshold", (0.02, 0.05, 0.1, 0.2, 0.6), **NATIVE),
            lazycache,
            off=NATIVE | {"reuse_threshold": 0.0},
        ),
        Method(
            "AdaCache auto (node)",
            {"2x": OUR_NODE | {"preset": "auto", "speedup": 2.0}},
            adacache,
            off=OUR_NODE | {"preset": "off", "speedup": 2.0},
        ),
    )

    @classmethod
    def folder(cls) -> Path:
        """Of the ComfyUI.

        Raises:
            NotHere: there is none.
            HostError: as of `find_host`.
        """
        folder = find_host()
        if folder is None:
            raise NotHere(f"no ComfyUI was found (looked at {PLACES})")
        return folder

    @classmethod
    def python(cls) -> Path:
        folder = cls.folder()
        try:
            return find_python(folder)
        except HostError as error:
            raise NotHere(str(error)) from error

    def __init__(self) -> None:
        folder = self.folder()
        # In front: `nodes` must be the host's, and our root, which has one too, is on the path.
        sys.path.insert(0, str(folder))
        from comfy.cli_args import args

        args.cpu = args.use_pytorch_cross_attention = args.disable_xformers = True
        self.name = f"ComfyUI {version_of(folder)}"

    def sample(self, video: Video, meter: Meter, method: Method | None = None, setting: Any = None) -> Tensor:
        model = self.load()
        meter.watch(model.model.diffusion_model.blocks)
        if method is not None:
            model = method.attach(self, model, setting, video)
        return self.run(model, video, meter)

    @staticmethod
    def load() -> Any:
        """The host's MODEL, in float32, from the file: nothing that a method left behind is in it."""
        import comfy.sd

        return comfy.sd.load_diffusion_model(str(demo_model.SHIPPED), model_options={"dtype": torch.float32})

    @staticmethod
    @torch.no_grad()  # not the host's inference mode, in which a meter could not see what is executed
    def run(model: Any, video: Video, meter: Meter) -> Tensor:
        """As its KSampler does. Returns the latent as `sample` does."""
        import comfy.sample

        positive, negative = ([[text[None], {}]] for text in demo_model.guided_context(video.prompt, CFG))
        noise = demo_model.noise_of(video.seed)
        with meter:
            samples = comfy.sample.sample(
                model,
                noise,
                video.steps,
                CFG,
                video.sampler,
                "simple",
                positive,
                negative,
                torch.zeros_like(noise),
                callback=lambda *_: meter.mark(),
                disable_pbar=True,
                seed=video.seed,
            )
        return model.model.process_latent_in(samples)


class HostWithPacks(Host):
    """A host on which the packs still import: the oldest, where several have them."""

    PACKS = ("TeaCache", "MagCache")

    methods = (
        Method(
            "TeaCache pack",
            sweep("rel_l1_thresh", (0.03, 0.05, 0.08, 0.12, 0.2), **TEACACHE),
            teacache,
            off=TEACACHE | {"rel_l1_thresh": 10.0, "start_percent": 1.0},
        ),
        Method(
            "TeaCache pack, retention",
            sweep("rel_l1_thresh", (0.03, 0.05, 0.08, 0.15, 0.25), **RETENTION),
            teacache,
            off=RETENTION | {"rel_l1_thresh": 10.0, "start_percent": 1.0},
        ),
        Method(
            "MagCache pack",
            sweep("magcache_thresh", (0.02, 0.04, 0.06, 0.12, 0.24), **MAGCACHE),
            magcache,
            off=MAGCACHE | {"magcache_thresh": 0.3, "start_step": 100},
        ),
    )

    @classmethod
    def folder(cls) -> Path:
        named = os.environ.get("COMFYUI_PACKS_PATH")
        places = [Path(named).expanduser().absolute()] if named else super().folder().parent.iterdir()
        found = [place for place in places if cls.packs_in(place).keys() >= {*cls.PACKS}]
        if not found:
            raise NotHere(
                f"no ComfyUI with the packs {' and '.join(cls.PACKS)} was found "
                "(looked at COMFYUI_PACKS_PATH, else beside the other ComfyUI)"
            )
        return min(found, key=lambda place: [int(number) for number in re.findall(r"\d+", version_of(place))])

    @staticmethod
    def packs_in(host: Path) -> dict[str, Path]:
        """Pack -> its folder: called ComfyUI-TeaCache where it was cloned, teacache where the Manager installed it."""
        if not (host / "comfyui_version.py").exists():
            return {}
        folders = {path.parent.name.lower(): path.parent for path in host.glob("custom_nodes/*/nodes.py")}
        return {
            pack: folders[name]
            for pack in HostWithPacks.PACKS
            for name in (pack.lower(), f"comfyui-{pack.lower()}")
            if name in folders
        }

    def __init__(self) -> None:
        super().__init__()
        self.packs = {pack: load(folder / "nodes.py") for pack, folder in self.packs_in(self.folder()).items()}
        self._fitted: dict[tuple[str, int], fitted.Fitted] = {}

    def fitted(self, video: Video) -> fitted.Fitted:
        """On plain runs of all CALIBRATION prompts with this video's sampler and steps; made once."""
        key = video.sampler, video.steps
        if key not in self._fitted:
            runs = []
            for prompt, seed in CALIBRATION:
                model = self.load()
                with fitted.seen(model.model.diffusion_model) as calls:
                    self.run(model, Video("", prompt, seed, *key), Meter())
                runs.append(calls)
            self._fitted[key] = fitted.fit(runs)
        return self._fitted[key]


def load(path: Path) -> ModuleType:
    """A node pack, or a file of it, once, by its path as the host does it.

    Raises:
        NotHere: it does not import in this host.
    """
    name = str(path).replace(".", "_x_")
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except ImportError as error:
            raise NotHere(f"{path.parent.name} does not import in this ComfyUI: {error}") from error
    return sys.modules[name]
