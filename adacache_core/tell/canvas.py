"""Draws text, lines, marks and diagrams for `picture.py`. Knows nothing of caching.

Uses Pillow (10.1 or newer), which every ComfyUI installs; nothing else in the core needs it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Point = tuple[float, float]

PAPER, PANEL, PALE = (22, 24, 30), (37, 40, 49), (178, 184, 196)

# Lengths are thousandths of the picture's width.
LEFT, RIGHT, GAP = 92, 920, 20  # left and right edge of all diagrams; gap between and around them
TITLE, SMALL = 27, 24
SMALLEST, LARGEST = 1e-30, 1e30  # of the values on an axis
LONGEST_TEXT = 200  # letters of one line that are drawn
_SHARPNESS = 2  # pages are drawn this many times larger and then shrunk, for clean edges


@dataclass(frozen=True)
class Scale:
    """Maps a value to a height on the page, logarithmically unless `law` is another function.

    Values outside low..high are drawn at the edge.
    """

    top: float
    bottom: float
    low: float
    high: float
    law: Callable[[float], float] = math.log

    def y(self, value: float) -> float:
        low, at, high = (self.law(each) for each in (self.low, min(max(value, self.low), self.high), self.high))
        return self.bottom - (at - low) / (high - low) * (self.bottom - self.top)

    def round_values(self) -> list[float]:
        """Round values to write beside a logarithmic axis, as many as fit."""
        most = (self.bottom - self.top) / (1.4 * SMALL)
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        values: list[float] = []
        for digits in ((1, 2, 5), (1, 3), (1,)):
            values = [digit * 10.0**decade for decade in decades for digit in digits]
            values = [value for value in values if self.low <= value <= self.high]
            if len(values) <= most:
                return values
        return values[:: math.ceil(len(values) / most)]


def wrapped(text: str, size: float, room: float, most: int = 6) -> list[str]:
    """Breaks a text between words into lines that fit; text beyond the last line is cut off.

    Args:
        text: any.
        size: of the letters, in thousandths of the picture's width.
        room: width of a line, in the same unit.
        most: how many lines there may be.
    """
    font, lines = ImageFont.load_default(10 * size), [""]
    for word in text[: LONGEST_TEXT * most].split():
        longer = f"{lines[-1]} {word}".strip()
        if not lines[-1] or font.getlength(longer) <= 10 * room:
            lines[-1] = longer
        elif len(lines) < most:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} …"
            break
    return lines


def range_of(values: Iterable[float | None]) -> tuple[float, float]:
    """The range of an axis for all values that have a logarithm, with a margin and room for one round number.

    Values smaller or larger than any run measures do not widen the range; they are drawn at its edge.
    """
    positive = [value for value in values if value is not None and math.isfinite(value) and value > 0] or [1.0]
    shown = [min(max(value, SMALLEST), LARGEST) for value in positive]
    low, high = min(shown) / 1.4, max(shown) * 1.4
    air = max(1.0, 3 * low / high) ** 0.5
    return low / air, high * air


class Page:
    """A picture in the making, divided from left to right into equal slots, of which some have a label.

    Args:
        width: in pixels.
        height: in thousandths of the width, like all lengths here.
        slots: at least 1.
        labels: text by slot.
    """

    def __init__(self, width: int, height: float, slots: int, labels: dict[int, str]) -> None:
        self.size = (width, round(height * width / 1000))
        self.unit = _SHARPNESS * width / 1000
        self.image = Image.new("RGB", (_SHARPNESS * self.size[0], _SHARPNESS * self.size[1]), PAPER)
        self.pen = ImageDraw.Draw(self.image)
        self.slot = (RIGHT - LEFT) / slots
        self.labels = labels

    def finished(self) -> Image.Image:
        return self.image.resize(self.size, Image.Resampling.LANCZOS)

    def x(self, slot: float) -> float:
        """Left edge of a slot; half a slot further right is its middle."""
        return LEFT + self.slot * slot

    def diagram(self, top: float, height: float, title: str, low: float, high: float) -> Scale:
        """An empty diagram with a logarithmic axis, below its title."""
        scale = Scale(top + TITLE + 6, top + TITLE + height, low, high)
        self.frame(scale, title, scale.round_values())
        return scale

    def frame(self, scale: Scale, title: str, values: Iterable[float]) -> None:
        """The background of a diagram, its title above it and some values to its left."""
        self.text(LEFT, scale.top - TITLE - 6, title, SMALL, PALE)
        self.box(LEFT, scale.top, RIGHT, scale.bottom, PANEL)
        for slot in self.labels:
            self.line([(self.x(slot + 0.5), scale.top), (self.x(slot + 0.5), scale.bottom)], PAPER, 2)
        for value in values:
            self.text(LEFT - 14, scale.y(value), f"{value:.2g}", SMALL, PALE, anchor="rm")

    def text(
        self, x: float, y: float, text: str, size: float, colour: Colour, anchor: str = "la", room: float = 1000
    ) -> float:
        """Writes one line, cut to `room`; returns the x at which it ends, left or right of the given x."""
        font = ImageFont.load_default(size * self.unit)
        shown = " ".join(text[:LONGEST_TEXT].split())
        while len(shown) > 1 and font.getlength(shown) > room * self.unit:
            shown = shown[:-2].rstrip() + "…"
        self.pen.text((x * self.unit, y * self.unit), shown, colour, font, anchor)
        reach = font.getlength(shown) / self.unit
        return x - reach if anchor.startswith("r") else x + reach

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        x0, y0, x1, y1 = (round(value * self.unit) for value in (left, top, right, bottom))
        self.pen.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), colour)

    def line(self, points: Sequence[Point], colour: Colour, width: float) -> None:
        scaled = [(x * self.unit, y * self.unit) for x, y in points]
        if scaled:  # newer Pillows raise an error for a line without points
            self.pen.line(scaled, colour, max(1, round(width * self.unit)), joint="curve")

    def mark(self, at: Point, radius: float, colour: Colour, corners: int) -> None:
        """A filled polygon, or a disc if it has no corners."""
        x, y, radius = at[0] * self.unit, at[1] * self.unit, radius * self.unit
        if corners:
            self.pen.regular_polygon((x, y, radius), corners, fill=colour)
        else:
            self.pen.ellipse((x - radius, y - radius, x + radius, y + radius), colour)

    def cross(self, at: Point, radius: float, colour: Colour) -> None:
        (x, y), r = at, radius
        self.line([(x - r, y - r), (x + r, y + r)], colour, 5)
        self.line([(x - r, y + r), (x + r, y - r)], colour, 5)
