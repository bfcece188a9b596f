"""Reuse of blocks: at a skipped step no block runs, and what the blocks added before is added again.

This is the paper's method. It holds a residual for every conditioning, and a smaller probe of it that is measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..config import CacheConfig
from ..decide.base import Decision
from ..decide.change import change_sums
from ..decide.metric import BlockController, BlockState, Reading, Sums
from ..decide.motion import motion_sums
from ..errors import AdaCacheError
from .cache import ResidualCache
from .layout import Grid
from .recording import Recording

PROBE = "probe"  # tells the keys of probes from those of residuals


@dataclass(frozen=True)
class Visit:
    """One call of a model within an evaluation.

    Attributes:
        keys: whose chunks are in the batch, in order.
        places: where their residuals are kept.
        signature: what must be equal for a residual to fit.
        first: whether it is the first call of each key in this evaluation. A later one (skip-layer guidance, tiling)
            has a place of its own and is not measured.
        residuals: to be added, one (batch, tokens, width) per chunk; none: the blocks must run.
    """

    keys: Sequence[Hashable]
    places: Sequence[Hashable]
    signature: Hashable
    first: bool
    residuals: list[Tensor]


@dataclass
class _Evaluation:
    """What is known about the evaluation under way."""

    reuse: bool = False
    measures: bool = False
    visits: Counter = field(default_factory=Counter)  # by key
    calls: Counter = field(default_factory=Counter)  # by key and variant
    change: Tensor | None = None  # (2,), summed over calls
    motion: Tensor | None = None  # (strides, 3), summed over calls
    motion_missing: str = ""


class Blocks:
    """Keeps and reuses residuals in one run, and decides with its controller when to compute.

    Args:
        controller: decides.
        config: settings of the run.

    Attributes:
        state: of the controller.
        cache: what is held.
    """

    measure_change = staticmethod(change_sums)  # as in the paper; the ablation of it tries others

    def __init__(self, controller: BlockController, config: CacheConfig) -> None:
        self.controller = controller
        self.config = config
        self.state: BlockState = controller.begin()
        self.cache = ResidualCache(config.offload)
        self._evaluation = _Evaluation()

    def begin(self, step: int) -> Decision:
        """An evaluation begins; whether it computes."""
        decision = self.controller.decide(self.state, step)
        measures = decision.compute and self.controller.measures(self.state, step)
        self._evaluation = _Evaluation(not decision.compute, measures)
        self.cache.begin()
        return decision

    def visit(self, keys: Sequence[Hashable], variant: Hashable, signature: Hashable) -> Visit:
        """A call begins; see `Engine.call`."""
        current = self._evaluation
        places: list[Hashable] = []
        first = True
        for key in keys:
            first = first and current.visits[key] == 0
            current.visits[key] += 1
            current.calls[(key, variant)] += 1
            places.append((key, variant, current.calls[(key, variant)]))
        held = [self.cache.get(place, signature) for place in places] if current.reuse else []
        residuals = [residual for residual in held if residual is not None]
        if len(residuals) == len(places):
            for key in keys:
                self.cache.keep_probe(_probe_of(key))
            return Visit(keys, places, signature, first, residuals)
        for place in places:  # frees the memory of what is about to be replaced
            self.cache.make_room(place)
        return Visit(keys, places, signature, first, [])

    def recording_for(self, visit: Visit, grid: Grid | None) -> Recording:
        """To be filled by a call whose blocks run."""
        measures = visit.first and self._evaluation.measures
        return Recording(len(visit.keys), measures, grid, self.config.probe_stride)

    def store(self, visit: Visit, recording: Recording) -> None:
        """Keeps what this call recorded.

        Raises:
            AdaCacheError: the batch cannot be cut into as many chunks as there are keys.
        """
        if not recording.residual:  # the first block did not run
            return
        if len(recording.residual) != len(visit.places):
            raise AdaCacheError(f"{len(visit.places)} keys were given for a batch of {len(recording.residual)}")
        for place, residual in zip(visit.places, recording.residual, strict=True):
            self.cache.put(place, visit.signature, residual)
        if recording.probe is None:
            for key in visit.keys:
                self.cache.keep_probe(_probe_of(key))
            return
        for key, probe in zip(visit.keys, recording.probe.chunk(len(visit.keys)), strict=True):
            probe = probe.clone() if len(visit.keys) > 1 else probe
            old = self.cache.probe(_probe_of(key))
            if old is not None and old.shape == probe.shape:
                self._measure(recording.grid, probe, old.to(probe.device))
            self.cache.put_probe(_probe_of(key), probe)

    def _measure(self, grid: Grid | None, probe: Tensor, old: Tensor) -> None:
        current, moreg = self._evaluation, self.config.moreg
        change = self.measure_change(probe, old)
        current.change = change if current.change is None else current.change + change.to(current.change.device)
        if moreg is None:
            return
        current.motion_missing = current.motion_missing or motion_unusable(grid, moreg.strides)
        if grid is not None and not current.motion_missing:
            motion = motion_sums(probe, grid.frames, moreg.strides)
            current.motion = motion if current.motion is None else current.motion + motion.to(current.motion.device)

    def close(self, step: int, ran: bool) -> tuple[Reading | None, str]:
        """The evaluation ends.

        Args:
            step: of the sampler.
            ran: whether blocks ran in it.

        Returns:
            What was measured, None if nothing; and a note about what could not be, "" if there is none.
        """
        current, reading = self._evaluation, None
        if not current.reuse:
            sums = self._sums()
            self.state = self.controller.computed(self.state, step, sums)
            reading = None if sums is None else self.state.reading
        if ran:
            self.cache.evict_untouched()
        return reading, f"MoReg off: {current.motion_missing}" if current.motion_missing else ""

    def _sums(self) -> Sums | None:
        """What this evaluation measured, None if nothing."""
        current = self._evaluation
        if current.change is None:
            return None
        sums = current.change
        if current.motion is not None and not current.motion_missing:
            sums = torch.cat([sums, current.motion.flatten()])
        sums = sums.cpu()  # the one transfer of a computed evaluation
        return Sums(sums[:2], sums[2:].view(-1, 3) if sums.numel() > 2 else None)


def _probe_of(key: Hashable) -> Hashable:
    """Where the probe of this chunk is kept."""
    return PROBE, key


def motion_unusable(grid: Grid | None, strides: Sequence[int]) -> str:
    """Why motion cannot be measured on this grid, "" if it can."""
    if grid is None:
        return "the frames are not found in the tokens of this model"
    if grid.frames <= max(strides):
        return f"{grid.frames} latent frames are not enough for stride {max(strides)}"
    return ""
