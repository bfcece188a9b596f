"""What preset auto adds to a step and holds in memory, relative to a step of Wan 14B at 720p with 81 frames."""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from adacache_core.loop import AdaCache
from adacache_core.presets import auto
from adacache_core.tell.report import COMPUTED
from tools.markdown import table

from .cost import PeakMeter
from .made import sentence

STEPS = 30
SMALL = (1, 16, 9, 40, 40)  # shape of the measured latent; the added work is proportional to its size
LARGE = (1, 16, 21, 90, 160)  # 81 frames of 1280 x 720
TEXT_TOKENS = 512


class Written(TorchDispatchMode):
    """Counts the numbers that operations read or make; views count nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = operation(*args, **(kwargs or {}))
        if not operation.is_view:
            # The larger of input and output, because a reduction reads more than it makes.
            sizes = (each.numel() for each in tree_leaves((args, out)) if isinstance(each, Tensor))
            self.numbers += max(sizes, default=0)
        return out


@cache
def step_operations() -> int:
    """Multiplications and additions of a step of Wan 14B at LARGE, one conditioning."""
    with torch.device("meta"):
        module = WanTransformer3DModel(num_attention_heads=40, attention_head_dim=128, ffn_dim=13824, num_layers=40)
        inputs = {
            "hidden_states": torch.empty(LARGE),
            "timestep": torch.empty(1),
            "encoder_hidden_states": torch.empty(1, TEXT_TOKENS, 4096),
        }
        with FlopCounterMode(display=False) as counted:
            module(**inputs)
    return counted.get_total_flops()


@torch.no_grad()
def measure_auto_cost() -> dict:
    """Runs Euler with a model that does no work, so that only the work of AdaCache and of the loop is counted."""
    ran = _run(auto(2.0), Written)
    plain = _run(auto(1.0), Written)
    per_step = dict(zip(("computed", "reused"), map(max, _by_state(ran)), strict=True))
    alone = max(_by_state(plain)[0])
    number = prod(SMALL)
    latents = {name: (most - alone) / number for name, most in per_step.items()}
    share = {name: each * prod(LARGE) / step_operations() for name, each in latents.items()}
    held, peak = _memory()
    return {
        "step_operations": step_operations(),
        "latents_worked_on": {name: round(each, 1) for name, each in latents.items()},
        "share_of_a_step": {name: float(f"{each:.2g}") for name, each in share.items()},
        "held_latents": round(held, 2),
        "peak_latents": round(peak, 2),
        "held_megabytes": round(held * prod(LARGE) * 4 / 1e6),
        "peak_megabytes": round(peak * prod(LARGE) * 4 / 1e6),
    }


def _by_state(counted: list[tuple[str, int]]) -> tuple[list[int], list[int]]:
    computed = [numbers for state, numbers in counted if state == COMPUTED]
    return computed, [numbers for state, numbers in counted if state != COMPUTED] or [0]


def _run(config: Any, mode: type[Written]) -> list[tuple[str, int]]:
    """For each step its state, and the numbers counted."""
    made = []
    dice = torch.Generator().manual_seed(0)
    sigmas = [1 - step / STEPS for step in range(STEPS + 1)]
    x, answers = torch.randn(SMALL, generator=dice), torch.randn(STEPS, *SMALL, generator=dice)
    with AdaCache(nn.Identity(), steps=STEPS, config=config, sigmas=sigmas) as run:
        for step, sigma in enumerate(sigmas[:-1]):
            answer = (1 + answers[step] / 100) * answers[0]
            with mode() as counted, run.evaluation(step, sigma) as record:
                velocity = run.velocity(x, lambda answer=answer: answer)
                x = x + (sigmas[step + 1] - sigma) * velocity
            made.append((record.state, counted.numbers))
    return made


def _memory() -> tuple[float, float]:
    """Latents held between evaluations, and the most at any time beyond the same run with nothing skipped."""
    peaks = []
    for speedup in (1.0, 2.0):
        with PeakMeter() as met:
            held = _run_held(auto(speedup))
        peaks.append(met.held_bytes)
    latent = 4 * prod(SMALL)
    return held / latent, (peaks[1] - peaks[0]) / latent


def _run_held(config: Any) -> int:
    dice = torch.Generator().manual_seed(0)
    sigmas = [1 - step / STEPS for step in range(STEPS + 1)]
    x = torch.randn(SMALL, generator=dice)
    with AdaCache(nn.Identity(), steps=STEPS, config=config, sigmas=sigmas) as run:
        for step, sigma in enumerate(sigmas[:-1]):
            with run.evaluation(step, sigma):
                velocity = run.velocity(x, lambda: torch.randn(SMALL, generator=dice))
                x = x + (sigmas[step + 1] - sigma) * velocity
    return run.report.cache_bytes_max


def section(stored: dict) -> str:
    """The section of docs/paper_tables.md, from what `measure_auto_cost` returned and how it was made."""
    share, worked = stored["share_of_a_step"], stored["latents_worked_on"]
    rows = [
        ("added to a computed step", f"{worked['computed']} latents, {share['computed']:.2g} of the call's operations"),
        (
            "done in place of a skipped step",
            f"{worked['reused']} latents, {share['reused']:.2g} of the call's operations",
        ),
        ("held between steps", f"{stored['held_latents']} latents, {stored['held_megabytes']} MB in float32"),
        ("highest use at any time", f"{stored['peak_latents']} latents, {stored['peak_megabytes']} MB in float32"),
    ]
    size = " x ".join(map(str, LARGE[1:]))
    return "\n".join(
        [
            "## Cost of auto\n",
            sentence(stored["made"]) + "\n",
            f"What auto adds to an Euler run of {STEPS} steps, counted in latents that its operations read or write. "
            f"It is compared with one call of Wan 14B for 81 frames of 1280 x 720: a latent of {size}, "
            f"{stored['step_operations']:.2g} multiplications and additions.\n",
            table(["quantity", "value"], rows) + "\n",
        ]
    )
