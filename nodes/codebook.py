"""The codebook selector: published tables, or one's own in the paper's notation."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ..adacache_core.decide.codebook import EXAMPLE, Codebook
from ..adacache_core.errors import AdaCacheError
from ..adacache_core.presets import TABLES
from .host import library
from .schema import CATEGORY, AdaCacheCodebookType, found_by

CUSTOM = "custom"


class AdaCacheCodebook(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AdaCacheCodebook",
            display_name="AdaCache Codebook",
            category=CATEGORY,
            description="Sets how many steps AdaCache skips at which rate of change, instead of preset auto. It is "
            "scaled to the sampler's step count.",
            **found_by("thresholds", "table of rates"),
            inputs=[
                io.Combo.Input(
                    "table",
                    options=[*TABLES, *library.codebooks(), CUSTOM],
                    default=next(iter(TABLES)),
                    tooltip="A published table, our own (tuned), one that you calibrated, or custom to use the text "
                    "below. Start from fast, 30 steps; take tuned where that changes the video too much.",
                ),
                io.String.Input(
                    "text",
                    default=EXAMPLE,
                    multiline=True,
                    tooltip="With table custom: 'change:steps' pairs, changes rising. 0.08:6 says: below a change of "
                    "0.08 per step compute every 6th step. The last pair is for everything else.",
                ),
                io.Int.Input(
                    "for_steps",
                    default=0,
                    min=0,
                    max=10000,
                    tooltip="The number of sampler steps the table is made for; other runs scale it. "
                    "0: as published (custom: 30).",
                ),
                io.Float.Input(
                    "rate_scale",
                    default=1.0,
                    min=0.1,
                    max=10.0,
                    step=0.05,
                    tooltip="Above 1 skips more, below 1 less. Start from 1; 0.5 is much safer, 1.5 bolder.",
                ),
            ],
            outputs=[AdaCacheCodebookType.Output(display_name="codebook")],
        )

    @classmethod
    def validate_inputs(cls, table: str | None = None, text: str | None = None) -> bool | str:
        if table != CUSTOM or text is None:
            return True
        try:
            Codebook.parse(text)
        except AdaCacheError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, table: str, text: str, for_steps: int, rate_scale: float) -> io.NodeOutput:
        codebook = Codebook.parse(text) if table == CUSTOM else _table(table)
        if for_steps:
            codebook = replace(codebook, steps=for_steps)
        return io.NodeOutput(codebook.with_rates_times(rate_scale))


def _table(name: str) -> Codebook:
    tables = TABLES | library.codebooks()
    if name not in tables:
        raise AdaCacheError(f"there is no codebook {name!r}; there are {', '.join(tables)}")
    return tables[name]
