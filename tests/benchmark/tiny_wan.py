"""A Wan transformer with random weights, so small that a run takes a second, with a record of all that it does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, wraps
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from research import demo_model
from research.benchmark.plan import Case, Condition

LAYERS = 3
STEPS = 12
PARTS = ("attn1", "attn2", "ffn")  # parts of a block: self-attention, cross-attention, feed-forward


@dataclass
class Call:
    """One call of the model.

    Attributes:
        ran: "block" and PARTS -> how many did run, each row of the batch for itself.
        entered: what came to the first block; (rows, tokens, width), as the next two.
        first: what the first block made of it, None where it did not run.
        left: what came out of the last block, or was put in its place.
        output: of the model.
    """

    ran: Counter = field(default_factory=Counter)
    entered: Tensor | None = None
    first: Tensor | None = None
    left: Tensor | None = None
    output: Tensor | None = None


@dataclass
class Run:
    """The calls of the model in one run from noise to video.

    Attributes:
        calls: of the model, for each step.
        velocities: what a sampler gets, for each step.
    """

    calls: list[list[Call]] = field(default_factory=list)
    velocities: list[Tensor] = field(default_factory=list)

    @property
    def ran(self) -> Counter:
        """Of all steps together."""
        return sum(map(ran, self.calls), Counter())

    def branch(self, row: int) -> list[Call]:
        """For a method with two calls per step: the conditional calls (0) or the unconditional calls (1)."""
        return [calls[row] for calls in self.calls]

    def outputs(self, row: int) -> Tensor:
        """Outputs of the model for the conditional (0) or the unconditional (1) prompt; one row per step.

        In two calls or in one, if the conditional comes first.
        """
        return torch.stack([torch.cat([call.output for call in calls])[row] for calls in self.calls])

    def steps_of(self, part: str) -> list[int]:
        """The steps at which this part of every layer ran for both; where it ran for fewer, none must have."""
        counts = [ran(calls)[part] for calls in self.calls]
        assert set(counts) <= {0, 2 * LAYERS}, f"{part} ran in some layers only: {counts}"
        return [step for step, count in enumerate(counts) if count]


def ran(calls: list[Call]) -> Counter:
    """Of these calls together."""
    return sum((call.ran for call in calls), Counter())


def tiny_wan() -> WanTransformer3DModel:
    torch.manual_seed(0)
    model = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=4096,
        freq_dim=32,
        ffn_dim=48,
        num_layers=LAYERS,
        rope_max_seq_len=32,
    )
    return model.eval().requires_grad_(False)


@cache
@torch.no_grad()
def run(
    attach: Callable,
    setting: Any = None,
    steps: int = STEPS,
    prompt: str = "circle one red slow right dark",
    shift: float = demo_model.SHIFT,
) -> Run:
    """Runs `attach` with this setting, on fixed inputs from noise to video."""
    model = tiny_wan()
    calls = watched(model)
    seen = Run()
    case = Case("demo", Condition("euler", steps, shift, cfg=4.0), "slow", prompt, 1)
    with attach(None, model, setting, case) as evaluate:  # no bench, because nothing is calibrated here
        for step, (x, sigma) in enumerate(way(steps, shift)):
            seen.velocities.append(evaluate(x, step, sigma))
            seen.calls.append(calls.copy())
            calls.clear()
    return seen


def way(steps: int, shift: float = demo_model.SHIFT) -> list[tuple[Tensor, float]]:
    """Input of the model at each step: x, (1, 16, 2, 8, 8), and its noise level."""
    noise, video = torch.randn(2, 1, 16, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    return [(sigma * noise + (1 - sigma) * video, sigma) for sigma in demo_model.sigmas(steps, shift).tolist()[:-1]]


def assert_whole_steps_are_plain(seen: Run, baseline: Run) -> None:
    """A step that computes everything gives the output of the model, bit for bit, whatever was skipped before it."""
    whole = [step for step, calls in enumerate(seen.calls) if ran(calls) == ran(baseline.calls[step])]
    assert 0 < len(whole) < len(seen.calls)
    assert whole != list(range(len(whole))), "no whole step after a skipped one"
    for step in whole:
        assert torch.equal(seen.velocities[step], baseline.velocities[step])


def near(calls: list[Call], threshold: float, warmup: int = 1) -> list[int]:
    """The steps, from `warmup` on, at which what the first block adds has changed by less than the threshold.

    In relative L1, since the last step that is none of them: the rule of First Block Cache.
    """
    steps: list[int] = []
    reference = calls[0].first - calls[0].entered
    for step, call in enumerate(calls):
        added = call.first - call.entered
        if step >= warmup and (added - reference).abs().mean() < threshold * reference.abs().mean():
            steps.append(step)
        else:
            reference = added
    return steps


def assert_reused(calls: list[Call], skipped: list[int], since: str) -> None:
    """At skipped steps, the part added after "entered" or "first" equals that of the last step that was not skipped."""
    added = [call.left - getattr(call, since) for call in calls]
    for step in skipped:
        torch.testing.assert_close(added[step], added[max(set(range(step)) - set(skipped))])


def watched(model: WanTransformer3DModel) -> list[Call]:
    """Records the calls from now on; a cache that is attached later wraps the recording functions."""
    calls: list[Call] = []

    def begin(*_: Any) -> None:
        calls.append(Call())

    def end(module: Any, args: Any, output: tuple[Tensor]) -> None:
        calls[-1].output = output[0].clone()

    def enter(module: Any, args: Any, output: Tensor) -> None:
        calls[-1].entered = output.flatten(2).transpose(1, 2).clone()

    def leave(module: Any, args: tuple[Tensor]) -> None:
        calls[-1].left = args[0].clone()

    def counted(name: str, forward: Callable) -> Callable:
        @wraps(forward)
        def counting(*args: Any, **kwargs: Any) -> Tensor:
            output = forward(*args, **kwargs)
            calls[-1].ran[name] += len(output)
            return output

        return counting

    def remembered(forward: Callable) -> Callable:
        @wraps(forward)
        def remembering(*args: Any, **kwargs: Any) -> Tensor:
            output = forward(*args, **kwargs)
            calls[-1].first = output.clone()
            return output

        return remembering

    model.register_forward_pre_hook(begin)
    model.register_forward_hook(end)
    model.patch_embedding.register_forward_hook(enter)
    model.norm_out.register_forward_pre_hook(leave)
    model.blocks[0].forward = remembered(model.blocks[0].forward)
    for block in model.blocks:
        block.forward = counted("block", block.forward)
        for part in PARTS:
            module = getattr(block, part)
            module.forward = counted(part, module.forward)
    return calls
