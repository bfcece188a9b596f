"""The cost of preset auto. It is counted, not timed, so a test can check it."""

from __future__ import annotations

from math import prod

import torch

from research.benchmark import auto_cost


def test_what_operations_make_or_read_is_counted_once_for_each():
    a, b = torch.zeros(10), torch.zeros(10)
    with auto_cost.Written() as counted:
        _ = (a + b).square().mean()
        _ = a.view(2, 5)
    assert counted.numbers == 10 + 10 + 10


def test_auto_costs_next_to_nothing_beside_a_large_model_and_holds_few_latents():
    measured = auto_cost.measure_auto_cost()
    assert measured["share_of_a_step"]["computed"] < 0.001
    assert measured["share_of_a_step"]["reused"] < 0.01
    assert 2 <= measured["held_latents"] <= measured["peak_latents"] <= 10
    assert measured["peak_megabytes"] == round(measured["peak_latents"] * prod(auto_cost.LARGE) * 4 / 1e6) < 200
    assert "Wan 14B" in auto_cost.section(
        measured | {"made": {"command": "x", "date": "", "commit": "", "torch": "", "machine": ""}}
    )
