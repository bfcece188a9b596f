"""Trains one of the small models from scratch: by flow matching, or by distillation from another small model.

    python -m research.train_demo [--model NAME] --out FOLDER

After Ctrl-C or `--minutes`, the same command continues and arrives at the same weights. FOLDER gets the checkpoint
(float16, in the layout that ComfyUI reads), `log.jsonl` and `state.pt`. `small_models` defines the models; those of
ComfyUI's own class need ComfyUI's Python.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from research.small_models import DISTILLED_LEVELS, MODELS, SmallModel, Stage

GPU_BATCH = 16  # on a GPU, this many times as many clips per step

WARM_UP = 100  # steps
DECAY = 0.45  # share of the steps, at the end, over which the learning rate falls to zero
AVERAGE = 0.998  # decay of the running mean of the weights; the checkpoint holds this mean
UNIFORM = 0.15  # share of the noise levels that are drawn uniformly

NOISE_LEVELS = (0.1, 0.3, 0.5, 0.7, 0.85, 0.95, 1.0)  # noise levels at which the validation loss is measured
VALIDATION_SEED = 99
VALIDATION_CLIPS = 32
DISTILLED_CLIPS = 8  # for a distilled model, whose teacher runs too
VALIDATIONS = 20  # over the whole training

SAVE_EVERY = 240.0  # seconds

TEACHER_STEPS = 4  # steps of the teacher for one step of the distilled model


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="train_demo", description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="demo")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint, the log and the state")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after this long; run again to continue")
    parser.add_argument("--steps", type=int, help="steps of the whole training (default: the model's own)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)

    training = Training(MODELS[options.model], options.steps, options.seed, torch.device(options.device))
    training.load(options.out)
    training.compile()
    finished = train(training, options.out, 60 * options.minutes)
    print(f"{'finished' if finished else 'stopped'} after {training.step} of {training.steps} steps: {options.out}")
    return 0


def train(training: Training, folder: Path, seconds: float = math.inf) -> bool:
    """Trains to the end, or until Ctrl-C or until the time is up. Saves at least every few minutes.

    Returns:
        Whether the training reached its end.
    """
    deadline = time.monotonic() + seconds
    saved = time.monotonic()
    with Stop() as stop, tqdm(total=training.steps, initial=training.step, desc="training", mininterval=5) as bar:
        while training.step < training.steps and not stop.asked and time.monotonic() < deadline:
            loss = training.advance()
            bar.update()
            bar.set_postfix(loss=f"{loss:.3f}", frames=training.stage.frames, refresh=False)
            if training.is_milestone():
                training.validate()
            if training.is_milestone() or time.monotonic() > saved + SAVE_EVERY:
                training.save(folder)
                saved = time.monotonic()
    training.save(folder)
    return training.step == training.steps


class Stop:
    """Notes the first Ctrl-C or SIGTERM, so that the step can be finished; a second one stops at once."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Stop:
        self.before = {each: signal.signal(each, self._ask) for each in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for each, handler in self.before.items():
            signal.signal(each, handler)

    def _ask(self, *which: object) -> None:
        self.asked = True
        self.__exit__()


class Training:
    """A training in progress: everything that a step changes, and how to save it.

    Each step has its own random generator, seeded by its number, so no state of a generator needs to be saved.
    """

    def __init__(self, subject: SmallModel, steps: int | None, seed: int, device: torch.device) -> None:
        torch.manual_seed(seed)
        self.subject, self.seed, self.device = subject, seed, device
        self.steps = steps or subject.steps
        self.model = subject.make().to(device)
        self.average = AveragedModel(self.model, multi_avg_fn=_average)
        self.average.requires_grad_(False)
        self.optimizers = optimizers(self.model, subject.rate)
        self.task = Task(subject, device)
        self.validation_clips = VALIDATION_CLIPS if subject.teacher is None else DISTILLED_CLIPS
        self.step = 0
        self.clips = 0  # clips seen so far
        self.losses: list[float] = []  # since the last validation
        self.log: list[dict[str, Any]] = []

    @property
    def stage(self) -> Stage:
        stages = self.subject.curriculum
        return next(stage for stage in stages if self.step < stage.until * self.steps or stage.until == 1)

    def compile(self) -> None:
        """Compiles a model of diffusers: steps on a CPU get a fifth faster, each stage starts a minute later."""
        if hasattr(self.model, "compile_repeated_blocks"):
            self.model.compile_repeated_blocks(dynamic=False)

    def advance(self) -> float:
        """Makes one step; returns its loss."""
        dice = torch.Generator(self.device).manual_seed(1_000_003 * self.seed + self.step)
        batch = self.stage.batch * (GPU_BATCH if self.device.type == "cuda" else 1)
        clean, context = self.subject.throw(batch, self.stage.frames, dice)
        left_out = torch.rand(batch, generator=dice, device=self.device) < self.subject.unconditional
        loss = self.task.loss(self.model, clean, context * ~left_out[:, None, None], dice).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)

        factor = learning_rate_factor(self.step, self.steps)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.subject.rate * factor
            optimizer.step()
            optimizer.zero_grad()
        self.average.update_parameters(self.model)
        self.step += 1
        self.clips += batch
        self.losses.append(loss.item())
        return self.losses[-1]

    def is_milestone(self) -> bool:
        every = max(1, self.steps // VALIDATIONS)
        return self.step % every == 0 or self.step == self.steps

    def validate(self) -> None:
        """Adds a line to the log."""
        by_level = self.task.validation(self.average.module, self.validation_clips)
        line = {"step": self.step, "clips": self.clips, "frames": self.stage.frames}
        line["loss"] = round(sum(self.losses) / len(self.losses), 4)
        line["validation"] = {str(level): round(loss, 4) for level, loss in by_level.items()}
        self.losses = []
        self.log.append(line)

    def save(self, folder: Path) -> None:
        """Writes state, log and checkpoint. Each file is replaced as a whole, so it is never half written."""
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = folder / self.subject.file.name
        _write(checkpoint, lambda path: self.subject.export(self.average.module, path))
        lines = "".join(json.dumps(line) + "\n" for line in self.log)
        _write(folder / "log.jsonl", lambda path: path.write_text(lines))
        state = {"model": self.model.state_dict(), "average": self.average.state_dict()}
        state["optimizers"] = [optimizer.state_dict() for optimizer in self.optimizers]
        state |= {name: getattr(self, name) for name in ("step", "clips", "losses", "log")}
        _write(folder / "state.pt", lambda path: torch.save(state, path))

    def load(self, folder: Path) -> None:
        """Continues from the last `save`; starts from the beginning if there is none."""
        path = folder / "state.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimizer, its_state in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(its_state)
        for name in ("step", "clips", "losses", "log"):
            setattr(self, name, state[name])


def optimizers(model: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for all other weights."""
    blocks = ("blocks.", "double_blocks.", "single_blocks.")
    matrices = {name: p for name, p in model.named_parameters() if name.startswith(blocks) and p.ndim == 2}
    others = [p for name, p in model.named_parameters() if name not in matrices]
    return [
        Muon(matrices.values(), rate),
        torch.optim.AdamW(others, rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised updates (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural
    networks"), scaled to the size of AdamW's steps (Liu et al. 2025, arXiv 2502.16982, section 2.2).

    `torch.optim.Muon` handles matrices one by one and in bfloat16, which on a CPU without AMX takes longer than the
    rest of the step. This one handles matrices of the same shape together, in the fastest dtype of the device.
    """

    MOMENTUM = 0.95
    WEIGHT_DECAY = 0.01
    QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan's coefficients, applied five times

    def __init__(self, matrices: Iterable[Tensor], lr: float) -> None:
        by_shape: dict[torch.Size, list[Tensor]] = {}
        for matrix in matrices:
            by_shape.setdefault(matrix.shape, []).append(matrix)
        super().__init__([{"params": alike} for alike in by_shape.values()], {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            matrices, lr = group["params"], group["lr"]
            updates = []
            for matrix in matrices:
                momentum = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
                momentum.lerp_(matrix.grad, 1 - self.MOMENTUM)
                updates.append(matrix.grad.lerp(momentum, self.MOMENTUM))  # Nesterov's
            step = 0.2 * math.sqrt(max(matrices[0].shape)) * lr
            for matrix, update in zip(matrices, self._orthogonal(torch.stack(updates)), strict=True):
                matrix.mul_(1 - lr * self.WEIGHT_DECAY).sub_(update, alpha=step)

    def _orthogonal(self, x: Tensor) -> Tensor:
        """Brings all singular values of the matrices (number, rows, columns) near 1."""
        a, b, c = self.QUINTIC
        tall = x.shape[1] > x.shape[2]
        x = x.mT if tall else x
        x = (x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)).to(fast_dtype(x.device))
        for _ in range(5):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return (x.mT if tall else x).float()


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 if the device multiplies it faster than float32 (a GPU, or a CPU with AMX), else float32."""
    fast = device.type != "cpu" or torch.cpu.get_capabilities().get("amx_bf16", False)
    return torch.bfloat16 if fast else torch.float32


class Task:
    """The loss of a model: on the velocity of flow matching, or on several steps of its teacher joined into one."""

    def __init__(self, subject: SmallModel, device: torch.device) -> None:
        self.subject, self.device = subject, device
        self.teacher: nn.Module | None = None
        if subject.teacher is not None:
            # A distilled model begins as its teacher.
            self.teacher = subject.make().to(device).eval().requires_grad_(False)

    def loss(self, model: nn.Module, clean: Tensor, context: Tensor, dice: torch.Generator) -> Tensor:
        """Mean squared error of each clip, (batch,), at random noise levels."""
        if self.teacher is None:
            levels = noise_levels(len(clean), self.subject.shift, dice)
            return flow_loss(self.subject, model, clean, context, levels, dice)
        table = torch.tensor([span for levels in DISTILLED_LEVELS.values() for span in pairwise(levels)]).to(clean)
        spans = table[torch.randint(len(table), (len(clean),), generator=dice, device=self.device)]
        return self._distilled(model, clean, context, spans, dice)

    def _distilled(
        self, model: nn.Module, clean: Tensor, context: Tensor, spans: Tensor, dice: torch.Generator
    ) -> Tensor:
        """Mean squared error of each clip, (batch,). `spans`: first and last noise level of each step, (batch, 2)."""
        noise = torch.randn(clean.shape, generator=dice, device=clean.device)
        begin, end = spans.unbind(1)
        x = start = (1 - _as(begin, clean)) * clean + _as(begin, clean) * noise
        with torch.no_grad():
            for number in range(TEACHER_STEPS):
                level = begin + (end - begin) * number / TEACHER_STEPS
                v = self.subject.ask(self.teacher, x, level, context)
                x = x + _as((end - begin) / TEACHER_STEPS, clean) * v
            target = (x - start) / _as(end - begin, clean)
        return (self.subject.ask(model, start, begin, context) - target).square().mean(dim=(1, 2, 3, 4))

    @torch.inference_mode()
    def validation(self, model: nn.Module, number: int = VALIDATION_CLIPS) -> dict[float, float]:
        """Loss by noise level. On one kind of device, clips and noise are always the same.

        Args:
            number: of clips.
        """
        dice = torch.Generator(self.device).manual_seed(VALIDATION_SEED)
        frames = self.subject.curriculum[-1].frames
        latents, contexts = self.subject.throw(number, frames, dice)
        spans = {level: (level, level) for level in NOISE_LEVELS}
        if self.teacher is not None:
            spans = {begin: (begin, end) for begin, end in pairwise(DISTILLED_LEVELS["H3 turbo"])}
        losses = {}
        for level, span in spans.items():
            dice.manual_seed(VALIDATION_SEED)
            each = []
            for latent, context in zip(latents.split(8), contexts.split(8), strict=True):
                if self.teacher is None:
                    levels = torch.full((len(latent),), level, device=self.device)
                    each.append(flow_loss(self.subject, model, latent, context, levels, dice))
                else:
                    rows = torch.tensor([span] * len(latent), device=self.device)
                    each.append(self._distilled(model, latent, context, rows, dice))
            losses[level] = torch.cat(each).mean().item()
        return losses


def _as(levels: Tensor, clean: Tensor) -> Tensor:
    return levels.view(-1, *[1] * (clean.ndim - 1))


def noise_levels(number: int, shift: float, dice: torch.Generator) -> Tensor:
    """Noise levels in (0, 1], (batch,): stratified, from a logit-normal and partly a uniform distribution; shifted."""

    def rand() -> Tensor:
        return torch.rand(number, generator=dice, device=dice.device)

    strata = (torch.arange(number, device=dice.device) + rand()) / number
    middle = torch.special.ndtri(strata.clamp(1e-4, 1 - 1e-4)).sigmoid()
    t = torch.where(rand() < UNIFORM, rand(), middle)
    return (shift * t / (1 + (shift - 1) * t)).clamp(1e-3, 1)


def flow_loss(
    subject: SmallModel, model: nn.Module, clean: Tensor, context: Tensor, levels: Tensor, dice: torch.Generator
) -> Tensor:
    """Flow matching: the model sees (1 - s) clean + s noise and should predict noise - clean.

    Args:
        clean: latents, (batch, 16, frames, height, width).
        context: (batch, 6, 4096).
        levels: s, (batch,).

    Returns:
        Mean squared error of each clip, (batch,).
    """
    noise = torch.randn(clean.shape, generator=dice, device=clean.device)
    s = _as(levels, clean)
    dtype = fast_dtype(clean.device)
    with torch.autocast(clean.device.type, dtype, enabled=dtype != torch.float32):
        told = subject.ask(model, (1 - s) * clean + s * noise, levels, context)
    return (told.float() - (noise - clean)).square().mean(dim=(1, 2, 3, 4))


def learning_rate_factor(step: int, steps: int) -> float:
    """Factor of the learning rate: rises over the first steps, falls to zero over the last ones."""
    return min(1.0, (step + 1) / WARM_UP, max(0.02, (1 - step / steps) / DECAY))


def _average(averages: list[Tensor], weights: list[Tensor], updates: int) -> None:
    """Updates the running mean; early on with a smaller decay, so that the first weights do not count for long."""
    torch._foreach_lerp_(averages, weights, 1 - min(AVERAGE, (updates + 1) / (updates + 10)))


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Replaces a file in one operation, so that the old one stays whole if the process is killed."""
    beside = path.with_name(path.name + ".new")
    write(beside)
    os.replace(beside, path)


if __name__ == "__main__":
    sys.exit(main())
