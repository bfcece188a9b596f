"""What the frontend is told of a run while it samples: one message per evaluation, for the strip in the node.

Sends data that is there already: it asks no tensor, waits for no GPU, and without a browser that wants it, it does
nothing. `web/js/timeline.js` draws it.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from dataclasses import asdict
from typing import Any

from ...adacache_core.documents import finite
from ...adacache_core.tell.report import RunReport, StepRecord

log = logging.getLogger(__name__)

EVENT = "adacache.timeline"

_SHOWN = ("index", "step", "sigma", "state", "reason", "metric", "rate", "error", "seconds")  # of a StepRecord


class Live:
    """Follows one run for one node.

    Args:
        node: the host's id of the node ("outer:inner" in a subgraph), None for nobody.
        report: of the run; it is read, and its seconds are estimated as long as the engine has not measured them.
    """

    def __init__(self, node: str | None, report: RunReport) -> None:
        self._node = node
        self._report = report
        self._server = None if node is None else _server()
        self._run = os.urandom(4).hex()
        self._last: float | None = None

    def evaluated(self) -> None:
        """After an evaluation: sends it."""
        if self._server is None:
            return
        # Wall time from end to end, for waiting for the GPU would cost what is shown here as saved. Of the first
        # evaluation the beginning is not known (the model may have been loaded in it), and it is not typical either.
        now = time.perf_counter()
        record = self._report.evaluations[-1]
        record.seconds = None if self._last is None else now - self._last
        self._last = now
        self._send(timeline(self._report, [record], left=_seconds_left(self._report)))

    def finished(self) -> None:
        """After the run, finished or not: sends all of it, with the times that the engine has measured."""
        if self._server is not None:
            self._send(timeline(self._report))

    def _send(self, message: dict[str, Any]) -> None:
        try:
            client = self._server.client_id
            if client is not None:  # None: nobody who listens has queued this prompt
                message |= {"node": self._node, "run": self._run, "workflow": _workflow(self._server)}
                self._server.send_sync(EVENT, message, client)
        except Exception as error:  # whatever is wrong with a server, no video may be lost to it
            log.debug("AdaCache: the timeline is not shown: %s", error)
            self._server = None


def timeline(
    report: RunReport, records: list[StepRecord] | None = None, *, left: float | None = None
) -> dict[str, Any]:
    """A run as the strip needs it: JSON, small.

    Args:
        report: of the run so far.
        records: the evaluations to tell, all if None: then the run is over.
        left: seconds that the rest of it takes, about.
    """
    return finite(
        {
            "done": records is None,
            "preset": report.preset,
            "note": report.notes[0] if report.notes else "",
            "stopped": report.stopped,
            "computed": report.computed,
            "total": report.total,
            "expected": report.total if records is None else _expected(report),
            "speedup": None if report.stopped else report.measured_speedup,  # in full, as the summary rounds it
            "saved": None if report.stopped else _short(report.seconds_saved),
            "left": _short(left),
            "closeness": _closeness(report),
            "would_take": report.would_take,
            "evaluations": [_evaluation(record) for record in (report.evaluations if records is None else records)],
        }
    )


def _closeness(report: RunReport) -> dict[str, Any] | None:
    """How close the video is expected to be, and what that means."""
    expected = report.expected
    return None if expected is None else asdict(expected) | {"words": expected.words}


def _evaluation(record: StepRecord) -> dict[str, Any]:
    values = {name: _short(getattr(record, name)) for name in _SHOWN}
    return {name: value for name, value in values.items() if value is not None}


def _short(value: Any) -> Any:
    """Four digits are more than a strip shows."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _expected(report: RunReport) -> int:
    """Evaluations that the run will have, if the steps to come have as many as those so far: heun has two.

    The first step is no example: heun's second evaluation is at the noise level of the next one.
    """
    step = report.evaluations[-1].step
    before = sum(record.step < step for record in report.evaluations)
    examples = sum(0 < record.step < step for record in report.evaluations)
    per_step = examples / (step - 1) if step > 1 else report.total - before
    return max(report.total, round(before + per_step * (report.sampler_steps - step)))


def _seconds_left(report: RunReport) -> float | None:
    """At the pace of the run so far."""
    timed = [record.seconds for record in report.evaluations if record.seconds is not None]
    if not timed:
        return None
    return (_expected(report) - report.total) * sum(timed) / len(timed)


def _server() -> Any:
    """The host's server, if this process is one; importing it to find out would half make it one."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def _workflow(server: Any) -> str | None:
    """The id of the workflow that runs: another one may be open in the browser, with a node of the same id."""
    for _, _, _, extra, *_ in server.prompt_queue.currently_running.values():
        workflow = (extra.get("extra_pnginfo") or {}).get("workflow") or {}
        return workflow.get("id")
    return None
