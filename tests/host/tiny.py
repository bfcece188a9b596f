"""Tiny random-weight models of every row of the table, through the host's own loader, with what exercises them.

Each comes with conditionings that make its modules between the blocks run, and its references and
keyframes lengthen, shorten or shift the token stream. Imports the host only inside functions.

Everything is what the loader makes, but for three encoders of sound and faces (HuMo's, Animate's): they have
fixed widths of thousands and lie far in front of the blocks, so stand-ins take their places.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

FRAMES, HEIGHT, WIDTH = 4, 8, 8  # of the latent
LTXV_SIZE = 4, 4, 4


@dataclass(frozen=True)
class Tiny:
    """A model, and what it is sampled with.

    Attributes:
        model: the host's ModelPatcher.
        latent: zeros, (1, channels, frames, height, width).
        positive, negative: CONDITIONING.
        noise_mask: of the latent, or None.
        between: paths of modules that run between the blocks.
        head: name of the head, where it is none of the usual ones.
        keeps: attributes in which the host's own code leaves tensors of a call.
    """

    model: Any
    latent: Tensor
    positive: list
    negative: list
    noise_mask: Tensor | None = None
    between: tuple[str, ...] = ()
    head: str = ""
    keeps: tuple[str, ...] = ()

    @property
    def module(self) -> nn.Module:
        return self.model.model.diffusion_model


@dataclass(frozen=True)
class Kind:
    """How to make one.

    Attributes:
        architecture: () -> an empty module of the diffusion model's class, on the meta device.
        extras: () -> what the conditionings hold beside the text.
        text_width: of the text embeddings.
        channels: of the latent.
        size: frames, height, width of the latent; of a picture height and width.
        text_tokens: of the positive and the negative; if they differ, the host calls the model for each.
    """

    architecture: Callable[[dict], nn.Module]
    extras: Callable[[], dict] = dict
    text_width: int = 4096
    channels: int = 16
    size: tuple[int, ...] = (FRAMES, HEIGHT, WIDTH)
    text_tokens: tuple[int, int] = (6, 6)
    noise_mask: Callable[[], Tensor] | None = None
    between: tuple[str, ...] = ()
    head: str = ""
    keeps: tuple[str, ...] = ()
    stand_ins: dict[str, Callable[[], nn.Module]] = field(default_factory=dict)

    def build(self, dtype: torch.dtype = torch.float32) -> Tiny:
        """Through `load_diffusion_model_state_dict`, then computing in `dtype` (a CPU would compute in float32)."""
        import comfy.ops
        import comfy.sd

        settings = {"operations": comfy.ops.disable_weight_init, "dtype": torch.float32, "device": "meta"}
        weights = fill(self.architecture(settings), blank=tuple(self.stand_ins))
        model = comfy.sd.load_diffusion_model_state_dict(weights, model_options={"dtype": dtype})
        model.model.manual_cast_dtype = None
        for name, stand_in in self.stand_ins.items():
            setattr(model.model.diffusion_model, name, stand_in())
        generator = torch.Generator().manual_seed(7)
        texts = (torch.randn(1, tokens, self.text_width, generator=generator) for tokens in self.text_tokens)
        positive, negative = ([[text, self.extras()]] for text in texts)
        latent = torch.zeros(1, self.channels, *self.size)
        noise_mask = None if self.noise_mask is None else self.noise_mask()
        return Tiny(model, latent, positive, negative, noise_mask, self.between, self.head, self.keeps)


def fill(module: nn.Module, blank: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """A state dict with nothing left to chance: norms 1, biases small, matrices N(0, 1 / fan-in).

    Submodules named in `blank` are all zeros, which costs nothing; the loader knows models by their keys.
    """
    generator = torch.Generator().manual_seed(3)
    weights = {}
    for name, empty in module.state_dict().items():
        if name.split(".")[0] in blank:
            weights[name] = torch.zeros(()).expand(empty.shape)
        elif name == "casual_audio_encoder.weights" or (empty.ndim == 1 and name.endswith("weight")):
            weights[name] = torch.ones(empty.shape)
        elif empty.ndim == 1:
            weights[name] = 0.1 * torch.randn(empty.shape, generator=generator)
        else:
            weights[name] = torch.randn(empty.shape, generator=generator) / empty[0].numel() ** 0.5
    return weights


def noise(*shape: int, seed: int = 11) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seen_by_clip() -> SimpleNamespace:
    """What a CLIP vision encoder hands on."""
    return SimpleNamespace(penultimate_hidden_states=noise(1, 5, 1280), last_hidden_state=noise(1, 5, 1152))


def wan(kind: str = "WanModel", layers: int = 5, **settings: Any) -> Callable[[dict], nn.Module]:
    def architecture(common: dict) -> nn.Module:
        import comfy.ldm.wan
        import comfy.ldm.wan.model

        for file in pkgutil.iter_modules(comfy.ldm.wan.__path__):
            found = getattr(importlib.import_module(f"comfy.ldm.wan.{file.name}"), kind, None)
            if found is not None:
                return found(dim=128, ffn_dim=256, num_heads=1, num_layers=layers, **settings, **common)
        raise ImportError(f"no class {kind} in comfy.ldm.wan")

    return architecture


def cogvideo(**settings: Any) -> Callable[[dict], nn.Module]:
    def architecture(common: dict) -> nn.Module:
        from comfy.ldm.cogvideo.model import CogVideoXTransformer3DModel

        return CogVideoXTransformer3DModel(num_attention_heads=3, num_layers=4, time_embed_dim=64, **settings, **common)

    return architecture


def _predict2(common: dict) -> nn.Module:
    from comfy.ldm.cosmos.predict2 import MiniTrainDIT

    return MiniTrainDIT(
        max_img_h=240,
        max_img_w=240,
        max_frames=128,
        in_channels=16,
        out_channels=16,
        patch_spatial=2,
        patch_temporal=1,
        model_channels=256,
        num_blocks=4,
        pos_emb_cls="rope3d",
        use_adaln_lora=True,
        **common,
    )


# Flux, and HunyuanVideo which comes from it.
_TWO_STREAMS = {
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": 768,
    "hidden_size": 128,
    "mlp_ratio": 4.0,
    "num_heads": 1,
    "depth": 3,
    "depth_single_blocks": 2,
    "axes_dim": [16, 56, 56],
    "qkv_bias": True,
    "guidance_embed": True,
}


def flux(**settings: Any) -> Callable[[dict], nn.Module]:
    def architecture(common: dict) -> nn.Module:
        from comfy.ldm.flux.model import Flux

        v1 = {"context_in_dim": 256, "theta": 10000, "patch_size": 2, "txt_ids_dims": []}
        return Flux(**(_TWO_STREAMS | v1 | settings), **common)

    return architecture


def hunyuan(**settings: Any) -> Callable[[dict], nn.Module]:
    def architecture(common: dict) -> nn.Module:
        from comfy.ldm.hunyuan_video.model import HunyuanVideo, HunyuanVideoParams

        v1 = _TWO_STREAMS | {
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


class _AnyMotion(nn.Module):
    """512 numbers of each face."""

    def get_motion(self, faces: Tensor) -> Tensor:
        return faces.flatten(1)[:, :512]


class _AnyFaces(nn.Module):
    """Four tokens of width 128 for each latent frame."""

    def forward(self, motion: Tensor) -> Tensor:
        return motion[:, ::4].unflatten(-1, (4, 128))


class _AnySound(nn.Module):
    """Sixteen tokens of width 1536 for each latent frame."""

    def forward(self, audio: Tensor) -> Tensor:
        return audio.flatten(2)[..., : 16 * 1536].unflatten(-1, (16, 1536))


def _ltxv_keyframes() -> dict:
    """The last frame of the latent is a keyframe at video frame 9."""
    height, width = LTXV_SIZE[1:]
    at = torch.stack(torch.meshgrid(torch.tensor([9]), torch.arange(height), torch.arange(width), indexing="ij"))
    start = at.flatten(1) * torch.tensor([[1], [32], [32]])
    end = start + torch.tensor([[1], [32], [32]])
    return {"keyframe_idxs": torch.stack((start, end), dim=-1)[None].float() if _new_coordinates() else start[None]}


def _new_coordinates() -> bool:
    """Whether keyframes of LTXV have a start and an end (later hosts) or one place."""
    from comfy_extras.nodes_lt import LTXVAddGuide

    return getattr(LTXVAddGuide, "PATCHIFIER", LTXVAddGuide).start_end


def _ltxv_mask() -> Tensor:
    """Half of the keyframe's tokens are dropped, as by a guide on a coarser grid."""
    mask = torch.ones(1, 1, *LTXV_SIZE)
    mask[:, :, -1, ::2] = -1
    return mask


KINDS: dict[str, Kind] = {
    # An odd size: the patches of the last row and column are padded.
    "Wan t2v": Kind(wan(), size=(FRAMES, 7, 5)),
    "Wan i2v": Kind(
        wan(model_type="i2v", in_dim=36),
        lambda: {
            "concat_latent_image": noise(1, 16, FRAMES, HEIGHT, WIDTH),
            "concat_mask": torch.ones(1, 1, FRAMES, HEIGHT, WIDTH),
            "clip_vision_output": seen_by_clip(),
        },
    ),
    "Wan Fun control with a reference": Kind(
        wan(model_type="i2v", in_dim=48, in_dim_ref_conv=16),
        lambda: {
            "concat_latent_image": noise(1, 32, FRAMES, HEIGHT, WIDTH),
            "reference_latents": [noise(1, 16, 1, HEIGHT, WIDTH)],
        },
    ),
    "Wan Phantom": Kind(wan(), lambda: {"time_dim_concat": noise(1, 16, 2, HEIGHT, WIDTH)}),
    "Wan Camera": Kind(
        wan("CameraWanModel", model_type="camera", in_dim=32),
        lambda: {"camera_conditions": noise(1, 24, FRAMES, 8 * HEIGHT, 8 * WIDTH)},
    ),
    "Wan VACE": Kind(
        wan("VaceWanModel", vace_layers=2, vace_in_dim=96, layers=4),
        lambda: {
            "vace_frames": [noise(1, 32, FRAMES, HEIGHT, WIDTH)],
            "vace_mask": [torch.ones(1, 64, FRAMES, HEIGHT, WIDTH)],
            "vace_strength": [1.0],
        },
        between=("vace_blocks.0", "vace_blocks.1"),
    ),
    "Wan S2V": Kind(
        wan("WanModel_S2V"),
        lambda: {
            "audio_embed": noise(1, 25, 1024, 4 * FRAMES),
            "reference_latents": [noise(1, 16, 1, HEIGHT, WIDTH)],
            "reference_motion": noise(1, 16, 19, HEIGHT, WIDTH),
            "control_video": noise(1, 16, FRAMES, HEIGHT, WIDTH),
        },
        between=("audio_injector.injector.0", "audio_injector.injector.1"),
    ),
    "Wan HuMo": Kind(
        wan("HumoWanModel"),
        lambda: {
            "audio_embed": noise(1, FRAMES, 8, 5, 1280),
            "reference_latents": [noise(1, 16, 1, HEIGHT, WIDTH)],
        },
        stand_ins={"audio_proj": _AnySound},
    ),
    "Wan Animate": Kind(
        wan("AnimateWanModel", in_dim=36),
        lambda: {
            "face_video_pixels": noise(1, 3, 4 * (FRAMES - 1), 16, 16),
            "pose_video_latent": noise(1, 16, FRAMES - 1, HEIGHT, WIDTH),
            "concat_latent_image": noise(1, 16, FRAMES, HEIGHT, WIDTH),
            "clip_vision_output": seen_by_clip(),
        },
        between=("face_adapter.fuser_blocks.0",),
        stand_ins={"motion_encoder": _AnyMotion, "face_encoder": _AnyFaces},
    ),
    "Wan Dancer": Kind(
        wan("WanDancerModel", in_dim=36),
        lambda: {"audio_embed": noise(1, 8 * FRAMES, 35), "clip_vision_output_ref": seen_by_clip()},
        between=("music_injector.injector.0", "music_injector.injector.1"),
    ),
    "Wan Dancer at 24 frames per second": Kind(
        wan("WanDancerModel", in_dim=36),
        lambda: {"audio_embed": noise(1, 8 * FRAMES, 35), "fps": 24},
        between=("music_injector.injector.0", "music_injector.injector.1"),
        head="head_global",
    ),
    "SCAIL": Kind(
        wan("SCAILWanModel"),
        lambda: {
            "reference_latents": [noise(1, 16, 1, HEIGHT, WIDTH)],
            "pose_video_latent": noise(1, 16, FRAMES, HEIGHT // 2, WIDTH // 2),
        },
    ),
    "SCAIL 2": Kind(
        wan("SCAIL2WanModel"),
        lambda: {
            "reference_latents": [noise(1, 16, 1, HEIGHT, WIDTH), noise(1, 16, 1, HEIGHT, WIDTH, seed=12)],
            "pose_video_latent": noise(1, 16, FRAMES, HEIGHT // 2, WIDTH // 2),
            "driving_mask_28ch": torch.ones(1, FRAMES, 28, HEIGHT // 2, WIDTH // 2),
            "ref_mask_28ch": torch.ones(1, FRAMES + 2, 28, HEIGHT, WIDTH),
        },
    ),
    "CogVideoX 2B": Kind(cogvideo(use_learned_positional_embeddings=True)),
    "CogVideoX 5B": Kind(cogvideo(use_rotary_positional_embeddings=True)),
    "CogVideoX 1.5": Kind(
        cogvideo(
            use_rotary_positional_embeddings=True, patch_size_t=2, patch_bias=False, in_channels=32, ofs_embed_dim=64
        )
    ),
    "Cosmos-Predict2": Kind(
        _predict2, text_width=1024, keeps=("affline_scale_log_info", "affline_emb", "crossattn_emb")
    ),
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
    "HunyuanVideo": Kind(hunyuan(), lambda: {"pooled_output": noise(1, 768), "guidance": 6.0}),
    "HunyuanVideo with a reference": Kind(
        hunyuan(),
        lambda: {
            "pooled_output": noise(1, 768),
            "ref_latent": noise(1, 16, 1, HEIGHT, WIDTH),
            "guiding_frame_index": 0,
        },
        text_tokens=(6, 5),  # the host's own code fails on a reference with a batch above 1
    ),
    "HunyuanVideo 1.5": Kind(
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
    ),
    "LTXV": Kind(
        _ltxv,
        lambda: {"attention_mask": torch.ones(1, 6, dtype=torch.int64), "frame_rate": 25},
        channels=128,
        size=LTXV_SIZE,
    ),
    "LTXV with keyframes": Kind(
        _ltxv,
        lambda: {
            "attention_mask": torch.ones(1, 6, dtype=torch.int64),
            "frame_rate": 25,
            **_ltxv_keyframes(),
        },
        channels=128,
        size=LTXV_SIZE,
        noise_mask=_ltxv_mask,
    ),
}
