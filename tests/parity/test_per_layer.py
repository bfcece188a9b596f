"""Why all blocks share one schedule: on a network of the reference's kind, blocks that decide apart drift apart."""

import json
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file

from adacache_core import FAST_30, AdaCache, CacheConfig
from research.benchmark.per_layer import scheduled_apart, stricter

from .replay import LAYOUT
from .stdit3 import STDiT3, sample
from .test_parity import GOLDEN

STEPS = 30
FACTORS = (0.35, 0.5, 0.7, 1.0, 1.5)


@pytest.fixture(scope="module")
def network():
    recorded = json.loads((GOLDEN / "model_runs.json").read_text())
    model = STDiT3(recorded["model_config"]).eval()
    model.load_state_dict(load_file(GOLDEN / "model_weights.safetensors"))
    inputs = load_file(GOLDEN / "model_inputs.safetensors")

    def made(prompt, around):
        prompts = [{kind: inputs[f"{prompt}/{kind}"] for kind in ("caption", "mask", "noise")}]
        return sample(model, prompts, STEPS, 7.0, recorded["micro_conditioning"], recorded["num_timesteps"], around)

    return model, made


@contextmanager
def undisturbed(step, timestep):
    yield


def together(network, prompt, config):
    """One schedule for all blocks: the latent, and the share of block calls that ran."""
    model, made = network
    with AdaCache(model, blocks=LAYOUT.blocks, head=LAYOUT.heads[0].path, steps=STEPS, config=config) as run:

        @contextmanager
        def around(step, timestep):
            with run.evaluation(step), run.call(["prompt", "null"]):
                yield

        latent = made(prompt, around)
    return latent, run.report.computed / run.report.total


def apart(network, prompt, config):
    model, made = network
    with scheduled_apart([model.spatial_blocks, model.temporal_blocks], config, STEPS) as blocks:

        @contextmanager
        def around(step, timestep):
            for block in blocks:
                block.step = step
            yield

        latent = made(prompt, around)
    return latent, sum(len(block.computed) for block in blocks) / len(blocks) / STEPS


def curve(network, prompt, kind):
    """(share of block calls, relative error) of the final latent, at every factor."""
    plain = network[1](prompt, undisturbed)
    points = []
    for factor in FACTORS:
        latent, share = kind(network, prompt, CacheConfig(stricter(FAST_30, factor), probe_stride=1))
        points.append((share, float((latent - plain).norm() / plain.norm())))
    return points


@pytest.fixture(scope="module", params=["promptA", "promptB"])
def curves(network, request):
    return curve(network, request.param, together), curve(network, request.param, apart)


def test_a_schedule_for_each_block_is_farther_from_plain_though_it_computes_more(curves):
    """The last factor is so bold that all blocks skip whatever they may, apart as together."""
    compared = [(one, many) for one, many in list(zip(*curves, strict=True))[:-1] if many[0] >= one[0]]
    assert len(compared) >= 3
    assert all(many[1] > one[1] for one, many in compared)


def test_and_it_is_unstable_bolder_thresholds_may_err_less(curves):
    one_rises, many_rise = (all(a[1] < b[1] for a, b in pairwise(points)) for points in curves)
    assert one_rises
    assert not many_rise


def test_blocks_are_back_in_their_places_afterwards(network):
    model, made = network
    before = list(model.spatial_blocks)
    plain = made("promptA", undisturbed)
    with pytest.raises(KeyError), scheduled_apart([model.spatial_blocks], CacheConfig(FAST_30), STEPS):
        raise KeyError
    assert list(model.spatial_blocks) == before
    assert torch.equal(made("promptA", undisturbed), plain)
