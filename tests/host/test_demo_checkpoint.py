"""The shipped checkpoint through the host's own loader says what it says in diffusers."""

from __future__ import annotations

import demo_output
import pytest
import torch


@pytest.fixture(scope="module")
def transformer(host):
    """The diffusion model in float32 on the CPU, as the UNETLoader node would load it from `diffusion_models`."""
    from comfy.model_management import load_models_gpu
    from comfy.sd import load_diffusion_model

    model = load_diffusion_model(str(demo_output.demo_model.SHIPPED), model_options={"dtype": torch.float32})
    load_models_gpu([model])
    return model.model.diffusion_model


def test_the_host_knows_it_as_wan_text_to_video(transformer):
    from comfy.ldm.wan.model import WanModel

    assert type(transformer) is WanModel
    assert transformer.model_type == "t2v"
    assert len(transformer.blocks) == 6


@torch.inference_mode()
def test_the_host_says_what_diffusers_says(transformer):
    latent, timestep, context = demo_output.inputs()
    told = transformer(latent, timestep, context)
    expected = demo_output.output()
    assert expected.abs().mean() > 0.5
    assert (told - expected).abs().max() < demo_output.TOLERANCE
