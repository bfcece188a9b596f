"""A fixed schedule: from one or several runs, or from text that somebody shared."""

from __future__ import annotations

from comfy_api.latest import io

from ..adacache_core.errors import AdaCacheError
from ..adacache_core.schedule import average
from ..adacache_core.tell.report import RunReport, schedules_in
from .schema import CATEGORY, AdaCacheReportType, AdaCacheScheduleType, found_by


class AdaCacheSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AdaCacheSchedule",
            display_name="AdaCache Schedule",
            category=CATEGORY,
            description="Fixes, before the run, which steps are computed. Averages the runs of an inspector, and is "
            "shared as text. Connect it to an AdaCache node, which then measures nothing.",
            **found_by("fixed steps", "share a schedule"),
            inputs=[
                io.String.Input(
                    "text",
                    default="",
                    multiline=True,
                    tooltip="A schedule as this node's text output gives it, or a report as an inspector gives it and "
                    "saved files have it; several are averaged. Leave it empty to take the connected reports.",
                ),
                AdaCacheReportType.Input(
                    "reports",
                    optional=True,
                    tooltip="The adacache_report of an inspector: all runs in it are averaged. Not looked at if there "
                    "is text.",
                ),
            ],
            outputs=[
                AdaCacheScheduleType.Output(display_name="schedule"),
                io.String.Output(display_name="text"),
            ],
        )

    @classmethod
    def validate_inputs(cls, text: str | None = None) -> bool | str:
        try:
            if text is not None:
                schedules_in(text)
        except AdaCacheError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, text: str, reports: tuple[RunReport, ...] = ()) -> io.NodeOutput:
        schedules = schedules_in(text) or [report.schedule() for report in reports if report.evaluations]
        if not schedules:
            raise AdaCacheError("there is no schedule: paste one as text, or connect an inspector that has seen a run")
        schedule = average(schedules)
        return io.NodeOutput(schedule, schedule.to_json())
