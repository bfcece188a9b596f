"""Measures the paper's tables, as far as we can: `python -m research.benchmark.paper_page`.

Stores the figures in docs/figures.json, and writes docs/paper_tables.md from them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from tools.host import ROOT

from . import ablation, auto_cost, codebook, cost, headline, models, per_layer, real_weights
from .made import circumstances

FIGURES = ROOT / "docs" / "figures.json"

MEASURES: dict[str, Callable[[], dict]] = {
    "headline": headline.measure_headline,
    "cost": cost.measure_cost,
    "auto_cost": auto_cost.measure_auto_cost,
    "models": models.measure_models,
    "ablation": ablation.measure_ablation,
    "per_layer": per_layer.measure_per_layer,
    "codebook_100": codebook.codebook_100,
}
SECTIONS: dict[str, Callable[[dict], str]] = {
    "headline": headline.section,
    "ablation": ablation.section,
    "per_layer": per_layer.section,
    "codebook_100": codebook.section,
    "models": models.section,
    "cost": cost.section,
    "auto_cost": auto_cost.section,
    "vbench": real_weights.section,
}

INTRO = """\
# The paper's tables, and what a call costs

`python -m research.benchmark.paper_page` writes this page from `figures.json`. Do not edit it by hand. The paper is
*Adaptive Caching for Faster Video Generation with Diffusion Transformers*, arXiv 2411.02397. AdaCache beside other
methods: [benchmarks](benchmarks.md).
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--page", action="store_true", help="measure nothing; write the page")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (default 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    write({} if arguments.page else measured(arguments.only))


def measured(names: Iterable[str]) -> dict[str, dict]:
    """Name of each of MEASURES -> its figures, and how they were made."""
    return {
        name: {"made": circumstances(f"python -m research.benchmark.paper_page --only {name}")} | MEASURES[name]()
        for name in names
    }


def write(new: dict[str, dict], figures: Path = FIGURES) -> None:
    """Adds `new` to the stored figures, and writes the page: paper_tables.md in the same folder."""
    stored = json.loads(figures.read_text()) if figures.exists() else {}
    stored |= new
    figures.write_text(json.dumps(stored, indent=1) + "\n")
    figures.with_name("paper_tables.md").write_text(page(stored))


def page(stored: dict[str, dict]) -> str:
    """docs/paper_tables.md from the stored figures, with a section for each of SECTIONS that was measured."""
    parts = [section(stored[name]) for name, section in SECTIONS.items() if name in stored]
    if "vbench" not in stored:
        parts.append(real_weights.NOT_RUN)
    return "\n".join([INTRO, *parts])


if __name__ == "__main__":
    main()
