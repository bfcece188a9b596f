"""Makes the demo workflow's video on the card in ComfyUI, plain and with AdaCache, and measures the times.

Both videos are side by side in one file. The settings of the workflow come from `tools.demo`.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from statistics import median
from typing import Any

import torch

from adacache_core.tell.picture import beside
from research import clips, demo_model
from research.quality import compare
from tools.demo import WORKFLOW, Settings, settings_of
from tools.video import frames_of, write_webp

from . import hosted
from .job import Job
from .rows import Rows

VIDEO = "demo.webp"  # left: plain; right: with AdaCache
REPEATS, REHEARSED_STEPS = 5, 14  # number of runs, whose median counts; enough steps that some are skipped


def run(job: Job, rows: Rows) -> None:
    hosted.start(hosted.options_of(job))
    import comfy.sd

    settings = settings_of(json.loads(WORKFLOW.read_text()))
    if job.rehearse:
        settings = replace(settings, steps=REHEARSED_STEPS)
    model = comfy.sd.load_diffusion_model(str(demo_model.SHIPPED))
    core, attach = hosted.pack().adacache_core, hosted.pack().nodes.host.attach
    cached = attach.attach(model, core.auto(settings.config.policy.speedup), settings.preset)
    repeats = 1 if job.rehearse else REPEATS
    videos, seconds = {}, {}
    for name, each in (("plain", model), ("cached", cached)):
        if not job.rehearse:
            sample(each, settings)  # warm-up
        timed = []
        for _ in range(repeats):
            begin = time.perf_counter()
            latent = sample(each, settings)
            timed.append(time.perf_counter() - begin)
        seconds[name] = median(timed)
        videos[name] = clips.pictures(latent)
    report = attach.attachment_of(cached).finished[-1].report
    quality = compare(videos["plain"], videos["cached"])
    rows.put(
        "demo",
        {
            "steps": f"{report.computed} of {report.total}",
            "plain_s": seconds["plain"],
            "cached_s": seconds["cached"],
            "counted": report.counted_speedup,
            "measured": seconds["plain"] / seconds["cached"],
            "psnr": quality.psnr,
            "ssim": quality.ssim,
            "ok": report.skipped > 0,
        },
    )
    shown = beside([frames_of(video) for video in videos.values()], report, f"{quality.psnr:.1f} dB PSNR")
    write_webp(shown, job.out / VIDEO, settings.fps)


def sample(model: Any, settings: Settings) -> torch.Tensor:
    """The latent, in the form of `demo_model.sample`."""
    import comfy.sample

    positive, negative = ([[text[None], {}]] for text in demo_model.guided_context(settings.prompt, settings.cfg))
    noise = demo_model.noise_of(settings.seed)
    with torch.inference_mode():
        samples = comfy.sample.sample(
            model,
            noise,
            settings.steps,
            settings.cfg,
            "euler",
            "simple",
            positive,
            negative,
            torch.zeros_like(noise),
            disable_pbar=True,
            seed=settings.seed,
        )
    return model.model.process_latent_in(samples).float().cpu()
