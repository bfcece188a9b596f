"""Measures torch.compile with AdaCache: the whole model as ComfyUI's node compiles it, and block by block.

Compares each with the run without compiling, and counts the graphs.
"""

from __future__ import annotations

import time
from itertools import product
from statistics import median
from typing import Any

import torch

from . import hosted, models
from .cost import seconds_of
from .job import Job
from .rows import Row, Rows

SHAPE, TINY = "Wan, shallow", "Wan, tiny"
BACKEND, TINY_BACKEND = "inductor", "aot_eager"  # "eager" compiles nothing, and takes seconds

# Largest difference from eager, relative to the largest number, that rounding can cause in a whole run.
ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 0.1}


def run(job: Job, rows: Rows) -> None:
    hosted.start(hosted.CPU if job.rehearse else hosted.VRAM_MODES["--highvram"])
    dtype = torch.float32 if job.rehearse else torch.bfloat16
    made = models.build(TINY if job.rehearse else SHAPE, dtype, dtype)
    backend = TINY_BACKEND if job.rehearse else BACKEND
    eager_seconds = median(seconds_of(job, made, made.model, hosted.STEPS))
    for way, (name, compiled) in product(hosted.WAYS, (("whole model", whole), ("block by block", by_block))):
        labels: Row = {"model": made.shape.says, "way": way, "compiled": name, "backend": backend}
        labels["numbers"] = str(dtype)[6:]
        key = f"{way}, {name}"
        try:
            row = _compare(job, made, way, compiled, backend)
        except Exception as error:  # after any error of a compiler, the others are still tried
            rows.put(key, {**labels, "ok": False, "not_run": f"{type(error).__name__}: {str(error)[:300]}"})
            continue
        skipped = row.pop("skipped")
        if row["error"] is None and skipped:
            row["not_run"] = "not compared: rounding made it compute other steps"
        else:
            row["ok"] = skipped and row["error"] <= ROUNDING[dtype]
        rows.put(key, labels | {"eager_s": eager_seconds} | row)


def _compare(job: Job, made: models.Made, way: str, compiled: Any, backend: str) -> Row:
    import torch._dynamo
    from torch._dynamo.utils import counters

    eager, attachment = hosted.with_adacache(made.model, way)
    expected = models.sample(made, eager)
    expected_states = _states(attachment)
    torch._dynamo.reset()
    counters.clear()
    ours, attachment = hosted.with_adacache(made.model, way)
    model = compiled(made, ours, backend)
    begin = time.perf_counter()
    video = models.sample(made, model)
    first = time.perf_counter() - begin
    report = attachment.finished[-1].report
    graphs = counters["stats"]["unique_graphs"]
    states = _states(attachment)
    error = ((video - expected).abs().max() / expected.abs().max()).item()
    each = seconds_of(job, made, model, hosted.STEPS)
    return {
        "skipped": report.skipped > 0,
        "steps": f"{report.computed} of {report.total}",
        "error": None if way == hosted.AUTO and states != expected_states else error,
        "graphs": graphs,
        "first_run_s": first,
        "computed_s": median(s for s, state in zip(each, states, strict=True) if state == "computed"),
        "reused_s": median(s for s, state in zip(each, states, strict=True) if state == "reused"),
    }


def _states(attachment: Any) -> list[str]:
    return [record.state for record in attachment.finished[-1].report.evaluations]


def whole(made: models.Made, model: Any, backend: str) -> Any:
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    return TorchCompileModel.execute(model, backend).args[0]


def by_block(made: models.Made, model: Any, backend: str) -> Any:
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    model = model.clone()
    set_torch_compile_wrapper(model, backend, keys=[f"diffusion_model.{name}" for name in made.blocks])
    return model
