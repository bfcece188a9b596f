"""What is measured: the conditions, most important first, and the videos. Their noise was not used for tuning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import torch
from torch import Tensor

from research import clips, demo_model, real_clips
from research.small_models import MODELS, SmallModel

from .videos import CALIBRATION, PROMPTS

DRAW_NOISE = ("euler_ancestral", "lcm")  # samplers


@dataclass(frozen=True)
class Condition:
    """How a video is sampled.

    Attributes:
        sampler, scheduler: ComfyUI's names.
        steps: number of steps.
        shift: of the noise levels.
        cfg: scale of the guidance; with 1 there is only one conditioning.
        levels: name of a list of DISTILLED_LEVELS that replaces the scheduler's; "" for none.
        stages: number of steps after which a second sampler with its own cache takes over; 0: there is none.
        denoise: share of the way that is sampled, from a clip with that much noise; `steps` are those of this share.
    """

    sampler: str
    steps: int
    shift: float
    cfg: float
    scheduler: str = "simple"
    levels: str = ""
    stages: int = 0
    denoise: float = 1.0

    @property
    def name(self) -> str:
        steps = f"{self.stages} + {self.steps - self.stages}" if self.stages else str(self.steps)
        way = self.levels or f"shift {self.shift:g}"
        more = [self.scheduler] * (self.scheduler != "simple") + [f"denoise {self.denoise:g}"] * (self.denoise < 1)
        return ", ".join([f"{self.sampler} {steps}", way, f"cfg {self.cfg:g}", *more])

    @property
    def parts(self) -> tuple[tuple[int, int], ...]:
        """First and last step of each sampler."""
        return ((0, self.stages), (self.stages, self.steps)) if self.stages else ((0, self.steps),)

    @property
    def draws_noise(self) -> bool:
        """Whether the sampler adds noise of its own, so that only computing all steps gives the same video."""
        return self.sampler in DRAW_NOISE


# For models with guidance. The first three are from ComfyUI's templates for Wan 2.1, Wan 2.2 and MiniMax-H3. Under the
# first, the published table does about as well as in the paper (docs/benchmarks.md), so it is the nearest to real
# models. AdaCache 0.1.0 was tuned on the fifth.
GUIDED = (
    Condition("uni_pc", 20, 8.0, 6.0),
    Condition("euler", 20, 8.0, 3.5, stages=10),
    Condition("res_multistep", 20, 5.0, 1.0),
    Condition("euler", 30, 3.0, 4.0),
    Condition("euler", 30, 8.0, 4.0),
    Condition("euler", 30, 1.0, 4.0),
    Condition("euler", 20, 5.0, 7.0),
    Condition("dpmpp_2m", 30, 5.0, 4.0),
    Condition("euler", 12, 3.0, 4.0),
    Condition("euler", 30, 3.0, 4.0, scheduler="beta"),
    Condition("euler", 50, 5.0, 4.0),
    Condition("euler", 20, 5.0, 4.0, denoise=0.6),
    Condition("euler_ancestral", 20, 5.0, 4.0),
    Condition("res_multistep", 30, 1.0, 7.0),
    Condition("uni_pc", 30, 3.0, 4.0),
    Condition("lcm", 12, 8.0, 1.0),
)

# For the model without guidance: first MiniMax-H3's template, then other uses of such models.
UNGUIDED = (
    Condition("res_multistep", 20, 12.0, 1.0),
    Condition("euler", 20, 5.0, 1.0),
    Condition("euler", 30, 3.0, 1.0),
    Condition("euler", 30, 1.0, 1.0),
    Condition("uni_pc", 20, 8.0, 1.0),
    Condition("res_multistep", 12, 12.0, 1.0),
    Condition("dpmpp_2m", 30, 5.0, 1.0, scheduler="beta"),
    Condition("euler", 20, 5.0, 1.0, denoise=0.6),
    Condition("euler", 50, 5.0, 1.0),
    Condition("euler_ancestral", 20, 5.0, 1.0),
    Condition("lcm", 12, 8.0, 1.0),
)

# For the distilled model: the eight steps of the official workflows.
DISTILLED = (
    Condition("euler", 8, 5.0, 1.0, levels="LTX-2.3"),
    Condition("res_multistep", 8, 12.0, 1.0, levels="H3 turbo"),
    Condition("euler_ancestral", 8, 5.0, 1.0, levels="LTX-2.3"),
)

# A clip to start from exists only if the clips are drawn; real clips are in a package that may not be installed.
CONDITIONS = {
    "demo": GUIDED,
    "clips": tuple(condition for condition in GUIDED[:12] if condition.denoise == 1),
    "two_streams": UNGUIDED,
    "distilled": DISTILLED,
}

VIDEOS_OF_A_CLASS = 4
MOST_WANTED = 3  # conditions of each model under which all methods are measured
# Videos of each class for all methods, and under the other conditions: as many as a night has time for.
FEWER_VIDEOS = 2


@dataclass(frozen=True)
class Case:
    """One video to make, under one condition.

    Attributes:
        model: a name of MODELS.
        prompt: six words, or the number of a real clip.
        seed: of the noise.
        part: the one of the condition's `parts` that is sampled now; None: all of them.
        number: which of the videos of its class, from 0.
    """

    model: str
    condition: Condition
    motion_class: str
    prompt: str
    seed: int
    part: tuple[int, int] | None = None
    number: int = field(default=0, repr=False)  # not in the name of the kept plain video

    @property
    def subject(self) -> SmallModel:
        return MODELS[self.model]

    @property
    def is_for_all_methods(self) -> bool:
        """Whether it is an early video under one of the first conditions of its model, or under one not in the plan."""
        return self.number < FEWER_VIDEOS and self.condition not in CONDITIONS[self.model][MOST_WANTED:]

    @property
    def steps(self) -> int:
        """The steps of the present sampler."""
        begin, end = self.part or (0, self.condition.steps)
        return end - begin

    @property
    def context(self) -> Tensor:
        """Embeddings (1 or 2, 6, 4096): of the prompt and, unless cfg is 1, of the empty prompt."""
        real = self.model == "clips"
        text = real_clips.context(int(self.prompt))[None] if real else demo_model.prompt_context(self.prompt)
        return text if self.condition.cfg == 1 else torch.cat([text, torch.zeros_like(text)])


def cases(model: str, condition: Condition, number: int) -> list[Case]:
    """The `number`-th video of each class, from 0 to VIDEOS_OF_A_CLASS - 1."""
    chosen = _clips() if model == "clips" else PROMPTS
    return [Case(model, condition, name, *several[number], number=number) for name, several in chosen.items()]


def calibration(case: Case) -> list[Case]:
    """Videos sampled like this one, from which a method may learn before it is measured."""
    chosen = [(str(clip), 200 + clip) for clip in _others()] if case.model == "clips" else CALIBRATION
    return [replace(case, motion_class="", prompt=prompt, seed=seed) for prompt, seed in chosen]


@cache
def _clips() -> dict[str, list[tuple[str, int]]]:
    """Clips spread evenly over the numbers of each class."""
    chosen = {}
    for name in real_clips.CLASSES:
        numbers = [number for number, its_class in enumerate(real_clips.classes()) if its_class == name]
        picked = numbers[:: len(numbers) // VIDEOS_OF_A_CLASS][:VIDEOS_OF_A_CLASS]
        chosen[name] = [(str(number), 100 + number) for number in picked]
    return chosen


def _others() -> list[int]:
    """One clip of each class that no measured video uses."""
    taken = {int(prompt) for several in _clips().values() for prompt, _ in several}
    classes = real_clips.classes()
    return [
        next(number for number, its_class in enumerate(classes) if its_class == name and number not in taken)
        for name in real_clips.CLASSES
    ]


def wanted(models: Sequence[str], number: int = VIDEOS_OF_A_CLASS, conditions: int | None = None) -> Iterator[Case]:
    """The videos of these models, most important first: one of each class under every condition, then the others.

    Args:
        number: videos of each class; at most FEWER_VIDEOS under conditions that are not among the MOST_WANTED.
        conditions: how many conditions of each model, from the first; None: all.
    """
    longest = max(map(len, CONDITIONS.values()))
    for video in range(number):
        for place in range(longest if video < FEWER_VIDEOS else MOST_WANTED):
            for model in models:
                if place < len(CONDITIONS[model][:conditions]):
                    yield from cases(model, CONDITIONS[model][place], video)


def quick(models: Sequence[str]) -> list[Case]:
    """One video of each model, with few steps."""
    few = Condition("euler", 16, 5.0, 1.0)
    return [
        cases(model, replace(few, cfg=CONDITIONS[model][0].cfg, steps=min(16, CONDITIONS[model][0].steps)), 0)[-1]
        for model in models
    ]


def drawn_clip(case: Case) -> Tensor:
    """The clean latent from which a video with `denoise` below 1 starts, in the numbers that the model works with."""
    _, _, frames, size, _ = case.subject.latent
    dice = torch.Generator().manual_seed(case.seed)
    return clips.encode(clips.draw(clips.words_of(case.prompt)[None], dice, frames, size))
