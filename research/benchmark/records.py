"""The records of the benchmark, one per video, method and setting: docs/benchmarks/<model>.csv. Measures nothing."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

PLAIN = "none"  # the method of the record of an uncached video
BROKEN = "broken"  # its setting where that video itself is


@dataclass(frozen=True)
class Record:
    """One cached video against the plain one that the same library made on the same machine, perhaps earlier.

    Attributes:
        model, condition, motion_class, seed: which video; motion_class is "" where the model has none.
        method, setting: who, and where its control stood. Of the plain video itself: PLAIN, and "" or BROKEN.
        library: what ran the model, with its version.
        work: executed floating-point operations over those of plain.
        blocks: executed calls of transformer blocks over those of plain.
        time: processor seconds over those of plain; None if nobody took them so.
        psnr: dB, of each frame at most 50, mean over frames. worst_frame: that of the worst.
        ssim, motion_kept: 1 is equal. lpips: ST-LPIPS, 0 is equal. See research/quality.py.
        closeness: of the latents, dB, at most 100.
        bytes: the most that lived between evaluations, beyond plain.
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
        """Which one, among those of its model and condition."""
        return (self.motion_class, self.seed)

    @property
    def key(self) -> tuple[str, str, str, str, str, int]:
        """What makes it the same measurement, made again. A plain video may turn out broken the next time."""
        setting = "" if self.method == PLAIN else self.setting
        return (self.model, self.condition, self.method, setting, self.motion_class, self.seed)


NAMES = tuple(field.name for field in fields(Record))
READ = {"str": str, "int": int, "float": float, "float | None": lambda cell: float(cell) if cell else None}
READERS = tuple(READ[field.type] for field in fields(Record))


class Store:
    """The records of a folder, a file for each model.

    Attributes:
        folder: need not be there yet.
    """

    def __init__(self, folder: Path) -> None:
        """Reads what is there.

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
        """Each takes the place of the same measurement, if it is there. Nothing is written."""
        for record in made:
            self._by_key[record.key] = record
            self._changed.add(record.model)

    def save(self) -> None:
        """Write the files of the models to which something was added. A reader meets the old file or the new.

        Sorted, so that a diff shows what changed; numbers with four digits.
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
