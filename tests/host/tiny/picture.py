"""Models that make pictures."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from torch import nn

from .kind import HEIGHT, TWO_STREAMS, WIDTH, Kind, noise


def of(path: str, **settings: Any) -> Callable[[dict], nn.Module]:
    """The class of that full name, with these settings."""

    def architecture(common: dict) -> nn.Module:
        file, name = path.rsplit(".", 1)
        return getattr(importlib.import_module(file), name)(**settings, **common)

    return architecture


def flux(**settings: Any) -> Callable[[dict], nn.Module]:
    def architecture(common: dict) -> nn.Module:
        from comfy.ldm.flux.model import Flux

        v1 = {"context_in_dim": 256, "theta": 10000, "patch_size": 2, "txt_ids_dims": []}
        return Flux(**(TWO_STREAMS | v1 | settings), **common)

    return architecture


FLUX_2 = {
    "in_channels": 128,
    "out_channels": 128,
    "vec_in_dim": None,
    "mlp_ratio": 3.0,
    "axes_dim": [32, 32, 32, 32],
    "theta": 2000,
    "patch_size": 1,
    "qkv_bias": False,
    "txt_ids_dims": [3],
    "global_modulation": True,
    "mlp_silu_act": True,
    "ops_bias": False,
}

CHROMA = TWO_STREAMS | {
    "in_channels": 64,
    "out_channels": 64,
    "vec_in_dim": None,
    "context_in_dim": 256,
    "theta": 10000,
    "patch_size": 2,
    "txt_ids_dims": [],
    "in_dim": 64,
}
del CHROMA["guidance_embed"]

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
    "Flux 2": Kind(flux(**FLUX_2), lambda: {"guidance": 3.5}, text_width=256, channels=128, size=(4, 6)),
    "Flux 2 with a reference": Kind(
        flux(**FLUX_2),
        lambda: {"guidance": 3.5, "reference_latents": [noise(1, 128, 4, 6)]},
        text_width=256,
        channels=128,
        size=(4, 6),
    ),
    "Chroma": Kind(
        of("comfy.ldm.chroma.model.Chroma", **CHROMA),
        text_width=256,
        size=(HEIGHT, WIDTH),
        sizes={"out_dim": 128, "hidden_dim": 64, "n_layers": 2},
    ),
}
