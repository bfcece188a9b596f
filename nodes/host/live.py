"""Tells the frontend about a run while it samples: one message per evaluation, for the timeline in the node.

It sends only what the report already holds, so it reads no tensor and does not wait for the GPU. Without a browser that
listens it does nothing. `web/js/timeline.js` draws the timeline.
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
        node: the host's id of the node ("outer:inner" in a subgraph); None: nothing is sent.
        report: of the run. Until the engine has measured its seconds, estimates are written there.
    """

    def __init__(self, node: str | None, report: RunReport) -> None:
        self._node = node
        self._report = report
        self._server = None if node is None else _server()
        self._run = os.urandom(4).hex()
        self._last: float | None = None

    def evaluated(self) -> None:
        """Sends an evaluation that has just ended."""
        if self._server is None:
            return
        # Wall time from end to end: waiting for the GPU would cost the time that is shown as saved. The first
        # evaluation has none, because its beginning is not known and it may include loading the model.
        now = time.perf_counter()
        record = self._report.evaluations[-1]
        record.seconds = None if self._last is None else now - self._last
        self._last = now
        self._send(timeline(self._report, [record], left=_seconds_left(self._report)))

    def finished(self) -> None:
        """Sends the whole run, complete or stopped, with the times that the engine has measured."""
        if self._server is not None:
            self._send(timeline(self._report))

    def _send(self, message: dict[str, Any]) -> None:
        try:
            client = self._server.client_id
            if client is not None:  # None: this prompt was queued by nobody who listens
                message |= {"node": self._node, "run": self._run, "workflow": _workflow(self._server)}
                self._server.send_sync(EVENT, message, client)
        except Exception as error:  # an error of the server must not cost the video
            log.debug("AdaCache: the timeline is not shown: %s", error)
            self._server = None


def timeline(
    report: RunReport, records: list[StepRecord] | None = None, *, left: float | None = None
) -> dict[str, Any]:
    """A run as the timeline needs it, as JSON values.

    Args:
        report: of the run so far.
        records: the evaluations to send; None: all, and the run is over.
        left: estimate of the seconds that the rest of the run takes.
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
            # Not shortened, so that it is rounded as in the summary.
            "speedup": None if report.stopped else report.measured_speedup,
            "saved": None if report.stopped else _short(report.seconds_saved),
            "left": _short(left),
            "closeness": _closeness(report),
            "would_take": report.would_take,
            "evaluations": [_evaluation(record) for record in (report.evaluations if records is None else records)],
        }
    )


def _closeness(report: RunReport) -> dict[str, Any] | None:
    """How close the video is expected to be, in numbers and in words."""
    expected = report.expected
    return None if expected is None else asdict(expected) | {"words": expected.words}


def _evaluation(record: StepRecord) -> dict[str, Any]:
    values = {name: _short(getattr(record, name)) for name in _SHOWN}
    return {name: value for name, value in values.items() if value is not None}


def _short(value: Any) -> Any:
    """A number with four digits, which is more than the timeline shows."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _expected(report: RunReport) -> int:
    """Evaluations that the run will have, if the next steps have as many as those so far (heun has two).

    The first step does not count: heun's second evaluation is at the noise level of the next step.
    """
    step = report.evaluations[-1].step
    before = sum(record.step < step for record in report.evaluations)
    examples = sum(0 < record.step < step for record in report.evaluations)
    per_step = examples / (step - 1) if step > 1 else report.total - before
    return max(report.total, round(before + per_step * (report.sampler_steps - step)))


def _seconds_left(report: RunReport) -> float | None:
    """An estimate, from the pace of the run so far; None if no evaluation was timed."""
    timed = [record.seconds for record in report.evaluations if record.seconds is not None]
    if not timed:
        return None
    return (_expected(report) - report.total) * sum(timed) / len(timed)


def _server() -> Any:
    """The host's server, None if this process has none. It is not imported, because that would set one up."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def _workflow(server: Any) -> str | None:
    """The id of the running workflow: the one that is open in the browser may have a node of the same id."""
    for _, _, _, extra, *_ in server.prompt_queue.currently_running.values():
        workflow = (extra.get("extra_pnginfo") or {}).get("workflow") or {}
        return workflow.get("id")
    return None
