"""Prompts in API format: put together, executed, and what came of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import safetensors.torch
import torch

from adacache_core import RunReport
from tools.server import Server


def only(prompt: dict, kind: str) -> str:
    """The id of the one node of this class."""
    (node,) = [node for node, each in prompt.items() if each["class_type"] == kind]
    return node


def up_to(prompt: dict, last: str) -> dict:
    """The part of a graph that this node hangs on, and the node."""
    kept = {last}
    while more := {value[0] for node in kept for value in prompt[node]["inputs"].values() if is_link(value)} - kept:
        kept |= more
    return {node: each for node, each in prompt.items() if node in kept}


def is_link(value: Any) -> bool:
    return isinstance(value, list)


def saved_latent(node: str) -> dict:
    """What this node made, saved as it is; nodes and all, to be added to a prompt."""
    inputs = {"samples": [node, 0], "filename_prefix": "latent"}
    return {f"latent of {node}": {"class_type": "SaveLatent", "inputs": inputs}}


@dataclass
class Done:
    """A prompt that was executed: what its nodes left, and the steps each sampler really took."""

    prompt: dict
    outputs: dict = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)

    @property
    def report(self) -> RunReport:
        return self.report_of(only(self.prompt, "PreviewAny"))

    def report_of(self, node: str) -> RunReport:
        """The one that this PreviewAny shows."""
        return RunReport.from_json(self.outputs[node]["text"][0])

    def latent(self, server: Server, node: str) -> torch.Tensor:
        """What this sampler made, where the prompt has `saved_latent(node)`."""
        (file,) = self.outputs[f"latent of {node}"]["latents"]
        return safetensors.torch.load(server.view(file))["latent_tensor"]


# Told with every progress message: node, steps that it had done at the message before, steps done now.
Watch = Callable[[str, int, int], None]


def execute(server: Server, prompt: dict, metadata: dict | None = None, watch: Watch = lambda *told: None) -> Done:
    """Raises HostError as `Server.run` does."""
    done = Done(prompt)

    def progress(node: str, step: int, steps: int) -> None:
        watch(node, done.steps.get(node, 0), step)
        done.steps[node] = step

    done.outputs = server.run(prompt, progress, metadata)
    return done


def cancelling(server: Server, sampler: str, at: int) -> Watch:
    """Cancels the prompt once, when this sampler is told to have done so many steps or more."""

    def watch(node: str, before: int, step: int) -> None:
        if node == sampler and before < at <= step:
            server.interrupt()

    return watch
