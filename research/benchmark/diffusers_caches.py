"""The caches that come with diffusers, used as its documentation and their authors use them. Measures nothing.

Each cache has its authors' settings, except for the control that they offer for speed. Settings in absolute timesteps
are for a schedule without shift: see `Clock`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
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

from research import demo_model

from .guidance import in_two_calls, plain_in_two_calls, plain_unconditional_first, unconditional_first
from .library import Bench, Method, OnDiffusers
from .meter import Meter
from .plan import Case, calibration


class Clock:
    """The timestep of the present evaluation as the authors of PAB and FasterCache count it, from 1000 to 0.

    Their ranges of timesteps stand for shares of the run: PAB's 100 to 800 for the 70 % in the middle
    (arXiv 2408.12588, section 3.1), FasterCache's 641 for step 18 of 50 (its fastercache_sample_cogvideox.py). This is
    right only if timesteps fall evenly. Ours are shifted like Wan's, so three quarters of a run are above 700. The
    clock undoes the shift.
    """

    now = 1000

    def __init__(self, shift: float) -> None:
        self.shift = shift

    @contextmanager
    def around(self, step: int, sigma: float) -> Iterator[None]:
        self.now = round(1000 * sigma / (self.shift - (self.shift - 1) * sigma))
        yield

    def __call__(self) -> int:
        return self.now


@contextmanager
def pab(
    bench: Bench, model: WanTransformer3DModel, ranges: tuple[int, int], case: Case
) -> Iterator[demo_model.Evaluate]:
    """Pyramid Attention Broadcast. `ranges`: self-attention and cross-attention are computed every n-th step.

    Both prompts are in one call, because it has one state per layer: a second call would get the state of the first.
    """
    clock = Clock(case.condition.shift)
    spatial, cross = ranges
    model.enable_cache(
        PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=spatial,
            cross_attention_block_skip_range=cross,
            current_timestep_callback=clock,
        )
    )
    yield demo_model.guided(model, case.context, case.condition.cfg, clock.around)


@contextmanager
def fastercache(
    bench: Bench, model: WanTransformer3DModel, ranges: tuple[int, int], case: Case
) -> Iterator[demo_model.Evaluate]:
    """FasterCache. `ranges`: the unconditional half, and self-attention without it, are computed every n-th step.

    Both prompts are in one call, because only there is an unconditional half that it can leave out.
    """
    clock = Clock(case.condition.shift)
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
    ask = unconditional_first(model, case)

    def evaluate(x: torch.Tensor, step: int, sigma: float) -> torch.Tensor:
        with clock.around(step, sigma):
            return ask(x, step, sigma)

    yield evaluate


@contextmanager
def first_block_cache(
    bench: Bench, model: WanTransformer3DModel, threshold: float, case: Case
) -> Iterator[demo_model.Evaluate]:
    """FirstBlockCache. `threshold`: if what the first block adds changes less (relative L1), the others are skipped."""
    model.enable_cache(FirstBlockCacheConfig(threshold=threshold))
    yield in_two_calls(model, case)


# TaylorSeer offers to compute the last steps, without a default; by default it computes the first three.
LAST_COMPUTED = 2

# diffusers' own patterns end in "attn" and match no layer of a Wan, whose layers are attn1 and attn2. The authors' code
# for Wan 2.1 forecasts these three (wan/taylorseer/forwards/wan_attention_forward.py).
FORECAST = [r"blocks\.\d+\.(attn1|attn2|ffn)"]


@contextmanager
def taylorseer(
    bench: Bench, model: WanTransformer3DModel, setting: tuple[int, int, bool], case: Case
) -> Iterator[demo_model.Evaluate]:
    """TaylorSeer. `setting`: compute every n-th step; order of the series; Lite: the whole stack, not each layer."""
    interval, order, lite = setting
    model.enable_cache(
        TaylorSeerCacheConfig(
            cache_interval=interval,
            max_order=order,
            disable_cache_after_step=case.steps - LAST_COMPUTED,
            use_lite_mode=lite,
            cache_identifiers=None if lite else FORECAST,
            taylor_factors_dtype=torch.float32,  # the dtype of the model; the default has half the bits
        )
    )
    yield in_two_calls(model, case)


@contextmanager
def magcache(
    bench: Bench, model: WanTransformer3DModel, setting: tuple[float, int], case: Case
) -> Iterator[demo_model.Evaluate]:
    """MagCache. `setting`: how much error may add up, and how many steps in a row may be skipped (the paper's E, K)."""
    threshold, in_a_row = setting
    model.enable_cache(
        MagCacheConfig(
            threshold=threshold,
            max_skip_steps=in_a_row,
            num_inference_steps=case.steps,
            mag_ratios=magnitude_ratios(bench, case),
        )
    )
    yield in_two_calls(model, case)


def magnitude_ratios(bench: Bench, case: Case) -> tuple[float, ...]:
    """Ratios that MagCache's own calibration prints for this condition, the mean over the videos of `calibration`.

    Ratios are for the conditional calls, as diffusers' documentation advises: its configuration holds only one list.

    Returns:
        One ratio per step, the first is 1.
    """
    key = case.model, case.condition, case.part
    if key not in _RATIOS:
        printed = StringIO()
        with redirect_stdout(printed):
            for other in calibration(case):
                bench.sample(replace(other, part=None), Meter(), CALIBRATING, None)
        lists = [json.loads(line) for line in printed.getvalue().splitlines() if line.startswith("[1.0,")]
        conditional = lists[:: len(case.context)]  # each run ends with an unconditional call
        # A run in two stages prints two lists for each video.
        stages = 2 if case.condition.stages else 1
        for stage, part in enumerate(case.condition.parts):
            _RATIOS[case.model, case.condition, part] = tuple(torch.tensor(conditional[stage::stages]).mean(0).tolist())
    return _RATIOS[key]


_RATIOS: dict[tuple, tuple[float, ...]] = {}


@contextmanager
def _calibrated(bench: Bench, model: WanTransformer3DModel, setting: None, case: Case) -> Iterator[demo_model.Evaluate]:
    model.enable_cache(MagCacheConfig(calibrate=True, num_inference_steps=case.steps))
    yield in_two_calls(model, case)


CALIBRATING = OnDiffusers("MagCache, calibrating", {}, attach=_calibrated)


@contextmanager
def seacache(
    bench: Bench, model: WanTransformer3DModel, setting: tuple[float, int], case: Case
) -> Iterator[demo_model.Evaluate]:
    """`setting`: how much change may add up, and how many steps in a row may be skipped (0: any number)."""
    threshold, in_a_row = setting
    model.enable_cache(SeaCacheConfig(threshold=threshold, max_consecutive_cached=in_a_row))
    yield in_two_calls(model, case)


METHODS: tuple[Method, ...] = (
    # The paper's PAB 246, 357 and 579, without the middle digit, which is for temporal attention: there is none here.
    OnDiffusers(
        "PAB",
        {f"self {s}, cross {c}": (s, c) for s, c in ((2, 6), (3, 7), (5, 9))},
        (1, 1),
        everywhere=False,
        attach=pab,
    ),
    # 5 and 2 are the defaults; the authors use 5 and 3 for CogVideoX.
    OnDiffusers(
        "FasterCache",
        {f"unconditional {u}, attention {a}": (u, a) for u, a in ((2, 2), (5, 3), (10, 4))},
        (1, 1),
        needs_guidance=True,
        everywhere=False,
        attach=fastercache,
        baseline=plain_unconditional_first,
    ),
    OnDiffusers(
        "FirstBlockCache",
        {f"threshold {t:g}": t for t in (0.05, 0.1, 0.3)},
        0.0,
        everywhere=False,
        attach=first_block_cache,
        baseline=plain_in_two_calls,
    ),
    *(
        OnDiffusers(
            name,
            {f"every {n}": (n, order, lite) for n in (2, 3, 4)},
            (1, order, lite),
            everywhere=order == 1,
            attach=taylorseer,
            baseline=plain_in_two_calls,
        )
        for name, order, lite in (
            ("TaylorSeer order 1", 1, False),
            ("TaylorSeer order 2", 2, False),
            ("TaylorSeer Lite order 1", 1, True),
        )
    ),
    # The authors' settings for Wan 2.1 (E002K3 for VACE 1.3B, E012K4 for 1.3B, E024K6 for 14B), and bolder ones.
    OnDiffusers(
        "MagCache (diffusers)",
        {f"error {e:g}, row {k}": (e, k) for e, k in ((0.02, 3), (0.12, 4), (0.24, 6))},
        (0.0, 3),
        everywhere=False,
        attach=magcache,
        baseline=plain_in_two_calls,
    ),
    # 0.25 and 2 are the defaults. The limit keeps a third of the steps, so the boldest setting has no limit.
    OnDiffusers(
        "SeaCache",
        {f"threshold {t:g}, row {k or 'any'}": (t, k) for t, k in ((0.1, 2), (0.2, 2), (0.35, 0), (0.6, 0))},
        (0.0, 2),
        attach=seacache,
        baseline=plain_in_two_calls,
    ),
)
