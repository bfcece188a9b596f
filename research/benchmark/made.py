"""When, where and with which command a figure was measured. Measures nothing itself."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import torch

from tools.host import ROOT

CPU_INFO = Path("/proc/cpuinfo")


def circumstances(command: str) -> dict[str, str]:
    """The circumstances of a measurement made now, in this process.

    Args:
        command: with which a reader can repeat it.
    """
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)  # noqa: S607
    return {
        "command": command,
        "date": date.today().isoformat(),
        "commit": commit.stdout.strip(),
        "machine": machine(),
        "torch": torch.__version__,
    }


def machine() -> str:
    """Name of the processor, its cores, how many of them torch uses, and the GPU if there is one."""
    names = [line.partition(":")[2].strip() for line in _lines(CPU_INFO) if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    parts = [name, f"{os.cpu_count()} cores", f"{torch.get_num_threads()} used by torch"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join(parts)


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def sentence(made: Mapping[str, str]) -> str:
    """`circumstances` as a sentence for the line under a heading, with its `note` if it has one."""
    text = f"`{made['command']}`, {made['date']}, commit {made['commit']}, torch {made['torch']}, {made['machine']}."
    return f"{text} {made['note']}" if "note" in made else text
