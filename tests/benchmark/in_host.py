"""Samples with the methods of a host, in the host's own Python, and tells step by step what ran: see `main`.

Started by test_through_host.py; knows what is to be run, and judges nothing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

STEPS = 21  # neither end of the native caches, nor a start of the packs, falls onto a step
VIDEO = ("slow", "circle one green slow left dark", 13, "euler", STEPS)


def main(library: str, out: Path) -> None:
    """Writes runs.json and latents.pt: name of the run -> what `Steps` saw, and the latent.

    A run is called "plain", or after its method and setting; the setting `off` is called so.
    """
    sys.modules["diffusers"] = None  # a host's Python may lack it
    from tools.benchmark.fitted import seen
    from tools.benchmark.meter import Meter
    from tools.benchmark.videos import Video
    from tools.benchmark.worker import library_class

    class Steps(Meter):
        """Also counts block calls and operations of each step."""

        def __init__(self) -> None:
            super().__init__()
            self.marks = [(0, 0)]

        def mark(self) -> None:
            super().mark()
            self.marks.append((self.block_calls, self.flops))

        def row(self) -> dict:
            steps = [(b - a, d - c) for (a, c), (b, d) in zip(self.marks, self.marks[1:], strict=False)]
            return {"blocks": [blocks for blocks, _ in steps], "flops": [flops for _, flops in steps]} | {
                "held": self.held_bytes
            }

    torch.set_num_threads(1)
    host, video = library_class(library)(), Video(*VIDEO)
    runs, latents = {}, {}

    def run(name: str, method=None, setting=None) -> None:
        steps = Steps()
        latents[name] = host.sample(video, steps, method, setting)
        runs[name] = steps.row()

    run("plain")
    for method in host.methods:
        run(f"{method.name}, off", method, method.off)
        for label, setting in [*method.settings.items()][-2:]:  # the boldest skip most
            run(f"{method.name}, {label}", method, setting)
    told = {"runs": runs, "settings": {method.name: method.settings for method in host.methods}}
    if library == "packs":
        fit = host.fitted(video)
        model = host.load()
        with seen(model.model.diffusion_model) as calls:
            host.run(model, video, Meter())
        told["fitted"] = {
            "embedding": fit.teacache,
            "projection": fit.teacache_retention,
            "ratios": fit.magcache.tolist(),
        }
        told["signals"] = {
            name: [getattr(call, name)[0].tolist() for call in calls] for name in ("embedding", "projection")
        }
    (out / "runs.json").write_text(json.dumps(told))
    torch.save(latents, out / "latents.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
