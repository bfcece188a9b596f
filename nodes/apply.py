"""The AdaCache node: a MODEL in, the same MODEL with AdaCache on it out."""

from __future__ import annotations

from comfy_api.latest import io

from ..adacache_core.closeness import DRAFT, FAITHFUL, GOOD, LARGEST
from ..adacache_core.config import CacheConfig
from ..adacache_core.decide.base import Policy
from ..adacache_core.decide.codebook import Codebook
from ..adacache_core.decide.fixed import Fixed, Off
from ..adacache_core.decide.motion import MotionConfig
from ..adacache_core.decide.quality import Quality
from ..adacache_core.decide.target import Target
from ..adacache_core.decide.watch import Watch
from ..adacache_core.presets import PRESETS
from ..adacache_core.schedule import Schedule
from .host.attach import attach
from .schema import ADVANCED, CATEGORY, AdaCacheCodebookType, AdaCacheMoRegType, AdaCacheScheduleType, found_by

AUTO, QUALITY, WATCH, OFF = "auto", "quality", "watch", "off"
MAIN, OFFLOAD = "main", "offload"


class AdaCacheApply(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AdaCacheApply",
            display_name="AdaCache",
            category=CATEGORY,
            description="Makes video models faster: computes some of the steps, forecasts the others, and checks its "
            "own error. Put it right before the sampler. Runs of 4 to 8 steps gain little or nothing.",
            **found_by("faster", "speed", "speed up", "acceleration", "accelerate", "skip steps", "cache", "caching"),
            inputs=[
                io.Model.Input("model", tooltip="The video model, after LoRAs and model sampling."),
                io.Combo.Input(
                    "preset",
                    options=[AUTO, QUALITY, OFF, *PRESETS, WATCH],
                    default=AUTO,
                    tooltip="auto aims at the speedup below and finds by itself which steps to compute, on any model. "
                    "quality aims at the closeness below and computes as many steps as that takes. "
                    "fast and slow are the tables of the paper, watch computes and measures every step (for "
                    "calibrating); these three need a model that AdaCache knows. off changes nothing. Start from auto. "
                    "A connected codebook replaces the preset, unless that is watch or off.",
                ),
                io.Float.Input(
                    "speedup",
                    default=2.0,
                    min=1.0,
                    max=5.0,
                    step=0.1,
                    tooltip="With preset auto: how many times fewer steps are computed, on average. Hard videos get "
                    "more steps, easy ones fewer. Start from 2; 1.5 is closer to the original, 3 is bolder, 1 skips "
                    "nothing.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Steps before this fraction of the run are never skipped. Start from 0; "
                    "0.1 to 0.2 protects the composition.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Steps from this fraction of the run on are never skipped. Start from 1; "
                    "0.9 protects fine detail. If both are equal, nothing is skipped.",
                ),
                AdaCacheCodebookType.Input(
                    "codebook", optional=True, tooltip="Your own table: how many steps to skip for how much change."
                ),
                AdaCacheMoRegType.Input(
                    "moreg",
                    optional=True,
                    tooltip="Computes more steps where there is more motion (MoReg). Works with the paper's tables "
                    "(fast, slow or a codebook); does nothing with auto and quality.",
                ),
                AdaCacheScheduleType.Input(
                    "schedule",
                    optional=True,
                    tooltip="Computes these steps and the few that are always computed (such as the first), whatever "
                    "the video does: the schedule of another run, from an inspector or an AdaCache Schedule node. With "
                    "auto and quality the other steps are forecast; with fast, slow or a codebook they reuse what the "
                    "blocks added before. It overrides speedup, closeness, codebook and moreg.",
                ),
                io.Float.Input(
                    "probe_position",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Which block is measured for change: from 0, the first, to 1, the last. Start from 0.5. "
                    "Matters only with fast, slow, watch or a codebook.",
                    **ADVANCED,
                ),
                io.Combo.Input(
                    "cache_device",
                    options=[MAIN, OFFLOAD],
                    default=MAIN,
                    tooltip="main keeps what is reused on the GPU, offload in main memory. Start from main; take "
                    "offload if memory runs out. Matters only with fast, slow, watch or a codebook: auto and quality "
                    "hold no more than a few latents.",
                    **ADVANCED,
                ),
                io.Float.Input(
                    "closeness",
                    default=GOOD,
                    min=10.0,
                    max=LARGEST,
                    step=1.0,
                    optional=True,
                    tooltip="With preset quality: how close the video should come to the one without AdaCache, in dB "
                    f"(as a signal-to-noise ratio of the latent). {DRAFT:g} is for drafts, {GOOD:g} good, {FAITHFUL:g} "
                    "faithful. The closer, the more steps are computed; hard videos take more than easy ones.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model")],
            hidden=[io.Hidden.unique_id],
            # Its MODEL knows which node shows the runs: to the host's cache a node of another id is another node.
            not_idempotent=True,
        )

    @classmethod  # without **kwargs: the host checks no range and no option of an input that is passed here
    def validate_inputs(cls, start_percent: float | None = None, end_percent: float | None = None) -> bool | str:
        if start_percent is not None and end_percent is not None and start_percent > end_percent:
            return f"start_percent {start_percent:g} lies behind end_percent {end_percent:g}; start from 0 and 1"
        return True

    @classmethod
    def execute(
        cls,
        model: object,
        preset: str,
        speedup: float,
        start_percent: float,
        end_percent: float,
        probe_position: float,
        cache_device: str,
        codebook: Codebook | None = None,
        moreg: MotionConfig | None = None,
        schedule: Schedule | None = None,
        closeness: float = GOOD,
    ) -> io.NodeOutput:
        table = codebook or PRESETS.get(preset)
        policy: Policy
        if preset == OFF:
            policy = Off()
        elif preset == WATCH:
            policy = Watch()
        elif schedule is not None:
            policy = Fixed(schedule, at_output=table is None)
        elif table is not None:
            policy = table
        else:
            policy = Quality(closeness) if preset == QUALITY else Target(speedup)
        config = CacheConfig(policy, moreg, start_percent, end_percent, probe_position, offload=cache_device == OFFLOAD)
        return io.NodeOutput(attach(model, config, name_of(policy), getattr(cls.hidden, "unique_id", None)))


def name_of(policy: Policy) -> str:
    """What reports call it."""
    match policy:
        case Off():
            return OFF
        case Watch():
            return WATCH
        case Fixed(schedule):
            return f"schedule: {schedule}"
        case Quality(closeness):
            return f"{QUALITY} {closeness:g} dB"
        case Target(speedup):
            return f"{AUTO} {speedup:g}x"
        case Codebook(name=name):
            return name
    raise TypeError(policy)
