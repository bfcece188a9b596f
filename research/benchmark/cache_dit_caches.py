"""cache-dit's DBCache, alone and with each of its calibrators, through its interface for transformers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import cache_dit
from cache_dit import DBCacheConfig, DMDCalibratorConfig, FoCaCalibratorConfig, TaylorSeerCalibratorConfig
from diffusers import WanTransformer3DModel

from research import demo_model

from .guidance import in_two_calls, plain_in_two_calls
from .library import Bench, OnDiffusers
from .plan import Case

for handler in logging.getLogger("CACHE_DIT").handlers:  # all loggers of cache-dit use these handlers
    handler.setLevel(logging.ERROR)  # cache-dit logs every model that it is attached to

# By default, cache-dit always computes 8 of the 30 blocks of Wan 1.3B; for our 6 or 8 blocks that is one to two.
ALWAYS_COMPUTED = 1

CALIBRATORS = {
    "": lambda: None,
    "TaylorSeer": lambda: TaylorSeerCalibratorConfig(taylorseer_order=1),
    "FoCa": FoCaCalibratorConfig,
    "DMD": DMDCalibratorConfig,
}


@contextmanager
def dbcache(
    bench: Bench, model: WanTransformer3DModel, setting: tuple[float, int, str], case: Case
) -> Iterator[demo_model.Evaluate]:
    """`setting`: threshold for the relative L1 change of what the first block adds, below which all other blocks are
    skipped; number of first steps that are computed; name of a calibrator.

    Conditional and unconditional calls alternate, as cache-dit's adapter for Wan expects.
    """
    threshold, warmup, calibrator = setting
    cache_dit.enable_cache(
        model,
        cache_config=DBCacheConfig(
            Fn_compute_blocks=ALWAYS_COMPUTED,
            residual_diff_threshold=threshold,
            max_warmup_steps=warmup,
            enable_separate_cfg=len(case.context) == 2,
            num_inference_steps=case.steps,
        ),
        calibrator_config=CALIBRATORS[calibrator](),
    )
    yield in_two_calls(model, case)
    cache_dit.disable_cache(model)


# Thresholds of its documentation, and larger ones. 8 warm-up steps are the default; its example for Wan 2.2 has 4.
SWEEP = ((0.08, 8), (0.2, 8), (0.4, 4))

METHODS = tuple(
    OnDiffusers(
        f"DBCache + {name} (cache-dit)" if name else "DBCache (cache-dit)",
        {f"threshold {t:g}, warm-up {w}": (t, w, name) for t, w in SWEEP},
        (0.0, 8, name),
        everywhere=False,
        attach=dbcache,
        baseline=plain_in_two_calls,
    )
    for name in CALIBRATORS
)
