"""Rows of results in a file, which is written again whenever a row changes.

A row is a flat dict. Two keys have the same meaning in all rows: `ok` is False if a fault was found; `not_run` says why
something was not run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Rows:
    """The rows of one part, in the order in which they were first added."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.by_key: dict[str, Row] = {}

    def put(self, key: str, row: Mapping[str, Any]) -> None:
        """Adds a row, in place of the row with this key if there is one, and writes the file."""
        self.put_all({key: row})

    def put_all(self, rows: Mapping[str, Mapping[str, Any]]) -> None:
        if rows and any(self.by_key.get(key) != row for key, row in rows.items()):
            self.by_key |= {key: dict(row) for key, row in rows.items()}
            write_json(self.path, list(self.by_key.values()))


def read_rows(path: Path) -> list[Row]:
    return json.loads(path.read_text()) if path.exists() else []


def write_json(path: Path, content: Any) -> None:
    """Replaces the file in one operation, so that the old one stays whole if the process is killed."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(beside, path)
