"""Writes docs/gpu.md from docs/gpu.json, and the README's sentence about it. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.host import ROOT
from tools.markdown import table

from .hosted import AUTO
from .parts import PARTS, Part
from .rows import Row, read_rows, write_json
from .runner import FINISHED, RUN

STORED = ROOT / "docs" / "gpu.json"

README = ROOT / "README.md"
MARK = "<!-- card, written by tools.gpu -->\n"  # in the README, above the line that is written here

NOTHING = "Nothing here has run on a CUDA card yet."

INTRO = """\
# On a CUDA card

`python -m tools.gpu page` writes this page from `gpu.json`. Do not edit it by hand. `tools/README.md` says how to run
the tests.
"""


def keep(folders: Sequence[Path], stored: Path = STORED) -> int:
    """Stores the results of a run and writes the page, gpu.md in the same folder.

    Args:
        folders: of one run, or of several runs on one kind of card; for each part, the last one counts.

    Returns:
        Exit status: 1 if a folder has no results, or has those of a rehearsal or of another card.
    """
    found: dict[str, Any] = {}
    for folder in folders:
        results = read(folder)
        if not results:
            print(f"error: there is no {RUN} in {folder}")
            return 1
        if results["run"]["rehearsal"]:
            print("error: these are the results of a rehearsal, which did not run on a card")
            return 1
        if found and results["run"]["card"] != found["run"]["card"]:
            print(f"error: {folder} has results of another card, {results['run']['card']}")
            return 1
        found = _joined(found, results)
    write(found, stored)
    print(sentence(found))
    if stored == STORED:
        README.write_text(with_sentence(README.read_text(), found))
    return 0


def with_sentence(readme: str, found: Mapping[str, Any]) -> str:
    """The README with a new line under its MARK, which says what ran on a card."""
    before, rest = readme.split(MARK)
    after = rest.split("\n", 1)[1]
    limit = "nobody has measured AdaCache on a large model with its real weights yet"
    above = "the figures above are from a small model on a CPU"
    return f"{before}{MARK}**Limit:** {limit}; {above}. {sentence(found)}\n{after}"


def _joined(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    if not before:
        return after
    ran = after["run"]["parts"]
    parts = before["run"]["parts"] | ran
    rows = before["rows"] | {name: rows for name, rows in after["rows"].items() if name in ran}
    return {"run": after["run"] | {"parts": parts}, "rows": rows}


def write(found: dict[str, Any], stored: Path = STORED) -> None:
    write_json(stored, found)
    stored.with_suffix(".md").write_text(page(found))


def read(folder: Path) -> dict[str, Any]:
    """The results of a run in this folder; {} if there are none."""
    if not (folder / RUN).exists():
        return {}
    run = json.loads((folder / RUN).read_text())
    return {"run": run, "rows": {part.name: read_rows(folder / f"{part.name}.json") for part in PARTS}}


def page(found: Mapping[str, Any]) -> str:
    """The whole page. For a part without results it says "not run", and why."""
    run = found.get("run")
    if run is None:
        head = NOTHING
    else:
        head = (
            f"{run['card']}, {run['cores']} cores, {run['date']}, commit {run['commit']}, torch {run['torch']}, "
            f"Python {run['python']}, ComfyUI {run['comfyui']}, allocator {run['allocator']}."
        )
        if run.get("note"):  # added to run.json by hand, about what else went on
            head += f" {run['note']}"
    sections = [_section(part, found.get("rows", {}).get(part.name, []), _state(run, part)) for part in PARTS]
    return "\n".join([INTRO, f"{head}\n", *sections]).rstrip() + "\n"


def _state(run: Mapping[str, Any] | None, part: Part) -> Mapping[str, Any]:
    if run is None:
        return {"state": "not run", "said": "there was no card"}
    return run["parts"].get(part.name, {"state": "not run", "said": "it was left out"})


def _section(part: Part, rows: Iterable[Row], state: Mapping[str, Any]) -> str:
    lines = [f"## {part.title}\n", f"{part.says}\n"]
    if state["state"] != FINISHED:
        lines.append(f"**{state['state'].capitalize()}**{': ' if state['said'] else ''}{state['said']}.\n")
    rows = list(rows)
    columns = {key: title for key, title in part.columns.items() if any(row.get(key) not in (None, "") for row in rows)}
    if rows:
        cells = ([*(_cell(row.get(key)) for key in columns), _outcome(row)] for row in rows)
        lines.append(table([*columns.values(), "outcome"], cells) + "\n")
    for row in rows:
        lines += [f"- failed: `{name}`: {_plain(why)}" for name, why in row.get("failed", {}).items()]
    return "\n".join(lines).rstrip() + "\n"


def _outcome(row: Row) -> str:
    said = f"not run: {_plain(row['not_run'])}" if row.get("not_run") else ""
    if row.get("ok") is False:
        return f"**failed**{', ' if said else ''}{said}"
    return said or ("passed" if row.get("ok") else "")


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else _plain(str(value))


def _plain(text: str) -> str:
    """The text in one line, without |, so that it fits into a cell."""
    return " ".join(text.split()).replace("|", "/")


def sentence(found: Mapping[str, Any]) -> str:
    """The README's sentences about the results."""
    run = found.get("run")
    laws = [row for row in found.get("rows", {}).get("laws", []) if row.get("of")]
    costs = [row for row in found.get("rows", {}).get("cost", []) if row.get("way") == AUTO and "computed_s" in row]
    if run is None or not (laws or costs):
        return NOTHING
    said = [f"On a card ({run['card']}, {run['date']}):"]
    if laws:
        passed, of = (sum(row[key] for row in laws) for key in ("passed", "of"))
        crashed = sum("crashed" in row.get("not_run", "") for row in found["rows"]["laws"])
        processes = "1 test process crashed when it ended" if crashed == 1 else f"{crashed} test processes crashed"
        crashes = f", and {processes}" if crashed else ""
        said.append(f"{passed} of {of} tests with tiny models pass{crashes}.")
    if costs:
        row = max(costs, key=lambda row: row["plain_s"])
        said.append(
            f"A step of {row['model']}, with random weights, takes {row['plain_s']:.2f} s; with auto "
            f"{row['computed_s']:.2f} s if it is computed, and {1000 * row['reused_s']:.1f} ms if it is skipped."
        )
    return f"{' '.join(said)} [All figures, and what failed](docs/gpu.md)."
