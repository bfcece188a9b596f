"""Three runs of one video as a picture: time saved, closeness expected, and closeness measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from PIL import Image

from ..closeness import MARKS
from .canvas import GAP, PALE, PANEL, SMALL, Page, Scale, wrapped
from .measured import PLAIN, RUNS, Measured, MeasuredRun
from .picture import ALARM, INK, LINE, SERIES, SPACING, bar

# Lengths are thousandths of the picture's width.
NAME, HEAD, FIGURE = 36, 34, 28
COLUMN = (1000 - (len(RUNS) + 1) * GAP) / len(RUNS)
STRIP, BAR, EDGE = 60, 30, 60
TALLEST = 1.4  # height of a frame over its width; taller frames are cut to this
LOWEST, HIGHEST = 0.0, 45.0  # dB on the axis
# Measured closeness compared with the expected range.
PLACES = {
    0: ("as expected", INK),
    1: ("closer than expected", INK),
    -1: ("less close than expected", ALARM),
    None: ("", INK),
}
COLOURS = {PLAIN: INK} | {name: colour for name, (colour, _) in zip(RUNS[1:], SERIES, strict=False)}


def draw(
    measured: Measured, frames: Sequence[Image.Image], which: str, notes: Sequence[str], width: int = 1200
) -> Image.Image:
    """Draws, from top to bottom: the settings; for each run its seconds, steps, one frame and the motion kept; expected
    and measured closeness on one axis; the notes.

    Args:
        measured: the three runs.
        frames: one RGB frame of each video, all of the same moment.
        which: that moment, in words.
        notes: sentences to write at the bottom.
        width: in pixels.
    """
    settings = measured.settings
    facts = [f"{settings.model}, {settings.size_of_model}, latent {settings.frames} x {settings.height} x "]
    facts[0] += f"{settings.width}, {settings.sampling}"
    facts += [f"{settings.device}, ComfyUI {settings.comfyui}, AdaCache {settings.adacache}, torch {settings.torch}"]
    facts = [line for fact in facts for line in wrapped(fact, SMALL, 1000 - 2 * GAP)]
    notes = [line for note in notes for line in wrapped(note, SMALL, 1000 - 2 * GAP)]
    high = min(COLUMN * frames[0].height / frames[0].width, TALLEST * COLUMN)

    line = SPACING * SMALL
    top_columns = GAP + NAME * SPACING + line * len(facts) + GAP
    top_frames = top_columns + SPACING * (HEAD + 2 * FIGURE) + GAP / 2
    top_strips = top_frames + high + line + GAP / 2
    top_closeness = top_strips + STRIP + 2 * SPACING * FIGURE + 1.5 * GAP
    top_notes = top_closeness + line + 2 * (line + BAR + GAP) + line + GAP
    page = Page(width, top_notes + line * len(notes) + GAP / 2, 1, {})

    page.text(GAP, GAP, settings.name, NAME, INK, room=1000 - 2 * GAP)
    for number, fact in enumerate(facts):
        page.text(GAP, GAP + NAME * SPACING + number * line, fact, SMALL, PALE, room=1000 - 2 * GAP)
    for place, name in enumerate(RUNS):
        left = GAP + place * (COLUMN + GAP)
        _column(page, left, top_columns, measured, name)
        _strip(page, left, top_strips, measured.runs[name], COLOURS[name])
        _below(page, left, top_strips + STRIP + GAP / 2, measured.runs[name])
    page.text(GAP, top_frames + high + 4, which, SMALL, PALE, room=1000 - 2 * GAP)
    _closeness(page, top_closeness, measured)
    for number, note in enumerate(notes):
        page.text(GAP, top_notes + number * line, note, SMALL, PALE, room=1000 - 2 * GAP)

    picture, unit = page.finished(), width / 1000
    size = round(COLUMN * unit), round(high * unit)
    for place, frame in enumerate(frames):
        at = round((GAP + place * (COLUMN + GAP)) * unit), round(top_frames * unit)
        picture.paste(_fitting(frame, size), at)
    return picture


def _fitting(frame: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The frame scaled to this width; if it is too tall, its middle."""
    tall = round(frame.height * size[0] / frame.width)
    larger = frame.resize((size[0], tall), Image.Resampling.BICUBIC)
    above = (tall - size[1]) // 2
    return larger.crop((0, above, size[0], above + size[1]))


def _column(page: Page, left: float, top: float, measured: Measured, name: str) -> None:
    run, speedup = measured.runs[name], measured.speedup(name)
    write = partial(page.text, left, room=COLUMN)
    write(top, "without AdaCache" if name == PLAIN else run.report.preset, HEAD, COLOURS[name])
    faster = "" if name == PLAIN or speedup is None else f", {speedup:.2f}x faster"
    write(top + SPACING * HEAD, f"{_seconds(run.seconds)}{faster}", FIGURE, INK)
    write(top + SPACING * (HEAD + FIGURE), f"{run.report.computed} of {run.report.total} computed", FIGURE, INK)


def _seconds(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def _strip(page: Page, left: float, top: float, run: MeasuredRun, colour: tuple[int, int, int]) -> None:
    """A bar for each evaluation: high if computed, low if reused, as in the inspector's picture."""
    page.box(left, top, left + COLUMN, top + STRIP, PANEL)
    slot = COLUMN / run.report.total
    gap = min(3.0, slot / 4)
    for record in run.report.evaluations:
        at = left + slot * record.index
        bar(page, at, at + slot - gap, top + STRIP, STRIP, record.state, colour)


def _below(page: Page, left: float, top: float, run: MeasuredRun) -> None:
    likeness = run.likeness
    if likeness is None:
        return
    kept = "no motion to keep" if likeness.motion_kept is None else f"motion kept: {likeness.motion_kept:.1%}"
    page.text(left, top, kept, FIGURE, INK, room=COLUMN)
    worst = f"worst frame: {_db(likeness.worst_frame_db)}"
    page.text(left, top + SPACING * FIGURE, worst, FIGURE, INK, room=COLUMN)


def _db(closeness: float) -> str:
    return "equal" if math.isinf(closeness) else f"{closeness:.1f} dB"


def _closeness(page: Page, top: float, measured: Measured) -> None:
    """A row for each run: a bar for the expected range, a line in it for the estimate, a disc for the measurement."""
    line = SPACING * SMALL
    title = "closeness to the video without AdaCache, in dB. Bar: expected range. Disc: measured"
    page.text(GAP, top, title, SMALL, PALE, room=1000 - 2 * GAP)
    top += line
    across = Scale(1000 - EDGE, EDGE, LOWEST, HIGHEST, law=float).y  # a horizontal axis
    bottom = top + 2 * (line + BAR + GAP) - GAP / 2
    for name in RUNS[1:]:
        run, colour = measured.runs[name], COLOURS[name]
        expected, likeness = run.report.expected, run.likeness
        said = "nothing expected"
        if expected is not None:
            said = f"expected {expected.db:.0f} dB ({expected.low:.0f} to {expected.high:.0f})"
        came = "" if likeness is None else f", measured {_db(likeness.closeness)}"
        where, ink = PLACES[run.place]
        edge = page.text(1000 - GAP, top, where, SMALL, ink, anchor="ra")
        page.text(GAP, top, f"{run.report.preset}: {said}{came}", SMALL, INK, room=edge - 2 * GAP)
        top += line
        page.box(EDGE, top, 1000 - EDGE, top + BAR, PANEL)
        for mark in MARKS.values():
            page.line([(across(mark), top), (across(mark), top + BAR)], LINE, 2)
        if expected is not None:
            page.box(across(expected.low), top, across(expected.high), top + BAR, colour)
            page.line([(across(expected.db), top), (across(expected.db), top + BAR)], PANEL, 4)
        if likeness is not None:
            at = across(likeness.closeness), top + BAR / 2
            page.mark(at, BAR / 2 + 3, PANEL, 0)
            page.mark(at, BAR / 2 - 2, INK, 0)
        top += BAR + GAP
    for name, mark in MARKS.items():
        page.text(across(mark), bottom, f"{name} {mark:g}", SMALL, PALE, anchor="ma")
    page.text(across(LOWEST), bottom, f"{LOWEST:g}", SMALL, PALE, anchor="ma")
    page.text(across(HIGHEST), bottom, f"{HIGHEST:g}", SMALL, PALE, anchor="ma")
