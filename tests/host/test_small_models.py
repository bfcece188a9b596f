"""The small models of the host's own class: the host loads their checkpoints, and a fresh one can be trained."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from research.small_models import (
    MODELS,
    TWO_STREAMS_ARCHITECTURE,
    Stage,
    new_two_streams,
    throw_drawn,
)
from research.train_demo import Training

TINY = TWO_STREAMS_ARCHITECTURE | {"hidden_size": 24, "axes_dim": [8, 8, 8], "depth": 2, "depth_single_blocks": 2}
OF_THE_HOST = ("two_streams", "distilled")


@pytest.fixture(autouse=True)
def in_training_as_before(host, monkeypatch):
    """Making one tells the host that it is training, which the other tests must not see."""
    import comfy.model_management

    if not hasattr(comfy.model_management, "in_training"):
        pytest.skip(
            "this ComfyUI is older than the small models: it calls their weights otherwise and cannot train them"
        )
    monkeypatch.setattr(comfy.model_management, "in_training", comfy.model_management.in_training)


def trained(name):
    subject = MODELS[name]
    if not subject.file.exists():
        pytest.skip(f"{subject.file.name} is not trained yet")
    return subject


@pytest.mark.parametrize("name", OF_THE_HOST)
@torch.inference_mode()
def test_the_host_loads_it_and_says_what_we_are_told(name):
    from comfy.ldm.hunyuan_video.model import HunyuanVideo
    from comfy.model_management import load_models_gpu
    from comfy.sd import load_diffusion_model

    subject = trained(name)
    loaded = load_diffusion_model(str(subject.file), model_options={"dtype": torch.float32})
    load_models_gpu([loaded])
    assert type(loaded.model.diffusion_model) is HunyuanVideo

    dice = torch.Generator().manual_seed(0)
    _, context = subject.throw(2, 1, dice)
    x, levels = torch.randn(2, *subject.latent[1:], generator=dice), torch.tensor([0.9, 0.3])
    told = subject.ask(subject.load(), x, levels, context)
    video = loaded.model.apply_model(x, levels, c_crossattn=context)
    assert told.abs().mean() > 0.5
    assert torch.allclose(video, x - levels.view(-1, 1, 1, 1, 1) * told, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", OF_THE_HOST)
def test_its_checkpoint_has_the_names_and_shapes_of_its_class(name):
    weights = load_file(trained(name).file)
    assert {each: weight.shape for each, weight in weights.items()} == {
        each: weight.shape for each, weight in new_two_streams().state_dict().items()
    }


@pytest.fixture
def training(host):
    torch.manual_seed(0)
    subject = replace(
        MODELS["two_streams"],
        make=partial(new_two_streams, TINY),
        throw=throw_drawn(8),
        curriculum=(Stage(2, 4, 1.0),),
        rate=0.02,
    )
    return Training(subject, 200, 0, torch.device("cpu"))


def reached(training):
    """The weights that the gradient of a step reaches."""
    dice = torch.Generator().manual_seed(0)
    clean, context = training.subject.throw(4, 2, dice)
    training.task.loss(training.model, clean, context, dice).mean().backward()
    found = {name for name, weight in training.model.named_parameters() if weight.grad.any()}
    training.model.zero_grad()
    return found


def test_a_fresh_one_says_nothing_and_after_some_steps_every_weight_learns(training):
    """It begins with gates that are zero, of which each step opens those that the gradient has reached."""
    assert reached(training) == {"final_layer.linear.weight", "final_layer.linear.bias"}
    for _ in range(5):
        training.advance()
    assert reached(training) == {name for name, _ in training.model.named_parameters()}
