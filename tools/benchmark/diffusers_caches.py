"""The caches that come with diffusers, run as its documentation and their authors run them. Measures nothing.

Every one of them starts from its authors' settings; only the control that they offer for speed is moved. What they
say in absolute timesteps is of a schedule without shift: see `Clock`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cache
from io import StringIO

import torch
from diffusers import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    SeaCacheConfig,
    TaylorSeerCacheConfig,
    WanTransformer3DModel,
)

from tools import demo_model

from .guidance import in_two_calls, plain_in_two_calls, plain_unconditional_first, unconditional_first
from .library import Method
from .videos import CALIBRATION, CFG, Video


class Clock:
    """The timestep of the present evaluation as the authors of PAB and FasterCache count it, 1000 to 0.

    Their ranges of timesteps stand for shares of the run: PAB's 100 to 800 for the 70 % in the middle
    (arXiv 2408.12588, section 3.1), FasterCache's 641 for step 18 of 50 (its fastercache_sample_cogvideox.py). That
    holds where timesteps fall evenly. Ours are shifted as Wan's are, and three quarters of a run pass above 700; so
    the shift is taken back.
    """

    now = 1000

    @contextmanager
    def around(self, step: int, sigma: float) -> Iterator[None]:
        self.now = round(1000 * sigma / (demo_model.SHIFT - (demo_model.SHIFT - 1) * sigma))
        yield

    def __call__(self) -> int:
        return self.now


@contextmanager
def pab(model: WanTransformer3DModel, ranges: tuple[int, int], video: Video) -> Iterator[demo_model.Evaluate]:
    """Pyramid Attention Broadcast. `ranges`: self-attention and cross-attention are computed every so many steps.

    In one call: its state is one per layer, so of two calls the second would get what the first one left.
    """
    clock = Clock()
    spatial, cross = ranges
    model.enable_cache(
        PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=spatial,
            cross_attention_block_skip_range=cross,
            current_timestep_callback=clock,
        )
    )
    yield demo_model.guided(model, demo_model.guided_context(video.prompt, CFG), CFG, clock.around)


@contextmanager
def fastercache(model: WanTransformer3DModel, ranges: tuple[int, int], video: Video) -> Iterator[demo_model.Evaluate]:
    """`ranges`: the unconditional half, and self-attention where that half is absent, are computed every so many steps.

    In one call: only there has it an unconditional half to leave out.
    """
    clock = Clock()
    unconditional, attention = ranges
    model.enable_cache(
        FasterCacheConfig(
            unconditional_batch_skip_range=unconditional,
            spatial_attention_block_skip_range=attention,
            attention_weight_callback=lambda _: 0.3,  # diffusers' documentation and the authors' CogVideoX
            tensor_format="BCFHW",
            current_timestep_callback=clock,
        )
    )
    ask = unconditional_first(model, video)

    def evaluate(x: torch.Tensor, step: int, sigma: float) -> torch.Tensor:
        with clock.around(step, sigma):
            return ask(x, step, sigma)

    yield evaluate


@contextmanager
def first_block_cache(model: WanTransformer3DModel, threshold: float, video: Video) -> Iterator[demo_model.Evaluate]:
    """`threshold`: relative L1 change of what the first block adds, below which the other blocks are skipped."""
    model.enable_cache(FirstBlockCacheConfig(threshold=threshold))
    yield in_two_calls(model, video)


# diffusers' own patterns end in "attn" and match no layer of a Wan, whose are attn1 and attn2. The authors' Wan 2.1
# forecasts these three (wan/taylorseer/forwards/wan_attention_forward.py).
FORECAST = [r"blocks\.\d+\.(attn1|attn2|ffn)"]


@contextmanager
def taylorseer(
    model: WanTransformer3DModel, setting: tuple[int, int, bool], video: Video
) -> Iterator[demo_model.Evaluate]:
    """`setting`: computed every so many steps; order of the series; Lite: of the whole stack and not of each layer."""
    interval, order, lite = setting
    model.enable_cache(
        TaylorSeerCacheConfig(
            cache_interval=interval,
            max_order=order,
            use_lite_mode=lite,
            cache_identifiers=None if lite else FORECAST,
            taylor_factors_dtype=torch.float32,  # as the model; the default halves it
        )
    )
    yield in_two_calls(model, video)


@contextmanager
def magcache(model: WanTransformer3DModel, setting: tuple[float, int], video: Video) -> Iterator[demo_model.Evaluate]:
    """`setting`: the error that may add up, and how many steps in a row may be skipped (E and K of the paper)."""
    threshold, in_a_row = setting
    model.enable_cache(
        MagCacheConfig(
            threshold=threshold,
            max_skip_steps=in_a_row,
            num_inference_steps=video.steps,
            mag_ratios=magnitude_ratios(video.sampler, video.steps),
        )
    )
    yield in_two_calls(model, video)


@cache
def magnitude_ratios(sampler: str, steps: int) -> tuple[float, ...]:
    """What MagCache's own calibration prints for this sampler, the mean over the prompts of CALIBRATION.

    Of the conditional calls, as diffusers' documentation advises where there are two: its configuration has room for
    one list only.

    Returns:
        One ratio per step, the first is 1.
    """
    model = demo_model.load("cpu")
    model.enable_cache(MagCacheConfig(calibrate=True, num_inference_steps=steps))
    printed = StringIO()
    with redirect_stdout(printed):
        for prompt, seed in CALIBRATION:
            evaluate = in_two_calls(model, Video("calibration", prompt, seed, sampler, steps))
            demo_model.integrate(evaluate, demo_model.noise_of(seed), steps, sampler)
    lists = [json.loads(line) for line in printed.getvalue().splitlines() if line.startswith("[1.0,")]
    conditional = torch.tensor(lists[::2])  # each run ends with the unconditional call
    return tuple(conditional.mean(0).tolist())


@contextmanager
def seacache(model: WanTransformer3DModel, setting: tuple[float, int], video: Video) -> Iterator[demo_model.Evaluate]:
    """`setting`: the change that may add up, and how many steps in a row may be skipped, 0 for any number."""
    threshold, in_a_row = setting
    model.enable_cache(SeaCacheConfig(threshold=threshold, max_consecutive_cached=in_a_row))
    yield in_two_calls(model, video)


METHODS = (
    # The paper's PAB 246, 357 and 579; there is no temporal attention here, whose range is the middle digit.
    Method(
        "PAB",
        {f"self {s}, cross {c}": (s, c) for s, c in ((2, 6), (3, 7), (5, 9))},
        pab,
        off=(1, 1),
    ),
    # 5 and 2 are the defaults, 5 and 3 the authors' for CogVideoX.
    Method(
        "FasterCache",
        {f"unconditional {u}, attention {a}": (u, a) for u, a in ((2, 2), (5, 2), (5, 3), (10, 4))},
        fastercache,
        off=(1, 1),
        baseline=plain_unconditional_first,
    ),
    Method(
        "FirstBlockCache",
        {f"threshold {t:g}": t for t in (0.05, 0.1, 0.2, 0.3, 0.6)},
        first_block_cache,
        off=0.0,
        baseline=plain_in_two_calls,
    ),
    *(
        Method(
            name,
            {f"every {n}": (n, order, lite) for n in (2, 3, 4, 5, 6)},
            taylorseer,
            (1, order, lite),
            plain_in_two_calls,
        )
        for name, order, lite in (
            ("TaylorSeer order 1", 1, False),
            ("TaylorSeer order 2", 2, False),
            ("TaylorSeer Lite order 1", 1, True),
        )
    ),
    # The authors' for Wan 2.1 (E002K3 for VACE 1.3B, E012K4 for 1.3B, E024K6 for 14B), diffusers' default, and further.
    Method(
        "MagCache (diffusers)",
        {f"error {e:g}, row {k}": (e, k) for e, k in ((0.02, 3), (0.06, 3), (0.12, 4), (0.24, 6), (0.48, 6))},
        magcache,
        off=(0.0, 3),
        baseline=plain_in_two_calls,
    ),
    # 0.25 and 2 are the defaults; the limit keeps a third, so the boldest goes without.
    Method(
        "SeaCache",
        {f"threshold {t:g}, row {k or 'any'}": (t, k) for t, k in ((0.1, 2), (0.2, 2), (0.25, 2), (0.4, 2), (0.6, 0))},
        seacache,
        off=(0.0, 2),
        baseline=plain_in_two_calls,
    ),
)
