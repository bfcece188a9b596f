"""One video of a user's model with and without AdaCache, as data that can be written to JSON and read again.

The file is meant to be shared: it contains figures and names of programs, but nothing of the prompt and no path.
Reading checks every entry, because files come from strangers. `measured_picture.py` draws it.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from reprlib import repr as short
from typing import Any

from .. import documents
from ..closeness import GOOD, LARGEST
from ..errors import AdaCacheError
from .report import RunReport

PLAIN, AUTO, QUALITY = "plain", "auto", "quality"
RUNS = (PLAIN, AUTO, QUALITY)  # in this order

# What auto and quality are asked for. Fixed, so that files of different people can be compared.
SPEEDUP, CLOSENESS = 2.0, GOOD  # speed-up factor, dB

LONGEST_TEXT = 100  # letters


@dataclass(frozen=True)
class Likeness:
    """How close one latent is to the plain one, in the numbers that the model works with.

    Attributes:
        closeness: in dB, see `closeness.py`; inf if they are equal.
        motion_kept: mean absolute difference of neighbouring frames, relative to that of the plain video; None if the
            plain video has one frame or does not move.
        worst_frame: the frame of the latent that is least close, from 0.
        worst_frame_db: the closeness of that frame, in dB.
    """

    closeness: float
    motion_kept: float | None
    worst_frame: int
    worst_frame_db: float


@dataclass(frozen=True)
class MeasuredRun:
    """One of RUNS: its report, and its likeness to the plain run (None for the plain run itself)."""

    report: RunReport
    likeness: Likeness | None

    @property
    def seconds(self) -> float:
        """Seconds of all evaluations, including sampler and previews, without loading the model."""
        return sum(record.seconds or 0.0 for record in self.report.evaluations)

    @property
    def place(self) -> int | None:
        """Where the closeness is: 0 inside the expected range, 1 closer, -1 less close; None without an estimate.

        No estimate is higher than LARGEST, so a higher closeness counts as LARGEST.
        """
        expected = self.report.expected
        if expected is None or self.likeness is None:
            return None
        closeness = min(self.likeness.closeness, LARGEST)
        return (closeness > expected.high) - (closeness < expected.low)


@dataclass(frozen=True)
class Settings:
    """What was sampled, how, and on what.

    Attributes:
        title: the user's name for the model, or "".
        model: class of the diffusion model.
        kind: ComfyUI's name for models of this kind.
        parameters: how many weights the model has.
        sampler, scheduler: ComfyUI's names; scheduler is None if the user gave noise levels (the report has them).
        steps: of the run.
        cfg: scale of the guidance.
        shift: of the noise levels; None if the model has none.
        batch, channels, frames, height, width: of the latent; of the video's latent if there is also sound.
        device: the GPU's name, or "CPU".
        comfyui, adacache, torch: versions.
    """

    title: str
    model: str
    kind: str
    parameters: int
    sampler: str
    scheduler: str | None
    steps: int
    cfg: float
    shift: float | None
    batch: int
    channels: int
    frames: int
    height: int
    width: int
    device: str
    comfyui: str
    adacache: str
    torch: str

    @property
    def name(self) -> str:
        """For a heading."""
        return self.title or f"{self.kind or self.model}, {self.size_of_model}"

    @property
    def size_of_model(self) -> str:
        billions = self.parameters / 1e9
        return f"{billions:.1f}B" if billions >= 0.1 else f"{self.parameters / 1e6:.0f}M"

    @property
    def sampling(self) -> str:
        shift = "" if self.shift is None else f", shift {self.shift:g}"
        scheduler = "own noise levels" if self.scheduler is None else self.scheduler
        return f"{self.sampler}, {scheduler}, {self.steps} steps, cfg {self.cfg:g}{shift}"


@dataclass(frozen=True)
class Measured:
    """Three runs with the same settings and the same noise, by their names in RUNS."""

    settings: Settings
    runs: dict[str, MeasuredRun]

    def speedup(self, name: str) -> float | None:
        """Speed-up of a run over the plain run, in seconds; None if a time is missing."""
        plain, own = self.runs[PLAIN].seconds, self.runs[name].seconds
        return plain / own if plain and own else None

    def to_json(self) -> str:
        """Strict JSON. Figures that follow from the reports are written too, for people who read the file."""
        runs = {name: self._figures(name) | {"report": run.report.to_dict()} for name, run in self.runs.items()}
        data = documents.head_of("measured") | asdict(self.settings) | {"runs": runs}
        return json.dumps(documents.finite(data), indent=1, allow_nan=False)

    def _figures(self, name: str) -> dict[str, Any]:
        run = self.runs[name]
        report = run.report
        figures: dict[str, Any] = {"seconds": run.seconds, "computed": report.computed, "evaluations": report.total}
        if run.likeness is None:
            return figures
        expected = {key: getattr(report, key) for key in ("expected_db", "expected_db_low", "expected_db_high")}
        return figures | {"speedup": self.speedup(name)} | expected | asdict(run.likeness)

    @classmethod
    def from_json(cls, text: str) -> Measured:
        """Reads what `to_json` wrote, and nothing else.

        Raises:
            AdaCacheError: the text is not such a file; the message names the first fault.
        """
        data = dict(documents.read(text, "measured"))
        runs = data.pop("runs", None)
        own = {name: value for name, value in data.items() if name not in documents.head_of("measured")}
        settings = _made(Settings, own, "the measured file")
        _check_settings(settings)
        if not isinstance(runs, dict) or tuple(runs) != RUNS:
            raise AdaCacheError(f"the measured file must have the runs {', '.join(RUNS)}")
        measured = cls(settings, {name: _run(name, each) for name, each in runs.items()})
        for name, each in runs.items():
            measured._compare(name, each)
        return measured

    def _compare(self, name: str, written: dict[str, Any]) -> None:
        """Checks that the figures of a run follow from its report: an edit by hand changes only one of them."""
        report = self.runs[name].report
        if report.sampler_steps != self.settings.steps:
            raise AdaCacheError(f"the run {name} has {report.sampler_steps} steps, not {self.settings.steps}")
        for key, value in documents.finite(self._figures(name)).items():
            if key not in written or not _same(written[key], value):
                raise AdaCacheError(f"{key!r} of the run {name} is {short(written.get(key))}, its report says {value}")
        if extra := written.keys() - self._figures(name).keys() - {"report"}:
            raise AdaCacheError(f"the run {name} has {short(min(extra))}, which does not belong there")


def _same(written: Any, value: Any) -> bool:
    if documents.is_number(written) and documents.is_number(value):
        return math.isclose(written, value, rel_tol=1e-9)
    return type(written) is type(value) and bool(written == value)


def _made(kind: type, data: dict[str, Any], what: str) -> Any:
    """A dataclass of this kind, from a dict that must have exactly its fields."""
    known = {each.name for each in fields(kind)}
    if missing := known - data.keys():
        raise AdaCacheError(f"{what} has no {min(missing)!r}")
    if extra := data.keys() - known:
        raise AdaCacheError(f"{what} has {short(min(extra))}, which does not belong there")
    return kind(**documents.values_of(kind, data, what))


def _check_settings(settings: Settings) -> None:
    for name, value in asdict(settings).items():
        if isinstance(value, str) and (len(value) > LONGEST_TEXT or not value.isprintable()):
            raise AdaCacheError(f"{name!r} must be a line of at most {LONGEST_TEXT} letters, got {short(value)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise AdaCacheError(f"{name!r} must be finite, got {value}")
    for name in ("steps", "batch", "channels", "frames", "height", "width", "parameters"):
        if not getattr(settings, name):
            raise AdaCacheError(f"{name!r} must be at least 1")


def _run(name: str, data: Any) -> MeasuredRun:
    if not isinstance(data, dict):
        raise AdaCacheError(f"the run {name} cannot be read: {short(data)} is no object")
    report = RunReport.from_dict(data.get("report"))
    if not report.evaluations or report.stopped or any(not _took(record.seconds) for record in report.evaluations):
        raise AdaCacheError(f"the run {name} did not come to its end, or has no times")
    if name == PLAIN:
        if report.computed != report.total:
            raise AdaCacheError("the plain run skipped steps")
        return MeasuredRun(report, None)
    if (report.target, report.closeness) != {AUTO: (SPEEDUP, None), QUALITY: (None, CLOSENESS)}[name]:
        raise AdaCacheError(f"the run {name} was asked for something else: {short(report.preset)}")
    known = [each.name for each in fields(Likeness)]
    likeness = _made(Likeness, {key: data[key] for key in known if key in data}, f"the run {name}")
    for key, value in asdict(likeness).items():  # closeness is infinite if the videos are equal
        if value is not None and not math.isfinite(value) and (value != math.inf or key == "motion_kept"):
            raise AdaCacheError(f"{key!r} of the run {name} is {value}")
    return MeasuredRun(report, likeness)


def _took(seconds: float | None) -> bool:
    return seconds is not None and math.isfinite(seconds) and seconds >= 0
