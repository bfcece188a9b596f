"""A model to try AdaCache on, and its prompts. What they are is told in `demo_assets/README.md`."""

from __future__ import annotations

from pathlib import Path

import torch
from comfy.sd import load_diffusion_model
from comfy_api.latest import io
from safetensors.torch import load_file

from .schema import CATEGORY

ASSETS = Path(__file__).parent / "demo_assets"

# Slot -> (words, tooltip). The words, read slot by slot, are the rows of the token table.
SLOTS = {
    "shape": (("circle", "square", "triangle"), "What moves through the video. Start from circle."),
    "count": (
        ("one", "few", "many"),
        "How many shapes: one, three or six. Start from one; many are harder to skip steps for.",
    ),
    "colour": (
        ("red", "green", "blue", "yellow", "white", "multi"),
        "Colour of the shapes; multi gives each its own. Start from red.",
    ),
    "motion": (
        ("static", "slow", "fast"),
        "How fast shapes and textures move. Start from slow, then compare static with fast.",
    ),
    "direction": (
        ("right", "left", "down", "up", "mixed"),
        "Where the shapes set out to; they bounce off the edges. mixed sends each its own way. Start from right.",
    ),
    "background": (
        ("dark", "light", "stripes", "checker"),
        "Ground behind the shapes; stripes and checker drift with the motion. Start from dark.",
    ),
}
ROW_OF = {word: row for row, word in enumerate(word for words, _ in SLOTS.values() for word in words)}


class AdaCacheDemoModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AdaCacheDemoModel",
            display_name="AdaCache Demo Model",
            category=CATEGORY,
            description="A small Wan video model that comes with AdaCache, to try it within a minute. "
            "Sample an empty HunyuanVideo latent of 128 x 128, length 29, with euler and simple.",
            inputs=[],
            outputs=[io.Model.Output(display_name="model")],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(load_diffusion_model(str(ASSETS / "demo_wan.safetensors")))


class AdaCacheDemoPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AdaCacheDemoPrompt",
            display_name="AdaCache Demo Prompt",
            category=CATEGORY,
            description="A prompt for the AdaCache Demo Model, which knows only these words.",
            inputs=[
                *(
                    io.Combo.Input(slot, options=list(words), default=words[0], tooltip=tooltip)
                    for slot, (words, tooltip) in SLOTS.items()
                ),
                io.Boolean.Input(
                    "empty",
                    default=False,
                    tooltip="On gives the empty prompt, for the sampler's negative input; the words then do not "
                    "matter. Start from off.",
                ),
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning")],
        )

    @classmethod
    def execute(cls, empty: bool, **words: str) -> io.NodeOutput:
        tokens = load_file(ASSETS / "prompt_tokens.safetensors")["tokens"].float()
        context = tokens[[ROW_OF[words[slot]] for slot in SLOTS]][None]  # (1, 6, 4096)
        return io.NodeOutput([[torch.zeros_like(context) if empty else context, {}]])
