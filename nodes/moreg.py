"""The MoReg node: more compute where there is more motion."""

from __future__ import annotations

from comfy_api.latest import io

from ..adacache_core.decide.motion import MotionConfig
from ..adacache_core.errors import AdaCacheError
from .schema import ADVANCED, CATEGORY, AdaCacheMoRegType, found_by

PUBLISHED, CUSTOM = "as published", "custom"


class AdaCacheMoReg(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AdaCacheMoReg",
            display_name="AdaCache MoReg",
            category=CATEGORY,
            description="Spends more steps on lively videos and fewer on still ones (motion regularisation).",
            **found_by("motion regularization", "motion regularisation"),
            inputs=[
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=4.0,
                    step=0.05,
                    tooltip="0 has no effect, 1 is as published, above 1 reacts more strongly. Start from 1.",
                ),
                io.Combo.Input(
                    "window",
                    options=[PUBLISHED, CUSTOM],
                    default=PUBLISHED,
                    tooltip="When motion counts. As published: steps 4 to 26 of 30, 10 to 90 of 100, scaled to the "
                    "run. Custom: the two fractions below.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.1,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="With window custom: the fraction of steps from which motion counts. Start from 0.1.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=0.9,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="With window custom: the fraction of steps up to which motion counts. Start from 0.9.",
                ),
                io.String.Input(
                    "strides",
                    default="1",
                    tooltip="How many latent frames apart two frames are compared: '1', or '1, 2'. Start from 1; "
                    "add 2 for slow motion.",
                ),
                io.Float.Input(
                    "pivot",
                    default=0.385,
                    min=0.01,
                    max=10.0,
                    step=0.005,
                    tooltip="The motion score at which MoReg changes nothing; more motion than this computes more. "
                    "Start from 0.385, as published.",
                    **ADVANCED,
                ),
                io.Float.Input(
                    "power",
                    default=8.0,
                    min=0.1,
                    max=16.0,
                    step=0.1,
                    tooltip="How sharply the factor rises around the pivot. Start from 8, as published.",
                    **ADVANCED,
                ),
                io.Float.Input(
                    "divisor",
                    default=1.0,
                    min=0.01,
                    max=100.0,
                    step=0.01,
                    tooltip="Divides the factor: above 1 skips more at any motion. Start from 1, as published.",
                    **ADVANCED,
                ),
                io.Float.Input(
                    "gradient",
                    default=10.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="How much a change of motion adds. Start from 10, as published; 0 looks at motion alone.",
                    **ADVANCED,
                ),
                io.Combo.Input(
                    "form",
                    options=["reference", "paper"],
                    default="reference",
                    tooltip="reference is what the authors' code does; paper is their equation 9 as printed, "
                    "which uses none of the four numbers above. Start from reference.",
                    **ADVANCED,
                ),
            ],
            outputs=[AdaCacheMoRegType.Output(display_name="moreg")],
        )

    @classmethod
    def validate_inputs(
        cls,
        window: str | None = None,
        start_percent: float | None = None,
        end_percent: float | None = None,
        strides: str | None = None,
    ) -> bool | str:
        try:
            if strides is not None:
                parse_strides(strides)
            if window not in (PUBLISHED, CUSTOM, None):  # what is named here, the host does not look at
                return f"the MoReg window is {PUBLISHED!r} or {CUSTOM!r}, got {window!r}"
            if window == CUSTOM and start_percent is not None and end_percent is not None:
                MotionConfig(window=(start_percent, end_percent))
        except AdaCacheError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        strength: float,
        window: str,
        start_percent: float,
        end_percent: float,
        strides: str,
        pivot: float,
        power: float,
        divisor: float,
        gradient: float,
        form: str,
    ) -> io.NodeOutput:
        config = MotionConfig(
            strength=strength,
            window=(start_percent, end_percent) if window == CUSTOM else None,
            strides=parse_strides(strides),
            pivot=pivot,
            power=power,
            divisor=divisor,
            gradient=gradient,
            form=form,
        )
        return io.NodeOutput(config)


def parse_strides(text: str) -> tuple[int, ...]:
    """'1, 2' -> (1, 2).

    Raises:
        AdaCacheError: shows the text and a correct one.
    """
    try:
        strides = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise AdaCacheError(f"MoReg strides are whole numbers of frames such as '1' or '1, 2', got {text!r}") from None
    return MotionConfig(strides=strides).strides
