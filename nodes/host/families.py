"""THE TABLE: what AdaCache has to know about a model of the host. A family is a row.

A row says where the blocks and the head are, how a block is handed the hidden states, and where the
video is in the tokens. Rows are found by the class of the diffusion model. A class that no row names is
taken for one of the row of its base class, or of a row whose blocks and head it has too: a run proves
at its first step that this is so (`Engine.prove`), or skips nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from ...adacache_core.errors import AdaCacheError
from ...adacache_core.reuse.layout import Grid, Head, StackLayout
from .others import module_of


@dataclass(frozen=True)
class Family:
    """One row.

    Attributes:
        name: what users call these models.
        classes: full names of the diffusion models' classes.
        layout: where blocks and head are.
        grid: (diffusion model, latent as the model gets it, keyword arguments of the call) -> where
            the video is in the tokens, or None.
        slot: how `patches_replace["dit"]` names the blocks of the first container, if the model
            lets them be replaced.
        guessed: whether nobody has looked at these classes yet.
    """

    name: str
    classes: tuple[str, ...]
    layout: StackLayout
    grid: Callable[[nn.Module, Tensor, Mapping[str, Any]], Grid | None]
    slot: str = "double_block"
    guessed: bool = False


def _patched(shape: Sequence[int], patch: Sequence[int]) -> tuple[int, int]:
    """Frames and tokens per frame of a latent of the shape (batch, channels, [frames,] height, width)."""
    sizes = [-(-size // side) for size, side in zip(shape[2:], patch, strict=True)]
    frames, height, width = [1, *sizes] if len(sizes) == 2 else sizes
    return frames, height * width


def _patches(module: nn.Module, latent: Tensor) -> tuple[int, int]:
    return _patched(latent.shape, module.patch_size)


def _wan_grid(module: nn.Module, latent: Tensor, arguments: Mapping[str, Any]) -> Grid:
    frames, positions = _patches(module, latent)
    # A reference goes in front where the model embeds it by itself, and at the end, behind the video, otherwise.
    in_front = getattr(module, "ref_conv", None) is not None and arguments.get("reference_latent") is not None
    return Grid(frames, positions, start=positions if in_front else 0)


def _scail_grid(module: nn.Module, latent: Tensor, arguments: Mapping[str, Any]) -> Grid:
    frames, positions = _patches(module, latent)
    references = arguments.get("reference_latent")
    return Grid(frames, positions, start=0 if references is None else _patches(module, references)[0] * positions)


def _cogvideo_grid(module: nn.Module, latent: Tensor, arguments: Mapping[str, Any]) -> Grid:
    return Grid(*_patched(latent.shape, (module.patch_size_t or 1, module.patch_size, module.patch_size)))


def _predict2_grid(module: nn.Module, latent: Tensor, arguments: Mapping[str, Any]) -> Grid:
    return Grid(*_patched(latent.shape, (module.patch_temporal, module.patch_spatial, module.patch_spatial)))


def _packed_video(latent: Tensor, arguments: Mapping[str, Any]) -> tuple[int, ...]:
    """Shape of the video in a latent in which it and the sound lie in a row."""
    shapes = arguments.get("latent_shapes", (latent.shape,))
    return tuple(shapes[0])


def _ltx2_grid(module: nn.Module, latent: Tensor, arguments: Mapping[str, Any]) -> Grid:
    # As for LTXV; the sound is a stream of its own.
    frames, height, width = _packed_video(latent, arguments)[2:]
    return Grid(frames, height * width)


def _minimax_grid(module: nn.Module, latent: Tensor, arguments: Mapping[str, Any]) -> Grid:
    # Text, references and the sound come first.
    frames, positions = _patched(_packed_video(latent, arguments), module.patch_size)
    return Grid(frames, positions, start=-frames * positions)


def _mochi_grid(module: nn.Module, latent: Tensor, arguments: Mapping[str, Any]) -> Grid:
    return Grid(*_patched(latent.shape, (1, module.patch_size, module.patch_size)))


def _kandinsky_grid(module: nn.Module, latent: Tensor, arguments: Mapping[str, Any]) -> Grid:
    # The same model makes pictures, whose latent has no frames.
    return Grid(*_patched(latent.shape, module.patch_size[5 - latent.ndim :]))


def _picture_grid(module: nn.Module, latent: Tensor, arguments: Mapping[str, Any]) -> Grid:
    return Grid(*_patched(latent.shape, (module.patch_size, module.patch_size)))


def _qwen_grid(module: nn.Module, latent: Tensor, arguments: Mapping[str, Any]) -> Grid:
    return Grid(*_patched(latent.shape, (1, module.patch_size, module.patch_size)))


def _lumina_grid(module: nn.Module, latent: Tensor, arguments: Mapping[str, Any]) -> Grid:
    # Text and references come in front; only what pads the picture is behind it.
    frames, positions = _patched(latent.shape, (module.patch_size, module.patch_size))
    multiple = getattr(module, "pad_tokens_multiple", None) or 1
    return Grid(frames, positions, start=-(-(-positions // multiple) * multiple))


def _hidream_grid(module: nn.Module, latent: Tensor, arguments: Mapping[str, Any]) -> Grid | None:
    # A picture to edit is beside this one, so that the rows of both take turns.
    return None if arguments.get("image_cond") is not None else _picture_grid(module, latent, arguments)


def _hunyuan_grid(module: nn.Module, latent: Tensor, arguments: Mapping[str, Any]) -> Grid:
    reference = arguments.get("ref_latent")
    start = 0 if reference is None else _patches(module, reference)[0] * _patches(module, reference)[1]
    return Grid(*_patches(module, latent), start=start)


def _ltxv_grid(module: nn.Module, latent: Tensor, arguments: Mapping[str, Any]) -> Grid:
    # Keyframes that drop tokens leave fewer than this, and then there is no grid (Grid.fits).
    frames, height, width = latent.shape[2:]
    return Grid(frames, height * width)


FAMILIES = (
    Family(
        name="Wan",
        classes=(
            "comfy.ldm.wan.model.WanModel",
            "comfy.ldm.wan.model.CameraWanModel",
            "comfy.ldm.wan.model.VaceWanModel",
            "comfy.ldm.wan.model.WanModel_S2V",
            "comfy.ldm.wan.model.HumoWanModel",
            "comfy.ldm.wan.model_animate.AnimateWanModel",
        ),
        layout=StackLayout(("blocks",), (Head("head"),), stream="x"),
        grid=_wan_grid,
    ),
    Family(
        # In step with the video's blocks runs a branch for the pose, of which nothing is left behind them.
        name="Wan Animate 2",
        classes=("comfy.ldm.wan.model_animate2.WanAnimate2Model",),
        layout=StackLayout(("blocks",), (Head("head"),), method="forward_gen"),
        grid=_wan_grid,
    ),
    Family(
        name="Wan Dancer",
        classes=("comfy.ldm.wan.model_wandancer.WanDancerModel",),
        layout=StackLayout(("blocks",), (Head("head"), Head("head_global")), stream="x"),
        grid=_wan_grid,
    ),
    Family(
        name="SCAIL",
        classes=("comfy.ldm.wan.model.SCAILWanModel", "comfy.ldm.wan.model.SCAIL2WanModel"),
        layout=StackLayout(("blocks",), (Head("head"),), stream="x"),
        grid=_scail_grid,
    ),
    Family(
        name="CogVideoX",
        classes=("comfy.ldm.cogvideo.model.CogVideoXTransformer3DModel",),
        layout=StackLayout(("blocks",), (Head("norm_final"),)),
        grid=_cogvideo_grid,
        slot="",
    ),
    Family(
        name="Cosmos-Predict2",
        classes=("comfy.ldm.cosmos.predict2.MiniTrainDIT",),
        layout=StackLayout(("blocks",), (Head("final_layer"),)),
        grid=_predict2_grid,
        slot="",
    ),
    Family(
        name="HunyuanVideo",
        classes=("comfy.ldm.hunyuan_video.model.HunyuanVideo",),
        layout=StackLayout(("double_blocks", "single_blocks"), (Head("final_layer", "last"),), stream="img"),
        grid=_hunyuan_grid,
    ),
    Family(
        name="LTXV",
        classes=("comfy.ldm.lightricks.model.LTXVModel",),
        layout=StackLayout(("transformer_blocks",), (Head("norm_out"),), stream="x"),
        grid=_ltxv_grid,
    ),
    Family(
        name="Anima",
        classes=("comfy.ldm.anima.model.Anima",),
        layout=StackLayout(("blocks",), (Head("final_layer"),)),
        grid=_predict2_grid,
        slot="",
    ),
    Family(
        # Between the blocks it adds a position embedding, also in front of the first: so a block stands in for all.
        name="Cosmos 1",
        classes=("comfy.ldm.cosmos.model.GeneralDIT",),
        layout=StackLayout(("blocks",), (), batch=3),
        grid=_predict2_grid,
        slot="",
    ),
    Family(
        name="Mochi",
        classes=("comfy.ldm.genmo.joint_model.asymm_models_joint.AsymmDiTJoint",),
        layout=StackLayout(("blocks",), (Head("final_layer"),)),
        grid=_mochi_grid,
    ),
    Family(
        name="Kandinsky 5",
        classes=("comfy.ldm.kandinsky5.model.Kandinsky5",),
        layout=StackLayout(("visual_transformer_blocks",), (Head("out_layer"),)),
        grid=_kandinsky_grid,
        slot="",
    ),
    Family(
        name="LTX-2",
        classes=("comfy.ldm.lightricks.av_model.LTXAVModel",),
        # Of the sound a reference is cut off in front of its head.
        layout=StackLayout(
            ("transformer_blocks",), (Head("norm_out"), Head("audio_norm_out", takes="last")), streams=2
        ),
        grid=_ltx2_grid,
    ),
    Family(
        name="MiniMax-H3",
        classes=("comfy.ldm.minimax.model.MiniMaxH3Model",),
        layout=StackLayout(("blocks",), (Head("final_layer"),), batch=None),
        grid=_minimax_grid,
    ),
    Family(
        name="Flux",
        classes=("comfy.ldm.flux.model.Flux",),
        layout=StackLayout(("double_blocks", "single_blocks"), (Head("final_layer", "last"),), stream="img"),
        grid=_picture_grid,
    ),
    Family(
        name="Chroma",
        classes=("comfy.ldm.chroma.model.Chroma",),
        layout=StackLayout(("double_blocks", "single_blocks"), (Head("final_layer", "last"),), stream="img"),
        grid=_picture_grid,
    ),
    Family(
        name="Qwen-Image",
        classes=("comfy.ldm.qwen_image.model.QwenImageTransformer2DModel",),
        layout=StackLayout(("transformer_blocks",), (Head("norm_out"),), output=1),
        grid=_qwen_grid,
    ),
    Family(
        name="Lumina 2 and Z-Image",
        classes=("comfy.ldm.lumina.model.NextDiT",),
        layout=StackLayout(("layers",), (Head("final_layer"),)),
        grid=_lumina_grid,
        slot="",
    ),
    Family(
        name="Stable Diffusion 3",
        classes=("comfy.ldm.modules.diffusionmodules.mmdit.OpenAISignatureMMDITWrapper",),
        layout=StackLayout(("joint_blocks",), (Head("final_layer"),), argument=1, output=1, by_index=True),
        grid=_picture_grid,
    ),
    Family(
        name="AuraFlow",
        classes=("comfy.ldm.aura.mmdit.MMDiT",),
        # Behind the blocks comes a modulation that is no module.
        layout=StackLayout(("double_layers", "single_layers"), (), argument=1, output=1),
        grid=_picture_grid,
    ),
    Family(
        name="HiDream",
        classes=("comfy.ldm.hidream.model.HiDreamImageTransformer2DModel",),
        layout=StackLayout(
            ("double_stream_blocks", "single_stream_blocks"), (Head("final_layer"),), stream="image_tokens"
        ),
        grid=_hidream_grid,
        slot="",
    ),
    Family(
        name="PixArt",
        classes=("comfy.ldm.pixart.pixartms.PixArtMS",),
        layout=StackLayout(("blocks",), (Head("final_layer"),)),
        grid=_picture_grid,
        slot="",
    ),
    Family(
        name="HunyuanDiT",
        classes=("comfy.ldm.hydit.models.HunYuanDiT",),
        layout=StackLayout(("blocks",), (Head("final_layer"),)),
        grid=_picture_grid,
    ),
)

LEFT_OUT = {
    "comfy.ldm.wan.ar_model.CausalWanModel": "it makes frame after frame, each from what it remembers of the last",
    "comfy.ldm.seedvr.model.NaDiT": "it takes a single step, of which nothing can be skipped",
}

_BY_CLASS = {name: family for family in FAMILIES for name in family.classes}


def class_name(module: nn.Module) -> str:
    """The full name of a diffusion model's class; a compiled model is known by what is in it."""
    return _name(type(getattr(module, "_orig_mod", module)))


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def known_family(kind: type) -> Family | None:
    """The row of a diffusion model's class, None if there is none."""
    return _BY_CLASS.get(_name(kind))


def family_of(kind: type, module: nn.Module, called: str = "") -> Family:
    """The row of a diffusion model.

    Args:
        kind: its class, as it will be when it samples.
        module: the model.
        called: what the host calls models of this kind.

    Raises:
        AdaCacheError: there is none; says what to do, and what is supported.
    """
    name = _name(kind)
    if name in _BY_CLASS:
        return _BY_CLASS[name]
    if name in LEFT_OUT:
        bypass = "Bypass this node (select it, Ctrl+B); all else works."
        raise AdaCacheError(f"AdaCache leaves {kind.__name__} out: {LEFT_OUT[name]}. {bypass}")
    of_bases = [_BY_CLASS[_name(base)] for base in kind.__mro__ if _name(base) in _BY_CLASS]
    for family in (*of_bases, *(family for family in FAMILIES if family.layout.heads)):
        if family.layout.fits(module):
            return replace(family, classes=(name,), grid=_unknown_grid, guessed=True)
    origin = f"{kind.__name__} from {module_of(kind)}"
    known = ", ".join(family.name for family in FAMILIES)
    which = f"{called} ({origin})" if called else origin
    raise AdaCacheError(
        f"AdaCache does not find the blocks of {which}. Take preset auto, which works on any model. "
        f"All others know: {known}."
    )


def _unknown_grid(module: nn.Module, latent: Tensor, arguments: Mapping[str, Any]) -> None:
    """Of a model that nobody has looked at: how it lays out its tokens is not to be guessed."""
