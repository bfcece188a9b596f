"""The meter counts what torch's own counter counts, and its other figures are right."""

import inspect

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from research import demo_model
from research.benchmark.meter import Meter
from research.benchmark.videos import CFG


@pytest.fixture(scope="module")
def ask():
    """The demo model, called with both prompts at once."""
    model = demo_model.load("cpu")
    return demo_model.guided(model, demo_model.guided_context("circle one red slow right dark", CFG), CFG)


def attention(query, key, *_, **__):
    """Operations of the two matrix products of each head; shape (batch, heads, positions, width)."""
    batch, heads, positions, width = query
    return 2 * 2 * batch * heads * positions * key[-2] * width


@torch.no_grad()
def test_flops_are_those_of_torch_with_attention_on_the_cpu_included(ask):
    noise = demo_model.noise_of(1)
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with FlopCounterMode(display=False, custom_mapping={kernel: attention}) as theirs:
        ask(noise, 0, 1.0)
    with Meter() as ours:
        ask(noise, 0, 1.0)
    assert ours.flops == theirs.get_total_flops()
    assert theirs.get_flop_counts()["Global"][kernel] > 0


def test_every_row_of_a_batch_counts_as_a_call_of_the_block():
    block, meter = nn.Linear(3, 3), Meter()
    meter.watch([block])
    block(torch.zeros(2, 3))
    block(input=torch.zeros(1, 3))
    assert meter.block_calls == 3


@torch.no_grad()
def test_block_calls_of_the_demo_model_are_its_six_blocks_for_both_prompts():
    model, meter = demo_model.load("cpu"), Meter()
    meter.watch(model.blocks)
    evaluate = demo_model.guided(model, demo_model.guided_context("circle one red slow right dark", CFG), CFG)
    evaluate(demo_model.noise_of(1), 0, 1.0)
    assert meter.block_calls == 2 * 6


def test_a_watched_block_keeps_the_signature_of_its_forward():
    block = nn.MultiheadAttention(4, 1)
    before = inspect.signature(block.forward)
    Meter().watch([block])
    assert inspect.signature(block.forward) == before


def test_bytes_are_those_alive_and_made_while_entered():
    earlier = torch.zeros(1000)
    with Meter() as meter:
        kept = earlier + 1
        passing = torch.zeros(500)
        meter.mark()
        del passing
        meter.mark()
    assert kept.nbytes == 4000
    assert meter.held_bytes == 4000 + 2000


def test_views_of_one_storage_are_held_once():
    with Meter() as meter:
        kept = torch.zeros(10, 100)
        views = [kept[0], kept.T, kept.view(-1)]
        meter.mark()
    assert len(views) == 3
    assert meter.held_bytes == 4000


def test_inference_mode_is_refused():
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference mode"), Meter():
        pass
