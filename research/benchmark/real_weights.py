"""The section of docs/paper_tables.md on real weights; `research/vbench_wan.py` measures its figures."""

from __future__ import annotations

from tools.markdown import table

from .made import sentence

HEADING = "## With real weights"
COMMAND = "python -m research.vbench_wan WEIGHTS PROMPTS OUT"
OPEN_SORA = "Open-Sora 1.2, which the paper measured, was not run: we had neither its weights nor its code."

NOTHING = table(
    ["model", "result"],
    [
        ["Wan 2.1, VBench", f"not run: no weights were available; `{COMMAND}` fills this table"],
        ["Open-Sora 1.2, VBench", "not run: neither weights nor the model's code were available"],
    ],
)
NOT_RUN = f"""{HEADING}

{NOTHING}
"""


def section(stored: dict) -> str:
    """From the rows that `research/vbench_wan.py` measured and how they were made."""
    dimensions = list(dict.fromkeys(name for row in stored["rows"] for name in row["vbench"]))
    names = ["setting", "computed", "s", "PSNR", "SSIM", "motion kept", *dimensions]
    lines = [HEADING + "\n", sentence(stored["made"]) + "\n", f"{stored['what']}. {OPEN_SORA}", ""]
    if not dimensions:
        lines += ["VBench was not run: it was not installed.\n"]
    rows = []
    for row in stored["rows"]:
        cells = [row["setting"], f"{row['computed']:g} of {row['total']}", f"{row['seconds']:.1f}"]
        cells += [f"{row['psnr']:.2f}", f"{row['ssim']:.3f}", f"{row['motion_kept']:.3f}"]
        cells += [f"{row['vbench'][name]:.4f}" for name in dimensions]
        rows.append(cells)
    return "\n".join([*lines, table(names, rows)]) + "\n"
