"""Models that make pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from .kind import HEIGHT, TWO_STREAMS, WIDTH, Kind, noise


def flux(**settings: Any) -> Callable[[dict], nn.Module]:
    def architecture(common: dict) -> nn.Module:
        from comfy.ldm.flux.model import Flux

        v1 = {"context_in_dim": 256, "theta": 10000, "patch_size": 2, "txt_ids_dims": []}
        return Flux(**(TWO_STREAMS | v1 | settings), **common)

    return architecture


KINDS = {
    "Flux": Kind(
        flux(), lambda: {"pooled_output": noise(1, 768), "guidance": 3.5}, text_width=256, size=(HEIGHT, WIDTH)
    ),
    "Flux Kontext": Kind(
        flux(),
        lambda: {
            "pooled_output": noise(1, 768),
            "guidance": 3.5,
            "reference_latents": [noise(1, 16, HEIGHT, WIDTH)],
        },
        text_width=256,
        size=(HEIGHT, WIDTH),
    ),
}
