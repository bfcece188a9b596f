"""The table: what AdaCache has to know about each family of ComfyUI's models. A family is a row.

A row says where the blocks and heads are, where a block takes the hidden states, and where the video is in the tokens.
The class of the diffusion model decides which row it gets. A class without a row gets that of its base class, or of a
model that has the same blocks and heads: the first step of a run checks that it is right (`Engine.prove`), and if it
is not, nothing is skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from ...adacache_core.errors import AdaCacheError
from ...adacache_core.reuse.layout import Grid, Head, StackLayout
from .others import module_of

Arguments = Mapping[str, Any]  # keyword arguments of a call of the model


@dataclass(frozen=True)
class Family:
    """One row.

    Attributes:
        name: what users call these models.
        classes: full names of the diffusion models' classes.
        layout: where blocks and heads are.
        patch: attributes of the model with the size of a patch: along frames, and along height and width; "" for 1.
            Where the second holds several numbers, these are all sizes.
        start: what comes before the video in the tokens: "" for nothing, or the argument of the call that holds a
            latent of references. Else a function (diffusion model, arguments of the call, the video as if nothing
            came before it) -> index of the video's first token, see `Grid.start`; None if the video is not in one
            piece.
        slot: how `patches_replace["dit"]` names the blocks of the first container, if nodes can replace them.
        guessed: whether the row was made for other classes than these; then nothing is known about the tokens.
    """

    name: str
    classes: tuple[str, ...]
    layout: StackLayout
    patch: tuple[str, str] = ("", "patch_size")
    start: str | Callable[[nn.Module, Arguments, Grid], int | None] = ""
    slot: str = "double_block"
    guessed: bool = False

    def grid(self, module: nn.Module, latent: Tensor, arguments: Arguments) -> Grid | None:
        """Where the video is in the tokens of a call; None: unknown.

        Args:
            module: the diffusion model.
            latent: as the model gets it, (batch, channels, [frames,] height, width); video and sound in a row.
            arguments: keyword arguments of the call.
        """
        if self.guessed:
            return None
        (shape, *_) = arguments.get("latent_shapes", [latent.shape])  # the video's comes before the sound's
        video = self._patched(module, shape)
        if callable(self.start):
            start = self.start(module, arguments, video)
            return None if start is None else replace(video, start=start)
        references = arguments.get(self.start)
        if references is None:
            return video
        before = self._patched(module, references.shape)
        return replace(video, start=before.frames * before.positions)

    def _patched(self, module: nn.Module, shape: Sequence[int]) -> Grid:
        """The tokens of a latent of this shape."""
        time, space = (getattr(module, name) if name else 1 for name in self.patch)
        sides = space if isinstance(space, Sequence) else (time or 1, space, space)  # CogVideoX 1.0: time is None
        sizes = shape[2:]
        counts = [-(-size // side) for size, side in zip(sizes, sides[-len(sizes) :], strict=True)]
        frames, height, width = [1, *counts][-3:]
        return Grid(frames, height * width)


def _wan_start(module: nn.Module, arguments: Arguments, video: Grid) -> int:
    # The one frame of a reference comes first if the model has an embedding for it, else behind the video.
    comes_first = getattr(module, "ref_conv", None) is not None and arguments.get("reference_latent") is not None
    return video.positions if comes_first else 0


def _at_the_end(module: nn.Module, arguments: Arguments, video: Grid) -> int:
    # Text, references and sound come first. Only what fills up a picture of Z-Image follows it.
    multiple = getattr(module, "pad_tokens_multiple", None) or 1
    return -(-(-video.frames * video.positions // multiple) * multiple)


def _hidream_start(module: nn.Module, arguments: Arguments, video: Grid) -> int | None:
    # A picture to edit is beside the new one, so the tokens of their rows alternate.
    return None if arguments.get("image_cond") is not None else 0


_COSMOS_PATCH = ("patch_temporal", "patch_spatial")


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
        start=_wan_start,
    ),
    Family(
        # A branch for the pose runs beside the video's blocks and ends with them.
        name="Wan Animate 2",
        classes=("comfy.ldm.wan.model_animate2.WanAnimate2Model",),
        layout=StackLayout(("blocks",), (Head("head"),), method="forward_gen"),
        start=_wan_start,
    ),
    Family(
        name="Wan Dancer",
        classes=("comfy.ldm.wan.model_wandancer.WanDancerModel",),
        layout=StackLayout(("blocks",), (Head("head"), Head("head_global")), stream="x"),
        start=_wan_start,
    ),
    Family(
        name="SCAIL",
        classes=("comfy.ldm.wan.model.SCAILWanModel", "comfy.ldm.wan.model.SCAIL2WanModel"),
        layout=StackLayout(("blocks",), (Head("head"),), stream="x"),
        start="reference_latent",
    ),
    Family(
        name="CogVideoX",
        classes=("comfy.ldm.cogvideo.model.CogVideoXTransformer3DModel",),
        layout=StackLayout(("blocks",), (Head("norm_final"),)),
        patch=("patch_size_t", "patch_size"),
        slot="",
    ),
    Family(
        name="Cosmos-Predict2",
        classes=("comfy.ldm.cosmos.predict2.MiniTrainDIT",),
        layout=StackLayout(("blocks",), (Head("final_layer"),)),
        patch=_COSMOS_PATCH,
        slot="",
    ),
    Family(
        name="HunyuanVideo",
        classes=("comfy.ldm.hunyuan_video.model.HunyuanVideo",),
        layout=StackLayout(("double_blocks", "single_blocks"), (Head("final_layer", takes="last"),), stream="img"),
        start="ref_latent",
    ),
    Family(
        name="LTXV",
        classes=("comfy.ldm.lightricks.model.LTXVModel",),
        layout=StackLayout(("transformer_blocks",), (Head("norm_out"),), stream="x"),
        patch=("", ""),  # if keyframes drop tokens, there are fewer than this, and the grid is given up (`Grid.fits`)
    ),
    Family(
        name="Anima",
        classes=("comfy.ldm.anima.model.Anima",),
        layout=StackLayout(("blocks",), (Head("final_layer"),)),
        patch=_COSMOS_PATCH,
        slot="",
    ),
    Family(
        # It adds a position embedding before every block, also before the first, so the stack begins and ends with a
        # block.
        name="Cosmos 1",
        classes=("comfy.ldm.cosmos.model.GeneralDIT",),
        layout=StackLayout(("blocks",), (), batch=3),
        patch=_COSMOS_PATCH,
        slot="",
    ),
    Family(
        name="Mochi",
        classes=("comfy.ldm.genmo.joint_model.asymm_models_joint.AsymmDiTJoint",),
        layout=StackLayout(("blocks",), (Head("final_layer"),)),
    ),
    Family(
        name="Kandinsky 5",
        classes=("comfy.ldm.kandinsky5.model.Kandinsky5",),
        layout=StackLayout(("visual_transformer_blocks",), (Head("out_layer"),)),
        slot="",
    ),
    Family(
        name="LTX-2",
        classes=("comfy.ldm.lightricks.av_model.LTXAVModel",),
        # The reference voice is dropped before the head of the sound.
        layout=StackLayout(
            ("transformer_blocks",), (Head("norm_out"), Head("audio_norm_out", takes="last")), streams=2
        ),
        patch=("", ""),
    ),
    Family(
        name="MiniMax-H3",
        classes=("comfy.ldm.minimax.model.MiniMaxH3Model",),
        layout=StackLayout(("blocks",), (Head("final_layer"),), batch=None),
        start=_at_the_end,
    ),
    Family(
        name="Flux",
        classes=("comfy.ldm.flux.model.Flux",),
        layout=StackLayout(("double_blocks", "single_blocks"), (Head("final_layer", takes="last"),), stream="img"),
    ),
    Family(
        name="Chroma",
        classes=("comfy.ldm.chroma.model.Chroma",),
        layout=StackLayout(("double_blocks", "single_blocks"), (Head("final_layer", takes="last"),), stream="img"),
    ),
    Family(
        name="Qwen-Image",
        classes=("comfy.ldm.qwen_image.model.QwenImageTransformer2DModel",),
        layout=StackLayout(("transformer_blocks",), (Head("norm_out"),), output=1),
    ),
    Family(
        name="Lumina 2 and Z-Image",
        classes=("comfy.ldm.lumina.model.NextDiT",),
        layout=StackLayout(("layers",), (Head("final_layer"),)),
        start=_at_the_end,
        slot="",
    ),
    Family(
        name="Stable Diffusion 3",
        classes=("comfy.ldm.modules.diffusionmodules.mmdit.OpenAISignatureMMDITWrapper",),
        layout=StackLayout(("joint_blocks",), (Head("final_layer"),), argument=1, output=1, by_index=True),
    ),
    Family(
        name="AuraFlow",
        classes=("comfy.ldm.aura.mmdit.MMDiT",),
        # A modulation that is not a module follows the blocks.
        layout=StackLayout(("double_layers", "single_layers"), (), argument=1, output=1),
    ),
    Family(
        name="HiDream",
        classes=("comfy.ldm.hidream.model.HiDreamImageTransformer2DModel",),
        layout=StackLayout(
            ("double_stream_blocks", "single_stream_blocks"), (Head("final_layer"),), stream="image_tokens"
        ),
        start=_hidream_start,
        slot="",
    ),
    Family(
        name="PixArt",
        classes=("comfy.ldm.pixart.pixartms.PixArtMS",),
        layout=StackLayout(("blocks",), (Head("final_layer"),)),
        slot="",
    ),
    Family(
        name="HunyuanDiT",
        classes=("comfy.ldm.hydit.models.HunYuanDiT",),
        layout=StackLayout(("blocks",), (Head("final_layer"),)),
    ),
)

LEFT_OUT = {
    "comfy.ldm.wan.ar_model.CausalWanModel": "it makes one frame after another, each from its memory of the last",
    "comfy.ldm.seedvr.model.NaDiT": "it takes a single step, so nothing can be skipped",
}

_BY_CLASS = {name: family for family in FAMILIES for name in family.classes}


def class_name(module: nn.Module) -> str:
    """The full name of a diffusion model's class; of a compiled model, that of the model in it."""
    return _name(type(getattr(module, "_orig_mod", module)))


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def known_family(kind: type) -> Family | None:
    """The row of a diffusion model's class, None if there is none."""
    return _BY_CLASS.get(_name(kind))


def family_of(kind: type, module: nn.Module, called: str = "") -> Family:
    """The row of a diffusion model.

    Args:
        kind: the class that it will have when it samples.
        module: the model.
        called: what the host calls models like it, for the error.

    Raises:
        AdaCacheError: there is none; says what to do and which models have one.
    """
    name = _name(kind)
    if name in _BY_CLASS:
        return _BY_CLASS[name]
    if name in LEFT_OUT:
        bypass = "Bypass this node (select it and press Ctrl+B); the rest of the workflow works without it."
        raise AdaCacheError(f"AdaCache does not work with {kind.__name__}: {LEFT_OUT[name]}. {bypass}")
    of_bases = [_BY_CLASS[_name(base)] for base in kind.__mro__ if _name(base) in _BY_CLASS]
    for family in (*of_bases, *(family for family in FAMILIES if family.layout.heads)):
        if family.layout.fits(module):
            return replace(family, classes=(name,), guessed=True)
    origin = f"{kind.__name__} from {module_of(kind)}"
    known = ", ".join(family.name for family in FAMILIES)
    which = f"{called} ({origin})" if called else origin
    raise AdaCacheError(
        f"AdaCache cannot find the blocks of {which}. Use preset auto or quality, which work on any model. "
        f"The other presets work on: {known}."
    )
