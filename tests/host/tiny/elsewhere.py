"""Models without a row in the table: U-Nets, sound, 3D, pictures in pixels, other transformers.

They are made like those with a row. The loader recognises some of them by their width, and is given the one used here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from torch import nn

from .picture import CHROMA, CHROMA_SIZES, LUMINA_SIZES, UNREFINED, Z_IMAGE, flux, of
from .variant import FRAMES, HEIGHT, WIDTH, Tiny, Variant, noise
from .video import hunyuan


@dataclass(frozen=True)
class Elsewhere(Variant):
    """How to make a tiny model without a row.

    Attributes:
        called: name of the host's class for its settings, if some of these are smaller here.
        known_by: the settings by which the loader recognises it, as they are here.
        frames: number of frames, if they are in the batch of the latent.
    """

    text_width: int = 64
    size: tuple[int, ...] = (HEIGHT, WIDTH)
    called: str = ""
    known_by: dict[str, Any] | None = None
    frames: int = 1

    def build(self, dtype: torch.dtype = torch.float32) -> Tiny:
        made = super().build(dtype)
        if self.frames == 1:
            return made
        return replace(made, latent=torch.zeros(self.frames, self.channels, *self.size))

    @contextmanager
    def _told_sizes(self) -> Iterator[None]:
        import comfy.supported_models

        with super()._told_sizes():
            if not self.called:
                yield
                return
            settings = getattr(comfy.supported_models, self.called)
            fixed = {name: value for name, value in self.sizes.items() if name in settings.unet_extra_config}
            with (
                mock.patch.dict(settings.unet_config, self.known_by or {}),
                mock.patch.dict(settings.unet_extra_config, fixed),
            ):
                yield


def holding(inner: Callable[[dict], nn.Module], **more: Callable[[], nn.Module | torch.Tensor]) -> Any:
    """The architecture, with other modules or tensors beside it in the checkpoint."""

    def architecture(common: dict) -> nn.Module:
        module = inner(common)
        for name, make in more.items():
            thing = make()
            if isinstance(thing, nn.Module):
                module.add_module(name, thing)
            else:
                module.register_buffer(name, thing)
        return module

    return architecture


# U-Nets


def unet(**settings: Any) -> Callable[[dict], nn.Module]:
    """A U-Net of two resolutions, with transformers in the lower one and in the middle."""
    small = {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 64,
        "num_res_blocks": [1, 1],
        "channel_mult": [1, 1],
        "transformer_depth": [0, 1],
        "transformer_depth_output": [0, 0, 1, 1],
        "transformer_depth_middle": 1,
        "context_dim": 64,
        "use_spatial_transformer": True,
        "legacy": False,
        "num_head_channels": 64,
    }
    return of("comfy.ldm.modules.diffusionmodules.openaimodel.UNetModel", **(small | settings))


WIDE = {"model_channels": 64, "context_dim": 64, "transformer_depth": [0, 1]}

SDXL = {"channels": 4, "called": "SDXL", "known_by": WIDE | {"adm_in_channels": 64 + 6 * 256}}
SDXL_UNET = unet(use_linear_in_transformer=True, num_classes="sequential", adm_in_channels=64 + 6 * 256)


def pooled() -> dict:
    return {"pooled_output": noise(1, 64)}


UNETS = {
    "SD 1.5": Elsewhere(
        unet(num_heads=8, num_head_channels=-1),
        channels=4,
        called="SD15",
        known_by={"model_channels": 64, "context_dim": 64},
    ),
    "SDXL": Elsewhere(SDXL_UNET, pooled, **SDXL),
    "SDXL v-prediction": Elsewhere(
        holding(SDXL_UNET, v_pred=lambda: torch.empty(0, device="meta"), ztsnr=lambda: torch.empty(0, device="meta")),
        pooled,
        **SDXL,
    ),
    "Stable Video Diffusion": Elsewhere(
        unet(
            in_channels=8,
            use_linear_in_transformer=True,
            num_classes="sequential",
            adm_in_channels=3 * 256,
            extra_ff_mix_layer=True,
            use_spatial_context=True,
            merge_strategy="learned_with_images",
            video_kernel_size=[3, 1, 1],
            use_temporal_resblock=True,
            use_temporal_attention=True,
            disable_temporal_crossattention=False,
        ),
        lambda: {"concat_latent_image": noise(1, 4, HEIGHT, WIDTH)},
        text_tokens=(1, 1),
        channels=4,
        frames=3,
        called="SVD_img2vid",
        known_by=WIDE,
    ),
    "Stable Cascade C": Elsewhere(
        of("comfy.ldm.cascade.stage_c.StageC"),
        lambda: {"pooled_output": noise(1, 1, 64)},
        size=(4, 4),
        sizes={
            "stable_cascade_stage": "c",
            "c_cond": 64,
            "c_hidden": [64, 64],
            "nhead": [2, 2],
            "blocks": [[1, 1], [1, 1]],
            "c_clip_text": 64,
            "c_clip_text_pooled": 64,
        },
    ),
    "Stable Cascade B": Elsewhere(
        of("comfy.ldm.cascade.stage_b.StageB"),
        lambda: {"pooled_output": noise(1, 1, 64)},
        channels=4,
        size=(16, 16),
        sizes={
            "stable_cascade_stage": "b",
            "c_cond": 64,
            "c_hidden": [16, 32, 64, 64],
            "nhead": [-1, -1, 2, 2],
            "blocks": [[1, 1, 1, 1], [1, 1, 1, 1]],
            "block_repeat": [[1, 1, 1, 1], [1, 1, 1, 1]],
            "c_clip": 64,
        },
    ),
}


# Sound


def _seconds() -> nn.Module:
    """The encoders of start and length in the checkpoint of Stable Audio."""
    from comfy.ldm.audio.embedders import NumberConditioner

    conditioner = nn.Module()
    conditioner.conditioners = nn.ModuleDict(
        {name: NumberConditioner(768, min_val=0, max_val=512) for name in ("seconds_start", "seconds_total")}
    )
    return conditioner


class _Lyrics(nn.Module):
    """Replaces an encoder with a fixed width of 1024."""

    def forward(self, lyrics: torch.Tensor, mask: torch.Tensor | None, **_: int) -> tuple[torch.Tensor, None]:
        return torch.tanh(lyrics), None


def _ace_step_15(settings: dict) -> nn.Module:
    """Made on the CPU, because its quantiser computes with values when it is made, and meta tensors have none."""
    from comfy.ldm.ace.ace_step15 import AceStepConditionGenerationModel

    return AceStepConditionGenerationModel(**settings | {"device": "cpu"})


SOUND = {
    "Stable Audio": Elsewhere(
        holding(of("comfy.ldm.audio.dit.AudioDiffusionTransformer"), conditioner=_seconds),
        text_width=768,
        channels=64,
        size=(16,),
        sizes={"embed_dim": 128, "num_heads": 2, "depth": 2, "project_cond_tokens": True},
    ),
    "ACE-Step": Elsewhere(
        of("comfy.ldm.ace.model.ACEStepTransformer2DModel"),
        lambda: {"conditioning_lyrics": torch.tensor([[3, 1, 4, 1, 5]])},
        text_width=768,
        channels=8,
        size=(16, 12),
        sizes={
            "inner_dim": 64,
            "attention_head_dim": 32,
            "num_attention_heads": 2,
            "num_layers": 2,
            "lyric_hidden_size": 64,
            "lyric_encoder_vocab_size": 8,
            "mlp_ratio": 2.5,
        },
        stand_ins={"lyric_encoder": _Lyrics},
    ),
    "ACE-Step 1.5": Elsewhere(
        _ace_step_15,
        lambda: {"conditioning_lyrics": noise(1, 5, 64)},
        channels=64,
        size=(12,),
        sizes={
            "hidden_size": 128,
            "text_hidden_dim": 64,
            "head_dim": 16,
            "num_heads": 4,
            "num_kv_heads": 2,
            "num_dit_layers": 2,
            "num_lyric_layers": 1,
            "num_timbre_layers": 1,
            "num_tokenizer_layers": 1,
            "intermediate_size": 128,
            "fsq_dim": 128,
            "encoder_hidden_size": 128,
            "encoder_intermediate_size": 128,
            "encoder_num_heads": 4,
        },
    ),
}


# Pictures


def attended(tokens: int = 6) -> dict:
    return {"attention_mask": torch.ones(1, tokens, dtype=torch.long)}


# The latent of Flux 2 has more channels, and is half as high and wide.
FLUX_2_LATENT: dict[str, Any] = {"channels": 128, "size": (4, 6)}
PIXELS: dict[str, Any] = {"channels": 3, "size": (32, 32)}

SMALL = {"num_layers": 2, "num_attention_heads": 1}
OMNIGEN = SMALL | {"hidden_size": 120, "num_kv_heads": 1, "num_refiner_layers": 1, "multiple_of": 16}

RADIANCE = {name: value for name, value in CHROMA.items() if name not in ("in_channels", "out_channels", "patch_size")}
RADIANCE_SIZES = CHROMA_SIZES | {
    "in_channels": 3,
    "out_channels": 3,
    "patch_size": 16,
    "nerf_hidden_size": 16,
    "nerf_mlp_ratio": 2,
    "nerf_depth": 1,
    "nerf_max_freqs": 4,
    "nerf_tile_size": 0,
    "nerf_final_head_type": "conv",
    "nerf_embedder_dtype": torch.float32,
    "use_x0": False,
    "use_sequential_txt_ids": False,
}
PIXEL_DECODER = {
    "image_model": "zimage_pixel",
    "in_channels": 3,
    "patch_size": 8,
    "decoder_in_channels": 192,
    "decoder_hidden_size": 64,
    "decoder_num_res_blocks": 1,
    "decoder_max_freqs": 4,
}
PIXEL_DIT = {
    "num_groups": 2,
    "hidden_size": 64,
    "pixel_hidden_size": 8,
    "pixel_attn_hidden_size": 32,
    "pixel_num_groups": 1,
    "patch_depth": 2,
    "pixel_depth": 1,
    "txt_embed_dim": 64,
}


def _pixel_dit(settings: dict) -> nn.Module:
    """In the checkpoint its name is `core`."""
    module = nn.Module()
    module.core = of("comfy.ldm.pixeldit.model.PixDiT_T2I")(settings)
    return module


PICTURES = {
    "Omnigen 2": Elsewhere(
        of("comfy.ldm.omnigen.omnigen2.OmniGen2Transformer2DModel"),
        attended,
        sizes=OMNIGEN
        | {"text_feat_dim": 64, "axes_dim_rope": [40, 40, 40], "axes_lens": [64, 64, 64], "timestep_scale": 1000.0},
    ),
    "Boogu": Elsewhere(
        of("comfy.ldm.boogu.model.BooguTransformer2DModel"),
        attended,
        sizes=OMNIGEN | {"num_double_stream_layers": 1, "instruction_feat_dim": 64},
    ),
    "Krea 2": Elsewhere(
        of("comfy.ldm.krea2.model.SingleStreamDiT"),
        text_width=2 * 64,
        size=(1, HEIGHT, WIDTH),
        sizes={"features": 128, "heads": 1, "kvheads": 1, "layers": 2}
        | {"txtdim": 64, "txtheads": 1, "txtkvheads": 1, "txtlayers": 2},
    ),
    "Lens": Elsewhere(
        of("comfy.ldm.lens.model.LensTransformer2DModel"),
        text_width=2 * 64,
        sizes=SMALL | {"num_attention_heads": 2, "enc_hidden_dim": 64, "selected_layer_index": (0, 1)},
        **FLUX_2_LATENT,
    ),
    "Ideogram 4": Elsewhere(
        of("comfy.ldm.ideogram4.model.Ideogram4Transformer2DModel"),
        sizes=SMALL | {"attention_head_dim": 128, "intermediate_size": 128, "adaln_dim": 64, "llm_features_dim": 64},
        called="Ideogram4",
        **FLUX_2_LATENT,
    ),
    "Ernie-Image": Elsewhere(
        of("comfy.ldm.ernie.model.ErnieImageModel"),
        sizes=SMALL | {"hidden_size": 128, "ffn_hidden_size": 128, "text_in_dim": 64},
        **FLUX_2_LATENT,
    ),
    "JoyImage": Elsewhere(
        of("comfy.ldm.joyimage.model.JoyImageTransformer3DModel"),
        size=(1, HEIGHT, WIDTH),
        sizes=SMALL | {"hidden_size": 128, "text_dim": 64},
    ),
    "Mage-Flow": Elsewhere(
        of("comfy.ldm.mage_flow.model.MageFlowTransformer2DModel"), text_width=2560, sizes=SMALL, **FLUX_2_LATENT
    ),
    "Chroma Radiance": Elsewhere(
        of("comfy.ldm.chroma_radiance.model.ChromaRadiance", **RADIANCE),
        text_width=256,
        sizes=RADIANCE_SIZES,
        since="0.33.0",
        **PIXELS,
    ),
    "Z-Image in pixels": Elsewhere(
        of("comfy.ldm.lumina.model.NextDiTPixelSpace", n_layers=2, qk_norm=True),
        attended,
        sizes=LUMINA_SIZES | Z_IMAGE | PIXEL_DECODER,
        stand_ins=UNREFINED,
        since="0.33.0",
        **PIXELS,
    ),
    "PixelDiT": Elsewhere(_pixel_dit, sizes=PIXEL_DIT, **PIXELS),
}


# 3D

SOLIDS = {
    "Hunyuan3D 2": Elsewhere(
        of("comfy.ldm.hunyuan3d.model.Hunyuan3Dv2", depth=2, depth_single_blocks=2),
        channels=64,
        size=(12,),
        sizes={"hidden_size": 64, "num_heads": 1, "context_in_dim": 64},
    ),
    "Hunyuan3D 2.1": Elsewhere(
        of("comfy.ldm.hunyuan3dv2_1.hunyuandit.HunYuanDiTPlain", depth=2),
        channels=64,
        size=(12,),
        sizes={
            "hidden_size": 64,
            "num_heads": 1,
            "context_dim": 64,
            "guidance_cond_proj_dim": None,
            "num_moe_layers": 1,
            "num_experts": 2,
        },
    ),
}

# Models whose class a row names, or that are left out on purpose.


def _causal_wan(settings: dict) -> nn.Module:
    """Its weights are like those of any Wan, so the loader is told which one it is."""
    told = settings.pop("causal_ar")
    assert told
    return of(
        "comfy.ldm.wan.ar_model.CausalWanModel", dim=128, ffn_dim=128, num_heads=1, num_layers=2, cross_attn_norm=True
    )(settings)


MORE = {
    "LongCat-Image": Elsewhere(
        flux(context_in_dim=3584, vec_in_dim=None, guidance_embed=False, txt_ids_dims=[1, 2]),
        text_width=3584,
        since="0.33.0",
    ),
    "HunyuanImage 2.1": Elsewhere(
        hunyuan(
            in_channels=64,
            out_channels=64,
            depth=2,
            context_in_dim=64,
            axes_dim=[64, 64],
            vec_in_dim=None,
            guidance_embed=False,
            patch_size=[1, 1],
        ),
        channels=64,
        size=(4, 6),
        since="0.8.0",
    ),
    "TripoSplat": Elsewhere(
        of("comfy.ldm.triposplat.model.LatentSeqMMFlowModel"),
        lambda: {"reference_latents": [noise(1, 128, 2, 3)]},
        channels=12,
        size=(16,),
        sound=(1, 5),
        sizes={
            "q_token_length": 12,
            "model_channels": 64,
            "cond_channels": 64,
            "num_blocks": 2,
            "num_refiner_blocks": 1,
            "num_heads": 1,
        },
    ),
    "HiDream-O1": Elsewhere(
        of("comfy.ldm.hidream_o1.model.HiDreamO1Transformer"),
        lambda: {"text_input_ids": torch.tensor([[5, 6, 7, 8, 151673]])},
        channels=3,
        size=(64, 64),
        sizes={
            "text_config_overrides": {
                "hidden_size": 64,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 1,
                "num_key_value_heads": 1,
            },
            "vision_config_overrides": {
                "hidden_size": 32,
                "num_heads": 1,
                "intermediate_size": 32,
                "depth": 1,
                "deepstack_visual_indexes": (0,),
                "num_position_embeddings": 16,
            },
        },
    ),
    "Wan, frame after frame": Elsewhere(
        _causal_wan, text_width=4096, size=(FRAMES, HEIGHT, WIDTH), sizes={"causal_ar": True}
    ),
    "SeedVR2": Elsewhere(
        of("comfy.ldm.seedvr.model.NaDiT", num_layers=32, mlp_type="swiglu", vid_out_norm=True, norm_eps=1e-5),
        lambda: {"condition": noise(1, 17, 2, HEIGHT, WIDTH)},
        text_width=5120,
        size=(2, HEIGHT, WIDTH),
        sizes={"vid_dim": 64, "heads": 1, "head_dim": 128, "image_model": "seedvr2"},
    ),
}

VARIANTS: dict[str, Elsewhere] = UNETS | SOUND | PICTURES | SOLIDS | MORE
