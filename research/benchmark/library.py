"""What a method is, and the run of a small model through the host's samplers that it is put on.

To be used in a Python that has diffusers and what the host requires.
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
    """This cannot be measured on this machine; the message says what is missing. No failure: "not run"."""


@dataclass(frozen=True)
class Method(ABC):
    """One way to do less, and the positions of its control that are measured.

    Attributes:
        name: as its users know it; ours begin with "AdaCache".
        settings: label of a position -> what the method's own code takes, from the safest to the boldest.
        off: the position at which it must do nothing; None where its code has no such position.
        models: on which of MODELS it can be put without being rewritten.
        needs_guidance: it leaves out the unconditional half, so there must be one.
        everywhere: under all conditions; else, for who is known to be behind, under the most wanted only.
    """

    name: str
    settings: dict[str, Any]
    off: Any = None
    models: tuple[str, ...] = tuple(MODELS)
    needs_guidance: bool = False
    everywhere: bool = True

    def fits(self, case: Case) -> bool:
        """Whether it can be measured here without being rewritten, and the plan has it."""
        guided = case.condition.cfg != 1 or not self.needs_guidance
        return case.model in self.models and guided and (self.everywhere or case.is_most_wanted)

    def condition(self, condition: Condition, setting: Any) -> Condition:
        """How the video is sampled with this setting; as asked for, unless that is what the method changes."""
        return condition

    @abstractmethod
    def guider(self, bench: Bench, case: Case, setting: Any) -> AbstractContextManager[Any]:
        """The host's guider of a fresh model with this method on it, for one sampler's run of `case`."""


@dataclass(frozen=True)
class OnHost(Method):
    """A node, or what is put on the host's MODEL like one.

    Attributes:
        attach: (bench, MODEL, setting, case) -> the patched MODEL.
    """

    attach: Callable[[Bench, Any, Any, Case], Any] = lambda bench, model, setting, case: model

    @contextmanager
    def guider(self, bench: Bench, case: Case, setting: Any) -> Iterator[Any]:
        yield bench.guider(self.attach(bench, bench.model(case), setting, case), case)


@dataclass(frozen=True)
class OnDiffusers(Method):
    """A cache of a transformer of diffusers, which stands in for the host's model.

    Attributes:
        attach: (bench, transformer, setting, case) -> context manager that gives an Evaluate: velocity after guidance.
        baseline: an attach that puts nothing on, for a method that asks the model in another way than `plain` does (in
            two calls, say): with this its off position agrees bit for bit. None: with plain.
    """

    attach: Callable[[Bench, nn.Module, Any, Case], AbstractContextManager[Evaluate]] | None = None
    baseline: Callable[[Bench, nn.Module, Any, Case], AbstractContextManager[Evaluate]] | None = None
    models: tuple[str, ...] = ("demo", "clips")

    @contextmanager
    def guider(self, bench: Bench, case: Case, setting: Any) -> Iterator[Any]:
        transformer = deepcopy(_transformer(case.model))  # whatever a method leaves behind dies with it
        bench.meter.watch(transformer.blocks)
        with self.attach(bench, transformer, setting, case) as evaluate:
            yield bench.guider(bench.model(case, watched=False), case, evaluate)


@cache
def _transformer(name: str) -> nn.Module:
    return MODELS[name].load().to("cpu")


@dataclass(frozen=True)
class FewerSteps(Method):
    """The same noise and a sampler with fewer steps; `settings` are shares of all.

    Attributes:
        sampler: another than the condition's own.
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
    """The host, and how it makes a video of a small model.

    Attributes:
        host: its folder.
        name: ComfyUI with its version, as the records say it.
        meter: of the run that is being made.

    Raises:
        Unavailable: there is no host, or this Python lacks what it requires.
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
        self._schedules: dict[tuple[str, Condition], Tensor] = {}  # to ask for one takes a model
        self.meter = Meter()

    @torch.no_grad()  # not the host's inference mode, in which a meter could not see what is executed
    def sample(self, case: Case, meter: Meter, method: Method = PLAIN_RUN, setting: Any = None) -> Tensor:
        """Make a video on a model that nothing else has touched.

        Args:
            meter: entered around the sampling only, not around loading or calibrating.

        Returns:
            The latent as the model works in it, of the shape that its model is made for, float32 on the CPU.
        """
        before, self.meter = self.meter, meter
        try:
            return self._sample(case, meter, method, setting)
        finally:
            self.meter = before  # a method that looks at plain runs first is inside the run that it is for

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
            del guider  # and with it the model and what the method holds
        return clean

    def levels(self, case: Case, condition: Condition) -> Tensor:
        """The noise levels of a condition, (steps + 1,), as the host's KSampler takes them."""
        import comfy.samplers

        if condition.levels:  # with fewer steps: every so many of the list
            every = torch.tensor(DISTILLED_LEVELS[condition.levels])
            return every[torch.linspace(0, len(every) - 1, condition.steps + 1).round().long()]
        key = case.model, condition
        if key not in self._schedules:
            self._schedules[key] = comfy.samplers.KSampler(
                self.model(case, watched=False),
                condition.steps,
                "cpu",
                condition.sampler,  # for uni_pc it leaves out the last level but one
                condition.scheduler,
                condition.denoise,
            ).sigmas
        return self._schedules[key].clone()  # uni_pc writes into its levels

    @staticmethod
    def _sampler(name: str) -> Any:
        import comfy.samplers

        return comfy.samplers.sampler_object(name)

    def model(self, case: Case, watched: bool = True) -> Any:
        """The host's MODEL of a case in float32, with its shift: nothing that a method left behind is in it."""
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
        """The host's CFGGuider of this MODEL, with the case's prompts.

        Args:
            evaluate: answers in the model's place.
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
        more = {"pooled_output": torch.zeros(1, 768)}  # of which the host's HunyuanVideo asks for the shape
        guider.set_conds(*([[text[None], dict(more)]] for text in (case.context[0], case.context[-1])))
        guider.set_cfg(case.condition.cfg)
        return guider
