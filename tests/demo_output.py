"""What the shipped demo checkpoint says on one input in diffusers, for where diffusers may be lacking: in a host.

`python -m tests.demo_output` stores it; the unit tests compare it with diffusers again, the host tests with the host.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from research import demo_model

STORED = Path(__file__).with_suffix(".safetensors")
PROMPT = "triangle few multi fast mixed checker"
TIMESTEP = torch.tensor([700.0])
TOLERANCE = 2e-5  # of the largest difference; outputs are about 1


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Latent (1, 16, 4, 8, 8), timestep (1,) and context (1, 6, 4096), in float32."""
    return load_file(STORED)["latent"], TIMESTEP, demo_model.prompt_context(PROMPT)


def output() -> Tensor:
    """(1, 16, 4, 8, 8)."""
    return load_file(STORED)["output"]


@torch.inference_mode()
def by_diffusers(latent: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
    return demo_model.load("cpu")(latent, timestep, context, return_dict=False)[0]


if __name__ == "__main__":
    latent = torch.randn(1, 16, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    told = by_diffusers(latent, TIMESTEP, demo_model.prompt_context(PROMPT))
    save_file({"latent": latent, "output": told}, STORED)
