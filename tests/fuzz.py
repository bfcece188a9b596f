"""Texts that nobody meant: a correct one, changed in ways that files are broken and attackers think of. Seeded."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

DEEP = 400  # below and, twice, above what Python's reader of JSON can take
# Values as they stand in JSON; not all of them can be made by `json.dumps`.
VALUES = ["null", "true", "false", "-1", "0", "1", "2.5", "1e12", "1000000000000", "1.7e308", "1e-320", "1e999", "-0.0"]
VALUES += ["NaN", "Infinity", "-Infinity", "9" * 400, "9" * 5000, "-" + "9" * 400]
VALUES += ['""', '"x"', '"nan"', '"1"', r'"\ud800"', r'"\u0000\n\u202e"', '"' + "é" * 3000 + '"', '"../../up"']
VALUES += ["[]", "[1]", "[null]", '["x"]', "[[]]", "{}", '{"x": 1}', '{"": {"": []}}']
VALUES += ["[" * depth + "]" * depth for depth in (DEEP // 8, DEEP, 2 * DEEP)]
VALUES += ['{"x":' * depth + "1" + "}" * depth for depth in (DEEP // 8, DEEP, 2 * DEEP)]
PIECES = [
    "",
    " ",
    "\n",
    "\0",
    ",",
    ":",
    ".",
    "-",
    "{",
    "}",
    "[",
    "]",
    '"',
    "\\",
    "e9",
    "1" * 400,
    "1" * 5000,
    "nan",
    "inf",
]
PIECES += [
    "_",
    "١",
    "𝟘",
    "é",
    "\u202e",
    "\ud800",
    "\ufeff",
    "0x10",
    "1e308",
    "1e-320",
    "∞",
    "½",
    "true",
    "../",
    "%s",
    "{0}",
]


def texts(correct: str, count: int, seed: int = 0) -> Iterator[str]:
    """So many changed ones: characters changed, inserted, taken out, doubled, the end cut off."""
    dice = random.Random(seed)
    for _ in range(count):
        text = correct
        for _ in range(dice.choice((1, 1, 1, 2, 5))):
            begin = dice.randrange(len(text) + 1)
            end = min(len(text), begin + dice.choice((0, 1, 1, 2, 10)))
            kind = dice.randrange(6)
            if kind == 0:
                text = text[:begin]
            elif kind == 1:
                text = text[:begin] + text[begin:end] * 3 + text[end:]
            elif kind == 2:
                text = text[:begin] + chr(dice.randrange(0x250)) + text[end:]
            elif kind == 3 and begin < len(text):
                text = text[:begin] + chr(ord(text[begin]) ^ 1 << dice.randrange(7)) + text[begin + 1 :]
            else:
                text = text[:begin] + dice.choice(PIECES) + text[end:]
        yield text


def documents(correct: dict[str, Any], count: int, seed: int = 0) -> Iterator[str]:
    """So many changed JSON texts: values replaced, left out, doubled; every fourth one is a changed text."""
    dice = random.Random(seed)
    broken = texts(json.dumps(correct), count, seed)
    for number in range(count):
        if number % 4 == 3:
            yield next(broken)
            continue
        data = json.loads(json.dumps(correct))
        marks: dict[str, str] = {}
        for change in range(dice.choice((1, 1, 2, 4))):
            _change(data, dice, f"changed {change}", marks)
        text = json.dumps(data)
        for mark, value in marks.items():
            text = text.replace(f'"{mark}"', value)
        yield text


def _change(data: Any, dice: random.Random, mark: str, marks: dict[str, str]) -> None:
    """Changes one place; where a value of VALUES is to stand puts a mark that is replaced in the text."""
    places = list(_places(data))
    if not places:
        return
    data, key = dice.choice(places)
    inner = data[key]
    kind = dice.randrange(12)
    if kind == 0:
        del data[key]
    elif kind == 1 and isinstance(data, list):
        data.insert(key, inner)
    elif kind == 2:
        data[key] = [inner]
    elif kind > 7:
        data[key] = _another_of_its_kind(inner, dice)
    else:
        value = dice.choice(VALUES)
        data[key] = mark
        marks[mark] = value
        if kind == 3 and isinstance(data, dict):  # the key twice: what counts is the last
            marks[mark] = f"{value}, {json.dumps(key)}: {json.dumps(inner)}"


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Every value in the data, as what holds it and where there."""
    for key in list(data) if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ():
        yield data, key
        yield from _places(data[key])


def _another_of_its_kind(value: Any, dice: random.Random) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return dice.choice((0, value + 1, 7, 10_000, 2**53))
    if isinstance(value, float):
        return dice.choice((0.0, -value, 1e-320, 1e308, 1.7e308, 10 * value))
    if isinstance(value, str):
        return dice.choice(("", value[:3], 50 * value, "\ud800\u202e\0\n", "é" * 300, "-inf"))
    if isinstance(value, list):
        return dice.choice((2 * value, value[::-1], value[1:], 30 * value))
    return value
