"""The cost of AdaCache: seconds of a call, time of the operations it adds, bytes between calls and at the peak."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from tqdm import tqdm

from adacache_core.decide.change import change_sums
from adacache_core.decide.motion import motion_sums
from adacache_core.reuse.layout import Grid
from adacache_core.reuse.recording import Recording
from tools.markdown import table

from .made import sentence
from .meter import Meter
from .random_models import COMPUTED, REUSED, RandomModel, wan


def measure_cost(repeats: int = 7) -> dict:
    """Measures a Wan of 12 blocks: plain, computed and reused calls, the added work, and memory at two depths."""
    model, bare = wan(), wan(layers=0)
    with torch.inference_mode():
        times = seconds(model, repeats)
        bare_seconds = median(timed(bare) for _ in range(repeats))
        added = _added_seconds(model)
    paired = [computed / plain for computed, plain in zip(times["computed"], times["plain"], strict=True)]
    plain, computed, reused = (median(times[name]) for name in ("plain", "computed", "reused"))
    return {
        "shape": f"Wan, width {model.width}, 12 blocks, {model.tokens} tokens, 77 text tokens, float32",
        "plain_ms": round(1000 * plain, 1),
        "computed_over_plain": {
            "median": round(median(paired), 4),
            "low": round(min(paired), 4),
            "high": round(max(paired), 4),
        },
        "reused_over_computed": round(reused / computed, 5),
        "reused_over_bare": round(reused / bare_seconds, 3),
        "added_operations_over_computed": round(added / computed, 6),
        "memory": [{"blocks": layers} | memory(_shallow_wan(layers)) for layers in (4, 40)],
    }


def _shallow_wan(layers: int) -> RandomModel:
    return wan(layers, heads=2, frames=4, height=16, width=16, text=16)


def seconds(model: RandomModel, repeats: int) -> dict[str, list[float]]:
    """Seconds of plain, computed and reused calls, made in turn, so that disturbances affect all of them alike."""
    times: dict[str, list[float]] = {"plain": [], "computed": [], "reused": []}
    for _ in tqdm(range(repeats), desc=type(model.module).__name__, mininterval=1):
        times["plain"].append(timed(model))
        evaluations = model.report(REUSED + 1).evaluations
        times["computed"].append(evaluations[COMPUTED].seconds)
        times["reused"].append(evaluations[REUSED].seconds)
    return times


def timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _added_seconds(model: RandomModel) -> float:
    """Seconds of everything that a computed call adds to a plain one: copy, difference, probe, metric, motion."""
    recording = Recording(want_probe=True, grid=Grid(model.frames, model.tokens // model.frames))
    stack_input, stack_output, old = (torch.randn(1, model.tokens, model.width) for _ in range(3))
    old = recording.sample(old)

    def added() -> None:
        copy = stack_input.clone()
        probe = recording.sample(stack_output) - recording.sample(stack_input)
        _ = stack_output - copy
        torch.cat([change_sums(probe, old), motion_sums(probe, model.frames, (1,)).flatten()]).cpu()

    return median(timed(added) for _ in range(50))


class PeakMeter(Meter):
    """Marks after every operation, so that `held_bytes` is the most that was alive at any time."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        out = super().__torch_dispatch__(operation, types, args, kwargs)
        self.mark()
        return out


@torch.no_grad()  # a Meter counts nothing in inference mode
def memory(model: RandomModel) -> dict[str, float]:
    """Memory for one conditioning, in residuals of the whole stack (tokens x width x element size).

    Returns:
        `held_residuals`: held between evaluations. `peak_residuals`: the most alive at any time in a run, including
        what is held, beyond the most in a plain call.
    """
    with PeakMeter() as plain:  # two calls, because weights count from their first use on
        for _ in range(2):
            model()
    with model.cached() as run, PeakMeter() as cached:
        for step in range(REUSED + 1):
            model.evaluate(run, step)
        held = run.engine.blocks.cache.bytes_held
    return {
        "held_residuals": round(held / model.residual_bytes, 3),
        "peak_residuals": round((cached.held_bytes - plain.held_bytes) / model.residual_bytes, 3),
    }


def section(stored: dict) -> str:
    """The section of docs/paper_tables.md, from what `measure_cost` returned and how it was made."""
    ratio = stored["computed_over_plain"]
    rows = [
        ("time of a reused call / of a computed call", f"{100 * stored['reused_over_computed']:.2f} %"),
        ("time of a reused call / of embedding and head alone", f"{stored['reused_over_bare']:.2f}"),
        (
            "time of the operations that AdaCache adds to a computed call, alone / of a computed call",
            f"{100 * stored['added_operations_over_computed']:.3f} %",
        ),
        (
            "time of a computed call / of the plain call beside it: median (lowest to highest)",
            f"{ratio['median']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})",
        ),
    ]
    for each in stored["memory"]:
        depth = f"{each['blocks']} blocks"
        rows.append((f"held between evaluations for each conditioning, {depth}", f"{each['held_residuals']} residuals"))
        rows.append(
            (f"highest use in a run, beyond that of a plain call, {depth}", f"{each['peak_residuals']} residuals")
        )
    parts = [
        "## Cost\n",
        sentence(stored["made"]) + "\n",
        f"{stored['shape']}. A plain call takes {stored['plain_ms']} ms.\n",
        table(["quantity", "value"], rows),
        "\nA residual has tokens x width elements.\n",
    ]
    return "\n".join(parts)
