"""What a run did, as data: one record for each model evaluation; can be written to JSON and read again."""

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

WARM_UP = 2  # computed evaluations that the median leaves out, because memory is allocated and code compiled in them


@dataclass
class StepRecord:
    """One model evaluation. A sampler step has one; with heun and similar samplers it has two or more.

    Attributes:
        index: evaluation, from 0.
        step: sampler step, from 0.
        sigma: noise level, or None if the caller has none.
        state: "computed"; "reused"; "partly" if some of its model calls had nothing to reuse; "answered" if another
            pack gave the answer, neither the model nor AdaCache.
        reason: for the state, in a few words.
        metric: relative change per step, times the MoReg factor; None if nothing was compared.
        motion: motion score in [0, 1].
        moreg: the factor that MoReg made of the motion score.
        rate: steps until the next computed step, as chosen here.
        seconds: wall time (GPU time on CUDA) until the next evaluation begins or the run ends, so it includes the
            sampler and a preview. Final once the run has ended; before that, at most an estimate.
        own_seconds: the part of these seconds that AdaCache itself took.
        calls, calls_computed: model calls, and how many of them ran the blocks.
        corrected: whether AdaCache corrected the sampler's input, to repair the error of reused evaluations.
        error: error that a forecast of this computed evaluation would have had, relative to the velocity; None if there
            was no forecast.
        wrong: error that the reused steps before this computed step caused in the finished latent, as estimated from
            `error`: its root mean square over that of the latent; None if no steps were reused.
        tolerance: the largest such error that the next reused steps may cause.
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
    """One sampling run. `to_json` and `from_json` keep all fields exactly, except derived numbers.

    Attributes:
        model: class name of the model, without its module.
        family: the model's row in the table of `nodes/host/families.py`; "" without ComfyUI.
        sampler_steps: steps of the run, also if it was stopped before the last one.
        preset: name of its settings.
        codebook: in the paper's notation, scaled to these steps; "" if none was used.
        target, closeness: speed-up or closeness (dB) that was asked for, or None.
        moreg: the fields of `MotionConfig`, or None.
        reuse: what was reused: the "output" of evaluations, or residuals of "blocks".
        evaluations: in the order in which the sampler made them.
        cache_bytes_max: most bytes that AdaCache held at once.
        cache_bytes_each: bytes of one conditioning, if residuals of blocks are held.
        stopped: why the run did not come to its end; "" if it did.
        notes: sentences for the user.
        title: the user's name for the run, or "".
        expected_db, expected_db_low, expected_db_high: expected closeness to the video without AdaCache, in dB, and the
            range that should hold nine of ten videos; see `closeness.py`. None without an estimate.
        would_take: name of a quality -> evaluations that this video would compute with it.
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
        """Evaluations that AdaCache skipped, wholly or in part."""
        return sum(record.state in (REUSED, PARTLY) for record in self.evaluations)

    @property
    def computed_fraction(self) -> float:
        """Share of the work done: mean of calls computed / calls, over evaluations not answered by another pack."""
        shares = [_share(record) for record in self.evaluations if record.state != ANSWERED]
        return sum(shares) / len(shares) if shares else 1.0

    @property
    def counted_speedup(self) -> float:
        return 1 / self.computed_fraction if self.computed_fraction else 1.0

    @property
    def measured_speedup(self) -> float | None:
        """Measured speed-up: estimated seconds without AdaCache / seconds of the run.

        The estimate is the number of evaluations times the median of the computed ones, without AdaCache's own work.
        Evaluations that another pack answered do not count. None if nothing was skipped, or without enough timings.
        """
        ours = [record for record in self.evaluations if record.state != ANSWERED] if self.skipped else []
        timed = [(record, record.seconds) for record in ours if record.seconds is not None]
        full = [seconds - (record.own_seconds or 0.0) for record, seconds in timed if record.state == COMPUTED]
        if not full:
            return None
        return len(timed) * median(full[WARM_UP:] or full) / max(sum(seconds for _, seconds in timed), 1e-9)

    @property
    def seconds_saved(self) -> float | None:
        """Estimated seconds if every evaluation were computed, minus the seconds taken; None without enough timings."""
        speedup = self.measured_speedup
        if speedup is None:
            return None
        own = [record.seconds for record in self.evaluations if record.state != ANSWERED]
        return (speedup - 1) * sum(seconds for seconds in own if seconds is not None)

    def schedule(self) -> Schedule:
        """For each sampler step, whether any evaluation was computed. Steps without evaluations count as computed."""
        ran: dict[int, bool] = {}
        for record in self.evaluations:
            ran[record.step] = ran.get(record.step, False) or record.state != REUSED
        computed = tuple(step == 0 or ran.get(step, True) for step in range(max(self.sampler_steps, 1)))
        return Schedule(computed, f"{self.family} {self.preset}".strip())

    @property
    def expected(self) -> Estimate | None:
        """Expected closeness to the video without AdaCache; None without an estimate."""
        numbers = (self.expected_db, self.expected_db_low, self.expected_db_high)
        known = [number for number in numbers if number is not None and isfinite(number)]
        return Estimate(*known) if len(known) == len(numbers) else None

    def with_note(self, note: str) -> RunReport:
        """The same report with one more note, or itself if the note is empty."""
        return replace(self, notes=[*self.notes, note]) if note else self

    def summary(self) -> str:
        """The result of the run in one line, for people."""
        facts = [f"{self.computed} of {self.total} evaluations computed{self._speed()}", self.preset or "custom"]
        if self.cache_bytes_max:
            facts.insert(1, f"{self.cache_bytes_max / 2**20:.1f} MiB held")
        if self.expected is not None:
            facts.append(f"expected {self.expected}")
        return ", ".join([self.stopped, *facts] if self.stopped else facts)

    def _speed(self) -> str:
        """The speed-up in words; "" if nothing was skipped."""
        if not self.skipped or self.stopped:
            return ""
        measured = self.measured_speedup
        return f" ({self.counted_speedup:.2f}x counted{'' if measured is None else f', {measured:.2f}x faster'})"

    def to_dict(self) -> dict[str, Any]:
        """A dict for strict JSON: a number that is not finite becomes a string."""
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
            AdaCacheError: the text is not one JSON document, has another format or version, or has a wrong entry.
        """
        return cls.from_dict(documents.read(text, "report"))

    @classmethod
    def from_dict(cls, data: Any) -> RunReport:
        """Reads parsed JSON; raises the same errors as `from_json`."""
        data = dict(documents.check(data, "report"))
        evaluations = data.pop("evaluations", [])
        if not isinstance(evaluations, list):
            raise AdaCacheError("the report's evaluations cannot be read: they must be a list")
        records = [_record(number, each) for number, each in enumerate(evaluations)]
        report = cls(evaluations=records, **documents.values_of(cls, data, "the report"))
        if report.sampler_steps > documents.MOST_STEPS:
            raise AdaCacheError(f"the report has {report.sampler_steps} steps, no run has so many")
        if report.codebook:
            Codebook.parse(report.codebook)
        return report


def _share(record: StepRecord) -> float:
    if record.calls:
        return record.calls_computed / record.calls
    return float(record.state != REUSED)


def _record(number: int, data: Any) -> StepRecord:
    """One evaluation from a report's JSON; `number` is for error messages."""
    what = f"the report's evaluations cannot be read: number {number}"
    values = documents.values_of(StepRecord, data, what)
    try:
        record = StepRecord(**values)
    except TypeError as error:  # an entry without a default is missing
        raise AdaCacheError(f"{what}: {error}") from None
    if record.index != number or record.state not in (COMPUTED, REUSED, PARTLY, ANSWERED):
        raise AdaCacheError(f"{what} is called {record.index}, and {short(record.state)}")
    return record


def schedules_in(text: str) -> list[Schedule]:
    """All schedules in a text, in order, including the schedules of the reports in it.

    Args:
        text: one JSON value after another: schedules, reports, or dicts of reports by node, as in saved files.

    Raises:
        AdaCacheError: the text has something else, or a report without a run.
    """
    schedules = []
    for data in documents.parse(text, "schedule"):
        by_node = isinstance(data, dict) and data and all(documents.is_a("report", each) for each in data.values())
        reports = list(data.values()) if by_node else [data] if documents.is_a("report", data) else []
        schedules += [_schedule_of(RunReport.from_dict(each)) for each in reports] or [Schedule.from_dict(data)]
    return schedules


def _schedule_of(report: RunReport) -> Schedule:
    if not report.evaluations:
        raise AdaCacheError("this report is of no run, so it has no schedule")
    return report.schedule()
