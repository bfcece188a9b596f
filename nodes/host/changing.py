"""Steps at which a run's output jumps, and that are known in advance: a conditioning begins or ends, for example.

A forecast continues the last change of the model's output. It cannot foresee what is switched on or off between two
steps, so these steps are computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Switch = tuple[str, float, bool]  # what happens, its noise level, and whether something ends there
Percents = Iterator[tuple[float, bool]]  # fraction of the run, and whether something ends there (and includes it)


def changing_steps(guider: Any, sampling: Any, sigmas: Sequence[float]) -> dict[int, str]:
    """The steps of a run at which something is switched on or off, and what.

    Args:
        guider: the host's CFGGuider, with its conditionings.
        sampling: the host's model sampling, which turns a fraction of the run into a noise level.
        sigmas: noise levels of the run, falling, (steps + 1,).
    """
    found: dict[int, str] = {}
    for what, level, is_end in (*_of_conditionings(guider, sampling), *_of_patches(guider.model_options)):
        step = next((step for step in range(1, len(sigmas) - 1) if _is_beyond(sigmas[step], level, is_end)), None)
        if step is not None and not _is_beyond(sigmas[0], level, is_end):
            found[step] = what
    return {**found, **_of_guider(guider, len(sigmas) - 1)}


def _of_conditionings(guider: Any, sampling: Any) -> Iterator[Switch]:
    for conditionings in guider.original_conds.values():
        for conditioning in conditionings:
            for what, percents in _switches(conditioning):
                for percent, is_end in percents:
                    yield what, float(sampling.percent_to_sigma(percent)), is_end


def _of_patches(model_options: Mapping[str, Any]) -> Iterator[Switch]:
    """Switches of ControlNets that are patches of the model and hold their own noise levels (Uni3C, MiniMax-H3)."""
    options = model_options.get("transformer_options", {})
    lists = [*options.get("patches", {}).values(), *map(dict.values, options.get("patches_replace", {}).values())]
    for patch in (patch for patches in lists for patch in patches):
        owner = getattr(patch, "control_patch", patch)
        for name, is_end in (("sigma_start", False), ("sigma_end", True)):
            level = getattr(owner, name, None)
            if isinstance(level, (int, float)):
                yield "a ControlNet begins or ends", float(level), is_end


def _is_beyond(sigma: float, level: float, is_end: bool) -> bool:
    """Whether at `sigma` the host has already switched what it switches at `level`."""
    return sigma < level if is_end else sigma <= level


def _switches(conditioning: Mapping[str, Any]) -> Iterator[tuple[str, Percents]]:
    yield "a conditioning begins or ends", _range(conditioning, "start_percent", "end_percent")
    yield "a conditioning begins or ends", _range(conditioning, "clip_start_percent", "clip_end_percent")
    control = conditioning.get("control")
    while control is not None:
        yield "a ControlNet begins or ends", _pair(getattr(control, "timestep_percent_range", None))
        control = getattr(control, "previous_controlnet", None)
    for hook in getattr(conditioning.get("hooks"), "hooks", ()):
        keyframes = getattr(getattr(hook, "hook_keyframe", None), "keyframes", ())
        yield "a hook has a keyframe", ((float(keyframe.start_percent), False) for keyframe in keyframes)


def _range(conditioning: Mapping[str, Any], start: str, end: str) -> Percents:
    yield from ((float(conditioning[name]), name == end) for name in (start, end) if name in conditioning)


def _pair(percents: Sequence[float] | None) -> Percents:
    if percents is not None:
        yield float(percents[0]), False
        yield float(percents[1]), True


def _of_guider(guider: Any, steps: int) -> dict[int, str]:
    """Steps at which a guider changes its scale: it has one for each step, or guides only in a part of the run."""
    scales = guider.cfg if isinstance(getattr(guider, "cfg", None), (list, tuple)) else []
    found = {step for step in range(1, min(len(scales), steps)) if scales[step] != scales[step - 1]}
    start, end = getattr(guider, "start_percent", None), getattr(guider, "end_percent", None)
    if isinstance(start, (int, float)) and isinstance(end, (int, float)):
        inside = [start <= step / steps <= end for step in range(steps)]
        found |= {step for step in range(1, steps) if inside[step] != inside[step - 1]}
    return dict.fromkeys(sorted(found), "guidance changes")
