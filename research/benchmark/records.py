"""The records of the benchmark, one per video, method and setting: docs/benchmarks/<model>.csv. Measures nothing."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

PLAIN = "none"  # the method of the record of a plain video
BROKEN = "broken"  # the setting of a plain video that came out broken


@dataclass(frozen=True)
class Record:
    """A cached video compared with the plain video that the same library made on the same machine, perhaps earlier.

    Attributes:
        model, condition, motion_class, seed: which video; motion_class is "" if the model has none.
        method, setting: which method, with which setting. For the plain video itself: PLAIN, and "" or BROKEN.
        library: that ran the model, with its version.
        work: executed floating-point operations over those of the plain run.
        blocks: executed calls of transformer blocks over those of the plain run.
        time: processor seconds over those of the plain run; None if not measured.
        psnr: dB, mean over frames; a frame counts at most 50.
        worst_frame: PSNR of the worst frame, dB.
        ssim, motion_kept: 1 is equal; see research/quality.py.
        lpips: ST-LPIPS, 0 is equal; see research/quality.py.
        closeness: of the finished latents, dB, at most 100.
        bytes: the most that was held between evaluations, beyond the plain run.
    """

    model: str
    condition: str
    method: str
    setting: str
    motion_class: str
    seed: int
    library: str
    work: float
    blocks: float
    time: float | None
    psnr: float
    worst_frame: float
    ssim: float
    lpips: float
    motion_kept: float
    closeness: float
    bytes: int

    @property
    def video(self) -> tuple[str, int]:
        """Which video, among those of its model and condition."""
        return (self.motion_class, self.seed)

    @property
    def key(self) -> tuple[str, str, str, str, str, int]:
        """Equal for two records of the same measurement. A plain video may come out broken only once."""
        setting = "" if self.method == PLAIN else self.setting
        return (self.model, self.condition, self.method, setting, self.motion_class, self.seed)


NAMES = tuple(field.name for field in fields(Record))
READ = {"str": str, "int": int, "float": float, "float | None": lambda cell: float(cell) if cell else None}
READERS = tuple(READ[field.type] for field in fields(Record))


class Store:
    """The records of a folder, a file for each model.

    Attributes:
        folder: need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        """Reads the files.

        Raises:
            ValueError: a file is not one that `save` wrote.
        """
        self.folder = folder
        self._by_key = {record.key: record for file in sorted(folder.glob("*.csv")) for record in _read(file)}
        self._changed: set[str] = set()

    @property
    def records(self) -> list[Record]:
        """All of them."""
        return list(self._by_key.values())

    def add(self, made: Iterable[Record]) -> None:
        """Adds records, each in place of an older record of the same measurement. Writes nothing."""
        for record in made:
            self._by_key[record.key] = record
            self._changed.add(record.model)

    def save(self) -> None:
        """Writes the files of the models to which records were added; each file is replaced in one operation.

        Rows are sorted, so that a diff shows what changed. Numbers have four digits.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for model in self._changed:
            records = [record for record in self._by_key.values() if record.model == model]
            _write(self.folder / f"{model}.csv", sorted(records, key=lambda record: record.key))
        self._changed.clear()


def _read(file: Path) -> list[Record]:
    with file.open(newline="") as lines:
        rows = csv.reader(lines)
        if tuple(next(rows, ())) != NAMES:
            raise ValueError(f"{file}: its columns are not {', '.join(NAMES)}")
        try:
            return [Record(*(read(cell) for read, cell in zip(READERS, row, strict=True))) for row in rows]
        except ValueError as reason:
            raise ValueError(f"{file}, line {rows.line_num}: {reason}") from reason


def _write(file: Path, records: Iterable[Record]) -> None:
    beside = file.with_name(file.name + ".new")
    with beside.open("w", newline="") as lines:
        rows = csv.writer(lines, lineterminator="\n")
        rows.writerow(NAMES)
        rows.writerows([_cell(getattr(record, name)) for name in NAMES] for record in records)
    beside.replace(file)


def _cell(value: str | int | float | None) -> str | int | None:
    return f"{value:.4g}" if isinstance(value, float) else value
