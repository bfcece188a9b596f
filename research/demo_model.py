"""The demo model without ComfyUI: runs in diffusers, with ComfyUI's noise, noise levels and samplers.

The model is the one in `nodes/demo/assets`. This file measures and writes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from math import log
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from adacache_core import FAST_30, AdaCache, CacheConfig, Fixed, RunReport, Schedule

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel

ASSETS = Path(__file__).parents[1] / "nodes" / "demo" / "assets"
SHIPPED = ASSETS / "demo_wan.safetensors"

# The architecture of SHIPPED, in diffusers' words.
ARCHITECTURE = {
    "_class_name": "WanTransformer3DModel",
    "patch_size": [1, 2, 2],
    "num_attention_heads": 2,
    "attention_head_dim": 128,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "ffn_dim": 1024,
    "num_layers": 6,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "eps": 1e-6,
    "image_dim": None,
    "rope_max_seq_len": 1024,
}

# Slot -> its words. In this order they are the rows of prompt_tokens.safetensors.
WORDS: dict[str, list[str]] = json.loads((ASSETS / "words.json").read_text())

LATENT = (1, 16, 8, 16, 16)  # batch, channels, frames, height, width, as in training
PATCHED = (8, 64)  # frames, tokens per frame

SHIFT = 8.0  # ComfyUI's value for Wan 2.1

# Wan 2.1's latent-to-RGB factors, as published: (16 channels, 3 colours), and an offset.
RGB_FACTORS = (
    (-0.1299, -0.1692, 0.2932),
    (0.0671, 0.0406, 0.0442),
    (0.3568, 0.2548, 0.1747),
    (0.0372, 0.2344, 0.1420),
    (0.0313, 0.0189, -0.0328),
    (0.0296, -0.0956, -0.0665),
    (-0.3477, -0.4059, -0.2925),
    (0.0166, 0.1902, 0.1975),
    (-0.0412, 0.0267, -0.1364),
    (-0.1293, 0.0740, 0.1636),
    (0.0680, 0.3019, 0.1128),
    (0.0032, 0.0581, 0.0639),
    (-0.1251, 0.0927, 0.1699),
    (0.0060, -0.0633, 0.0005),
    (0.3477, 0.2275, 0.2950),
    (0.1984, 0.0913, 0.1861),
)
RGB_BIAS = (-0.1835, -0.0868, -0.3360)


def load(
    device: str | None = None, checkpoint: Path = SHIPPED, architecture: dict[str, Any] = ARCHITECTURE
) -> WanTransformer3DModel:
    """Loads the demo model, or another file in the original Wan layout: in float32, on the GPU if there is one.

    Needs no network. Only this function needs diffusers; the others also work in ComfyUI's Python, which may lack it.
    """
    from diffusers import WanTransformer3DModel
    from diffusers.utils import logging

    logging.set_verbosity_error()  # diffusers warns of a cast that does not happen, because everything is float32
    with TemporaryDirectory() as folder:
        config = Path(folder) / "transformer" / "config.json"
        config.parent.mkdir()
        config.write_text(json.dumps(architecture))
        model = WanTransformer3DModel.from_single_file(
            str(checkpoint),
            config=folder,
            subfolder="transformer",
            torch_dtype=torch.float32,
            local_files_only=True,
        )
    return model.eval().requires_grad_(False).to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def prompt_context(prompt: str | Sequence[str]) -> Tensor:
    """The text embedding of a prompt: one word per slot of WORDS, in order.

    Returns:
        (1, 6, 4096), float32.

    Raises:
        ValueError: there are not six words, or a slot does not have the word.
    """
    words = prompt.split() if isinstance(prompt, str) else list(prompt)
    slots = list(WORDS.values())
    if len(words) != len(slots) or any(word not in slot for word, slot in zip(words, slots, strict=True)):
        raise ValueError(
            f"a demo prompt has one word of each of: {'; '.join(map(' '.join, slots))}. Got: {' '.join(words)}"
        )
    rows = [word for slot in slots for word in slot]
    tokens = load_file(ASSETS / "prompt_tokens.safetensors")["tokens"]
    return tokens[[rows.index(word) for word in words]][None].float()


def sigmas(steps: int, shift: float = SHIFT) -> Tensor:
    """Noise levels of ComfyUI's `simple` scheduler for a flow model: every n-th of its 1000 levels, down to 0.

    Returns:
        float32, (steps + 1,), the first is 1.
    """
    t = torch.tensor([1000 - int(index * (1000 / steps)) for index in range(steps)] + [0]) / 1000
    return shift * t / (1 + (shift - 1) * t)


# (latent (1, 16, 8, 16, 16), step, sigma) -> guided velocity of the same shape. A sampler calls this.
Evaluate = Callable[[Tensor, int, float], Tensor]


@torch.no_grad()  # not inference mode, in which a benchmark cannot count operations
def sample(
    model: WanTransformer3DModel,
    prompt: str | Sequence[str],
    seed: int,
    steps: int,
    cfg: float,
    config: CacheConfig | None = None,
    schedule: Iterable[int] | None = None,
    label: str | None = None,
    sampler: str = "euler",
) -> tuple[Tensor, RunReport | None]:
    """Samples one video as ComfyUI's KSampler does.

    Args:
        model: from `load`.
        prompt: see `prompt_context`; the negative prompt is the empty one.
        seed: of the noise, which is drawn on the CPU as ComfyUI does.
        cfg: scale of the guidance; with 1, the empty prompt is left out.
        config: AdaCache's settings; without config and schedule, AdaCache is not used.
        schedule: the steps to compute, from 0 to steps - 1 and including 0, in place of AdaCache's choice.
        label: of the progress bar; with None there is no bar.
        sampler: one of SAMPLERS.

    Returns:
        The finished latent, (1, 16, 8, 16, 16), float32 on the CPU, and the report of the run, if AdaCache was used.
    """
    noise, context = noise_of(seed).to(model.device), guided_context(prompt, cfg).to(model.device)
    if config is None and schedule is None:
        return integrate(guided(model, context, cfg), noise, steps, sampler, label), None

    with cached(model, context, steps, cfg, config, schedule, sampler) as (evaluate, run):
        latent = integrate(evaluate, noise, steps, sampler, label)
    return latent, run.report


@contextmanager
def cached(
    model: WanTransformer3DModel,
    context: Tensor,
    steps: int,
    cfg: float,
    config: CacheConfig | None = None,
    schedule: Iterable[int] | None = None,
    sampler: str = "euler",
) -> Iterator[tuple[Evaluate, AdaCache]]:
    """`guided` with AdaCache on the model, for one run; arguments as for `sample`."""
    chunks = ["positive", "negative"][: len(context)]
    levels = sigmas(steps).tolist()
    if schedule is not None:
        planned = set(schedule)
        config = config or CacheConfig(FAST_30)
        wanted = Schedule(tuple(step in planned for step in range(steps)))
        config = replace(config, policy=Fixed(wanted, config.at_output))

    def asked(video_of: Callable[[Tensor, float], Tensor], x: Tensor) -> Tensor:
        return integrate(lambda x, step, sigma: (x - video_of(x, sigma)) / sigma, x, steps, sampler)

    with AdaCache(
        model, blocks="blocks", head="norm_out", steps=steps, config=config, sigmas=levels, sampler=asked
    ) as run:
        plain = guided(model, context, cfg, lambda step, sigma: run.call(chunks, *PATCHED))

        def evaluate(x: Tensor, step: int, sigma: float) -> Tensor:
            with run.evaluation(step, sigma):
                return run.velocity(x, lambda: plain(x, step, sigma))

        yield evaluate, run


def noise_of(seed: int) -> Tensor:
    """The noise that ComfyUI draws for this seed, (1, 16, 8, 16, 16)."""
    return torch.randn(LATENT, generator=torch.manual_seed(seed))


def guided_context(prompt: str | Sequence[str], cfg: float) -> Tensor:
    """Embeddings (1 or 2, 6, 4096): of the prompt and, unless cfg is 1, of the empty prompt."""
    context = prompt_context(prompt)
    return context if cfg == 1 else torch.cat([context, torch.zeros_like(context)])


def guided(
    model: WanTransformer3DModel,
    context: Tensor,
    cfg: float,
    around: Callable[[int, float], AbstractContextManager] = lambda step, sigma: nullcontext(),
) -> Evaluate:
    """Classifier-free guidance with both prompts in one batch. Each model call is inside `around(step, sigma)`."""

    def evaluate(x: Tensor, step: int, sigma: float) -> Tensor:
        timestep = torch.full((len(context),), 1000 * sigma, device=x.device)
        with around(step, sigma):
            v = model(x.expand(len(context), -1, -1, -1, -1), timestep, context, return_dict=False)[0]
        positive, negative = v[:1], v[-1:]
        return negative + cfg * (positive - negative)

    return evaluate


@torch.no_grad()
def integrate(
    evaluate: Evaluate, noise: Tensor, steps: int, sampler: str = "euler", label: str | None = None
) -> Tensor:
    """Integrates from noise to video along the noise levels of `sigmas`.

    Returns:
        The latent, of the shape of the noise, on the CPU.

    Raises:
        KeyError: SAMPLERS has no such sampler.
    """
    levels = sigmas(steps).tolist()
    advance = SAMPLERS[sampler]()
    x = noise
    for step in tqdm(range(steps), desc=label, disable=label is None, mininterval=1):
        x = advance(x, evaluate(x, step, levels[step]), levels[step], levels[step + 1])
    return x.cpu()


class Euler:
    """Euler's method."""

    def __call__(self, x: Tensor, v: Tensor, sigma: float, following: float) -> Tensor:
        return x + (following - sigma) * v


class DPMSolver2M:
    """DPM-Solver++(2M), Lu et al. 2022, with lambda = -log sigma, which ComfyUI uses for flow models too."""

    def __init__(self) -> None:
        self._last: tuple[Tensor, float] | None = None

    def __call__(self, x: Tensor, v: Tensor, sigma: float, following: float) -> Tensor:
        estimate = video = x - sigma * v
        if self._last is not None and following > 0:
            earlier, before = self._last
            ratio = log(sigma / following) / log(before / sigma)  # step in lambda over the last step
            estimate = video + ratio / 2 * (video - earlier)
        self._last = video, sigma
        return following / sigma * x + (1 - following / sigma) * estimate


SAMPLERS = {"euler": Euler, "dpmpp_2m": DPMSolver2M}


def preview(latent: Tensor) -> Tensor:
    """The preview that ComfyUI shows of a latent from `sample`.

    Returns:
        (frames, height, width, 3), RGB in [0, 1].
    """
    rgb = torch.einsum("kthw,kc->thwc", latent[0], torch.tensor(RGB_FACTORS)) + torch.tensor(RGB_BIAS)
    return ((rgb + 1) / 2).clamp(0, 1)
