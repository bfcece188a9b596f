"""The fits for TeaCache and MagCache, on models for which the right answer is known."""

import numpy as np
import pytest
import torch
from torch import nn

from research.benchmark.fitted import Seen, fit, seen


def run(changes, polynomial=lambda change: change, lengths=()):
    """Calls in which the signals grow by a fraction, and the output by a polynomial of it, for two rows."""
    signal, output, calls = 1.0, 1.0, []
    for step in range(len(changes) + 1):
        length = lengths[step] if lengths else 1.0
        ones = torch.ones(2, 3, dtype=torch.float64)
        calls.append(Seen(ones * signal, ones * signal**2, ones[:, None] * length, ones * output))
        if step < len(changes):
            signal *= 1 + changes[step]
            output *= 1 + polynomial(changes[step])
    return calls


def test_teacaches_polynomial_is_that_of_the_output_over_the_signal_highest_power_first():
    coefficients = [0.5, -0.4, 0.3, 0.2, 0.1]
    fitted = fit([run(np.linspace(0.1, 0.9, 12), lambda change: np.polyval(coefficients, change))])
    assert fitted.teacache == pytest.approx(coefficients, abs=1e-6)


def test_teacaches_retention_mode_looks_at_the_projection():
    # The projection is the square of the embedding: it grows by 2 x + x^2 if the embedding grows by x.
    fitted = fit([run(np.linspace(0.1, 0.9, 12), lambda change: 2 * change + change**2)])
    assert fitted.teacache_retention == pytest.approx([0, 0, 0, 1, 0], abs=1e-6)


def test_magcaches_ratios_are_of_each_length_to_the_one_before_and_of_all_runs_the_mean():
    few = [0.1, 0.2, 0.4, 0.8, 0.3]
    fitted = fit([run(few, lengths=[4, 2, 2, 1, 1, 1]), run(few, lengths=[4, 4, 2, 1, 1, 3])])
    assert fitted.magcache == pytest.approx([1, 0.75, 0.75, 0.5, 1, 2])


class Toy(nn.Module):
    """A minimal Wan: the embedding is t, its projection 2 t, each of two blocks adds t, the head returns a tenth."""

    def __init__(self):
        super().__init__()
        self.time_embedding = nn.Identity()
        self.time_projection = Times(2.0)
        self.blocks = nn.ModuleList([Add(), Add()])

    def forward(self, x, t):
        t = self.time_embedding(t)
        self.time_projection(t)
        for block in self.blocks:
            x = block(x, t=t)
        return x / 10


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


class Add(nn.Module):
    def forward(self, x, t):
        return x.add_(t)  # in place, as some models' blocks do


def test_what_is_seen_of_a_call_is_what_the_blocks_added_and_what_came_out():
    model = Toy()
    with seen(model) as calls:
        model(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [3.0]]))
        model(torch.tensor([[1.0], [2.0]]), torch.tensor([[5.0], [5.0]]))
    model(torch.zeros(1, 1), torch.zeros(1, 1))
    assert len(calls) == 2
    first, second = calls
    assert (first.embedding[0], first.projection[0], second.residual[0]) == (3, 6, 10)
    assert torch.allclose(first.output, torch.tensor([[0.7], [0.8]]))
