"""Tables in Markdown, for the pages that the tools write. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def table(heads: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    """A table in GitHub's Markdown, without a line break at its end.

    Args:
        heads: one for each column.
        rows: each with as many cells as there are heads. Cells are converted by `str`. They may contain Markdown, but
            no line break, and no | without a backslash.

    Raises:
        ValueError: a row has more or fewer cells than there are heads.
    """
    heads = [str(head) for head in heads]
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        lines.append([str(cell) for cell in row])
        if len(lines[-1]) != len(heads):
            raise ValueError(f"a row has {len(lines[-1])} cells, the table {len(heads)} columns: {lines[-1]}")
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
