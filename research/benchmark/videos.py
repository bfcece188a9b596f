"""The videos on which all methods are measured. Their seeds were not used for tuning or calibration."""

from __future__ import annotations

from dataclasses import dataclass

CFG = 4.0

# Motion class -> (prompt, seed of the noise). busy: fast, many shapes, moving texture.
PROMPTS = {
    "static": (
        ("triangle one blue static up light", 11),
        ("circle few white static left dark", 12),
        ("square many green static mixed checker", 19),
        ("circle one multi static down stripes", 20),
    ),
    "slow": (
        ("circle one green slow left dark", 13),
        ("square few yellow slow down light", 14),
        ("triangle many blue slow right dark", 21),
        ("square one white slow up stripes", 22),
    ),
    "fast": (
        ("square one red fast up light", 15),
        ("circle few blue fast right dark", 16),
        ("triangle one yellow fast down dark", 23),
        ("square few green fast left light", 24),
    ),
    "busy": (
        ("triangle many multi fast mixed stripes", 17),
        ("circle many yellow fast mixed checker", 18),
        ("square many white fast left stripes", 25),
        ("triangle many red fast up checker", 26),
    ),
}

# For methods that need plain runs first (MagCache's ratios, TeaCache's polynomial): other prompts and seeds.
CALIBRATION = (
    ("square one green static left dark", 101),
    ("circle few multi slow up stripes", 102),
    ("triangle one white fast left light", 103),
    ("square many red fast mixed checker", 104),
)


@dataclass(frozen=True)
class Video:
    """One video of the demo model, made by Euler steps, at the shift of `demo_model` and with CFG."""

    motion_class: str
    prompt: str
    seed: int
    steps: int = 30


def videos() -> list[Video]:
    """One of each class."""
    return [Video(motion_class, *several[0]) for motion_class, several in PROMPTS.items()]
