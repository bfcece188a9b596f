"""Models and a sampler so simple that their results are easy to work out. They know nothing about caching."""

from contextlib import nullcontext
from itertools import pairwise

import torch
from torch import nn


class Double(nn.Module):
    """Doubles its input. `ran` counts the calls, as it does in all blocks here."""

    def __init__(self):
        super().__init__()
        self.ran = 0

    def forward(self, hidden_states):
        self.ran += 1
        return hidden_states * 2


class DoubleInPlace(Double):
    def forward(self, hidden_states):
        self.ran += 1
        return hidden_states.mul_(2)


class DoubleInTuple(Double):
    """Returns (something else, the hidden states)."""

    def forward(self, hidden_states):
        return "other stream", super().forward(hidden_states)


class TenTimes(nn.Module):
    """A head that multiplies by ten, so that it shows that it ran."""

    def forward(self, x):
        return x * 10


class Stack(nn.Module):
    """Blocks in a ModuleList, then the head.

    Args:
        blocks: to be run one after another.
        keep: (how many, "first" or "last") of the tokens go on to the head; None: all.
    """

    def __init__(self, *blocks, keep=None):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.head = TenTimes()
        self.keep = keep

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        if self.keep is not None:
            count, end = self.keep
            x = x[:, :count] if end == "first" else x[:, -count:]
        return self.head(x)


class Plain:
    """Stands in for a run of AdaCache, and does nothing."""

    def evaluation(self, *_, **__):
        return nullcontext()

    call = evaluation


def tokens(*values, width=2):
    """(1, tokens, width) with one value per token."""
    return torch.tensor(values, dtype=torch.float32)[None, :, None].expand(-1, -1, width).clone()


class DriftingBlock(nn.Module):
    """Adds a bounded function of stream, time and prompt, so that residuals change slowly from step to step."""

    def __init__(self, width):
        super().__init__()
        self.mix = nn.Linear(width, width)
        self.ran = 0

    def forward(self, hidden_states, t, prompt):
        self.ran += 1
        return hidden_states + torch.tanh(self.mix(hidden_states) + t * prompt)


class Drifting(nn.Module):
    """A toy video model with a time and a prompt: (batch, tokens, width), (), (batch, 1, width)."""

    def __init__(self, depth=4, width=8, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.blocks = nn.ModuleList(DriftingBlock(width) for _ in range(depth))
        self.head = nn.Linear(width, width)

    def forward(self, x, t, prompt):
        for block in self.blocks:
            x = block(x, t, prompt)
        return self.head(x)

    @property
    def ran(self):
        """How often each block ran; all must have run equally often."""
        (count,) = {block.ran for block in self.blocks.children()}
        return count


class Bell(nn.Module):
    """The exact velocity of a flow model whose videos are normally distributed around one video."""

    def __init__(self, shape=(1, 4, 3, 5, 5), seed=0):
        super().__init__()
        dice = torch.Generator().manual_seed(seed)
        self.mean = torch.randn(shape, generator=dice)
        self.variance = 0.1 * torch.rand(shape, generator=dice)
        self.ran = 0

    def forward(self, x, sigma):
        self.ran += 1
        clean = 1 - sigma
        pull = clean * self.variance / (clean**2 * self.variance + sigma**2)
        return (x - self.mean - pull * (x - clean * self.mean)) / sigma


def heun(sigmas):
    """A sampler that evaluates the model twice in every step but the last."""

    def sample(model, x):
        for sigma, following in pairwise(sigmas):
            first = (x - model(x, sigma)) / sigma
            there = x + (following - sigma) * first
            second = (there - model(there, following)) / following if following else first
            x = x + (following - sigma) * (first + second) / 2
        return x

    return sample
