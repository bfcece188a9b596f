"""AdaCache on a WanPipeline of diffusers, which has its own loop: finds where a step begins and which prompt it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from diffusers import WanPipeline
from torch import Tensor

from adacache_core import AdaCache, CacheConfig


def generate(
    pipeline: WanPipeline, prompt: str, seed: int, config: CacheConfig, steps: int, shape: tuple[int, int, int]
) -> tuple[Tensor, dict[str, float]]:
    """One video, (frames, height, width, 3) in [0, 1], with its seconds, and its computed and total evaluations."""
    frames, height, width = shape
    begin = time.perf_counter()
    with attached(pipeline, config, steps) as (run, next_step):
        video = pipeline(
            prompt,
            num_frames=frames,
            height=height,
            width=width,
            num_inference_steps=steps,
            generator=torch.Generator().manual_seed(seed),
            callback_on_step_end=next_step,
            output_type="np",
        ).frames[0]
    took = {"computed": run.report.computed, "total": run.report.total, "seconds": time.perf_counter() - begin}
    return torch.from_numpy(video).float(), took


@contextmanager
def attached(pipeline: WanPipeline, config: CacheConfig, steps: int) -> Iterator[tuple[AdaCache, Callable]]:
    """AdaCache on the pipeline's transformer for one video. Yields the run, and the callback for the end of a step."""
    transformer = pipeline.transformer
    forward = transformer.forward
    with (
        AdaCache(transformer, blocks="blocks", head="norm_out", steps=steps, config=config) as run,
        ExitStack() as evaluation,
    ):

        def cached(hidden_states: Tensor, **rest):
            prompt = run.report.evaluations[-1].calls  # 0: the prompt, 1: the negative prompt
            *_, frames, height, width = hidden_states.shape
            with run.call(prompt, frames, height * width // 4):
                return forward(hidden_states, **rest)

        def next_step(_pipeline, step: int, _timestep, tensors: dict) -> dict:
            evaluation.close()
            if step + 1 < steps:
                evaluation.enter_context(run.evaluation(step + 1))
            return tensors

        evaluation.enter_context(run.evaluation(0))
        transformer.forward = cached
        try:
            yield run, next_step
        finally:
            transformer.forward = forward
