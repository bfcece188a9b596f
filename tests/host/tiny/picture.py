"""Models that make pictures."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .variant import HEIGHT, TWO_STREAMS, WIDTH, Variant, noise


def of(path: str, **settings: Any) -> Callable[[dict], nn.Module]:
    """The class with this full name, with these settings."""

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


def qwen(**settings: Any) -> Callable[[dict], nn.Module]:
    return of("comfy.ldm.qwen_image.model.QwenImageTransformer2DModel", num_layers=4, **settings)


def sd3(**settings: Any) -> Callable[[dict], nn.Module]:
    return of(
        "comfy.ldm.modules.diffusionmodules.mmdit.OpenAISignatureMMDITWrapper",
        input_size=None,
        in_channels=16,
        depth=3,
        adm_in_channels=64,
        context_embedder_config={"target": "torch.nn.Linear", "params": {"in_features": 64, "out_features": 192}},
        num_patches=64,
        pos_embed_max_size=8,
        **settings,
    )


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
CHROMA_SIZES = {"out_dim": 128, "hidden_dim": 64, "n_layers": 2}

QWEN = {"num_attention_heads": 1, "joint_attention_dim": 64}

LUMINA = of("comfy.ldm.lumina.model.NextDiT", n_layers=4, qk_norm=True)
LUMINA_SIZES = {
    "in_channels": 16,
    "dim": 256,  # Z-Image needs this many to embed the time
    "cap_feat_dim": 64,
    "n_heads": 2,
    "n_kv_heads": 2,
    "axes_dims": [32, 48, 48],
    "axes_lens": [64, 64, 64],
    "ffn_dim_multiplier": 1.0,
}
# The loader recognises Z-Image only by its width, so these are sampled with the shift of Lumina 2.
Z_IMAGE = {"z_image_modulation": True, "time_scale": 1000.0, "pad_tokens_multiple": 32}
# Without the refiner, in which the tokens of the picture see each other, a change of the picture moves one token only.
UNREFINED = {"noise_refiner": nn.ModuleList}

HIDREAM = of("comfy.ldm.hidream.model.HiDreamImageTransformer2DModel", patch_size=2, in_channels=16, out_channels=16)
HIDREAM_SIZES = {
    "num_layers": 3,
    "num_single_layers": 2,
    "num_attention_heads": 1,
    "attention_head_dim": 64,
    "axes_dims_rope": [32, 16, 16],
    "caption_channels": [64, 64],
    "text_emb_dim": 64,
    "llama_layers": [0, 1, 2, 3, 4],
}

# For a smaller picture the host rounds the base size to 0 and divides by it.
PIXART_SIZE = 4, 62
PIXART = {"hidden_size": 96, "num_heads": 2, "caption_channels": 64}

VARIANTS = {
    "Flux": Variant(
        flux(),
        lambda: {"pooled_output": noise(1, 768), "guidance": 3.5},
        text_width=256,
        size=(HEIGHT, WIDTH),
        since="0.33.0",
    ),
    "Flux Kontext": Variant(
        flux(),
        lambda: {"pooled_output": noise(1, 768), "guidance": 3.5, "reference_latents": [noise(1, 16, HEIGHT, WIDTH)]},
        text_width=256,
        size=(HEIGHT, WIDTH),
        since="0.33.0",
    ),
    "Flux 2": Variant(
        flux(**FLUX_2), lambda: {"guidance": 3.5}, text_width=256, channels=128, size=(4, 6), since="0.33.0"
    ),
    "Flux 2 with a reference": Variant(
        flux(**FLUX_2),
        lambda: {"guidance": 3.5, "reference_latents": [noise(1, 128, 4, 6)]},
        text_width=256,
        channels=128,
        size=(4, 6),
        since="0.33.0",
    ),
    "Chroma": Variant(
        of("comfy.ldm.chroma.model.Chroma", **CHROMA),
        text_width=256,
        size=(HEIGHT, WIDTH),
        sizes=CHROMA_SIZES,
        since="0.33.0",
    ),
    "Qwen-Image": Variant(qwen(), text_width=64, size=(1, HEIGHT, WIDTH), output=1, sizes=QWEN),
    "Qwen-Image-Edit": Variant(
        qwen(),
        lambda: {"reference_latents": [noise(1, 16, 1, HEIGHT, WIDTH), noise(1, 16, 1, 6, 4)]},
        text_width=64,
        size=(1, HEIGHT, WIDTH),
        output=1,
        sizes=QWEN,
    ),
    "Qwen-Image-Edit 2511": Variant(
        qwen(default_ref_method="index_timestep_zero"),
        lambda: {"reference_latents": [noise(1, 16, 1, HEIGHT, WIDTH)]},
        text_width=64,
        size=(1, HEIGHT, WIDTH),
        output=1,
        sizes=QWEN,
        since="0.8.0",
    ),
    "Lumina 2": Variant(
        LUMINA, text_width=64, size=(HEIGHT, WIDTH), sizes=LUMINA_SIZES, stand_ins=UNREFINED, since="0.8.0"
    ),
    "Z-Image": Variant(
        LUMINA, text_width=64, size=(HEIGHT, WIDTH), sizes=LUMINA_SIZES | Z_IMAGE, stand_ins=UNREFINED, since="0.8.0"
    ),
    "Z-Image with a reference": Variant(
        LUMINA,
        lambda: {"reference_latents": [noise(1, 16, HEIGHT, WIDTH)]},
        text_width=64,
        size=(HEIGHT, WIDTH),
        sizes=LUMINA_SIZES | Z_IMAGE,
        stand_ins=UNREFINED,
        since="0.8.0",
    ),
    "SD3": Variant(sd3(), lambda: {"pooled_output": noise(1, 64)}, text_width=64, size=(7, 5), argument=1, output=1),
    "SD3.5 medium": Variant(
        sd3(x_block_self_attn_layers=[0, 1], qk_norm="rms"),
        lambda: {"pooled_output": noise(1, 64)},
        text_width=64,
        size=(HEIGHT, WIDTH),
        argument=1,
        output=1,
    ),
    "AuraFlow": Variant(
        of("comfy.ldm.aura.mmdit.MMDiT", n_layers=5, n_double_layers=3, cond_seq_dim=2048, max_seq=64),
        text_width=2048,
        channels=4,
        size=(7, 5),
        head="",
        argument=1,
        output=1,
        sizes={"dim": 64, "n_heads": 2, "global_conddim": 64},
    ),
    "HiDream": Variant(
        HIDREAM,
        lambda: {"pooled_output": noise(1, 64), "conditioning_llama3": noise(1, 5, 6, 64)},
        text_width=64,
        size=(HEIGHT, WIDTH),
        sizes=HIDREAM_SIZES,
    ),
    "HiDream E1": Variant(
        HIDREAM,
        lambda: {
            "pooled_output": noise(1, 64),
            "conditioning_llama3": noise(1, 5, 6, 64),
            "concat_latent_image": noise(1, 16, HEIGHT, WIDTH),
        },
        text_width=64,
        size=(HEIGHT, WIDTH),
        sizes=HIDREAM_SIZES,
    ),
    "PixArt Alpha": Variant(
        of("comfy.ldm.pixart.pixartms.PixArtMS", depth=4), text_width=64, channels=4, size=PIXART_SIZE, sizes=PIXART
    ),
    "PixArt Sigma": Variant(
        of("comfy.ldm.pixart.pixartms.PixArtMS", depth=4, micro_condition=False, model_max_length=300),
        text_width=64,
        channels=4,
        size=PIXART_SIZE,
        sizes=PIXART,
    ),
    "HunyuanDiT": Variant(
        of("comfy.ldm.hydit.models.HunYuanDiT", depth=6, hidden_size=64),
        lambda: {
            "attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0]]),
            "conditioning_mt5xl": noise(1, 5, 64),
            "attention_mask_mt5xl": torch.tensor([[1, 1, 1, 0, 0]]),
        },
        text_width=64,
        channels=4,
        size=(HEIGHT, WIDTH),
        sizes={"num_heads": 2, "text_states_dim": 64, "text_states_dim_t5": 64, "text_len": 6, "text_len_t5": 5},
    ),
}
