"""Writes docs/compatibility.md: the results of the host tests, for every ComfyUI on which they were run.

`python -m tools.host_tests --compatibility` runs the tests and writes the page; with names of tests, it runs only those
again. The first table is about ComfyUI's official templates: `python -m tools.compatibility official.xml` makes it from
a JUnit file (`tools/official.py` says how to get one). Only the list of what was not tried is written by hand.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.etree import ElementTree

from tools import official
from tools.host import PLACES, ROOT, find_host, version_of
from tools.markdown import table

RESULTS = ROOT / "docs" / "compatibility.json"
PAGE = ROOT / "docs" / "compatibility.md"

# Tests that are run for every model -> heading of their column.
COLUMNS = {
    "test_law_1_off_is_off": "off",
    "test_law_1_watching_changes_nothing": "watching",
    "test_law_4_a_reused_step_equals_per_block_reuse": "reused",
    "test_law_4_a_reused_step_equals_per_block_reuse bfloat16": "reused, bf16",
    "test_law_4_a_reused_step_equals_per_block_reuse float16": "reused, fp16",
    "test_law_3_batched_separate_and_alternating_conditionings_make_the_same_video": "batched or not",
    "test_law_2_the_model_is_untouched_and_a_second_run_equals_the_first": "second run",
    "test_law_6_the_report_equals_what_counters_inside_the_blocks_saw": "report",
    "test_law_5_a_run_that_was_stopped_holds_nothing_and_leaves_no_trace": "stopped",
    "test_a_change_at_one_place_of_the_latent_moves_exactly_the_token_that_the_grid_says": "frames",
}

GENERATED = "`python -m tools.host_tests --compatibility` writes this page. Do not edit it by hand."

EXPLAINED = """\
The tests use tiny models with random weights, made by ComfyUI's own loader or from its own classes. A figure is the
largest error, relative to the largest number; 0 means equal, bit for bit. A dash means: not tried.

- **off**, **watching**: the difference from the model without AdaCache; with skipping switched off, and with everything
  measured but nothing skipped.
- **reused**: the difference between a reused step and reuse block by block.
- **batched or not**: the difference between conditionings in one call, in separate calls, and in both by turns.
- **second run**: it equals the first run, and the MODEL is unchanged.
- **report**: it says the same as counters inside the blocks.
- **stopped**: after a cancelled run, a lack of memory or an error, nothing is held, and the next run is like the first.
- **frames**: a change at one place of the latent changes the token that MoReg expects for that place."""

LONGEST_LIST = 300  # characters; a longer list of a test's cases is left out

NOT_TRIED = """\
## Not tried

All of this page ran on a CPU. [What ran on a CUDA card](gpu.md): seven kinds of models and the ways to start ComfyUI,
with 0.33.0 alone. Not tried anywhere: CUDA graphs, models with their real weights, several GPUs (their tests use two
threads and two copies of the model on one CPU), and ComfyUI from 0.34 on."""

OTHERS = """\
## Samplers, graphs and neighbours

Each row is a test, and its name says what it shows. The cells say how many of its cases passed, and why others were
skipped."""


@dataclass(frozen=True)
class Result:
    """The result of one test.

    Attributes:
        file: name of its file, without folder and ending.
        test: name of the function.
        case: its parameters, "" if it has none.
        outcome: "passed", "failed", or the reason for skipping it.
        error: largest relative error, or None if it measured none.
    """

    file: str
    test: str
    case: str
    outcome: str
    error: float | None


def read(junit: Path) -> list[Result]:
    """Reads the results from a JUnit file of pytest."""
    return [_result(case) for case in ElementTree.parse(junit).getroot().iter("testcase")]  # noqa: S314 (ours)


def _result(case: ElementTree.Element) -> Result:
    test, _, of = case.get("name", "").partition("[")
    skipped = case.find("skipped")
    failed = case.find("failure") is not None or case.find("error") is not None
    outcome = "failed" if failed else "passed" if skipped is None else skipped.get("message", "skipped")
    errors = [each.get("value", "") for each in case.iter("property") if each.get("name") == "error"]
    file = case.get("classname", "").rpartition(".")[2]
    return Result(file, test, of.removesuffix("]"), outcome, float(errors[0]) if errors else None)


def save(host: str, made: str, results: list[Result], again: bool = False) -> None:
    """Replaces the stored results of one ComfyUI, and writes the page.

    Args:
        host: version of the ComfyUI.
        made: when, from which commit and with which torch, as a sentence.
        results: of its tests.
        again: these are only some of the tests, run again with all their cases; keep the results of the others.
    """
    stored = read_stored()
    rows = [asdict(result) for result in results]
    if again:
        files = ", ".join(dict.fromkeys(result.file for result in results))
        made = f"{stored[host]['made']} Run again later, only {files}: {made}"
        new = {(row["file"], row["test"]) for row in rows}
        rows = [row for row in stored[host]["results"] if (row["file"], row["test"]) not in new] + rows
    stored[host] = {"made": made, "results": rows}
    # One line for each test, so that a diff shows what changed.
    RESULTS.write_text(json.dumps(stored).replace('{"file"', '\n{"file"') + "\n")
    PAGE.write_text(page(stored, official.section()))


def read_stored() -> dict[str, dict]:
    """Version of ComfyUI -> its stored results."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def page(stored: Mapping[str, dict], for_users: str = "") -> str:
    """The page in Markdown, newest ComfyUI first.

    Args:
        stored: as `read_stored` returns it.
        for_users: a section to put first.
    """
    hosts = sorted(stored, key=lambda host: [int(part) for part in re.findall(r"\d+", host)], reverse=True)
    parts = ["# Compatibility", "", GENERATED, ""]
    if for_users:
        parts += [for_users, "", "## Model by model", ""]
    parts += [EXPLAINED]
    for host in hosts:
        results = [Result(**each) for each in stored[host]["results"]]
        parts += ["", f"## ComfyUI {host}", "", stored[host]["made"], "", _models(results)]
    parts += ["", OTHERS, ""]
    parts += [_sentences({host: [Result(**each) for each in stored[host]["results"]] for host in hosts}), "", NOT_TRIED]
    return "\n".join(parts) + "\n"


def _models(results: list[Result]) -> str:
    cells: dict[str, dict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        model, low = _split(result.case)
        column = COLUMNS.get(f"{result.test} {low}".strip())
        if column:
            cells[model][column].append(result)
    heads = list(COLUMNS.values())
    rows = []
    for model, row in cells.items():
        reasons = {result.outcome for each in row.values() for result in each}
        if len(reasons) == 1 and not reasons & {"passed", "failed"}:
            rows.append([model, reasons.pop(), *[""] * (len(heads) - 1)])
        else:
            rows.append([model, *(_cell(row[head]) for head in heads)])
    return table(["model", *heads], rows)


def _split(case: str) -> tuple[str, str]:
    """The model of a case, and its dtype if that is a half-precision one, else ""."""
    parts = re.split(r"-(?=block|output|callback|head|dtype)", case)
    low = case.rpartition("torch.")[2] if "torch." in case else ""
    model = re.sub(r"-(torch\.\w+|dtype\d+)$", "", parts[0])
    return model, "" if low == "float32" else low


def _cell(results: list[Result]) -> str:
    if not results:
        return "–"
    outcomes = {result.outcome for result in results}
    if outcomes != {"passed"}:
        return "**failed**" if "failed" in outcomes else ", ".join(sorted(outcomes - {"passed"}))
    errors = [result.error for result in results if result.error is not None]
    return f"{max(errors):.1g}" if errors else "yes"


def _sentences(by_host: Mapping[str, list[Result]]) -> str:
    """A table of all other tests: the name as a sentence, and how many cases passed on each ComfyUI."""
    tests = dict.fromkeys(
        (result.file, result.test)
        for results in by_host.values()
        for result in results
        if not any(name.split()[0] == result.test for name in COLUMNS)
    )
    rows = []
    for file, test in sorted(tests):
        of_hosts = [[each for each in by_host[host] if (each.file, each.test) == (file, test)] for host in by_host]
        sentence = test.removeprefix("test_").replace("_", " ")
        all_cases = dict.fromkeys(result.case for results in of_hosts for result in results if result.case)
        cases = ", ".join(case for case in all_cases if "\\" not in case)  # pytest writes other letters as escapes
        of = f" ({cases})" if 0 < len(cases) < LONGEST_LIST else ""
        rows.append([f"{sentence}{of}", *(_count(results) for results in of_hosts)])
    return table(["", *by_host], rows)


def _count(results: list[Result]) -> str:
    if not results:
        return "–"
    passed = sum(result.outcome == "passed" for result in results)
    reasons = sorted({result.outcome for result in results} - {"passed"})
    count = f"{passed} of {len(results)}" if len(results) > 1 or not passed else "yes"
    return "; ".join([count, *("**failed**" if reason == "failed" else reason for reason in reasons)])


def main(junit: str) -> int:
    """Stores the results on official templates, and writes the page."""
    host = find_host()
    if host is None:
        print(f"no ComfyUI was found (looked at {PLACES}), so its version is unknown", file=sys.stderr)
        return 1
    official.save(version_of(host), Path(junit))
    PAGE.write_text(page(read_stored(), official.section()))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
