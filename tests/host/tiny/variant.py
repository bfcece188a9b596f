"""What a tiny model is and how the host's own loader makes it.

The loader makes all of it, except for some modules before the blocks that are replaced by stand-ins: encoders of sound,
faces and texts with fixed widths of thousands (of HuMo, Animate and Anima), and the refiner of Lumina's pictures. Where
the loader assumes a width instead of reading it from the weights, it is given the one used here.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

FRAMES, HEIGHT, WIDTH = 4, 8, 8  # of the latent


@dataclass(frozen=True)
class Tiny:
    """A model and the inputs with which it is sampled.

    Attributes:
        model: the host's ModelPatcher.
        latent: zeros, (1, channels, frames, height, width); with sound, a NestedTensor of this and the sound's.
        positive, negative: CONDITIONING.
        noise_mask: of the latent, or None.
        variant: from which it was made.
    """

    model: Any
    latent: Any
    positive: list
    negative: list
    noise_mask: Tensor | None
    variant: Variant

    @property
    def module(self) -> nn.Module:
        return self.model.model.diffusion_model


@dataclass(frozen=True)
class Variant:
    """How to make a tiny model.

    Attributes:
        architecture: settings -> an empty module of the diffusion model's class, on the meta device.
        extras: () -> what the conditionings hold besides the text.
        text_width: of the text embeddings.
        channels: of the latent.
        size: frames, height, width of the latent; of a picture height and width.
        text_tokens: of the positive and the negative prompt; if they differ, the host calls the model once for each.
        between: paths of modules that run between the blocks.
        head: name of the head, if not one of the usual ones; "" if the stack ends with its last block.
        argument: index of the hidden states among the positional arguments of the first blocks.
        output: their index in the tuple that these return.
        batch: batch dimension of the hidden states; None: they have none.
        method: the method of a block that the model calls.
        sound: shape of the sound's latent, without batch, if the model makes sound; its stream is the second.
        sound_head: name of the head of that stream, if it has its own.
        keeps: attributes in which the host's own code leaves tensors of a call.
        stand_ins: submodules, by name, that replace what the loader makes.
        since: the oldest host on which the tiny model can be made; the real one may run on older ones.
        sizes: settings that the loader does not read from the weights; loader and architecture get them from here.
    """

    architecture: Callable[[dict], nn.Module]
    extras: Callable[[], dict] = dict
    text_width: int = 4096
    channels: int = 16
    size: tuple[int, ...] = (FRAMES, HEIGHT, WIDTH)
    text_tokens: tuple[int, int] = (6, 6)
    noise_mask: Callable[[], Tensor] | None = None
    between: tuple[str, ...] = ()
    head: str | None = None
    argument: int = 0
    output: int = 0
    batch: int | None = 0
    method: str = "forward"
    sound: tuple[int, ...] = ()
    sound_head: str = ""
    keeps: tuple[str, ...] = ()
    stand_ins: dict[str, Callable[[], nn.Module]] = field(default_factory=dict)
    since: str = ""
    sizes: dict[str, Any] = field(default_factory=dict)

    def build(self, dtype: torch.dtype = torch.float32) -> Tiny:
        """Made by `load_diffusion_model_state_dict`, and set to compute in `dtype` (on a CPU the host uses float32)."""
        import comfy.model_detection
        import comfy.ops
        import comfy.sd

        if self.sound:
            import comfy.nested_tensor

        settings = {"operations": comfy.ops.disable_weight_init, "dtype": torch.float32, "device": "meta"}
        with _weights_at_once():
            weights = fill(self.architecture(settings | self.sizes), blank=tuple(self.stand_ins))
        with self._told_sizes():
            model = comfy.sd.load_diffusion_model_state_dict(weights, model_options={"dtype": dtype})
        model.model.manual_cast_dtype = None
        for name, stand_in in self.stand_ins.items():
            setattr(model.model.diffusion_model, name, stand_in())
        generator = torch.Generator().manual_seed(7)
        texts = (torch.randn(1, tokens, self.text_width, generator=generator) for tokens in self.text_tokens)
        positive, negative = ([[text, self.extras()]] for text in texts)
        latent: Any = torch.zeros(1, self.channels, *self.size)
        if self.sound:
            latent = comfy.nested_tensor.NestedTensor([latent, torch.zeros(1, *self.sound)])
        noise_mask = None if self.noise_mask is None else self.noise_mask()
        return Tiny(model, latent, positive, negative, noise_mask, self)

    def _told_sizes(self) -> Any:
        """A context in which the loader finds `sizes` in addition to what it reads from the weights."""
        import comfy.model_detection

        detect = comfy.model_detection.detect_unet_config
        return mock.patch.object(
            comfy.model_detection, "detect_unet_config", lambda *args, **kwargs: detect(*args, **kwargs) | self.sizes
        )


def _weights_at_once() -> Any:
    """A context in which the host's layers make their weights at once; with dynamic VRAM they wait for a state dict."""
    try:
        import comfy.memory_management
    except ImportError:  # an older host
        return nullcontext()
    return mock.patch.object(comfy.memory_management, "aimdo_enabled", False, create=True)


def fill(module: nn.Module, blank: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """A reproducible state dict: norms 1, biases small, matrices N(0, 1 / fan-in).

    Submodules named in `blank` are zeros that take no memory; the loader needs their keys.
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
    """The output of a CLIP vision encoder."""
    return SimpleNamespace(penultimate_hidden_states=noise(1, 5, 1280), last_hidden_state=noise(1, 5, 1152))


# For Flux, and HunyuanVideo, which is built like it.
TWO_STREAMS = {
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
