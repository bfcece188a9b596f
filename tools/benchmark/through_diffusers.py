"""The demo model through diffusers, and the methods that run there: ours, the fixed interval, and its own caches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import diffusers
from diffusers import WanTransformer3DModel
from torch import Tensor

from tools import demo_model

from . import cache_dit_caches, diffusers_caches, ours
from .library import Library, Method
from .meter import Meter
from .videos import CFG, Video


@contextmanager
def plain(model: WanTransformer3DModel, setting: None, video: Video) -> Iterator[demo_model.Evaluate]:
    yield demo_model.guided(model, demo_model.guided_context(video.prompt, CFG), CFG)


class Diffusers(Library):
    """Methods attach by `attach(model, setting, video)`, a context manager that yields a `demo_model.Evaluate`."""

    name = f"diffusers {diffusers.__version__}"
    methods = (*ours.METHODS, *diffusers_caches.METHODS, *cache_dit_caches.METHODS)

    def __init__(self) -> None:
        self._model = demo_model.load("cpu")

    def sample(self, video: Video, meter: Meter, method: Method | None = None, setting: Any = None) -> Tensor:
        model = deepcopy(self._model)  # whatever a method leaves behind dies with it
        meter.watch(model.blocks)
        attach = plain if method is None else method.attach
        noise = demo_model.noise_of(video.seed)
        with attach(model, setting, video) as evaluate:

            def marked(x: Tensor, step: int, sigma: float) -> Tensor:
                v = evaluate(x, step, sigma)
                meter.mark()
                return v

            with meter:
                return demo_model.integrate(marked, noise, video.steps, video.sampler)
