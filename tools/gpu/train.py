"""Trains a demo model on the card: with the architecture of the shipped one, but many times as many clips.

Keeps to the time limit and keeps the best checkpoint; `research.train_demo` does the training.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import torch

from research.small_models import MODELS
from research.train_demo import Training
from tools.host import ROOT

from .job import Job
from .rows import Rows

SUBJECT = MODELS["demo"]

STATE = ROOT / "output" / "train"
CHECKPOINT, LOG = SUBJECT.file.name, "log.jsonl"

EVERY = 60.0  # seconds between checkpoints
LAST = 20.0  # seconds reserved for the last checkpoint
TIMED, WARM_UP = 10, 5  # steps
REHEARSED_STEPS = 2


def run(job: Job, rows: Rows) -> None:
    device = torch.device(job.device)
    state = job.out / "state" if job.rehearse else STATE
    steps = REHEARSED_STEPS if job.rehearse else _planned(state, job, device)
    training = Training(SUBJECT, steps, 0, device)
    if job.rehearse:
        training.validation_clips = 2
    training.load(state)
    if not job.rehearse:
        training.compile()
    best = min((_loss(line) for line in training.log), default=float("inf"))
    saved = time.monotonic()
    while training.step < training.steps and job.left > LAST:
        training.advance()
        if training.step == training.steps or time.monotonic() > saved + EVERY or job.left < LAST:
            training.validate()
            training.save(state)
            saved = time.monotonic()
            loss = _loss(training.log[-1])
            if loss < best:
                best = loss
                for name in (CHECKPOINT, LOG):
                    shutil.copy(state / name, job.out)
            rows.put("train", {"step": training.step, "of": steps, "clips": training.clips, "loss": loss, "best": best})
    if job.rehearse:
        shutil.rmtree(state)


def _planned(state: Path, job: Job, device: torch.device) -> int:
    """Number of steps of the training. It is fixed at the start, because the learning rate falls to zero at the end."""
    plan = state / "steps"
    if plan.exists():
        return int(plan.read_text())
    trial = Training(SUBJECT, None, 0, device)
    trial.step = trial.steps - TIMED - WARM_UP  # whole clips, because most of the training uses them
    trial.compile()
    for _ in range(WARM_UP):
        trial.advance()
    begin = time.monotonic()
    for _ in range(TIMED):
        trial.advance()
    each = (time.monotonic() - begin) / TIMED
    # Each clip length is compiled separately, and each checkpoint takes some seconds.
    steps = max(TIMED, int(0.8 * (job.left - LAST) / each))
    state.mkdir(parents=True, exist_ok=True)
    plan.write_text(str(steps))
    return steps


def _loss(line: dict) -> float:
    losses = line["validation"].values()
    return sum(losses) / len(losses)
