"""The videos that everyone is measured on; their prompts and seeds served neither to tune nor to calibrate anything."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

CFG = 4.0

# motion class -> (prompt, seed of the noise); busy: fast, many shapes, moving texture.
PROMPTS = {
    "static": (("triangle one blue static up light", 11), ("circle few white static left dark", 12)),
    "slow": (("circle one green slow left dark", 13), ("square few yellow slow down light", 14)),
    "fast": (("square one red fast up light", 15), ("circle few blue fast right dark", 16)),
    "busy": (("triangle many multi fast mixed stripes", 17), ("circle many yellow fast mixed checker", 18)),
}

# For whoever must look at plain runs first (MagCache's ratios, TeaCache's polynomial): other prompts, other seeds.
CALIBRATION = (
    ("square one green static left dark", 101),
    ("circle few multi slow up stripes", 102),
    ("triangle one white fast left light", 103),
    ("square many red fast mixed checker", 104),
)

# sampler, steps, videos of each motion class, which settings: what the whole benchmark measures, most wanted first.
PLAN = (
    ("euler", 30, 2, "all"),
    ("euler", 50, 1, "every other"),
    ("dpmpp_2m", 30, 1, "every other"),
    ("dpmpp_2m", 50, 1, "every other"),
)


@dataclass(frozen=True)
class Video:
    """One video to make: what is said, drawn and how it is sampled."""

    motion_class: str
    prompt: str
    seed: int
    sampler: str = "euler"
    steps: int = 30


def videos(sampler: str = "euler", steps: int = 30, seeds: int = 2, classes: Iterable[str] = PROMPTS) -> list[Video]:
    """`seeds` videos of each class."""
    return [
        Video(motion_class, prompt, seed, sampler, steps)
        for motion_class in classes
        for prompt, seed in PROMPTS[motion_class][:seeds]
    ]
