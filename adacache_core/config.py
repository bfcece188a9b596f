"""Settings of AdaCache: frozen, validated, and nothing that changes during a run.

A policy says what decides which steps are computed. There are six: a codebook of the paper, a target, a quality, a
fixed schedule, watching, and off.

What a run remembers is in `schedule.py` and `cache.py`. Published numbers are in `presets.py`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from reprlib import repr as short

from torch import Tensor

from .documents import is_number, is_whole
from .errors import AdaCacheError
from .schedule import Schedule

EXAMPLE = "0.08:6, 0.16:5, 0.24:4, 0.32:3, 0.40:2, 1.00:1"


class Policy:
    """What decides which steps of a run are computed.

    Attributes:
        at_output: whether whole evaluations are skipped and what the sampler is given is forecast (`output.py`); else
            residuals of blocks are reused.
        settled: whether it is settled before the run which steps are computed.
        never_skips: whether nothing is reused in a run of any length, and nothing measured.
    """

    at_output: bool = False
    settled: bool = False
    never_skips: bool = False


@dataclass(frozen=True)
class Codebook(Policy):
    """From rate of change to rate of reuse: the {threshold: rate} table of the paper.

    Attributes:
        entries: (threshold, rate) pairs, at least one. Thresholds (change of the probe residual per
            step, >= 0, dimensionless) rise strictly; a rate is the distance in sampler steps to the
            next computed step, a whole number >= 1. The first threshold that lies above the metric
            gives the rate. The last entry is "everything else": its threshold is never compared.
        steps: number of sampler steps the table was made for.
        name: what reports call it.

    Raises:
        AdaCacheError: names the entry that is wrong and shows a correct table.
    """

    entries: tuple[tuple[float, int], ...]
    steps: int = 30
    name: str = "custom"

    def __post_init__(self) -> None:
        if not self.entries:
            raise AdaCacheError(f"a codebook needs at least one entry, for example {EXAMPLE}")
        before = -math.inf
        for number, (threshold, rate) in enumerate(self.entries, 1):
            _check_entry(str(number), threshold, rate, before)
            before = threshold
        if not _whole(self.steps):
            raise AdaCacheError(f"a codebook is made for at least 1 sampler step, got {short(self.steps)}")

    @classmethod
    def parse(cls, text: str, steps: int = 30, name: str = "custom") -> Codebook:
        """Reads the paper's notation, `0.08:6, 0.16:5, ..., 1.00:1`, braces allowed.

        Raises:
            AdaCacheError: names the entry and its position (in characters, from 1).
        """
        body = text.strip().removeprefix("{").removesuffix("}").strip().removesuffix(",")
        if not body:
            raise AdaCacheError(f"the codebook is empty; a correct one is {EXAMPLE}")
        start = text.index(body)
        entries: list[tuple[float, int]] = []
        for number, part in enumerate(body.split(","), 1):
            where = f"{number} at position {start + len(part) - len(part.lstrip()) + 1}"
            match = re.fullmatch(r"\s*([-+.\w]+)\s*:\s*([-+.\w]+)\s*", part)
            try:
                if match is None:
                    raise ValueError
                threshold, rate = (float(number_text) for number_text in match.groups())
            except ValueError:
                raise AdaCacheError(
                    f"codebook entry {where}, {part.strip()!r}, is not 'threshold:rate'. "
                    f"A correct codebook is {EXAMPLE}"
                ) from None
            rate = int(rate) if rate.is_integer() else rate
            _check_entry(where, threshold, rate, entries[-1][0] if entries else -math.inf)
            entries.append((threshold, int(rate)))
            start += len(part) + 1
        return cls(tuple(entries), steps, name)

    def rate_for(self, metric: Tensor | float) -> int:
        """The rate for a change per step.

        Args:
            metric: number or 0-dim tensor; a tensor is compared in its own dtype, as the reference does.

        Returns:
            Steps to the next computed one. A metric that is not finite gives the smallest rate of
            the table (the reference falls through to the last one).
        """
        if not math.isfinite(metric):
            return min(rate for _, rate in self.entries)
        for threshold, rate in self.entries[:-1]:
            if metric < threshold:
                return rate
        return self.entries[-1][1]

    @property
    def never_skips(self) -> bool:  # type: ignore[override]
        return all(rate == 1 for _, rate in self.entries)

    def __str__(self) -> str:
        """The paper's notation, which `parse` reads back exactly."""
        return ", ".join(f"{threshold}:{rate}" for threshold, rate in self.entries)


def _check_entry(where: str, threshold: float, rate: float, before: float) -> None:
    if not is_number(threshold) or not 0 <= threshold < math.inf:
        raise AdaCacheError(
            f"codebook entry {where} has the threshold {short(threshold)}; a threshold is a number >= 0. "
            f"A correct codebook is {EXAMPLE}"
        )
    if not before < threshold:
        raise AdaCacheError(
            f"codebook thresholds must rise: entry {where} has {threshold} after {before}. "
            f"A correct codebook is {EXAMPLE}"
        )
    if not _whole(rate):
        raise AdaCacheError(
            f"codebook entry {where} ({threshold:g}) has the rate {short(rate)}; a rate is a whole number of "
            f"steps >= 1. A correct codebook is {EXAMPLE}"
        )


def _whole(value: float) -> bool:
    """Whether this is one of 1, 2, 3, ..., and none that overflows where it is multiplied."""
    return is_whole(value) and value >= 1


@dataclass(frozen=True)
class MotionConfig:
    """Motion regularisation (MoReg) of the paper: more compute where there is more motion.

    Attributes:
        strength: exponent on the finished factor; 0 has no effect, 1 is as published.
        window: (start, end) as fractions of the sampler steps in [0, 1], both ends included; None is
            the published one (steps 4..26 of 30, 10..90 of 100).
        strides: frame distances over which motion is measured, in latent frames >= 1.
        pivot, power, divisor: factor = (motion / pivot) ** power / divisor.
        gradient: weight of the motion gradient.
        form: "reference" (the published code: 8th power, absolute gradient) or "paper"
            (equation 9: motion + motion gradient; pivot, power, divisor and gradient are not used).

    Raises:
        AdaCacheError: names the setting that is wrong.
    """

    strength: float = 1.0
    window: tuple[float, float] | None = None
    strides: tuple[int, ...] = (1,)
    pivot: float = 0.385
    power: float = 8.0
    divisor: float = 1.0
    gradient: float = 10.0
    form: str = "reference"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.strength) and self.strength >= 0):
            raise AdaCacheError(f"MoReg strength must be >= 0, got {self.strength}; start from 1.0")
        if self.window is not None and not 0 <= self.window[0] <= self.window[1] <= 1:
            raise AdaCacheError(f"the MoReg window must be two rising fractions in [0, 1], got {self.window}")
        if not self.strides or not all(_whole(stride) for stride in self.strides):
            raise AdaCacheError(f"MoReg strides must be whole numbers of frames >= 1, got {self.strides}; start from 1")
        if not (self.pivot > 0 and self.divisor > 0):
            raise AdaCacheError(f"MoReg pivot and divisor must be > 0, got {self.pivot} and {self.divisor}")
        if not (math.isfinite(self.power) and math.isfinite(self.gradient)):
            raise AdaCacheError(f"MoReg power and gradient must be finite, got {self.power} and {self.gradient}")
        if self.form not in ("reference", "paper"):
            raise AdaCacheError(f"MoReg form is 'reference' or 'paper', got {self.form!r}")


@dataclass(frozen=True)
class Target(Policy):
    """As many steps as a wanted speed-up leaves, where this video needs them.

    Attributes:
        speedup: counted in model evaluations, from 1 (nothing is skipped).

    Raises:
        AdaCacheError: it is below 1.
    """

    speedup: float
    at_output = True

    def __post_init__(self) -> None:
        if not 1 <= self.speedup < math.inf:
            raise AdaCacheError(f"the target is a speed-up of at least 1, got {self.speedup}; start from 2")

    @property
    def never_skips(self) -> bool:  # type: ignore[override]
        return self.speedup == 1


@dataclass(frozen=True)
class Quality(Policy):
    """As few steps as a wanted closeness to the video without AdaCache allows.

    Attributes:
        closeness: in dB; see `estimate.py`.

    Raises:
        AdaCacheError: it is not a finite number.
    """

    closeness: float
    at_output = True

    def __post_init__(self) -> None:
        if not math.isfinite(self.closeness):
            raise AdaCacheError(f"closeness is a number of dB, got {self.closeness}; start from 25")


@dataclass(frozen=True)
class Fixed(Policy):
    """The steps of a schedule, whatever is measured.

    Attributes:
        schedule: which these are.
        at_output: see `Policy`.
    """

    schedule: Schedule
    at_output: bool = True
    settled = True

    @property
    def never_skips(self) -> bool:  # type: ignore[override]
        return all(self.schedule.computed)


@dataclass(frozen=True)
class Watch(Policy):
    """Every step, measured as a codebook would measure it: for calibrating."""

    settled = True


@dataclass(frozen=True)
class Off(Policy):
    """Every step, and nothing is measured or touched."""

    at_output = True  # it does not look into the model
    settled = True
    never_skips = True


@dataclass(frozen=True)
class CacheConfig:
    """Everything a run needs to know before it starts.

    Attributes:
        policy: what decides which steps are computed.
        moreg: motion regularisation, or None for the plain metric. Only a codebook and watching look at it.
        start, end: fractions of the sampler steps in [0, 1] between which steps may be reused;
            equal values reuse nothing.
        probe_position: which block is watched, as a fraction of the (first) block container's depth.
        probe_stride: one token in so many is watched, the same positions in every frame;
            1 watches all, as the reference does.
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
        if not _whole(self.probe_stride):
            raise AdaCacheError(f"probe_stride is a whole number >= 1, got {self.probe_stride}; start from 4")

    @property
    def at_output(self) -> bool:
        """See `Policy`."""
        return self.policy.at_output

    @property
    def never_skips(self) -> bool:
        """Whether nothing is reused in a run of any length, and nothing measured."""
        closed = self.start >= self.end and not isinstance(self.policy, Watch)
        return self.policy.never_skips or closed
