"""One sampling run of the host (one OUTER_SAMPLE call), seen by the core's engine.

Translates: sigmas to steps, conditionings to keys, transformer options to variants. It decides
nothing; `adacache_core.engine` does.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import torch
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
# tensors of several sizes), as it does in a proof, which has no need of it.
_POSE_CACHE = "animate2_cache"


class Run:
    """Lives from the start to the end of one OUTER_SAMPLE call.

    Args:
        family: of its model; None: it has no row in the table.
        guider: the host's CFGGuider; its `model_options` must already be this run's own copy.
        sampler: the host's SAMPLER.
        sigmas: the run's noise levels, (steps + 1,).
        config: settings of the node.
        preset: its name, for the report.
        node: the node's id, for who watches the run.
        mask: where the latent is made, the host's `denoise_mask`; None: everywhere.
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
        self.sigmas = sigmas.tolist()  # at once: they may lie on a GPU, where each number alone would be waited for
        self.rising = any(after > before for before, after in pairwise(self.sigmas))
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
            sampler=None if config.never_skips or self.rising else _known_of(guider, sampler, sigmas),
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
        if why and not config.never_skips:
            report.notes.clear()  # they are of a run that might be skipped
            self.engine.stand_down(f"{why}, so every step is computed")
        if family is not None and family.guessed:
            self.engine.note(f"AdaCache takes this new model for one like {family.name}, and checks that at step 1")
        self.live = Live(node, report)
        self._scale: Any = None  # of guidance, at the last evaluation
        self.other_cache = _other_cache(guider.model_options)
        self.engine.note(self.other_cache)

    def register(self, model_options: dict) -> None:
        """Puts the run's wrappers into its model options, behind those of everybody else.

        Beside another cache there are none: who does not look reports no evaluations, instead of false ones.
        """
        if self.other_cache:
            return
        add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, self.predict_noise, model_options, is_model_options=True)
        add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, self.apply_model, model_options, is_model_options=True)

    def predict_noise(self, executor: Any, x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Any:
        """One model evaluation of the sampler."""
        sigma = float(timestep.max())
        self.engine.others = _between(args[0] if args else kwargs.get("model_options", {}), KEY)
        step, scale = self._step_of(sigma), getattr(executor.class_obj, "cfg", None)
        if scale != self._scale and self.engine.report.evaluations:
            self.engine.changes(step, "guidance changes")
        self._scale = scale
        with self.engine.evaluation(step, sigma, x.device):
            denoised = self.engine.answer(x, lambda: executor(x, timestep, *args, **kwargs))
        self.live.evaluated()
        return denoised

    def _step_of(self, sigma: float) -> int:
        if self.rising:
            return min(range(len(self.sigmas) - 1), key=lambda step: abs(self.sigmas[step] - sigma))
        return step_of(sigma, self.sigmas)

    def apply_model(self, executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """One call of the model: some conditionings, side by side in the batch."""
        if self.engine.current is None:
            self.engine.note("the model was also called outside of the sampler's evaluations; AdaCache left that alone")
            return executor(x, *args, **kwargs)
        arguments = [x, *args]
        positional = len(arguments) > _OPTIONS_ARGUMENT
        options = arguments[_OPTIONS_ARGUMENT] if positional else kwargs.get("transformer_options", {})
        control = arguments[_CONTROL_ARGUMENT] if len(arguments) > _CONTROL_ARGUMENT else kwargs.get("control")
        module = executor.class_obj.diffusion_model
        module = getattr(module, "_orig_mod", module)
        replaced = options.get("patches_replace", {}).get("dit", {})
        # Here, and not at the start of the run: the host has now taken back patches of other graphs and put those of
        # this one in, and some packs put their functions there for the length of a call.
        self._look_at(module, replaced)
        if self.family is None or self.engine.output is not None:  # the blocks are only counted
            with self.engine.call(module, keys_of(options, len(x))):
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
        # Not past functions of others, who may count how often they are called.
        if recording is not None and not self.engine.others:

            def again() -> Any:
                once_more, named = _without_control(arguments), dict(kwargs)
                fresh = {key: value for key, value in options.items() if key != _POSE_CACHE}
                if positional:
                    once_more[_OPTIONS_ARGUMENT] = fresh
                else:
                    named["transformer_options"] = fresh
                return executor(*once_more, **named)

            self.engine.prove(module, (variant, signature), recording, x, answer, again)
        return answer

    def _look_at(self, module: Any, replaced: Mapping[Any, Any]) -> None:
        """Stands down if the model, or all of its blocks, are somebody else's now."""
        if self.engine.idle_reason:
            return
        if self.family is not None and class_name(module) not in self.family.classes:
            kind = type(module)
            self.engine.stand_down(f"{module_of(kind)} replaces this model by its own {kind.__name__}")
            return
        whose = stands_in(module)
        if whose:
            self.engine.stand_down(f"{whose}. If its node is no longer in the workflow, load the model anew")
            return
        if self.family is None:
            return
        if self.family.guessed and self.engine.others:  # past whose functions nothing is proved, see `apply_model`
            self.engine.stand_down(f"this new model cannot be checked beside functions of others{self.engine.others}")
            return
        depth = len(module.get_submodule(self.family.layout.blocks[0])) if replaced else 0
        whose = replaces_all(self.family.slot, replaced, depth)
        if whose:
            self.engine.stand_down(f"{whose} replaces every block of this model")


def _without_control(arguments: list[Any]) -> list[Any]:
    """Control acts between the blocks, of which none runs; HunyuanDiT fails if any of it is left over."""
    return [None if place == _CONTROL_ARGUMENT else each for place, each in enumerate(arguments)]


def keys_of(options: Mapping[str, Any], batch: int) -> list[Hashable]:
    """Who the chunks of a call's batch are: (conditioning index, its uuid, context window).

    Somebody may cut the host's batch into calls of their own; what cannot be shared out among the
    conditionings is one chunk, told apart by its turn.
    """
    window = options.get("context_window")
    frames = None if window is None else tuple(window.index_list)
    keys = [(index, uuid, frames) for index, uuid in zip(options["cond_or_uncond"], options["uuids"], strict=True)]
    return keys if batch % len(keys) == 0 else [tuple(keys)]


def _known_of(guider: Any, sampler: Any, sigmas: Tensor) -> Sampler:
    """What is known of the host's SAMPLER; only the host's own are asked, others may do more than sample."""
    levels = sigmas.tolist()
    function = getattr(sampler, "sampler_function", None)
    if not getattr(function, "__module__", "").startswith("comfy."):
        return Sampler(levels)
    looks_inside = False
    patcher = guider.model_patcher
    sampling = patcher.get_model_object("model_sampling")  # they look up how its noise is counted

    def sample(model: Model, x: Tensor) -> Tensor:
        def known(x: Tensor, sigma: Tensor, model_options: Mapping[str, Any] | None = None, **_: Any) -> Tensor:
            nonlocal looks_inside
            denoised = model(x, float(sigma.max()))
            for after in (model_options or {}).get("sampler_post_cfg_function", []):  # CFG++ wants both videos
                looks_inside = True
                names = ("denoised", "uncond_denoised", "cond_denoised")
                denoised = after({"sigma": sigma, "input": x, **dict.fromkeys(names, denoised)})
            return denoised

        known.inner_model = SimpleNamespace(model_patcher=patcher, inner_model=SimpleNamespace(model_sampling=sampling))
        with torch.random.fork_rng(devices=[]):  # the same noise each time; and uni_pc writes into its sigmas
            torch.manual_seed(0)
            return function(known, x, sigmas.cpu().clone(), extra_args={}, disable=True, **sampler.extra_options)

    found = probe_sampler(sample, levels, function.__name__.removeprefix("sample_"))
    return replace(found, looks_inside=looks_inside)


def _span(sampling: Any, sigmas: list[float]) -> float:
    """Which part of the way from noise to video these levels cover, in (0, 1], as the model's shift has not bent it."""
    return min(max(_percent_of(sampling, sigmas[-1]) - _percent_of(sampling, sigmas[0]), 1e-3), 1.0)


def _guidance(guider: Any) -> float:
    """How strong it is; guiders that have none, or several, say no number."""
    cfg = getattr(guider, "cfg", None)
    return float(cfg) if isinstance(cfg, (int, float)) else 1.0


def _is_flow(sampling: Any) -> bool:
    """Whether a latent at level s is (1 - s) video + s noise, as of flow models."""
    level, one = torch.tensor([0.5]), torch.ones(1)
    return float(sampling.noise_scaling(level, 0 * one, one)) == 0.5


def _percent_of(sampling: Any, sigma: float) -> float:
    """The host's `percent_to_sigma`, turned round."""
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        if float(sampling.percent_to_sigma(middle)) > sigma:
            low = middle
        else:
            high = middle
    return high


def _hooks(model: Any) -> Hashable:
    """Which hooks (LoRAs of one conditioning, say) are on the weights now, and how strongly: keyframes change it."""
    group = getattr(model.current_patcher, "current_hooks", None)
    return () if group is None else tuple((hook.hook_ref, hook.strength) for hook in group.hooks)


def _sizes(x: Tensor, arguments: Mapping[str, Any]) -> Hashable:
    """What decides the number of tokens: the latent, and extra inputs that are latents themselves."""
    extra = []
    for name, value in sorted(arguments.items()):
        for tensor in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(tensor, Tensor) and tensor.ndim > 2:
                extra.append((name, tuple(tensor.shape[1:])))
    return tuple(x.shape[1:]), x.dtype, tuple(extra)


def _noting_stack_input(options: dict, slot: tuple[str, int], note: Any) -> dict:
    """Options in which the patch that replaces the first block tells us what it was given."""
    patch = options["patches_replace"]["dit"][slot]

    def noting(args: dict, extra: dict) -> dict:
        note(args["img"])
        return patch(args, extra)

    replaced = {**options["patches_replace"]["dit"], slot: noting}
    return {**options, "patches_replace": {**options["patches_replace"], "dit": replaced}}


def _other_cache(model_options: Mapping[str, Any]) -> str:
    """Two caches on one model would feed each other leftovers; the first come stays."""
    if "easycache" in model_options.get("transformer_options", {}):
        return "stood down: EasyCache or LazyCache is on this model"
    return ""


def _between(model_options: Mapping[str, Any], ours: str) -> str:
    """Whose functions lie between an evaluation and the model, for a sentence: " (a, b)", "" if there are none.

    Args:
        model_options: the host's, of an evaluation.
        ours: key of the wrappers that are not meant.
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
