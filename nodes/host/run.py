"""One sampling run of the host (one OUTER_SAMPLE call), translated for the core's engine.

Sigmas become steps, conditionings become keys, transformer options become variants. `adacache_core.engine` decides.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import torch
from comfy.model_management import InterruptProcessingException
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from torch import Tensor

from ...adacache_core.config import CacheConfig
from ...adacache_core.correct.sampler import Model, Sampler, probe_sampler, step_of
from ...adacache_core.decide.error_control import ErrorState
from ...adacache_core.engine import Engine
from ...adacache_core.tell.report import RunReport
from .changing import changing_steps
from .families import LEFT_OUT, Family, class_name
from .live import Live
from .others import is_of_host, module_of, replaces_all, stands_in

KEY = "adacache"

# BaseModel.apply_model(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)
_CONTROL_ARGUMENT, _OPTIONS_ARGUMENT = 4, 5

# The host's cache of Wan Animate 2's poses fails if a window comes twice in a row (0.33.0: `slots.remove` compares
# tensors of different sizes). That happens in a proof, which does not need the cache.
_POSE_CACHE = "animate2_cache"


class Run:
    """One OUTER_SAMPLE call, from its start to its end.

    Args:
        family: row of the model; None: it has none.
        guider: the host's CFGGuider, whose `model_options` must be a copy made for this run.
        sampler: the host's SAMPLER.
        sigmas: the run's noise levels, (steps + 1,).
        config: settings of the node.
        preset: its name, for the report.
        node: the node's id, for the timeline; None: there is none.
        mask: the host's `denoise_mask`, which says where the latent is made; None: everywhere.
        before: see `Engine`.
    """

    def __init__(
        self,
        family: Family | None,
        guider: Any,
        sampler: Any,
        sigmas: Tensor,
        config: CacheConfig,
        preset: str,
        node: str | None = None,
        mask: Tensor | None = None,
        before: ErrorState | None = None,
    ) -> None:
        module = guider.model_patcher.model.diffusion_model
        sampling = guider.model_patcher.get_model_object("model_sampling")
        self.family = family
        self.sigmas = sigmas.tolist()  # all at once: on a GPU, reading each number would wait for it
        self.rising = any(after > before for before, after in pairwise(self.sigmas))
        known = None if config.never_skips or self.rising else _known_of(guider, sampler, sigmas)
        self._sampler_name = Sampler.name if known is None else known.name
        self._after_guidance = len(_after_guidance(guider.model_options))  # without the sampler's own
        report = RunReport(
            model=class_name(module).rsplit(".", 1)[-1],
            family="" if family is None else family.name,
            preset=preset,
            moreg=None if config.moreg is None or config.at_output else vars(config.moreg).copy(),
        )
        self.engine = Engine(
            config,
            len(self.sigmas) - 1,
            None if family is None else family.layout,
            ends_at_zero=self.sigmas[-1] == 0,
            sampler=known,
            span=_span(sampling, self.sigmas),
            flow=_is_flow(sampling),
            changing=changing_steps(guider, sampling, self.sigmas),
            mask=mask,
            guidance=_guidance(guider),
            before=before,
            report=report,
        )
        why = LEFT_OUT.get(class_name(module), "") if config.at_output else ""
        if self.rising:
            why = "the noise levels rise, from video to noise (unsampling)"
        why = f"{why}, so every step is computed" if why else ""
        self.other_cache = _other_cache(guider.model_options)
        why = self.other_cache or why
        if why and (self.other_cache or not config.never_skips):
            report.notes.clear()  # they are about a run that skips steps
            self.engine.stand_down(why)
        if family is not None and family.guessed:
            self.engine.note(
                f"this model is new to AdaCache, which treats it like {family.name} and checks that at step 1"
            )
        self.live = Live(node, report)
        self._scale: Any = None  # guidance scale of the last evaluation

    def register(self, model_options: dict) -> None:
        """Adds the run's wrappers to its model options, after all others.

        Beside another cache none are added, so the report stays empty.
        """
        if self.other_cache:
            return
        add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, self.predict_noise, model_options, is_model_options=True)
        add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, self.apply_model, model_options, is_model_options=True)

    def predict_noise(self, executor: Any, x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Any:
        """One model evaluation of the sampler."""
        sigma = float(timestep.max())
        options = args[0] if args else kwargs.get("model_options", {})
        self.engine.others = _between(options, KEY)
        self._look_at_sampler(options)
        step, scale = self._step_of(sigma), getattr(executor.class_obj, "cfg", None)
        if scale != self._scale and self.engine.report.evaluations:
            self.engine.changes(step, "guidance changes")
        self._scale = scale
        with self.engine.evaluation(step, sigma, x.device):
            denoised = self.engine.answer(x, lambda: executor(x, timestep, *args, **kwargs))
        self.live.evaluated()
        return denoised

    def _look_at_sampler(self, model_options: Mapping[str, Any]) -> None:
        """Stands down if the sampler uses more of the model than its denoised output, as CFG++ does."""
        if self.engine.output is not None and len(_after_guidance(model_options)) > self._after_guidance:
            self.engine.report.notes.clear()  # they are about a run that skips steps
            self.engine.stand_down(f"{self._sampler_name} uses more of the model than its denoised output")

    def _step_of(self, sigma: float) -> int:
        if self.rising:
            return min(range(len(self.sigmas) - 1), key=lambda step: abs(self.sigmas[step] - sigma))
        return step_of(sigma, self.sigmas)

    def apply_model(self, executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """One call of the model, with one or several conditionings in the batch."""
        if self.engine.current is None:
            self.engine.note(
                "the model was also called outside of the sampler's evaluations; AdaCache did not touch that"
            )
            return executor(x, *args, **kwargs)
        arguments = [x, *args]
        positional = len(arguments) > _OPTIONS_ARGUMENT
        options = arguments[_OPTIONS_ARGUMENT] if positional else kwargs.get("transformer_options", {})
        control = arguments[_CONTROL_ARGUMENT] if len(arguments) > _CONTROL_ARGUMENT else kwargs.get("control")
        module = executor.class_obj.diffusion_model
        module = getattr(module, "_orig_mod", module)
        replaced = options.get("patches_replace", {}).get("dit", {})
        # Not at the start of the run: only now has the host replaced the patches of other graphs by those of this one,
        # and some packs add their functions only for the length of a call.
        self._look_at(module, replaced)
        if self.family is None or self.engine.output is not None:  # only counts whether the blocks run
            with self.engine.call(module, ()):
                return executor(x, *args, **kwargs)
        slot, variant = self.family.slot, frozenset(replaced)
        signature = _sizes(x, kwargs), _hooks(executor.class_obj), control is None
        with self.engine.call(
            module,
            keys_of(options, len(x)),
            variant=variant,
            signature=signature,
            grid=None if self.engine.idle_reason else self.family.grid(module, x, kwargs),
            replaced_blocks={each[1] for each in replaced if each[:1] == (slot,)},
        ) as recording:
            if recording is not None and (slot, 0) in replaced:
                options = _noting_stack_input(options, (slot, 0), recording.note_stack_input)
                if positional:
                    arguments[_OPTIONS_ARGUMENT] = options
                else:
                    kwargs["transformer_options"] = options
            if recording is None and not self.engine.idle_reason:
                arguments = _without_control(arguments)
            answer = executor(*arguments, **kwargs)
        # Not beside functions of other packs, which may count their calls.
        if recording is not None and not self.engine.others:

            def again() -> Any:
                once_more, named = _without_control(arguments), dict(kwargs)
                fresh = {key: value for key, value in options.items() if key != _POSE_CACHE}
                if positional:
                    once_more[_OPTIONS_ARGUMENT] = fresh
                else:
                    named["transformer_options"] = fresh
                return executor(*once_more, **named)

            self.engine.prove(module, (variant, signature), recording, x, answer, again, InterruptProcessingException)
        return answer

    def _look_at(self, module: Any, replaced: Mapping[Any, Any]) -> None:
        """Stands down if another pack has replaced the model or all of its blocks."""
        if self.engine.idle_reason:
            return
        if self.family is not None and class_name(module) not in self.family.classes:
            kind = type(module)
            self.engine.stand_down(f"{module_of(kind)} replaces this model with its own {kind.__name__}")
            return
        whose = stands_in(module)
        if whose:
            self.engine.stand_down(f"{whose}. If its node is no longer in the workflow, load the model again")
            return
        if self.family is None:
            return
        if self.family.guessed and self.engine.others:  # then there is no proof, see `apply_model`
            self.engine.stand_down(
                f"this model is new to AdaCache, which cannot check it beside functions of others{self.engine.others}"
            )
            return
        depth = len(module.get_submodule(self.family.layout.blocks[0])) if replaced else 0
        whose = replaces_all(self.family.slot, replaced, depth)
        if whose:
            self.engine.stand_down(f"{whose} replaces every block of this model")


def _without_control(arguments: list[Any]) -> list[Any]:
    """For a call without blocks: control acts between them, and HunyuanDiT fails if some of it is not used."""
    return [None if place == _CONTROL_ARGUMENT else each for place, each in enumerate(arguments)]


def keys_of(options: Mapping[str, Any], batch: int) -> list[Hashable]:
    """Keys of the chunks of a call's batch: (conditioning index, its uuid, frames of the context window).

    Another pack may cut the host's batch into calls of its own. A batch that cannot be divided by the number of
    conditionings is one chunk.
    """
    window = options.get("context_window")
    frames = None if window is None else tuple(window.index_list)
    keys = [(index, uuid, frames) for index, uuid in zip(options["cond_or_uncond"], options["uuids"], strict=True)]
    return keys if batch % len(keys) == 0 else [tuple(keys)]


def _known_of(guider: Any, sampler: Any, sigmas: Tensor) -> Sampler:
    """What is known about the host's SAMPLER. Only the host's own are probed, as others may do more than sample."""
    levels = sigmas.tolist()
    function = getattr(sampler, "sampler_function", None)
    if not getattr(function, "__module__", "").startswith("comfy."):
        return Sampler(levels)
    patcher = guider.model_patcher
    sampling = patcher.get_model_object("model_sampling")  # samplers read from it how noise levels are meant

    def sample(model: Model, x: Tensor) -> Tensor:
        def known(x: Tensor, sigma: Tensor, model_options: Mapping[str, Any] | None = None, **_: Any) -> Tensor:
            denoised = model(x, float(sigma.max()))
            for after in _after_guidance(model_options or {}):  # the sampler's own, see `_look_at_sampler`
                names = ("denoised", "uncond_denoised", "cond_denoised")
                denoised = after({"sigma": sigma, "input": x, **dict.fromkeys(names, denoised)})
            return denoised

        known.inner_model = SimpleNamespace(model_patcher=patcher, inner_model=SimpleNamespace(model_sampling=sampling))
        with torch.random.fork_rng(devices=[]):  # the same noise each time; uni_pc writes into its sigmas
            torch.random.default_generator.manual_seed(0)  # torch.manual_seed would also seed GPUs
            return function(known, x, sigmas.cpu().clone(), extra_args={}, disable=True, **sampler.extra_options)

    return probe_sampler(sample, levels, function.__name__.removeprefix("sample_"))


def _after_guidance(model_options: Mapping[str, Any]) -> Sequence[Any]:
    """Functions that are given both predictions, the conditional and the unconditional one."""
    return model_options.get("sampler_post_cfg_function", [])


def _span(sampling: Any, sigmas: list[float]) -> float:
    """The part of the way from noise to video that these levels cover, in (0, 1], without the model's shift."""
    return min(max(_percent_of(sampling, sigmas[-1]) - _percent_of(sampling, sigmas[0]), 1e-3), 1.0)


def _guidance(guider: Any) -> float:
    """Strength of the guidance, the largest one of guiders that have several; 1 if there is none."""
    scales = [getattr(guider, name, None) for name in ("cfg", "cfg1", "cfg2")]
    return max((float(scale) for scale in scales if isinstance(scale, (int, float))), default=1.0)


def _is_flow(sampling: Any) -> bool:
    """Whether a latent at noise level s is (1 - s) video + s noise, as in flow models."""
    level, one = torch.tensor([0.5]), torch.ones(1)
    return float(sampling.noise_scaling(level, 0 * one, one)) == 0.5


def _percent_of(sampling: Any, sigma: float) -> float:
    """The inverse of the host's `percent_to_sigma`."""
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        if float(sampling.percent_to_sigma(middle)) > sigma:
            low = middle
        else:
            high = middle
    return high


def _hooks(model: Any) -> Hashable:
    """The hooks on the weights (LoRAs of one conditioning, say), and their strengths now: keyframes change them."""
    group = getattr(model.current_patcher, "current_hooks", None)
    return () if group is None else tuple((hook.hook_ref, hook.strength) for hook in group.hooks)


def _sizes(x: Tensor, arguments: Mapping[str, Any]) -> Hashable:
    """What decides the number of tokens: the shapes of the latent and of inputs that are latents too."""
    extra = []
    for name, value in sorted(arguments.items()):
        for tensor in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(tensor, Tensor) and tensor.ndim > 2:
                extra.append((name, tuple(tensor.shape[1:])))
    return tuple(x.shape[1:]), x.dtype, tuple(extra)


def _noting_stack_input(options: dict, slot: tuple[str, int], note: Any) -> dict:
    """Options in which the patch that replaces the first block also passes its input to `note`."""
    patch = options["patches_replace"]["dit"][slot]

    def noting(args: dict, extra: dict) -> dict:
        note(args["img"])
        return patch(args, extra)

    replaced = {**options["patches_replace"]["dit"], slot: noting}
    return {**options, "patches_replace": {**options["patches_replace"], "dit": replaced}}


def _other_cache(model_options: Mapping[str, Any]) -> str:
    """Why nothing may be skipped beside another cache; "" without one. Two caches would reuse what the other made."""
    if "easycache" in model_options.get("transformer_options", {}):
        return "EasyCache or LazyCache is on this model; to use AdaCache, take its node out"
    return ""


def _between(model_options: Mapping[str, Any], ours: str) -> str:
    """Whose functions are between the sampler and the model, as " (a, b)" for a sentence; "" if there are none.

    Args:
        model_options: the host's, of an evaluation.
        ours: key of AdaCache's own wrappers.
    """
    by_type = model_options.get("transformer_options", {}).get("wrappers", {})
    by_key = [
        item for kind in (WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL) for item in by_type.get(kind, {}).items()
    ]
    functions = [function for key, each in by_key if key != ours for function in each]
    functions += filter(None, [model_options.get("model_function_wrapper")])
    names = dict.fromkeys(map(module_of, functions))
    theirs = [name for name in names if not is_of_host(name)]
    return f" ({', '.join(theirs)})" if theirs else ""
