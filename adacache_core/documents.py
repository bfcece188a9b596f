"""What reports, schedules and codebooks have in common as files: JSON that names its format and version.

Files come from strangers. A value in one is either valid or refused with a clear error, here and nowhere later.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from reprlib import repr as short
from types import NoneType, UnionType
from typing import Any, get_args, get_type_hints

from .errors import AdaCacheError

VERSION = 1

LARGEST = 2**53  # whole numbers up to here are exact in every reader of JSON, and as floats
MOST_STEPS = 10_000  # of a run in a file, as in ComfyUI's samplers; larger numbers must not make a list

NOT_FINITE = ("nan", "inf", "-inf")  # numbers that strict JSON can hold as text only


def head_of(kind: str) -> dict[str, Any]:
    """The first entries of a "report", "schedule" or "codebook"."""
    return {"format": f"adacache.{kind}", "version": VERSION}


def parse(text: str, kind: str) -> list[Any]:
    """What is in this text: JSON, one value after another.

    Raises:
        AdaCacheError: it is none, is nested too deeply, or has a whole number of thousands of digits.
    """
    decoder, found, at = json.JSONDecoder(), [], 0
    try:
        while at < len(text):
            if text[at].isspace():
                at += 1
            else:
                value, at = decoder.raw_decode(text, at)
                found.append(value)
    except (ValueError, RecursionError) as error:
        raise AdaCacheError(f"the {kind} is not JSON: {error}") from None
    return found


def is_a(kind: str, data: Any) -> bool:
    return isinstance(data, dict) and data.get("format") == head_of(kind)["format"]


def check(data: Any, kind: str) -> dict[str, Any]:
    """The entries of what should be a document of this kind.

    Raises:
        AdaCacheError: another format, or another version.
    """
    if not is_a(kind, data):
        raise AdaCacheError(f"not a {kind}: its 'format' must be {head_of(kind)['format']!r}")
    if data.get("version") != VERSION:
        raise AdaCacheError(f"{kind} version {short(data.get('version'))}; this AdaCache reads version {VERSION}")
    return data


def read(text: str, kind: str) -> dict[str, Any]:
    """The entries of a text that is one document of this kind.

    Raises:
        AdaCacheError: not JSON, more or less than one document, another format, or another version.
    """
    values = parse(text, kind)
    if len(values) != 1:
        raise AdaCacheError(f"the {kind} is not JSON: there are {len(values)} values, not one")
    return check(values[0], kind)


def values_of(fields_of: type, data: Any, what: str) -> dict[str, Any]:
    """Those entries that are fields of a dataclass, each of the type that the class says.

    What a later writer added is left out, and what is not there has the field's default.

    Args:
        fields_of: the class.
        data: an object read from JSON.
        what: it is, for people.

    Raises:
        AdaCacheError: no object, or an entry of another type.
    """
    if not isinstance(data, dict):
        raise AdaCacheError(f"{what} cannot be read: {short(data)} is no object")
    types = _types_of(fields_of)
    return {name: _typed(value, types[name], f"{what}: {name!r}") for name, value in data.items() if name in types}


_types_of = cache(get_type_hints)


def _typed(value: Any, wanted: Any, where: str) -> Any:
    types = get_args(wanted) if isinstance(wanted, UnionType) else (wanted,)
    if float in types and isinstance(value, str) and value in NOT_FINITE:
        value = float(value)
    for each in types:
        if _IS[each][1](value):
            return float(value) if each is float else value
    raise AdaCacheError(f"{where} must be {' or '.join(_IS[each][0] for each in types)}, got {short(value)}")


def is_number(value: Any) -> bool:
    """Of JSON: true and false are none, and what is too large for a float is none either."""
    return isinstance(value, float) or (type(value) is int and abs(value) <= LARGEST)


def is_whole(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST


def is_count(value: Any) -> bool:
    """Whether this is one of 1, 2, 3, ..., and none that overflows when it is multiplied."""
    return is_whole(value) and value >= 1


def _is_setting(value: Any) -> bool:
    parts = value if isinstance(value, list) else [value]
    return all(
        part is None or isinstance(part, (str, bool)) or (is_number(part) and math.isfinite(part)) for part in parts
    )


_IS: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    NoneType: ("null", lambda value: value is None),
    bool: ("true or false", lambda value: isinstance(value, bool)),
    int: (f"a whole number from 0 to {LARGEST}", is_whole),
    float: ("a number", is_number),
    str: ("a text", lambda value: isinstance(value, str)),
    list[str]: (
        "a list of texts",
        lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value),
    ),
    dict[str, Any]: (
        "an object of settings",
        lambda value: isinstance(value, dict) and all(map(_is_setting, value.values())),
    ),
}


def finite(value: Any) -> Any:
    """The same data as strict JSON can hold it: numbers that are not finite become strings."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
