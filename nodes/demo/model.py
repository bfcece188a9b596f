"""A small video model to try AdaCache on; `assets/README.md` describes it."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from comfy.sd import load_diffusion_model
from comfy_api.latest import io
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor

from ...adacache_core.errors import AdaCacheError
from ..schema import CATEGORY, found_by

ASSETS = Path(__file__).parent / "assets"
MODEL, TOKENS, CODE = "demo_wan.safetensors", "prompt_tokens.safetensors", "clip_code.safetensors"
SHA256 = {
    MODEL: "baf90eff79a00652cdf6be68f1d8f7530ebeaa4d2183a346f2172d43ba2336dd",
    TOKENS: "9a625f15898b7a812bc07e701cffeca83a97b4f50f43c6fa38c2491dd3561d1d",
    CODE: "e1e7045a3ed7cf88215d32c44c5774dbfec686a5efa5de2caab8cf1a3d2bd748",
}
HOLDS_CLIPS = "adacache_demo"  # attached to the MODEL of the demo: `clip_of` makes pictures of its latents


class AdaCacheDemoModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AdaCacheDemoModel",
            display_name="AdaCache Demo Model",
            category=CATEGORY,
            description="Lets you try AdaCache within a minute, with a small Wan video model that comes with it. "
            "Sample an empty HunyuanVideo latent of 128 x 128, length 29, with euler and simple.",
            **found_by("example model", "test model"),
            inputs=[],
            outputs=[io.Model.Output(display_name="model")],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        model = load_diffusion_model(str(as_shipped(MODEL)))
        model.set_attachments(HOLDS_CLIPS, True)
        return io.NodeOutput(model)


def clip_of(latent: Tensor) -> Tensor:
    """The clip that a latent of the demo model holds, in full: it is a fixed linear code of 2 frames x 2 x 2 pixels.

    Args:
        latent: as the model works in it, (batch, 16, frames, height, width).

    Returns:
        (batch * 2 frames, 2 height, 2 width, 3) in [0, 1].
    """
    code = load_file(as_shipped(CODE), device=str(latent.device))
    cells = (latent.movedim(1, -1) - code["offset"]) @ code["decode"]
    clip = rearrange(cells, "b t h w (dt dh dw c) -> (b t dt) (h dh) (w dw) c", dt=2, dh=2, dw=2)
    return ((clip + 1) / 2).clamp(0, 1)


def as_shipped(name: str) -> Path:
    """A file of ASSETS, of which every byte is what it should be.

    Raises:
        AdaCacheError: it is missing or damaged; of a model with wrong weights nobody would notice otherwise.
    """
    path = ASSETS / name
    if not path.is_file() or sha256(path.read_bytes()).hexdigest() != SHA256[name]:
        raise AdaCacheError(f"{path} is missing or not as it was shipped; install AdaCache again")
    return path
