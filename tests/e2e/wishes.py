"""What a user may ask of the demo model, by chance or by choice, as a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from e2e.prompts import saved_latent

# What a user may set. PLAIN is no AdaCache node at all: the node is bypassed, which takes it out of the prompt.
PLAIN = "no AdaCache"
CHOICES = {
    "size": [(64, 64, 13), (96, 128, 21), (128, 128, 29)],  # width, height, frames
    "videos": [1, 1, 2],
    "steps": [12, 13, 14, 16],
    "sampler": ["euler", "euler", "dpmpp_2m", "heun", "euler_ancestral"],
    "cfg": [1.0, 4.0],
    "shape": ["circle", "square", "triangle"],
    "preset": ["auto", "auto", "auto", "fast", "slow", "off"],
    "speedup": [1.5, 2.0, 2.5],
    "cache_device": ["main", "offload"],
    "moreg": [False, False, True],
    "codebook": [False, False, False, True],
    "second": [False, False, True],
}


@dataclass(frozen=True)
class Wish:
    """What is asked of a prompt: the choices above, one video for each of the `seeds`, and a schedule's text, if any.

    With `second` there is a second AdaCache node on the model, before the one that is to count.
    """

    size: tuple[int, int, int]
    videos: int
    steps: int
    sampler: str
    cfg: float
    shape: str
    preset: str
    speedup: float
    cache_device: str
    moreg: bool
    codebook: bool
    second: bool
    seeds: tuple[int, ...]
    schedule: str = ""

    @property
    def evaluations(self) -> int:
        """Of the model: heun looks twice at every step but the last."""
        return 2 * self.steps - 1 if self.sampler == "heun" else self.steps

    @property
    def name(self) -> str:
        """Of these settings, in a report."""
        if self.preset == "off":
            return "off"
        if self.schedule:
            return "schedule: "
        if self.codebook:
            return "tuned"
        return f"auto {self.speedup:g}x" if self.preset == "auto" else self.preset

    @property
    def residual_bytes(self) -> int:
        """Of one residual of one conditioning in the demo model: float32, 256 wide, 2 x 2 latent pixels a token."""
        width, height, frames = self.size
        return self.videos * ((frames - 1) // 4 + 1) * (height // 16) * (width // 16) * 256 * 4


SMALL = Wish((64, 64, 13), 1, 8, "euler", 4.0, "circle", "auto", 2.0, "main", False, False, False, (1,))


def a_wish(dice: Random) -> Wish:
    return Wish(**{name: dice.choice(of) for name, of in CHOICES.items()}, seeds=(dice.randrange(1000),))


def node(kind: str, **inputs: object) -> dict:
    return {"class_type": kind, "inputs": inputs}


def graph(wish: Wish, number: int) -> dict:
    """The prompt of a wish; no two numbers are one to the host's cache from the samplers on."""
    width, height, length = wish.size
    words = {"count": "one", "colour": "red", "motion": "slow", "direction": "right", "background": "dark"}
    latent = {"width": width, "height": height, "length": length, "batch_size": wish.videos}
    prompt = {
        "model": node("AdaCacheDemoModel"),
        "words": node("AdaCacheDemoPrompt", shape=wish.shape, empty=False, **words),
        "nothing": node("AdaCacheDemoPrompt", shape=wish.shape, empty=True, **words),
        "empty": node("EmptyHunyuanLatentVideo", **latent),
    }
    model = "model" if wish.preset == PLAIN else "apply"
    if wish.preset != PLAIN:
        prompt |= adacache(wish)
    for place, seed in enumerate(wish.seeds):
        sampler = f"video {place}"
        prompt[sampler] = node(
            "KSampler",
            model=[model, 0],
            positive=["words", 0],
            negative=["nothing", 0],
            latent_image=["empty", 0],
            seed=seed,
            steps=wish.steps,
            cfg=wish.cfg,
            sampler_name=wish.sampler,
            scheduler="simple",
            denoise=1 - number * 1e-7,  # so near to 1 the host samples as with 1
        )
        prompt |= saved_latent(sampler)
        if wish.preset != PLAIN:
            prompt[f"inspector {place}"] = node("AdaCacheInspector", model=["apply", 0], latent=[sampler, 0])
            prompt[f"report {place}"] = node("PreviewAny", source=[f"inspector {place}", 3])
    return prompt


def adacache(wish: Wish) -> dict:
    """The AdaCache node and those around it."""
    usual = {"start_percent": 0.0, "end_percent": 1.0, "probe_position": 0.5, "cache_device": wish.cache_device}
    apply = node("AdaCacheApply", model=["model", 0], preset=wish.preset, speedup=wish.speedup, **usual)
    nodes = {"apply": apply}
    if wish.second:
        nodes["first apply"] = node("AdaCacheApply", model=["model", 0], preset="fast", speedup=3.0, **usual)
        apply["inputs"]["model"] = ["first apply", 0]
    if wish.moreg:
        numbers = {"strength": 1.0, "start_percent": 0.1, "end_percent": 0.9, "pivot": 0.385, "power": 8.0}
        numbers |= {"divisor": 1.0, "gradient": 10.0}
        nodes["moreg"] = node("AdaCacheMoReg", window="as published", strides="1", form="reference", **numbers)
        apply["inputs"]["moreg"] = ["moreg", 0]
    if wish.codebook:
        nodes["codebook"] = node("AdaCacheCodebook", table="tuned, 30 steps", text="", for_steps=0, rate_scale=1.0)
        apply["inputs"]["codebook"] = ["codebook", 0]
    if wish.schedule:  # through a link: what is typed would be looked at before anything runs
        nodes["text"] = node("PrimitiveStringMultiline", value=wish.schedule)
        nodes["schedule"] = node("AdaCacheSchedule", text=["text", 0])
        apply["inputs"]["schedule"] = ["schedule", 0]
    return nodes
