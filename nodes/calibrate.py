"""The calibration: a codebook for this model, from runs that computed every step."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io, ui

from ..adacache_core.errors import AdaCacheError
from ..adacache_core.tell.calibrate import Calibration, calibrate, codebook_to_json, curve_of
from ..adacache_core.tell.picture import draw
from ..adacache_core.tell.report import RunReport
from .host import library
from .host.attach import attachment_of
from .schema import CATEGORY, AdaCacheCodebookType, AdaCacheReportType, as_image, found_by

DO_NOT, NEW, REPLACE = "do not save", "save", "save, replacing the file"
SHOWN = 5  # runs in the picture


class AdaCacheCalibrate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AdaCacheCalibrate",
            display_name="AdaCache Calibrate",
            category=CATEGORY,
            description="Makes a codebook for your model. Set the AdaCache node to watch, queue several prompts, and "
            "take the codebook from here.",
            **found_by("calibration", "tune a codebook"),
            is_output_node=True,
            not_idempotent=True,
            inputs=[
                io.Model.Input("model", tooltip="The MODEL from an AdaCache node with preset watch."),
                io.Latent.Input(
                    "latent", tooltip="What the sampler made with this model. It makes this node run after it."
                ),
                io.Float.Input(
                    "speedup",
                    default=2.0,
                    min=1.0,
                    max=5.0,
                    step=0.1,
                    tooltip="How much faster the watched runs would have been, on average. Start from 2.",
                ),
                io.Int.Input("entries", default=6, min=1, max=20, tooltip="Lines of the codebook. Start from 6."),
                io.Int.Input(
                    "runs",
                    default=16,
                    min=1,
                    max=16,
                    tooltip="How many of the last watched runs count. Start from 16, as in the paper.",
                ),
                io.String.Input("name", default="my model", tooltip="The name of the codebook and of its file."),
                io.Combo.Input(
                    "save",
                    options=[DO_NOT, NEW, REPLACE],
                    default=DO_NOT,
                    tooltip="Saves it in models/adacache, where the AdaCache Codebook node finds it (press R).",
                ),
                AdaCacheReportType.Input(
                    "reports", optional=True, tooltip="Watched runs of other models or graphs, from an inspector."
                ),
            ],
            outputs=[
                AdaCacheCodebookType.Output(display_name="codebook"),
                io.Image.Output(display_name="image"),
                io.String.Output(display_name="text"),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: object,
        latent: dict,
        speedup: float,
        entries: int,
        runs: int,
        name: str,
        save: str,
        reports: tuple[RunReport, ...] = (),
    ) -> io.NodeOutput:
        attachment = attachment_of(model)
        own = () if attachment is None else tuple(run.report for run in attachment.finished)
        watched = [report for report in (*reports, *own) if curve_of(report)]
        if not watched:
            raise AdaCacheError("no run was watched yet: set the preset of the AdaCache node to watch, and sample")
        steps = watched[-1].sampler_steps  # earlier runs may have had another number
        watched = [report for report in watched if report.sampler_steps == steps][-runs:]
        found = calibrate([curve_of(report) for report in watched], speedup, entries, name)
        if save != DO_NOT:
            library.save(name, codebook_to_json(found.codebook, str(found)), replace=save == REPLACE)
        picture = as_image(_picture(watched, found))
        return io.NodeOutput(found.codebook, picture, str(found.codebook), ui=ui.PreviewImage(picture, cls=cls))


def _picture(watched: list[RunReport], found: Calibration) -> object:
    """The curves of the last runs against the thresholds that came of all of them."""
    shown = [replace(report, codebook=str(found.codebook), notes=[]) for report in watched[-SHOWN:]]
    return draw([shown[0].with_note(str(found)), *shown[1:]])
