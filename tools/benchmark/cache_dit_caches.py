"""cache-dit's DBCache, without and with its Taylor calibrator, through its interface for bare transformers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import cache_dit
from cache_dit import DBCacheConfig, TaylorSeerCalibratorConfig
from diffusers import WanTransformer3DModel

from tools import demo_model

from .guidance import in_two_calls, plain_in_two_calls
from .library import Method
from .videos import Video

for handler in logging.getLogger("CACHE_DIT").handlers:  # all its loggers write through these
    handler.setLevel(logging.ERROR)  # it tells of every model that it is attached to

# Of the 30 blocks of Wan 1.3B cache-dit's default always computes 8; of our 6 that is between one and two.
ALWAYS_COMPUTED = 1


@contextmanager
def dbcache(
    model: WanTransformer3DModel, setting: tuple[float, int, int | None], video: Video
) -> Iterator[demo_model.Evaluate]:
    """`setting`: relative L1 change of what the first block adds, below which all others are skipped; steps before
    any is; order of the Taylor calibrator or None.

    Conditional and unconditional calls are told apart by their turns, as its adapter for Wan says.
    """
    threshold, warmup, order = setting
    cache_dit.enable_cache(
        model,
        cache_config=DBCacheConfig(
            Fn_compute_blocks=ALWAYS_COMPUTED,
            residual_diff_threshold=threshold,
            max_warmup_steps=warmup,
            enable_separate_cfg=True,
            num_inference_steps=video.steps,
        ),
        calibrator_config=None if order is None else TaylorSeerCalibratorConfig(taylorseer_order=order),
    )
    yield in_two_calls(model, video)
    cache_dit.disable_cache(model)


# Thresholds of its documentation and beyond; 8 steps of warm-up are the default, 4 those of its example for Wan 2.2.
SWEEP = ((0.08, 8), (0.12, 8), (0.2, 8), (0.3, 8), (0.5, 4))

METHODS = tuple(
    Method(
        name,
        {f"threshold {t:g}, warm-up {w}": (t, w, order) for t, w in SWEEP},
        dbcache,
        off=(0.0, 8, order),
        baseline=plain_in_two_calls,
    )
    for name, order in (("DBCache (cache-dit)", None), ("DBCache + TaylorSeer (cache-dit)", 1))
)
