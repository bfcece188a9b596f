"""Video models other than Wan."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from .variant import FRAMES, HEIGHT, TWO_STREAMS, WIDTH, Variant, noise, seen_by_clip

LTXV_SIZE = 4, 4, 4


def cogvideo(**settings: Any) -> Callable[[dict], nn.Module]:
    def architecture(common: dict) -> nn.Module:
        from comfy.ldm.cogvideo.model import CogVideoXTransformer3DModel

        return CogVideoXTransformer3DModel(num_attention_heads=3, num_layers=4, time_embed_dim=64, **settings, **common)

    return architecture


_PREDICT2 = {
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "in_channels": 16,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "model_channels": 256,
    "num_blocks": 4,
    "pos_emb_cls": "rope3d",
    "use_adaln_lora": True,
}


def _predict2(common: dict) -> nn.Module:
    from comfy.ldm.cosmos.predict2 import MiniTrainDIT

    return MiniTrainDIT(**_PREDICT2, **common)


def _anima(common: dict) -> nn.Module:
    from comfy.ldm.anima.model import Anima

    return Anima(**_PREDICT2, **common)


# The host's loader assumes some of these sizes; those of LTX-2 it reads from the file's metadata.
_MOCHI = {
    "patch_size": 2,
    "in_channels": 12,
    "depth": 4,
    "num_heads": 2,
    "hidden_size_x": 24,
    "hidden_size_y": 16,
    "mlp_ratio_x": 512.0,  # the blocks have a fixed width of 12288
    "mlp_ratio_y": 4.0,
    "learn_sigma": False,
    "use_t5": True,
    "t5_feat_dim": 64,
    "qk_norm": True,
    "qkv_bias": False,
    "timestep_scale": 1000.0,
}
_KANDINSKY = {
    "in_text_dim": 64,
    "time_dim": 64,
    "model_dim": 64,
    "ff_dim": 128,
    "num_visual_blocks": 4,
    "axes_dims": (8, 12, 12),
}
_COSMOS = {
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "in_channels": 16,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "model_channels": 96,
    "num_blocks": 4,
    "num_heads": 4,
    "block_x_format": "THWBD",
    "crossattn_emb_channels": 64,
    "pos_emb_cls": "rope3d",
    "affline_emb_norm": True,
    "use_adaln_lora": True,
    "adaln_lora_dim": 16,
    "extra_per_block_abs_pos_emb": True,
    "extra_per_block_abs_pos_emb_type": "learnable",
}


_LTX2 = {
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "cross_attention_dim": 32,
    "audio_attention_head_dim": 8,
    "audio_num_attention_heads": 2,
    "audio_cross_attention_dim": 16,
    "caption_channels": 32,
    "connector_attention_head_dim": 16,
    "connector_num_attention_heads": 2,
    "num_layers": 4,
}
_LTX23 = _LTX2 | {"apply_gated_attention": True, "caption_proj_before_connector": True, "cross_attention_adaln": True}
_MINIMAX = {
    "hidden_size": 64,
    "num_layers": 4,
    "token_refiner_num_layers": 1,
    "num_attention_heads": 2,
    "attention_head_dim": 32,
    "ffn_hidden_size": 128,
    "text_dim": 48,
    "timestep_input_dim": 32,
    "time_embed_hidden_size": 64,
    "time_embed_dim": 32,
    "rope_inv_freq_len": 4,
}


def _mochi(common: dict) -> nn.Module:
    from comfy.ldm.genmo.joint_model.asymm_models_joint import AsymmDiTJoint

    return AsymmDiTJoint(**common)


def _kandinsky(common: dict) -> nn.Module:
    from comfy.ldm.kandinsky5.model import Kandinsky5

    return Kandinsky5(**common)


def _cosmos(common: dict) -> nn.Module:
    from comfy.ldm.cosmos.model import GeneralDIT

    return GeneralDIT(**common)


def _ltx2(common: dict) -> nn.Module:
    from comfy.ldm.lightricks.av_model import LTXAVModel

    return LTXAVModel(**common)


@cache
def _reference_voice() -> dict:
    """The same object for both conditionings, as the host's node makes it."""
    return {"ref_audio": {"tokens": noise(1, 3, 128)}}


def _minimax(common: dict) -> nn.Module:
    from comfy.ldm.minimax.model import MiniMaxH3Model

    return MiniMaxH3Model(**_MINIMAX, **common)


def hunyuan(**settings: Any) -> Callable[[dict], nn.Module]:
    def architecture(common: dict) -> nn.Module:
        from comfy.ldm.hunyuan_video.model import HunyuanVideo, HunyuanVideoParams

        v1 = TWO_STREAMS | {
            "context_in_dim": 4096,
            "theta": 256,
            "patch_size": [1, 2, 2],
            "byt5": False,
            "meanflow": False,
            "use_cond_type_embedding": False,
            "vision_in_dim": None,
            "meanflow_sum": False,
        }
        assert v1.keys() >= settings.keys()
        known = HunyuanVideoParams.__dataclass_fields__
        return HunyuanVideo(**{key: value for key, value in (v1 | settings).items() if key in known}, **common)

    return architecture


def _ltxv(common: dict) -> nn.Module:
    from comfy.ldm.lightricks.model import LTXVModel

    return LTXVModel(cross_attention_dim=128, attention_head_dim=4, num_layers=4, **common)


def _ltxv_keyframes() -> dict:
    """The last frame of the latent is a keyframe at video frame 9."""
    height, width = LTXV_SIZE[1:]
    at = torch.stack(torch.meshgrid(torch.tensor([9]), torch.arange(height), torch.arange(width), indexing="ij"))
    start = at.flatten(1) * torch.tensor([[1], [32], [32]])
    end = start + torch.tensor([[1], [32], [32]])
    return {"keyframe_idxs": torch.stack((start, end), dim=-1)[None].float() if _new_coordinates() else start[None]}


def _new_coordinates() -> bool:
    """Whether keyframes of LTXV have a start and an end (later hosts), or only a start."""
    from comfy_extras.nodes_lt import LTXVAddGuide

    return getattr(LTXVAddGuide, "PATCHIFIER", LTXVAddGuide).start_end


def _ltxv_mask() -> Tensor:
    """Half of the keyframe's tokens are dropped, as by a guide on a coarser grid."""
    mask = torch.ones(1, 1, *LTXV_SIZE)
    mask[:, :, -1, ::2] = -1
    return mask


VARIANTS = {
    "CogVideoX 2B": Variant(cogvideo(use_learned_positional_embeddings=True)),
    "CogVideoX 5B": Variant(cogvideo(use_rotary_positional_embeddings=True)),
    "CogVideoX 1.5": Variant(
        cogvideo(
            use_rotary_positional_embeddings=True, patch_size_t=2, patch_bias=False, in_channels=32, ofs_embed_dim=64
        )
    ),
    "Cosmos-Predict2": Variant(
        _predict2, text_width=1024, keeps=("affline_scale_log_info", "affline_emb", "crossattn_emb"), since="0.33.0"
    ),
    "Anima": Variant(
        _anima,
        text_width=1024,
        size=(1, HEIGHT, WIDTH),
        keeps=("affline_scale_log_info", "affline_emb", "crossattn_emb"),
        stand_ins={"llm_adapter": nn.Identity},
    ),
    "Cosmos 1": Variant(_cosmos, text_width=64, head="", batch=3, sizes=_COSMOS),
    "Mochi": Variant(
        _mochi,
        lambda: {"attention_mask": torch.ones(1, 6, dtype=torch.int64)},
        text_width=64,
        channels=12,
        sizes=_MOCHI,
    ),
    "Kandinsky 5": Variant(_kandinsky, lambda: {"pooled_output": noise(1, 768)}, text_width=64, sizes=_KANDINSKY),
    "Kandinsky 5 with a picture": Variant(
        _kandinsky, lambda: {"pooled_output": noise(1, 768)}, text_width=64, size=(HEIGHT, WIDTH), sizes=_KANDINSKY
    ),
    "HunyuanVideo": Variant(hunyuan(), lambda: {"pooled_output": noise(1, 768), "guidance": 6.0}),
    "HunyuanVideo with a reference": Variant(
        hunyuan(),
        lambda: {
            "pooled_output": noise(1, 768),
            "ref_latent": noise(1, 16, 1, HEIGHT, WIDTH),
            "guiding_frame_index": 0,
        },
        text_tokens=(6, 5),  # the host fails on a reference if the batch is larger than 1
    ),
    "HunyuanVideo 1.5": Variant(
        hunyuan(
            in_channels=65,
            out_channels=32,
            vec_in_dim=None,
            context_in_dim=3584,
            patch_size=[1, 1, 1],
            depth=4,
            depth_single_blocks=0,
            guidance_embed=False,
            byt5=True,
            use_cond_type_embedding=True,
            vision_in_dim=1152,
            meanflow_sum=True,
        ),
        lambda: {
            "pooled_output": noise(1, 768),
            "conditioning_byt5small": noise(1, 3, 1472),
            "clip_vision_output": seen_by_clip(),
            "concat_latent_image": noise(1, 32, FRAMES, 4, 4),
        },
        text_width=3584,
        channels=32,
        size=(FRAMES, 4, 4),
        since="0.8.0",
    ),
    "LTXV": Variant(
        _ltxv,
        lambda: {"attention_mask": torch.ones(1, 6, dtype=torch.int64), "frame_rate": 25},
        channels=128,
        size=LTXV_SIZE,
    ),
    "LTX-2": Variant(
        _ltx2,
        lambda: {"attention_mask": torch.ones(1, 6, dtype=torch.int64), "frame_rate": 25},
        text_width=64,
        channels=128,
        size=LTXV_SIZE,
        sound=(8, 5, 16),
        sound_head="audio_norm_out",
        sizes=_LTX2,
    ),
    "LTX-2.3 with a reference voice": Variant(
        _ltx2,
        lambda: {"attention_mask": torch.ones(1, 6, dtype=torch.int64), "frame_rate": 25, **_reference_voice()},
        text_width=48,
        channels=128,
        size=LTXV_SIZE,
        sound=(8, 5, 16),
        sound_head="audio_norm_out",
        sizes=_LTX23,
        since="0.33.0",
    ),
    "MiniMax-H3": Variant(_minimax, text_width=48, channels=24, batch=None, sound=(32, 2, 5)),
    "LTXV with keyframes": Variant(
        _ltxv,
        lambda: {"attention_mask": torch.ones(1, 6, dtype=torch.int64), "frame_rate": 25, **_ltxv_keyframes()},
        channels=128,
        size=LTXV_SIZE,
        noise_mask=_ltxv_mask,
        since="0.8.0",
    ),
}
