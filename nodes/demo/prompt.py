"""Prompts for the demo model: one word per slot. `assets/words.json` lists the words."""

from __future__ import annotations

import json

import torch
from comfy_api.latest import io
from safetensors.torch import load_file

from ..schema import CATEGORY, found_by
from .model import ASSETS, TOKENS, as_shipped

# By slot. Read slot by slot, the words are the rows of the token table.
WORDS: dict[str, list[str]] = json.loads((ASSETS / "words.json").read_text(encoding="utf-8"))
ROW_OF = {word: row for row, word in enumerate(word for words in WORDS.values() for word in words)}

TOOLTIPS = {
    "shape": "What moves through the video. Start from circle.",
    "count": "How many shapes: one, three or six. Start from one; many are harder to skip steps for.",
    "colour": "Colour of the shapes; multi gives each its own. Start from red.",
    "motion": "How fast shapes and textures move. Start from slow, then compare static with fast.",
    "direction": "Where the shapes move at first; they bounce off the edges. mixed sends each its own way. Start from "
    "right.",
    "background": "What is behind the shapes; stripes and checker drift at half their speed. Start from dark.",
}


class AdaCacheDemoPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AdaCacheDemoPrompt",
            display_name="AdaCache Demo Prompt",
            category=CATEGORY,
            description="Makes a prompt for the AdaCache Demo Model, which knows only these words.",
            **found_by("example prompt", "test prompt"),
            inputs=[
                *(
                    io.Combo.Input(slot, options=words, default=words[0], tooltip=TOOLTIPS[slot])
                    for slot, words in WORDS.items()
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
        tokens = load_file(as_shipped(TOKENS))["tokens"].float()
        context = tokens[[ROW_OF[words[slot]] for slot in WORDS]][None]  # (1, 6, 4096)
        return io.NodeOutput([[torch.zeros_like(context) if empty else context, {}]])
