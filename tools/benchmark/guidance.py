"""How other people's caches want the model to be asked for guidance. Knows none of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from tools import demo_model

from .videos import CFG, Video


def in_two_calls(model: WanTransformer3DModel, video: Video) -> demo_model.Evaluate:
    """Conditional, then unconditional, each call announced as diffusers' WanPipeline does it."""
    prompts = demo_model.guided_context(video.prompt, CFG).split(1)

    def evaluate(x: Tensor, step: int, sigma: float) -> Tensor:
        velocities = []
        for name, prompt in zip(("cond", "uncond"), prompts, strict=True):
            with model.cache_context(name, step_index=step, sigma=sigma, num_inference_steps=video.steps):
                velocities.append(_velocity(model, x, sigma, prompt))
        conditional, unconditional = velocities
        return unconditional + CFG * (conditional - unconditional)

    return evaluate


def unconditional_first(model: WanTransformer3DModel, video: Video) -> demo_model.Evaluate:
    """One call with both, in the order of diffusers' pipelines that batch them."""
    conditional, unconditional = demo_model.guided_context(video.prompt, CFG).split(1)
    prompts = torch.cat([unconditional, conditional])

    def evaluate(x: Tensor, step: int, sigma: float) -> Tensor:
        unconditional, conditional = _velocity(model, x.expand(2, -1, -1, -1, -1), sigma, prompts).split(1)
        return unconditional + CFG * (conditional - unconditional)

    return evaluate


@contextmanager
def plain_in_two_calls(model: WanTransformer3DModel, setting: None, video: Video) -> Iterator[demo_model.Evaluate]:
    """The `Method.baseline` of whoever is called so; rounded otherwise than one call, by 1e-5 after ten steps."""
    yield in_two_calls(model, video)


@contextmanager
def plain_unconditional_first(
    model: WanTransformer3DModel, setting: None, video: Video
) -> Iterator[demo_model.Evaluate]:
    """The `Method.baseline` of whoever is called so; a batch in another order may be rounded otherwise."""
    yield unconditional_first(model, video)


def _velocity(model: WanTransformer3DModel, x: Tensor, sigma: float, prompts: Tensor) -> Tensor:
    timestep = torch.full((len(prompts),), 1000 * sigma, device=x.device)
    # By their names: FasterCache drops the unconditional half of those it knows.
    return model(hidden_states=x, timestep=timestep, encoder_hidden_states=prompts, return_dict=False)[0]
