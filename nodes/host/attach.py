"""Puts AdaCache on a clone of a MODEL and keeps the reports of its runs. Holds no tensor."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from comfy.cli_args import args as host_arguments
from comfy.model_management import InterruptProcessingException
from comfy.model_patcher import create_model_options_clone
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...adacache_core.config import CacheConfig
from ...adacache_core.decide.error_control import ErrorState
from ...adacache_core.tell.report import RunReport
from .families import Family, family_of, known_family
from .run import KEY, Run

log = logging.getLogger(__name__)

_REPORTS_KEPT = 16  # as many as AdaCache Calibrate can count
_FINGERPRINT_POINTS = 64


@dataclass(frozen=True)
class FinishedRun:
    """What is kept of a run.

    Attributes:
        report: what it did.
        fingerprint: of the latent that it made; None: it made none.
        left: see `Engine`.
    """

    report: RunReport
    fingerprint: tuple[float, ...] | None
    left: ErrorState | None = None


class Attachment:
    """The OUTER_SAMPLE wrapper of one AdaCache node.

    Args:
        family: row of the model; None: it has none.
        config: settings.
        preset: their name, for the report.
        node: the host's id of the node that shows the runs, if any.

    Attributes:
        finished: the last runs, the newest last.
    """

    def __init__(self, family: Family | None, config: CacheConfig, preset: str, node: str | None = None) -> None:
        self.family = family
        self.config = config
        self.preset = preset
        self.node = node
        self.finished: deque[FinishedRun] = deque(maxlen=_REPORTS_KEPT)

    def __deepcopy__(self, memo: dict) -> Attachment:
        # ComfyUI up to 0.13 deep-copies model options, but there must be one list of reports.
        return self

    def __call__(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        guider, sampler, sigmas = executor.class_obj, args[2], args[3]
        mask = args[4] if len(args) > 4 else kwargs.get("denoise_mask")
        if len(sigmas) < 2:  # SplitSigmas can leave a single level, so nothing is sampled
            return executor(*args, **kwargs)
        original = guider.model_options
        guider.model_options = create_model_options_clone(original)
        before = None if args[1] is None else self._run_that_made(args[1])
        left = None if before is None else before.left
        run = Run(self.family, guider, sampler, sigmas, self.config, self.preset, self.node, mask, left)
        run.register(guider.model_options)
        made = None
        try:
            with nullcontext() if self.config.at_output else _varying_allocations():
                out = executor(*args, **kwargs)
            made = fingerprint(out)
            return out
        except BaseException as error:
            run.engine.report.stopped = _stopped(error, run.engine.report)
            raise
        finally:
            guider.model_options = original
            report = run.engine.finish()
            self.finished.append(FinishedRun(report, made, run.engine.left))
            self._log(report)
            run.live.finished()

    def _log(self, report: RunReport) -> None:
        log.info("AdaCache: %s", report.summary())
        for note in report.notes:
            log.warning("AdaCache: %s", note)

    def report_for(self, samples: Tensor | None) -> tuple[RunReport | None, str]:
        """The report of the run that made a latent, or else of the newest run.

        Args:
            samples: a latent, or None.

        Returns:
            The report, None if there is none, and a sentence for the user if it is not of this latent, else "".
        """
        if not self.finished:
            return None, (
                "this AdaCache node has not sampled anything yet; if another AdaCache node comes after it, connect the "
                "MODEL of that one"
            )
        run = None if samples is None else self._run_that_made(samples)
        if run is not None:
            return run.report, ""
        return self.finished[-1].report, "no run made this latent; this is the newest run of the AdaCache node"

    def _run_that_made(self, samples: Tensor) -> FinishedRun | None:
        """The newest run of this node that ended with this latent."""
        wanted = fingerprint(samples)
        for run in reversed(self.finished):
            if wanted is not None and run.fingerprint is not None and _alike(wanted, run.fingerprint):
                return run
        return None


@contextmanager
def _varying_allocations() -> Iterator[None]:
    """For a run that skips the blocks in some calls of the model, so that calls allocate different memory.

    From 0.34 on ComfyUI records what one call of a model allocates, and plans the next calls like it; this turns that
    off. It is not needed where whole evaluations are skipped: then all calls of the model are alike.
    """
    before = getattr(host_arguments, "disable_comfy_compiler", None)
    if before is None:
        yield
        return
    host_arguments.disable_comfy_compiler = True
    try:
        yield
    finally:
        host_arguments.disable_comfy_compiler = before


def _stopped(error: BaseException, report: RunReport) -> str:
    """Who or what stopped the run, and at which step."""
    by = "you" if isinstance(error, InterruptProcessingException) else f"an error ({type(error).__name__})"
    step = report.evaluations[-1].step + 1 if report.evaluations else 1
    return f"stopped by {by} at step {step} of {report.sampler_steps}"


def attach(model: Any, config: CacheConfig, preset: str, node: str | None = None) -> Any:
    """A clone of the MODEL with AdaCache on it. It replaces an AdaCache that is already there.

    Args:
        model: the host's MODEL.
        config: settings.
        preset: their name, for the report.
        node: the host's id of the node that shows the runs, if any.

    Raises:
        AdaCacheError: the settings reuse residuals of blocks, and no row of the table fits the model.
    """
    kind = _class_of(model)
    module = model.model.diffusion_model
    family = known_family(kind) if config.at_output else family_of(kind, module, called(model))
    model = model.clone()
    model.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, Attachment(family, config, preset, node))
    return model


def called(model: Any) -> str:
    """What the host calls models like this one, for example "SDXL"."""
    config = getattr(model.model, "model_config", None)
    return "" if config is None else type(config).__name__


def _class_of(model: Any) -> type:
    """The class that the diffusion model will have when it samples: a node may have asked for another one."""
    module = model.model.diffusion_model
    asked_for = getattr(model, "object_patches", {}).get("diffusion_model.__class__")
    return asked_for or type(getattr(module, "_orig_mod", module))


def attachment_of(model: Any) -> Attachment | None:
    """The AdaCache on a MODEL, also if the MODEL was cloned or patched later."""
    wrappers = model.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY)
    return wrappers[-1] if wrappers else None


def fingerprint(samples: Tensor) -> tuple[float, ...] | None:
    """Evenly spread numbers of a latent, by which it is recognised after a cast or a move; None if it is empty.

    A latent with sound is nested, and packed into one tensor while it is sampled: both have the same fingerprint.
    """
    tensors = samples.unbind() if getattr(samples, "is_nested", False) else [samples]
    flat = torch.cat([tensor.detach().flatten(1) for tensor in tensors], dim=1).flatten()
    if flat.numel() == 0:
        return None
    last = _FINGERPRINT_POINTS - 1
    points = torch.arange(last + 1) * (flat.numel() - 1) // last  # not linspace: it rounds indices of large latents up
    return (float(flat.numel()), *flat[points.to(flat.device)].float().cpu().tolist())


def _alike(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    if len(one) != len(other):
        return False
    return torch.allclose(torch.tensor(one), torch.tensor(other), rtol=1e-2, atol=1e-3, equal_nan=True)
