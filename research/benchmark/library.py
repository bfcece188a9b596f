"""Defines a method, and runs a small model with it through ComfyUI's samplers.

Needs a Python with diffusers and ComfyUI's requirements.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adacache_core.correct.sampler import step_of
from research.demo_model import Evaluate
from research.small_models import DISTILLED_LEVELS, MODELS, enter_host
from tools.host import PLACES, find_host, version_of

from .meter import Meter
from .plan import Case, Condition, drawn_clip
from .records import PLAIN


class Unavailable(RuntimeError):
    """Something is missing on this machine; the message says what. The result is "not run", not a failure."""


@dataclass(frozen=True)
class Method(ABC):
    """A way to skip work, and its settings that are measured.

    Attributes:
        name: as users know it; ours begin with "AdaCache".
        settings: label -> setting for the method's own code, from the safest to the boldest.
        off: label of the setting at which it must do nothing; None if its code has none.
        models: those of MODELS on which it works without changes.
        needs_guidance: whether it skips the unconditional half, so there must be one.
        everywhere: whether it is measured on everything in the plan, or only on a few videos under the most important
            conditions, because it is known to be behind.
    """

    name: str
    settings: dict[str, Any]
    off: Any = None
    models: tuple[str, ...] = tuple(MODELS)
    needs_guidance: bool = False
    everywhere: bool = True

    def fits(self, case: Case) -> bool:
        """Whether it works on this case without changes, and the plan includes it."""
        guided = case.condition.cfg != 1 or not self.needs_guidance
        return case.model in self.models and guided and (self.everywhere or case.is_for_all_methods)

    def condition(self, condition: Condition, setting: Any) -> Condition:
        """The case to sample with this setting: unchanged, unless the method changes the sampling itself."""
        return condition

    @abstractmethod
    def guider(self, bench: Bench, case: Case, setting: Any) -> AbstractContextManager[Any]:
        """ComfyUI's guider for a new model with this method on it, for one sampler's run of `case`."""


@dataclass(frozen=True)
class OnHost(Method):
    """A method that patches ComfyUI's MODEL, as a node does.

    Attributes:
        attach: (bench, MODEL, setting, case) -> the patched MODEL.
    """

    attach: Callable[[Bench, Any, Any, Case], Any] = lambda bench, model, setting, case: model

    @contextmanager
    def guider(self, bench: Bench, case: Case, setting: Any) -> Iterator[Any]:
        yield bench.guider(self.attach(bench, bench.model(case), setting, case), case)


@dataclass(frozen=True)
class OnDiffusers(Method):
    """A cache for a transformer of diffusers, which replaces ComfyUI's model.

    Attributes:
        attach: (bench, transformer, setting, case) -> context manager that yields an Evaluate: velocity after guidance.
        baseline: an `attach` without a cache, for a method that calls the model in another way than `plain` does (in
            two calls, for example). Its off setting must agree with this baseline bit for bit. None: with plain.
    """

    attach: Callable[[Bench, nn.Module, Any, Case], AbstractContextManager[Evaluate]] | None = None
    baseline: Callable[[Bench, nn.Module, Any, Case], AbstractContextManager[Evaluate]] | None = None
    models: tuple[str, ...] = ("demo", "clips")

    @contextmanager
    def guider(self, bench: Bench, case: Case, setting: Any) -> Iterator[Any]:
        transformer = deepcopy(_transformer(case.model))  # so nothing that a method leaves behind stays
        bench.meter.watch(transformer.blocks)
        with self.attach(bench, transformer, setting, case) as evaluate:
            yield bench.guider(bench.model(case, watched=False), case, evaluate)


@cache
def _transformer(name: str) -> nn.Module:
    return MODELS[name].load().to("cpu")


@dataclass(frozen=True)
class FewerSteps(Method):
    """No cache, but fewer steps from the same noise; `settings` are shares of all steps.

    Attributes:
        sampler: if another than the condition's.
    """

    sampler: str | None = None

    def condition(self, condition: Condition, setting: float) -> Condition:
        stages = round(condition.stages * setting)
        steps = max(stages + 1, round(condition.steps * setting))
        sampler = condition.sampler if self.sampler is None else self.sampler
        return replace(condition, steps=steps, stages=stages, sampler=sampler)

    @contextmanager
    def guider(self, bench: Bench, case: Case, setting: Any) -> Iterator[Any]:
        yield bench.guider(bench.model(case), case)


PLAIN_RUN = OnHost(PLAIN, {"": None})


class Bench:
    """A ComfyUI that makes videos of the small models.

    Attributes:
        host: its folder.
        name: ComfyUI and its version, for the records.
        meter: of the present run.

    Raises:
        Unavailable: there is no ComfyUI, or this Python lacks its requirements.
    """

    def __init__(self, host: Path | None = None) -> None:
        self.host = host or find_host()
        if self.host is None:
            raise Unavailable(f"no ComfyUI was found (looked at {PLACES})")
        try:
            enter_host(self.host)
            import comfy.samplers  # noqa: F401
        except ImportError as error:
            raise Unavailable(f"this Python lacks what ComfyUI requires: {error}") from error
        self.name = f"ComfyUI {version_of(self.host)}"
        self._schedules: dict[tuple[str, Condition], Tensor] = {}  # one cannot be made without a model
        self.meter = Meter()

    @torch.no_grad()  # not ComfyUI's inference mode, in which a meter cannot count operations
    def sample(self, case: Case, meter: Meter, method: Method = PLAIN_RUN, setting: Any = None) -> Tensor:
        """Makes a video with a new model.

        Args:
            meter: counts the sampling, but not loading or calibrating.

        Returns:
            The finished latent in the numbers that the model works with, in the model's shape, float32 on the CPU.
        """
        before, self.meter = self.meter, meter
        try:
            return self._sample(case, meter, method, setting)
        finally:
            self.meter = before  # a method that makes plain runs first does so inside this run

    def _sample(self, case: Case, meter: Meter, method: Method, setting: Any) -> Tensor:
        made = method.condition(case.condition, setting)
        levels = self.levels(case, made)
        noise = torch.randn(case.subject.latent, generator=torch.manual_seed(case.seed))
        clean = torch.zeros_like(noise) if made.denoise == 1 else drawn_clip(case)
        for begin, end in made.parts:
            with method.guider(self, replace(case, condition=made, part=(begin, end)), setting) as guider:
                latent = guider.model_patcher.model.process_latent_out(clean)
                with meter:
                    latent = guider.sample(
                        noise if begin == 0 else torch.zeros_like(noise),
                        latent,
                        self._sampler(made.sampler),
                        levels[begin : end + 1],
                        callback=lambda *_: meter.mark(),
                        disable_pbar=True,
                        seed=case.seed,
                    )
                clean = guider.model_patcher.model.process_latent_in(latent)
            del guider  # frees the model and what the method holds
        return clean

    def levels(self, case: Case, condition: Condition) -> Tensor:
        """The noise levels of a condition, (steps + 1,), as for ComfyUI's KSampler."""
        import comfy.samplers

        if condition.levels:  # with fewer steps: every n-th of the list
            every = torch.tensor(DISTILLED_LEVELS[condition.levels])
            return every[torch.linspace(0, len(every) - 1, condition.steps + 1).round().long()]
        key = case.model, condition
        if key not in self._schedules:
            self._schedules[key] = comfy.samplers.KSampler(
                self.model(case, watched=False),
                condition.steps,
                "cpu",
                condition.sampler,  # for uni_pc, ComfyUI leaves out the second to last level
                condition.scheduler,
                condition.denoise,
            ).sigmas
        return self._schedules[key].clone()  # a copy, because uni_pc writes into its levels

    @staticmethod
    def _sampler(name: str) -> Any:
        import comfy.samplers

        return comfy.samplers.sampler_object(name)

    def model(self, case: Case, watched: bool = True) -> Any:
        """A new MODEL for a case, in float32 and with its shift, without traces of earlier methods."""
        import comfy.sd
        from comfy_extras.nodes_model_advanced import ModelSamplingSD3

        model = comfy.sd.load_diffusion_model(str(case.subject.file), model_options={"dtype": torch.float32})
        inner = model.model.diffusion_model
        if watched:
            names = ("blocks", "double_blocks", "single_blocks")
            self.meter.watch([block for name in names for block in getattr(inner, name, ())])
        return ModelSamplingSD3().patch(model, case.condition.shift)[0]

    @staticmethod
    def guider(model: Any, case: Case, evaluate: Evaluate | None = None) -> Any:
        """ComfyUI's CFGGuider for this MODEL, with the case's prompts.

        Args:
            evaluate: replaces the model.
        """
        import comfy.samplers

        class Through(comfy.samplers.CFGGuider):
            def predict_noise(
                self, x: Tensor, timestep: Tensor, model_options: dict | None = None, seed: int | None = None
            ) -> Tensor:
                if evaluate is None:
                    return super().predict_noise(x, timestep, model_options, seed)
                sigma = float(timestep.max())
                levels = model_options["transformer_options"]["sample_sigmas"].tolist()
                return x - sigma * evaluate(x, step_of(sigma, levels), sigma)

        guider = Through(model)
        more = {"pooled_output": torch.zeros(1, 768)}  # ComfyUI's HunyuanVideo needs its shape
        guider.set_conds(*([[text[None], dict(more)]] for text in (case.context[0], case.context[-1])))
        guider.set_cfg(case.condition.cfg)
        return guider
