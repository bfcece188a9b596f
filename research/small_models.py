"""The small models that we train: for each its architecture, its training data and its checkpoint.

demo is shipped with the pack, and constants are tuned on it alone; the others only judge (see docs/demo_model.md).
`train_demo` trains them. ComfyUI and diffusers are imported only when one of their models is made.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from research import clips, demo_model, real_clips
from tools.host import find_host

CHECKPOINTS = Path(__file__).parent / "checkpoints"


@dataclass(frozen=True)
class Stage:
    """A stage of a training: first single pictures, then short clips, then whole clips."""

    frames: int  # latent frames of its clips
    batch: int  # clips per step on a CPU; all stages have about as many tokens per step
    until: float  # share of all training steps at which the stage ends


@dataclass(frozen=True)
class SmallModel:
    """A small model.

    Attributes:
        name: on the command line and in records.
        file: its checkpoint.
        latent: shape (batch, channels, frames, height, width) of its latents.
        shift: of the noise levels in training.
        unconditional: share of the training clips without their prompt, for guidance.
        steps: of the training.
        curriculum: stages of the training.
        make: returns a new model with initial weights.
        throw: (number, latent frames, dice) -> random clean latents, and their contexts (number, tokens, 4096).
        ask: (model, x, noise levels of the batch, contexts) -> velocity.
        export: (model, path) writes the checkpoint.
        read: (path) -> the model that `export` wrote.
        rate: learning rate.
        teacher: for a distilled model, the model whose steps it learns to join into one; `make` copies it.
    """

    name: str
    file: Path
    latent: tuple[int, int, int, int, int]
    shift: float
    unconditional: float
    steps: int
    curriculum: tuple[Stage, ...]
    make: Callable[[], nn.Module]
    throw: Callable[[int, int, torch.Generator], tuple[Tensor, Tensor]]
    ask: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
    export: Callable[[nn.Module, Path], None]
    read: Callable[[Path], nn.Module]
    rate: float = 1.5e-3
    teacher: str | None = None

    def load(self, checkpoint: Path | None = None) -> nn.Module:
        """The trained model for use: in float32 on the CPU, without gradients.

        Args:
            checkpoint: if another than `file`.

        Raises:
            FileNotFoundError: there is no such checkpoint.
            RuntimeError: the model has ComfyUI's own class, and there is no ComfyUI.
        """
        checkpoint = checkpoint or self.file
        if not checkpoint.exists():
            raise FileNotFoundError(f"no checkpoint of {self.name}: {checkpoint}")
        return self.read(checkpoint).eval().requires_grad_(False)


# --- Wan, through diffusers --------------------------------------------------------------------------------------

# The model that learns real clips: 4.7 million weights in eight layers, narrower than the six of the demo model.
CLIPS_ARCHITECTURE = demo_model.ARCHITECTURE | {
    "num_attention_heads": 1,
    "attention_head_dim": 192,
    "ffn_dim": 384,
    "num_layers": 8,
}

# Part of a name in diffusers -> in the original, in order of replacement. "." marks the end of such a part.
ORIGINAL_NAMES = (
    ("condition_embedder.time_embedder.linear_1.", "time_embedding.0."),
    ("condition_embedder.time_embedder.linear_2.", "time_embedding.2."),
    ("condition_embedder.text_embedder.linear_1.", "text_embedding.0."),
    ("condition_embedder.text_embedder.linear_2.", "text_embedding.2."),
    ("condition_embedder.time_proj.", "time_projection.1."),
    ("proj_out.", "head.head."),
    (".attn1.", ".self_attn."),
    (".attn2.", ".cross_attn."),
    (".to_q.", ".q."),
    (".to_k.", ".k."),
    (".to_v.", ".v."),
    (".to_out.0.", ".o."),
    (".norm2.", ".norm3."),  # the norm before the cross-attention
    (".ffn.net.0.proj.", ".ffn.0."),
    (".ffn.net.2.", ".ffn.2."),
    (".scale_shift_table", ".modulation"),  # of a block
    ("scale_shift_table", "head.modulation"),
)


def new_wan(architecture: dict[str, Any]) -> nn.Module:
    """A new model. At first its blocks add nothing, and it predicts zero."""
    from diffusers import WanTransformer3DModel

    model = WanTransformer3DModel.from_config(architecture)
    _xavier(model)
    embedder = model.condition_embedder
    nn.init.normal_(embedder.text_embedder.linear_1.weight, std=0.05)
    tables = [part.scale_shift_table for part in (model, *model.blocks)]
    outputs = [block.attn2.to_out[0].weight for block in model.blocks]
    for weight in (embedder.time_proj.weight, model.proj_out.weight, *outputs, *tables):
        nn.init.zeros_(weight)
    return model


def _xavier(model: nn.Module) -> None:
    for layer in model.modules():
        if isinstance(layer, (nn.Linear, nn.Conv3d)):
            nn.init.xavier_uniform_(layer.weight.view(layer.weight.shape[0], -1))
            nn.init.zeros_(layer.bias)


def original_name(name: str) -> str:
    """The name in Wan's own checkpoints, and in ComfyUI, of the weight that diffusers calls `name`."""
    for theirs, original in ORIGINAL_NAMES:
        name = name.replace(theirs, original)
    return name


def export_wan(model: nn.Module, path: Path) -> None:
    """Writes a checkpoint in float16 and in the original layout."""
    save_file({original_name(name): _half(weight) for name, weight in model.state_dict().items()}, path)


def _half(weight: Tensor) -> Tensor:
    return weight.half().contiguous().cpu()


def read_wan(architecture: dict[str, Any]) -> Callable[[Path], nn.Module]:
    """A function that reads a checkpoint of this architecture."""
    return lambda path: demo_model.load("cpu", path, architecture)


def ask_wan(model: nn.Module, x: Tensor, levels: Tensor, context: Tensor) -> Tensor:
    return model(x, 1000 * levels, context, return_dict=False)[0]


# --- HunyuanVideo, through the host ------------------------------------------------------------------------------

# The settings that ComfyUI detects in such a checkpoint. Its heads have width 128, so there is one.
TWO_STREAMS_ARCHITECTURE = {
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": None,
    "context_in_dim": 4096,
    "hidden_size": 128,
    "mlp_ratio": 4.0,
    "num_heads": 1,
    "depth": 3,
    "depth_single_blocks": 6,
    "axes_dim": [16, 56, 56],
    "theta": 256,
    "patch_size": [1, 2, 2],
    "qkv_bias": True,
    "guidance_embed": False,
    "byt5": False,
    "meanflow": False,
    "use_cond_type_embedding": False,
    "vision_in_dim": None,
    "meanflow_sum": False,
}


def new_two_streams(architecture: dict[str, Any] = TWO_STREAMS_ARCHITECTURE) -> nn.Module:
    """A new model of ComfyUI's own class. At first its blocks add nothing, and it predicts zero.

    Needs ComfyUI's Python.

    Raises:
        RuntimeError: there is no ComfyUI.
    """
    folder = find_host()
    if folder is None:
        raise RuntimeError("this model has ComfyUI's own class, so it needs a ComfyUI and its Python")
    enter_host(folder)
    import comfy.model_management
    import comfy.ops
    from comfy.ldm.hunyuan_video.model import HunyuanVideo

    comfy.model_management.in_training = True  # selects a rotary embedding that has a gradient
    model = HunyuanVideo(**architecture, dtype=torch.float32, device="cpu", operations=comfy.ops.disable_weight_init)
    for layer in model.modules():
        if isinstance(layer, (nn.LayerNorm, nn.RMSNorm)) and layer.weight is not None:
            nn.init.ones_(layer.weight)
        if isinstance(layer, nn.LayerNorm) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
        if isinstance(layer, nn.LayerNorm):
            # Otherwise its blocks write into normalised tensors that the gradient still needs.
            layer.register_forward_pre_hook(lambda norm, args: (args[0].clone(), *args[1:]))
    _xavier(model)
    nn.init.normal_(model.txt_in.input_embedder.weight, std=0.05)
    gates = [module.lin.weight for module in model.modules() if type(module).__name__ == "Modulation"]
    for weight in (*gates, model.final_layer.linear.weight, model.final_layer.adaLN_modulation[1].weight):
        nn.init.zeros_(weight)
    return model


@cache
def enter_host(folder: Path) -> None:
    """Makes a ComfyUI's modules importable here, for the CPU.

    Raises:
        ImportError: this Python lacks its requirements.
    """
    sys.path.insert(0, str(folder))  # in front, because our root also has a module `nodes`
    from comfy.cli_args import args

    args.cpu = args.use_pytorch_cross_attention = args.disable_xformers = True


def export_plain(model: nn.Module, path: Path) -> None:
    """Writes a checkpoint in float16, without renaming the weights."""
    save_file({name: _half(weight) for name, weight in model.state_dict().items()}, path)


def read_two_streams(path: Path) -> nn.Module:
    """Reads what `export_plain` wrote. Needs ComfyUI's Python."""
    model = new_two_streams()
    model.load_state_dict({name: weight.float() for name, weight in load_file(path).items()})
    return model


def ask_two_streams(model: nn.Module, x: Tensor, levels: Tensor, context: Tensor) -> Tensor:
    return model(x, 1000 * levels, context)


# --- Training data -----------------------------------------------------------------------------------------------


@cache
def prompt_tokens() -> Tensor:
    """The embedding of each word, (24, 4096): drawn once from N(0, 0.25^2) and shipped with the pack."""
    return load_file(demo_model.ASSETS / "prompt_tokens.safetensors")["tokens"].float()


def context_of(tokens: Tensor, words: Tensor) -> Tensor:
    """Text embeddings of `clips.random_prompts`: (batch, 6, 4096)."""
    lengths = torch.tensor([0] + [len(slot) for slot in clips.SLOTS[:-1]], device=words.device)
    return tokens[words + lengths.cumsum(0)]


def throw_drawn(size: int) -> Callable[[int, int, torch.Generator], tuple[Tensor, Tensor]]:
    """Drawn clips, for latents of this height and width."""

    def throw(number: int, frames: int, dice: torch.Generator) -> tuple[Tensor, Tensor]:
        words = clips.random_prompts(number, dice)
        clean = clips.encode(clips.draw(words, dice, frames, size))
        return clean, context_of(prompt_tokens().to(dice.device), words)

    return throw


def throw_real(number: int, frames: int, dice: torch.Generator) -> tuple[Tensor, Tensor]:
    """Real clips, all equally likely.

    Raises:
        PackageNotFoundError, KeyError: see `real_clips.clip`.
    """
    numbers = torch.randint(len(real_clips.listed()), (number,), generator=dice, device=dice.device)
    clean = clips.encode(real_clips.draw(numbers, dice, 2 * frames))
    return clean, torch.stack([real_clips.context(each) for each in numbers.tolist()]).to(dice.device)


def new_distilled() -> nn.Module:
    """A copy of the teacher, two_streams."""
    return read_two_streams(MODELS["two_streams"].file)


# Noise levels for distilled models, from noise to video: those of LTX-2.3's official workflow, and eight even ones with
# MiniMax-H3 turbo's shift of 12.
DISTILLED_LEVELS = {
    "LTX-2.3": (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0),
    "H3 turbo": tuple(12 * t / (1 + 11 * t) for t in (1 - step / 8 for step in range(9))),
}

TWO_STREAMS_LATENT = (1, 16, 6, 20, 20)
WHOLE_TWO_STREAMS = Stage(6, 8, 1.0)

MODELS = {
    model.name: model
    for model in (
        SmallModel(
            name="demo",
            file=demo_model.SHIPPED,
            latent=demo_model.LATENT,
            shift=3.0,
            unconditional=0.1,
            steps=5400,
            curriculum=(Stage(1, 64, 0.18), Stage(4, 16, 0.30), Stage(8, 8, 1.0)),
            make=lambda: new_wan(demo_model.ARCHITECTURE),
            throw=throw_drawn(clips.SIZE),
            ask=ask_wan,
            export=export_wan,
            read=read_wan(demo_model.ARCHITECTURE),
        ),
        SmallModel(
            name="clips",
            file=CHECKPOINTS / "clips.safetensors",
            latent=demo_model.LATENT,
            shift=2.0,
            unconditional=0.1,
            steps=1300,
            curriculum=(Stage(1, 64, 0.15), Stage(4, 16, 0.30), Stage(8, 8, 1.0)),
            make=lambda: new_wan(CLIPS_ARCHITECTURE),
            throw=throw_real,
            ask=ask_wan,
            export=export_wan,
            read=read_wan(CLIPS_ARCHITECTURE),
        ),
        SmallModel(
            name="two_streams",
            file=CHECKPOINTS / "two_streams.safetensors",
            latent=TWO_STREAMS_LATENT,
            shift=5.0,
            unconditional=0.0,  # it is sampled without guidance
            steps=1400,
            curriculum=(Stage(1, 48, 0.18), Stage(3, 16, 0.30), WHOLE_TWO_STREAMS),
            make=new_two_streams,
            throw=throw_drawn(TWO_STREAMS_LATENT[-1]),
            ask=ask_two_streams,
            export=export_plain,
            read=read_two_streams,
        ),
        SmallModel(
            name="distilled",
            file=CHECKPOINTS / "distilled.safetensors",
            latent=TWO_STREAMS_LATENT,
            shift=5.0,
            unconditional=0.0,
            steps=60,
            curriculum=(WHOLE_TWO_STREAMS,),
            make=new_distilled,
            throw=throw_drawn(TWO_STREAMS_LATENT[-1]),
            ask=ask_two_streams,
            export=export_plain,
            read=read_two_streams,
            rate=3e-4,
            teacher="two_streams",
        ),
    )
}
