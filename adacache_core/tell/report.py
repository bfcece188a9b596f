"""What a run did, as data: one record per model evaluation, JSON out and in. Draws and prints nothing."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from reprlib import repr as short
from statistics import median
from typing import Any

from .. import documents
from ..closeness import Estimate
from ..decide.codebook import Codebook
from ..errors import AdaCacheError
from ..schedule import Schedule

COMPUTED, REUSED, PARTLY, ANSWERED = "computed", "reused", "partly", "answered"

OUTPUT, BLOCKS = "output", "blocks"  # what is reused

WARM_UP = 2  # computed evaluations left out of the median: allocations and compilation happen there


@dataclass
class StepRecord:
    """One model evaluation (a sampler step has one, with heun and its like two or more).

    Attributes:
        index: evaluation, from 0.
        step: sampler step, from 0.
        sigma: noise level, or None where the caller has none.
        state: "computed", "reused", "partly" where some model calls of it had nothing to reuse, or "answered" where
            neither the model nor AdaCache, but another pack gave the answer.
        reason: why, in a few words.
        metric: change per step times the MoReg factor, None where nothing was compared.
        motion: motion score in [0, 1]; moreg: the factor made of it.
        rate: steps to the next computed one, as chosen here.
        seconds: wall time (GPU time on CUDA) until the next evaluation begins, or the run ends, so with what the
            sampler and a preview take; known once the run has ended, until then at most an estimate.
        own_seconds: of these seconds, those that AdaCache itself took.
        calls, calls_computed: model calls, and those of them that ran the blocks.
        corrected: whether the sampler was given another video than was found, to make up for reused evaluations.
        error: how wrong a forecast of this computed evaluation would have been, relative to the velocity; None where
            there was none.
        wrong: what the reused steps before this computed one got wrong in the finished latent, as the error shows it:
            root mean square over that of the latent; None where none were. tolerance: how much the next ones may.
    """

    index: int
    step: int
    sigma: float | None
    state: str = COMPUTED
    reason: str = ""
    metric: float | None = None
    motion: float | None = None
    moreg: float | None = None
    rate: int | None = None
    seconds: float | None = None
    calls: int = 0
    calls_computed: int = 0
    corrected: bool = False
    own_seconds: float | None = None
    error: float | None = None
    wrong: float | None = None
    tolerance: float | None = None


@dataclass
class RunReport:
    """One sampling run. `to_json` and `from_json` keep everything but the derived numbers exact.

    Attributes:
        model: its class, without the module's name; family: its row in the host's table, "" without a host.
        sampler_steps: of the run; it may have been stopped before the last.
        preset: what its settings are called.
        codebook: in the paper's notation, scaled to these steps, "" if none was asked.
        target, closeness: as of `CacheConfig`; moreg: the fields of its `MotionConfig`.
        reuse: what was reused: the "output" of evaluations, or residuals of "blocks".
        evaluations: in the order in which the sampler made them.
        cache_bytes_max: most bytes that AdaCache held at once; cache_bytes_each: those of one conditioning, where
            residuals of blocks are held.
        stopped: how a run that did not come to its end was stopped, "" if it did.
        notes: sentences for the user.
        title: what a person calls it, "" if nobody named it.
        expected_db, expected_db_low, expected_db_high: how close the video is to the one without AdaCache, in dB, and
            the range in which nine of ten are; see `estimate.py`. None where that cannot be known.
        would_take: evaluations that this video would take at other qualities, by their names.
    """

    model: str = ""
    family: str = ""
    sampler_steps: int = 0
    preset: str = ""
    codebook: str = ""
    target: float | None = None
    reuse: str = BLOCKS
    moreg: dict[str, Any] | None = None
    evaluations: list[StepRecord] = field(default_factory=list)
    cache_bytes_max: int = 0
    cache_bytes_each: int = 0
    notes: list[str] = field(default_factory=list)
    title: str = ""
    stopped: str = ""
    closeness: float | None = None
    expected_db: float | None = None
    expected_db_low: float | None = None
    expected_db_high: float | None = None
    would_take: dict[str, Any] | None = None

    @property
    def total(self) -> int:
        """Model evaluations."""
        return len(self.evaluations)

    @property
    def computed(self) -> int:
        """Evaluations in which at least one model call ran its blocks."""
        return sum(record.state in (COMPUTED, PARTLY) for record in self.evaluations)

    @property
    def skipped(self) -> int:
        """Evaluations of which AdaCache skipped something."""
        return sum(record.state in (REUSED, PARTLY) for record in self.evaluations)

    @property
    def computed_fraction(self) -> float:
        """Share of the work done: the mean over evaluations of calls computed / calls; another pack's left out."""
        shares = [_share(record) for record in self.evaluations if record.state != ANSWERED]
        return sum(shares) / len(shares) if shares else 1.0

    @property
    def counted_speedup(self) -> float:
        return 1 / self.computed_fraction if self.computed_fraction else 1.0

    @property
    def measured_speedup(self) -> float | None:
        """total x median computed evaluation, without AdaCache's own work in it, / sum of all evaluations.

        Those that another pack answered are left out. None where nothing was skipped, and without enough timings.
        """
        ours = [record for record in self.evaluations if record.state != ANSWERED] if self.skipped else []
        timed = [(record, record.seconds) for record in ours if record.seconds is not None]
        full = [seconds - (record.own_seconds or 0.0) for record, seconds in timed if record.state == COMPUTED]
        if not full:
            return None
        return len(timed) * median(full[WARM_UP:] or full) / max(sum(seconds for _, seconds in timed), 1e-9)

    @property
    def seconds_saved(self) -> float | None:
        """What computing every evaluation would have taken, less what they took; None without enough timings."""
        speedup = self.measured_speedup
        if speedup is None:
            return None
        own = [record.seconds for record in self.evaluations if record.state != ANSWERED]
        return (speedup - 1) * sum(seconds for seconds in own if seconds is not None)

    def schedule(self) -> Schedule:
        """Per sampler step, whether any of its evaluations computed. Steps without one count as computed."""
        ran: dict[int, bool] = {}
        for record in self.evaluations:
            ran[record.step] = ran.get(record.step, False) or record.state != REUSED
        computed = tuple(step == 0 or ran.get(step, True) for step in range(max(self.sampler_steps, 1)))
        return Schedule(computed, f"{self.family} {self.preset}".strip())

    @property
    def expected(self) -> Estimate | None:
        """How close the video is to the one without AdaCache, where that can be known."""
        numbers = (self.expected_db, self.expected_db_low, self.expected_db_high)
        known = [number for number in numbers if number is not None and isfinite(number)]
        return Estimate(*known) if len(known) == len(numbers) else None

    def with_note(self, note: str) -> RunReport:
        """The same report with one more note, or itself if the note is empty."""
        return replace(self, notes=[*self.notes, note]) if note else self

    def summary(self) -> str:
        """One line that a person understands."""
        facts = [f"{self.computed} of {self.total} evaluations computed{self._speed()}", self.preset or "custom"]
        if self.cache_bytes_max:
            facts.insert(1, f"{self.cache_bytes_max / 2**20:.1f} MiB held")
        if self.expected is not None:
            facts.append(f"expected {self.expected}")
        return ", ".join([self.stopped, *facts] if self.stopped else facts)

    def _speed(self) -> str:
        """Where something was skipped."""
        if not self.skipped or self.stopped:
            return ""
        measured = self.measured_speedup
        return f" ({self.counted_speedup:.2f}x counted{'' if measured is None else f', {measured:.2f}x faster'})"

    def to_dict(self) -> dict[str, Any]:
        """What strict JSON can hold: a metric that is not finite is a string."""
        derived = {
            "computed": self.computed,
            "total": self.total,
            "counted_speedup": self.counted_speedup,
            "measured_speedup": self.measured_speedup,
        }
        return documents.finite(documents.head_of("report") | asdict(self) | derived)

    def to_json(self, indent: int | None = None) -> str:
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> RunReport:
        """Reads what `to_json` wrote.

        Raises:
            AdaCacheError: not one JSON document, another format, another version, or entries that are not what they
                should be.
        """
        return cls.from_dict(documents.read(text, "report"))

    @classmethod
    def from_dict(cls, data: Any) -> RunReport:
        """Of JSON that has been parsed; raises as `from_json` does."""
        data = dict(documents.check(data, "report"))
        evaluations = data.pop("evaluations", [])
        if not isinstance(evaluations, list):
            raise AdaCacheError("the report's evaluations cannot be read: they must be a list")
        records = [_record(number, each) for number, each in enumerate(evaluations)]
        report = cls(evaluations=records, **documents.values_of(cls, data, "the report"))
        if report.sampler_steps > documents.MOST_STEPS:
            raise AdaCacheError(f"the report is of {report.sampler_steps} steps, no run has so many")
        if report.codebook:
            Codebook.parse(report.codebook)
        return report


def _share(record: StepRecord) -> float:
    if record.calls:
        return record.calls_computed / record.calls
    return float(record.state != REUSED)


def _record(number: int, data: Any) -> StepRecord:
    """The evaluation of this number, as a report's JSON has it."""
    what = f"the report's evaluations cannot be read: number {number}"
    values = documents.values_of(StepRecord, data, what)
    try:
        record = StepRecord(**values)
    except TypeError as error:  # something that has no default is missing
        raise AdaCacheError(f"{what}: {error}") from None
    if record.index != number or record.state not in (COMPUTED, REUSED, PARTLY, ANSWERED):
        raise AdaCacheError(f"{what} is called {record.index}, and {short(record.state)}")
    return record


def schedules_in(text: str) -> list[Schedule]:
    """All schedules in a text, in order; those of runs that are in it as reports, too.

    Args:
        text: JSON, one value after another: schedules, reports, or reports by node, as saved files have them.

    Raises:
        AdaCacheError: anything else, or a report without a run.
    """
    schedules = []
    for data in documents.parse(text, "schedule"):
        by_node = isinstance(data, dict) and data and all(documents.is_a("report", each) for each in data.values())
        reports = list(data.values()) if by_node else [data] if documents.is_a("report", data) else []
        schedules += [_schedule_of(RunReport.from_dict(each)) for each in reports] or [Schedule.from_dict(data)]
    return schedules


def _schedule_of(report: RunReport) -> Schedule:
    if not report.evaluations:
        raise AdaCacheError("this report is of no run, so there is no schedule in it")
    return report.schedule()
