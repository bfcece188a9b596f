"""Measures what stays on the card after a run that ended, was cancelled or ran out of memory; and how often it waits.

One process for each way to start ComfyUI. Out of memory is real on a card: the process may use less than it needs.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch

from . import hosted, models
from .job import Job, spread
from .rows import Row, Rows

SHAPES = ("Wan, shallow", "HunyuanVideo, shallow")
TINY = ("Wan, tiny", "HunyuanVideo, tiny")

EACH = 90.0  # seconds for a process
AT_ONCE = 5
STRUCK_AT = 6  # the step that is cancelled; residuals are already held then

LARGER = 3  # factor of width and height of the latent that runs out of memory; no leftover memory fits it


def run(job: Job, rows: Rows) -> None:
    spread(job, rows, "held", children(job.rehearse), 1 if job.rehearse else AT_ONCE, EACH)


def children(rehearse: bool) -> dict[str, dict[str, str]]:
    """Wan with every way to start ComfyUI, and another family with the usual one; each with both ways to reuse."""
    if rehearse:
        started = [(TINY[0], "defaults")]
    else:
        started = [(SHAPES[0], mode) for mode in hosted.VRAM_MODES] + [(SHAPES[1], "defaults")]
    told = [(*each, way) for way in hosted.WAYS for each in started]
    return {", ".join(each): dict(zip(("model", "started", "way"), each, strict=True)) for each in told}


def child(job: Job, rows: Rows, model: str, started: str, way: str) -> None:
    dynamic = hosted.start(hosted.options_of(job, started))
    Checks(job, rows, {"model": model, "way": way, "started": started, "dynamic_vram": dynamic}).all()


class Checks:
    """Makes all checks on one model in one ComfyUI; each check writes its row when it is done."""

    def __init__(self, job: Job, rows: Rows, labels: Row) -> None:
        self.job, self.rows, self.labels = job, rows, labels
        dtype = torch.float32 if job.rehearse else torch.bfloat16
        self.made = models.build(labels["model"], dtype, dtype, loaded=True)
        self.model, self.attachment = hosted.with_adacache(self.made.model, labels["way"])

    def all(self) -> None:
        plain = models.sample(self.made)
        self.expected = models.sample(self.made, self.model)  # ComfyUI itself keeps memory after a first run
        report = self.report
        self._put(
            "some steps are computed, some reused",
            report.skipped > 0 and not torch.equal(plain, self.expected),
            f"{report.computed} of {report.total} steps",
        )
        self.before = allocated()
        models.sample(self.made, self.model)
        self._nothing_held("a run that ended")
        self._cancelled()
        if self.labels["way"] == hosted.TABLE:  # auto has nothing to offload
            self._offloaded()
        self._waits()
        self._out_of_memory()  # last, because what it leaves behind is ComfyUI's, not AdaCache's

    @property
    def report(self) -> Any:
        return self.attachment.finished[-1].report

    def _put(self, what: str, ok: bool | None, figure: str) -> None:
        self.rows.put(what, {**self.labels, "what": what, "figure": figure, **({} if ok is None else {"ok": ok})})

    def _nothing_held(self, after: str) -> None:
        now = allocated()
        if now is None or self.before is None:
            self.rows.put(after, {**self.labels, "what": f"bytes held after {after}", "not_run": "no card"})
        else:
            self._put(f"bytes held after {after}", now <= self.before, f"{now - self.before}")

    def _same_again(self, after: str) -> None:
        same = torch.equal(models.sample(self.made, self.model), self.expected)
        self._put(f"the run after {after} makes the same video", same, "bit for bit" if same else "another video")

    def _cancelled(self) -> None:
        from comfy.model_management import InterruptProcessingException

        def cancel(step: int, *args: Any) -> None:
            if step == STRUCK_AT:
                raise InterruptProcessingException

        with suppress(InterruptProcessingException):
            models.sample(self.made, self.model, callback=cancel)
        self._put("a cancelled run says so", self.report.stopped.startswith("stopped by you"), self.report.stopped)
        self._nothing_held("a cancelled run")
        self._same_again("a cancelled one")

    def _offloaded(self) -> None:
        offloading, _ = hosted.with_adacache(self.made.model, hosted.TABLE, offload=True)
        same = torch.equal(models.sample(self.made, offloading), self.expected)
        self._put("cache_device offload makes the video of main", same, "bit for bit" if same else "another video")
        self._nothing_held("an offloaded run")

    def _waits(self) -> None:
        """How often the CPU waits for the card in an evaluation, with and without AdaCache."""
        if self.job.rehearse:
            self.rows.put("waits", {**self.labels, "what": "waits for the card", "not_run": "no card"})
            return
        plain = waits(lambda: models.sample(self.made))
        ours = waits(lambda: models.sample(self.made, self.model))
        added = (ours - plain) / hosted.STEPS
        figure = f"{plain / hosted.STEPS:.2f} plain, {added:+.2f} with AdaCache"
        self._put("waits for the card in an evaluation", None, figure)

    def _out_of_memory(self) -> None:
        """Runs out of memory in the middle of a run, when residuals are held."""
        from comfy.model_management import soft_empty_cache

        channels, frames, height, width = self.made.shape.latent
        larger = torch.zeros(1, channels, frames, LARGER * height, LARGER * width)
        raised = False
        with ExitStack() as until_then:

            def shrink(step: int, *args: Any) -> None:
                if step == STRUCK_AT:
                    until_then.enter_context(self._too_little())

            try:
                models.sample(self.made, self.model, callback=shrink, latent=larger)
            except torch.OutOfMemoryError:
                raised = True
        soft_empty_cache()
        how = "made up" if self.job.rehearse else "real"
        said = self.report.stopped or "it was not stopped"
        self._put(f"out of memory, {how}: the run says so", raised and "OutOfMemory" in said, said)
        self._nothing_held("a run out of memory")
        self._same_again("one out of memory")

    @contextmanager
    def _too_little(self) -> Iterator[None]:
        """On a card, this process may allocate no more than it has; without a card, the model raises the error."""
        if self.job.rehearse:
            handle = self.made.module.register_forward_pre_hook(_run_out)
            try:
                yield
            finally:
                handle.remove()
            return
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(torch.cuda.memory_allocated() / total)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)


def _run_out(*_: Any) -> None:
    raise torch.OutOfMemoryError("made up")


def allocated() -> int | None:
    """Bytes of tensors on the card, after garbage collection; None without a card."""
    gc.collect()
    if not torch.cuda.is_available():
        return None
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated()


def waits(work: Any) -> int:
    """How many operations made the CPU wait for the card."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(each.message) for each in caught)
