"""Settings of AdaCache: frozen, validated, the same for every run."""

from __future__ import annotations

from dataclasses import dataclass

from .decide.base import Policy
from .decide.motion import MotionConfig
from .decide.watch import Watch
from .documents import is_count
from .errors import AdaCacheError

OUTSIDE = "outside start..end"  # why a step is computed


@dataclass(frozen=True)
class CacheConfig:
    """Everything a run needs to know before it starts.

    Attributes:
        policy: what decides which steps are computed.
        moreg: motion regularisation, or None for the plain metric. Only a codebook and watching look at it.
        start, end: fractions of the sampler steps in [0, 1] between which steps may be reused;
            equal values reuse nothing.
        probe_position: which block is probed, as a fraction of the (first) block container's depth.
        probe_stride: one token in so many is probed, the same positions in every frame;
            1 takes all, as the reference does.
        offload: keep residuals in main memory instead of on the device of the model.

    Raises:
        AdaCacheError: names the setting that is wrong.
    """

    policy: Policy
    moreg: MotionConfig | None = None
    start: float = 0.0
    end: float = 1.0
    probe_position: float = 0.5
    probe_stride: int = 4
    offload: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.start <= 1 or not 0 <= self.end <= 1:
            raise AdaCacheError(f"start and end are fractions in [0, 1], got {self.start} and {self.end}")
        if not 0 <= self.probe_position <= 1:
            raise AdaCacheError(f"probe_position is a fraction in [0, 1], got {self.probe_position}; start from 0.5")
        if not is_count(self.probe_stride):
            raise AdaCacheError(f"probe_stride is a whole number >= 1, got {self.probe_stride}; start from 4")

    @property
    def at_output(self) -> bool:
        """See `Policy`."""
        return self.policy.at_output

    def outside(self, steps: int) -> dict[int, str]:
        """The steps of a run that are computed because they are not between start and end, and why."""
        return {step: OUTSIDE for step in range(steps) if not self.start <= step / steps < self.end}

    @property
    def never_skips(self) -> bool:
        """Whether nothing is reused in a run of any length, and nothing measured."""
        closed = self.start >= self.end and not isinstance(self.policy, Watch)
        return self.policy.never_skips or closed
