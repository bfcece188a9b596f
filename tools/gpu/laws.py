"""Runs the laws of `tests/host/test_laws.py` on the card, for tiny models of several families, one process for each.

Gives the host tests their device and dtype, selects the tests of each family, and counts the results.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from tools.host import ROOT

from . import hosted
from .job import Job, spread
from .rows import Rows

FILE = ROOT / "tests" / "host" / "test_laws.py"

KINDS = ("Wan t2v", "HunyuanVideo", "LTXV", "LTX-2", "MiniMax-H3", "Flux", "Qwen-Image")

# dtype -> the laws that must hold with it. Law 3 compares calls that are batched differently and may differ only by
# rounding: it needs float32, for which its tolerance is made.
LAWS = {"bfloat16": "12456", "float16": "12456", "float32": "34"}

ONCE = KINDS[0]  # its process also runs the tests that are about no family
ONLY_ALL = "test_every_class_of_the_table"  # a test of all kinds together


@dataclass(frozen=True)
class Pace:
    """How many processes run at once, and the seconds for each."""

    at_once: int
    each: float


PACE = Pace(at_once=12, each=110)
REHEARSED = Pace(at_once=1, each=150)


def run(job: Job, rows: Rows) -> None:
    pace = REHEARSED if job.rehearse else PACE
    spread(job, rows, "laws", children(job.rehearse), pace.at_once, pace.each)


def children(rehearse: bool) -> dict[str, dict[str, str]]:
    """The processes, most important first: every family in bfloat16, then one with every way to start ComfyUI."""
    if rehearse:
        first, second, *_ = hosted.VRAM_MODES
        told = [("LTXV", "bfloat16", first), ("Wan t2v", "float32", second)]
    else:
        told = [(kind, "bfloat16", "defaults") for kind in KINDS]
        told += [(ONCE, "bfloat16", mode) for mode in hosted.VRAM_MODES if mode != "defaults"]
        told += [(kind, dtype, "defaults") for dtype in LAWS if dtype != "bfloat16" for kind in KINDS]
    return {", ".join(each): dict(zip(("model", "numbers", "started"), each, strict=True)) for each in told}


def child(job: Job, rows: Rows, model: str, numbers: str, started: str) -> None:
    options = hosted.options_of(job, started)
    os.environ["ADACACHE_TEST_HOST"] = " ".join(options)
    os.environ["ADACACHE_TEST_DTYPE"] = numbers
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    dynamic = hosted.start(options)
    import pytest

    row = {"model": model, "numbers": numbers, "started": started, "dynamic_vram": dynamic}
    configured = [str(FILE), "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), "-p", "no:cacheprovider", "-q"]
    pytest.main(configured, plugins=[Watch(rows, row)])


class Watch:
    """A pytest plugin: selects the tests of one family in one dtype, and writes the counts after each test."""

    def __init__(self, rows: Rows, row: dict[str, Any]) -> None:
        self.rows = rows
        self.row = row
        self.passed: list[str] = []
        self.failed: dict[str, str] = {}
        self.skipped: dict[str, str] = {}
        self.error: float | None = None
        self.wanted = 0

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = [item for item in items if self._is_wanted(item)]
        self.wanted = len(items)
        self._write()

    def _is_wanted(self, item: Any) -> bool:
        told = getattr(item, "callspec", None)
        params = {} if told is None else told.params
        law = item.name.removeprefix("test_law_")[:1]
        return (
            not item.name.startswith(ONLY_ALL)
            and law in LAWS[self.row["numbers"]]
            and params.get("variant", ONCE) == self.row["model"]
            and str(params.get("dtype", "")).removeprefix("torch.") in ("", self.row["numbers"])
        )

    def pytest_runtest_logreport(self, report: Any) -> None:
        name = report.nodeid.partition("::")[2]
        if report.failed:
            said = str(getattr(report.longrepr, "reprcrash", None) or report.longrepr)
            self.failed[name] = said.replace(f"{ROOT}/", "")[-300:]
        elif report.skipped:
            self.skipped[name] = str(report.longrepr)[-300:]
        elif report.when == "call":
            self.passed.append(name)
            errors = [value for key, value in report.user_properties if key == "error"]
            self.error = max([*errors, *([] if self.error is None else [self.error])], default=None)
        self._write()

    def _write(self) -> None:
        row = self.row | {"passed": len(self.passed), "of": self.wanted, "largest_error": self.error}
        laws = sorted({name.removeprefix("test_law_")[:1] for name in self.passed})
        row["laws"] = " ".join(laws)
        if self.failed:
            row |= {"ok": False, "failed": dict(self.failed)}
        if self.skipped:
            row["not_run"] = "; ".join(self.skipped.values())
        self.rows.put("laws", row)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        done = len(self.passed) + len(self.skipped)
        if not self.failed and (exitstatus or done < self.wanted or not self.passed):
            self.row["ok"] = False
            self._write()
