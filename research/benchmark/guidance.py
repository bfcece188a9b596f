"""Ways to call a model for guidance, as other caches need them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from research import demo_model

from .plan import Case


def in_two_calls(model: WanTransformer3DModel, case: Case) -> demo_model.Evaluate:
    """A conditional call, then (unless cfg is 1) an unconditional one, each announced as in diffusers' WanPipeline."""
    names = ("cond", "uncond")[: len(case.context)]
    prompts = case.context.split(1)

    def evaluate(x: Tensor, step: int, sigma: float) -> Tensor:
        velocities = []
        for name, prompt in zip(names, prompts, strict=True):
            with model.cache_context(name, step_index=step, sigma=sigma, num_inference_steps=case.steps):
                velocities.append(_velocity(model, x, sigma, prompt))
        return _guided(velocities[0], velocities[-1], case)

    return evaluate


def unconditional_first(model: WanTransformer3DModel, case: Case) -> demo_model.Evaluate:
    """One call with both prompts, in the order of diffusers' pipelines."""
    prompts = case.context.flip(0)

    def evaluate(x: Tensor, step: int, sigma: float) -> Tensor:
        velocities = _velocity(model, x.expand(len(prompts), -1, -1, -1, -1), sigma, prompts).split(1)
        return _guided(velocities[-1], velocities[0], case)

    return evaluate


def _guided(conditional: Tensor, unconditional: Tensor, case: Case) -> Tensor:
    return unconditional + case.condition.cfg * (conditional - unconditional)


@contextmanager
def plain(bench: Any, model: WanTransformer3DModel, setting: None, case: Case) -> Iterator[demo_model.Evaluate]:
    """No cache: one call with both prompts, the conditional one first."""
    yield demo_model.guided(model, case.context, case.condition.cfg)


@contextmanager
def plain_in_two_calls(
    bench: Any, model: WanTransformer3DModel, setting: None, case: Case
) -> Iterator[demo_model.Evaluate]:
    """The `baseline` of methods that make two calls. It rounds differently from one call: by 1e-5 after ten steps."""
    yield in_two_calls(model, case)


@contextmanager
def plain_unconditional_first(
    bench: Any, model: WanTransformer3DModel, setting: None, case: Case
) -> Iterator[demo_model.Evaluate]:
    """The `baseline` of methods with another order in the batch, which may round differently."""
    yield unconditional_first(model, case)


def _velocity(model: WanTransformer3DModel, x: Tensor, sigma: float, prompts: Tensor) -> Tensor:
    timestep = torch.full((len(prompts),), 1000 * sigma, device=x.device)
    # Arguments by name: FasterCache drops the unconditional half of the arguments that it knows by name.
    return model(hidden_states=x, timestep=timestep, encoder_hidden_states=prompts, return_dict=False)[0]
