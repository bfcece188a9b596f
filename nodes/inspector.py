"""The schedule inspector: what AdaCache did to the video that this latent is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io, ui

from ..adacache_core.tell.picture import draw
from ..adacache_core.tell.report import RunReport
from .host.attach import attachment_of
from .host.live import timeline
from .schema import CATEGORY, AdaCacheReportType, AdaCacheScheduleType, as_image, found_by

METADATA = "adacache"  # its name in saved files, beside the host's `prompt` and `workflow`


class AdaCacheInspector(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AdaCacheInspector",
            display_name="AdaCache Schedule Inspector",
            category=CATEGORY,
            description="Shows which steps were computed and which reused, and why.",
            **found_by("statistics", "report", "which steps were skipped"),
            is_output_node=True,
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL from the AdaCache node (later patches do not matter)."),
                io.Latent.Input("latent", tooltip="What the sampler made with it. It is passed on unchanged."),
                AdaCacheReportType.Input(
                    "reports",
                    optional=True,
                    tooltip="Reports of another inspector, to see several runs in one picture, "
                    "such as the two stages of Wan 2.2.",
                ),
                io.String.Input(
                    "title",
                    default="",
                    optional=True,
                    tooltip="What to call this run in the picture and in the report, such as the prompt's subject.",
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="latent"),
                io.Image.Output(display_name="image"),
                AdaCacheScheduleType.Output(display_name="schedule"),
                io.String.Output(display_name="report"),
                io.Int.Output(display_name="computed"),
                io.Int.Output(display_name="total"),
                io.Float.Output(display_name="speedup"),
                AdaCacheReportType.Output(display_name="adacache_report"),
            ],
        )

    @classmethod
    def execute(
        cls, model: object, latent: dict, reports: tuple[RunReport, ...] = (), title: str = ""
    ) -> io.NodeOutput:
        report = replace(_report_of(model, latent), title=title)
        everything = (*reports, report)
        if report.evaluations:
            _note(getattr(cls.hidden, "extra_pnginfo", None), getattr(cls.hidden, "unique_id", None), report)
        told = [each.with_note(_closeness_of(each, len(everything) > 1)) for each in everything]
        picture = as_image(draw(told))
        return io.NodeOutput(
            latent,
            picture,
            report.schedule(),
            report.to_json(indent=1),
            sum(each.computed for each in everything),
            sum(each.total for each in everything),
            report.measured_speedup or 1.0,
            everything,
            # The host keeps this with what it caches of the node, and sends it again without running anything.
            ui={**ui.PreviewImage(picture, cls=cls).as_dict(), "adacache": [timeline(report)]},
        )


def _report_of(model: object, latent: dict) -> RunReport:
    attachment = attachment_of(model)
    if attachment is None:
        return RunReport(notes=["there is no AdaCache on this MODEL; connect the output of the AdaCache node"])
    report, which = attachment.report_for(latent.get("samples"))
    if report is None:
        return RunReport(preset=attachment.preset, notes=[which])
    return report.with_note(which)


def _closeness_of(report: RunReport, one_of_several: bool) -> str:
    """How close a video is expected to be, and what it would take at other settings; "" where that is not known."""
    if report.expected is None:
        return ""
    which = f"{report.title or report.preset}: e" if one_of_several else "E"
    others = ", ".join(f"{name} {count}" for name, count in (report.would_take or {}).items())
    take = f". What other settings would take: {others} of {report.total} evaluations" if others else ""
    return f"{which}xpected {report.expected}{take}"


def _note(metadata: dict[str, Any] | None, node: str | None, report: RunReport) -> None:
    """Adds the report to what the host's nodes write into the files that they save from now on in this prompt.

    Args:
        metadata: what came with the prompt, for saved files; the same object for all nodes. Not there if a script
            queued the prompt without any.
        node: the inspector's id; there may be several.
        report: of a run.
    """
    if metadata is not None:
        before = metadata.get(METADATA)
        metadata[METADATA] = (before if isinstance(before, dict) else {}) | {str(node): report.to_dict()}
