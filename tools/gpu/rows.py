"""Results on their way to a file: rows under a key, written whole whenever one changes. Knows no meaning of a row.

A row is a flat dict. Two keys mean the same in all: `ok`, False where a fault was found, and `not_run`, why.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Rows:
    """The rows of one part, in the order in which they were first put."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.by_key: dict[str, Row] = {}

    def put(self, key: str, row: Mapping[str, Any]) -> None:
        """Puts a row in place of the one of this key, if there is one, and writes the file."""
        self.put_all({key: row})

    def put_all(self, rows: Mapping[str, Mapping[str, Any]]) -> None:
        if rows and any(self.by_key.get(key) != row for key, row in rows.items()):
            self.by_key |= {key: dict(row) for key, row in rows.items()}
            write_json(self.path, list(self.by_key.values()))


def read_rows(path: Path) -> list[Row]:
    return json.loads(path.read_text()) if path.exists() else []


def write_json(path: Path, content: Any) -> None:
    """Replaces the file at once: a kill leaves the one before whole."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(beside, path)
