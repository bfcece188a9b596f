"""docs/benchmarks.json: a list of records, one per video, method and setting. Reads and writes it; measures nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

PLAIN = "none"  # the method of the record of an uncached video


@dataclass(frozen=True)
class Record:
    """One cached video against the plain one that the same library made in the same process.

    Attributes:
        method, setting: who, and where its control stood.
        library: what ran the model, with its version.
        sampler, steps, motion_class, seed: which video.
        computed_fraction: executed floating-point operations over those of plain.
        block_fraction: executed calls of transformer blocks over those of plain.
        wall_ratio: seconds over those of plain, as `Meter.seconds` takes them; None if nobody took them so.
        psnr: dB. ssim, motion_kept: 1 is equal. See tools/quality.py.
        bytes: the most that lived between evaluations, beyond plain.
    """

    method: str
    setting: str
    library: str
    sampler: str
    steps: int
    motion_class: str
    seed: int
    computed_fraction: float
    block_fraction: float
    wall_ratio: float | None
    psnr: float
    ssim: float
    motion_kept: float
    bytes: int

    @property
    def key(self) -> tuple:
        """What makes it the same measurement, made again."""
        return (self.method, self.setting, self.sampler, self.steps, self.motion_class, self.seed)


def load(path: Path) -> list[Record]:
    """The records of a file, none if there is no file.

    Raises:
        TypeError: a record lacks a field or has one that is not ours.
    """
    return [Record(**row) for row in json.loads(path.read_text())] if path.exists() else []


def save(path: Path, records: Iterable[Record]) -> None:
    """Write them sorted, a line each, so that a diff shows which changed. A reader meets the old file or the new."""
    rows = sorted(records, key=lambda record: tuple(map(str, record.key)))
    beside = path.with_name(path.name + ".new")
    beside.write_text("[\n" + ",\n".join(json.dumps(asdict(row)) for row in rows) + "\n]\n")
    beside.replace(path)


def merged(records: Iterable[Record], made: Record) -> list[Record]:
    """The records with `made` in the place of the same measurement, if it is there."""
    return [record for record in records if record.key != made.key] + [made]
