"""Draws a run as a picture that can be read at the size of a node, and two videos side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import accumulate, count, cycle, groupby, pairwise

from PIL import Image

from ..decide.codebook import Codebook
from .canvas import GAP, LARGEST, LEFT, PALE, PANEL, RIGHT, SMALL, TITLE, Colour, Page, Scale, range_of, wrapped
from .report import ANSWERED, COMPUTED, PARTLY, REUSED, RunReport, StepRecord

Curve = list[tuple[int, float]]  # (evaluation, value)

INK, REST, LINE, ALARM = (242, 244, 248), (126, 134, 150), (74, 80, 94), (255, 110, 80)
# Okabe and Ito's colours, which colour-blind people can tell apart; the curves' marks also differ in their corners.
SERIES = (((86, 180, 233), 0), ((230, 159, 0), 4), ((20, 190, 145), 3), ((214, 135, 177), 5), ((240, 228, 66), 6))

BIG = 36
# Heights, in thousandths of the width.
STRIP, ERROR, SPENT, METRIC, MOTION, GRADIENT, MOREG, RATE = 72, 180, 180, 216, 110, 88, 110, 88
WIDEST = 100.0  # of the axis of errors, highest over lowest
HEIGHT_OF = {COMPUTED: 1.0, ANSWERED: 1.0, PARTLY: 0.62, REUSED: 0.2}  # of the bars in a strip, by state
SPACING = 1.2  # height of a line of text, relative to the size of its letters
LABELS = 7  # about this many steps get a number

SIDE = 256  # pixels; smaller videos are enlarged to about this width, so that the text fits
NAME, DETAIL = 34, 28  # sizes of the two lines above a video


def draw(reports: Sequence[RunReport], width: int = 1000) -> Image.Image:
    """What AdaCache did: which evaluations were computed, and why.

    From top to bottom: for each report a title and a strip of its evaluations (high: computed, low: reused, striped:
    partly, hollow: answered by another pack); the error that forecasts of the computed evaluations would have had; the
    error that each stretch of reused steps caused in the finished latent, and the tolerance for the next stretch; the
    metric against the thresholds of the codebook; the motion score and its gradient; MoReg's factor; the rate chosen;
    the notes. Diagrams without data are left out. Curves of several reports lie over each other.

    Args:
        reports: runs, in the order to show them; any number, with or without evaluations.
        width: of the picture, in pixels. Everything scales with it; the height follows the content.

    Returns:
        An RGB picture.
    """
    reports = list(reports) or [RunReport()]
    records = [record for report in reports for record in report.evaluations]
    rows: list[tuple[float, Callable[[Page, float], None]]] = [
        (BIG + TITLE + 20 + STRIP, partial(_strip, reports=reports, number=number)) for number in range(len(reports))
    ]
    if any(record.error is not None for record in records):
        rows.append((TITLE + ERROR, partial(_error, reports=reports)))
    if any(record.wrong for record in records):
        rows.append((TITLE + SPENT, partial(_spent, reports=reports)))
    if any(record.metric is not None for record in records):
        rows.append((TITLE + METRIC, partial(_metric, reports=reports)))
    if any(record.motion is not None for record in records):
        rows.append((TITLE + MOTION, partial(_motion, reports=reports)))
    if any(_gradient(report) for report in reports):
        rows.append((TITLE + GRADIENT, partial(_motion_gradient, reports=reports)))
    if any(record.moreg is not None for record in records):
        rows.append((TITLE + MOREG, partial(_moreg, reports=reports)))
    if any(record.rate is not None for record in records):
        rows.append((TITLE + RATE, partial(_rate, reports=reports)))
    if records:
        rows.append((SMALL - GAP / 2, _steps))
    for note in dict.fromkeys(note for report in reports for note in report.notes):
        lines = wrapped(note, SMALL, 1000 - 2 * GAP)
        rows.append((SMALL * SPACING * (len(lines) - 1) + SMALL, partial(_note, lines=lines)))

    longest = max(reports, key=lambda report: report.total).evaluations
    height = GAP + sum(height + GAP for height, _ in rows)
    page = Page(width, height, max(1, len(longest)), _step_labels(longest))
    top = float(GAP)
    for height, paint in rows:
        paint(page, top)
        top += height + GAP
    return page.finished()


def beside(videos: Sequence[Sequence[Image.Image]], report: RunReport | None, likeness: str) -> list[Image.Image]:
    """Puts two videos side by side into one, with a caption above each.

    Args:
        videos: the RGB frames of both, equally many and of the same size; small frames are enlarged smoothly.
        report: of the run that made the second video. The first is then described as the run without AdaCache.
        likeness: how close the second video is to the first, in words.
    """
    texts = [("reference", ""), ("changed", likeness)]
    if report is not None and report.total:
        of_all = f"of {report.total} steps"
        name = f"with AdaCache ({report.preset})" if report.preset else "with AdaCache"
        texts = [("without AdaCache", f"{report.total} {of_all}"), (name, f"{report.computed} {of_all}, {likeness}")]
    width, height = (side * max(1, round(SIDE / videos[0][0].width)) for side in videos[0][0].size)
    unit = 2 * width / (1000 - 3 * GAP)  # in pixels
    left = [GAP, (1000 + GAP) / 2]
    top = GAP + 1.2 * NAME + 1.5 * DETAIL
    page = Page(round(1000 * unit), top + height / unit + GAP, 1, {})
    for x, (name, detail) in zip(left, texts, strict=True):
        room = (1000 - 3 * GAP) / 2
        page.text(x, GAP, name, NAME, INK, room=room)
        page.text(x, GAP + 1.2 * NAME, detail, DETAIL, PALE, room=room)
    ground, frames = page.finished(), []
    for pair in zip(*videos, strict=True):
        frame = ground.copy()
        for x, picture in zip(left, pair, strict=True):
            larger = picture.resize((width, height), Image.Resampling.BICUBIC)
            frame.paste(larger, (round(x * unit), round(top * unit)))
        frames.append(frame)
    return frames


def _step_labels(records: Sequence[StepRecord]) -> dict[int, str]:
    """Labels for the axis: the number of every n-th step, at its first evaluation."""
    first_of = {record.step: record.index for record in reversed(records)}
    round_numbers = (digit * 10**zeros for zeros in count() for digit in (1, 2, 5))
    every = next(number for number in round_numbers if number * LABELS >= len(first_of))
    return {index: str(step) for step, index in first_of.items() if step % every == 0}


def _strip(page: Page, top: float, reports: Sequence[RunReport], number: int) -> None:
    report, (colour, corners) = reports[number], SERIES[number % len(SERIES)]
    facts = (report.title, report.model, report.preset, "MoReg" if report.moreg else "")
    name = ", ".join(filter(None, facts)) or "AdaCache"
    counted = f"{report.computed} of {report.total} computed" if report.total else "no evaluations"
    edge = page.text(1000 - GAP, top, counted, BIG, INK, anchor="ra")
    page.mark((GAP + 12, top + 0.6 * BIG), 12, colour, corners)
    page.text(GAP + 36, top, name, BIG, INK, room=edge - GAP - 56)

    top += BIG + 10
    states = {record.state for each in reports for record in each.evaluations}
    edge = _legend(page, top, states, colour) if number == 0 else 1000
    page.text(GAP + 36, top, _facts(report), SMALL, PALE, room=edge - GAP - 36)

    top += TITLE + 10
    page.box(LEFT, top, RIGHT, top + STRIP, PANEL)
    gap = min(5.0, max(0.0, page.slot - 3) / 4)
    for record in report.evaluations:
        left, right = page.x(record.index), page.x(record.index + 1) - gap
        bar(page, left, right, top + STRIP, STRIP, record.state, colour)


def _facts(report: RunReport) -> str:
    if not report.total:
        return ""
    measured, held = report.measured_speedup, report.cache_bytes_max / 2**20
    facts = [report.stopped] if report.stopped else []
    if report.skipped and not report.stopped:
        facts += [f"{report.counted_speedup:.2f}x counted"]
        facts += [f"{measured:.2f}x measured"] if measured is not None else []
    if held:
        facts += [f"{held:.1f} MiB held" if held < 1024 else f"{held / 1024:.1f} GiB held"]
    return ", ".join(facts)


def bar(page: Page, left: float, right: float, bottom: float, height: float, state: str, colour: Colour) -> None:
    """A bar for an evaluation in this state, of which a computed one fills the height."""
    top = bottom - height * HEIGHT_OF[state]
    page.box(left, top, right, bottom, REST if state == REUSED else colour)
    if state == ANSWERED:  # hollow: another pack gave the answer
        page.box(left + 2, top + 2, right - 2, bottom, PANEL)
    if state == PARTLY:
        for stripe in range(1, math.ceil((bottom - top) / 6), 2):
            page.box(left, top + 6 * stripe, right, min(top + 6 * stripe + 6, bottom), PANEL)


def _legend(page: Page, top: float, states: set[str], colour: Colour) -> float:
    """The legend of the bars, written from the right edge; returns the x of its left end."""
    edge = 1000.0 - GAP
    for state in (ANSWERED, PARTLY, REUSED, COMPUTED):
        if state in states:
            name = "answered by another pack" if state == ANSWERED else state
            edge = page.text(edge, top, name, SMALL, PALE, anchor="ra") - 24
            bar(page, edge, edge + 16, top + SMALL - 1, 0.8 * SMALL, state, colour)
            edge -= 22
    return edge


def _error(page: Page, top: float, reports: Sequence[RunReport]) -> None:
    errors = [_of_each(report, "error") for report in reports]
    _linear(page, top, ERROR, "forecast error, relative to the velocity", reports, errors)


def _spent(page: Page, top: float, reports: Sequence[RunReport]) -> None:
    """A bar for the error of each stretch of reused evaluations, and a line for the tolerance that it had.

    Bars begin at the bottom, so a single small error would make the large ones look alike: WIDEST limits the axis.
    """
    records = [record for report in reports for record in report.evaluations]
    values = [value for record in records for value in (record.wrong, record.tolerance) if value]
    title = "error left in the finished latent (bars), and its limit (lines)"
    low, high = range_of(values)
    scale = page.diagram(top, SPENT, title, max(low, high / WIDEST), high)
    for report, (colour, _) in _paired(reports):
        computed = [record for record in report.evaluations if record.state == COMPUTED]
        for before, record in pairwise(computed):
            left, right = page.x(before.index + 1), page.x(record.index)
            if record.wrong and math.isfinite(record.wrong):
                page.box(left, scale.y(record.wrong), right, scale.bottom, colour)
            if before.tolerance and math.isfinite(before.tolerance) and left < right:
                page.line([(left, scale.y(before.tolerance)), (right, scale.y(before.tolerance))], INK, 3)


def _metric(page: Page, top: float, reports: Sequence[RunReport]) -> None:
    tables = [(report.codebook, colour) for report, (colour, _) in _paired(reports) if report.codebook]
    text, colour = tables[0] if tables else ("", PALE)
    entries = Codebook.parse(text).entries if text else ()
    thresholds = [threshold for threshold, _ in entries[:-1]]
    metrics = [_of_each(report, "metric") for report in reports]
    values = [value for curve in metrics for _, value in curve]
    scale = page.diagram(top, METRIC, "change per step", *range_of([*values, *thresholds]))
    if entries:
        _bands(page, scale, thresholds, [rate for _, rate in entries], PALE if len(dict(tables)) == 1 else colour)
    _curves(page, scale, reports, metrics)


def _bands(page: Page, scale: Scale, thresholds: list[float], rates: list[int], colour: Colour) -> None:
    """Lines at the thresholds of a codebook, and each rate beside its band, or as near to it as there is room.

    If the codebook is too long to be read, only every n-th entry is shown.
    """
    page.text(1000 - GAP, scale.top - TITLE - 6, "rate", SMALL, colour, anchor="ra")
    heights = [scale.y(value) for value in (scale.low, *thresholds, scale.high)]
    shown = range(0, len(rates), math.ceil(len(rates) * SMALL / (scale.bottom - scale.top)))
    middles = [(heights[index] + heights[index + 1]) / 2 for index in shown]
    raised = accumulate(middles, lambda below, y: min(y, below - SMALL))
    places = list(accumulate(reversed([*raised, scale.top - SMALL / 2]), lambda above, y: max(y, above + SMALL)))
    for index, middle, place in zip(reversed(shown), reversed(middles), places[1:], strict=True):
        if index < len(thresholds):
            page.line([(LEFT, heights[index + 1]), (RIGHT, heights[index + 1])], REST, 2)
        page.line([(RIGHT, middle), (RIGHT + 18, place)], LINE, 2)
        page.text(RIGHT + 24, place, str(rates[index]), SMALL, colour, anchor="lm")


def _motion(page: Page, top: float, reports: Sequence[RunReport]) -> None:
    _linear(page, top, MOTION, "motion score", reports, [_of_each(report, "motion") for report in reports])


def _motion_gradient(page: Page, top: float, reports: Sequence[RunReport]) -> None:
    _linear(page, top, GRADIENT, "motion gradient, per step", reports, [_gradient(report) for report in reports])


def _linear(
    page: Page, top: float, height: float, title: str, reports: Sequence[RunReport], curves: Sequence[Curve]
) -> None:
    """Curves that may be negative, with zero on the axis."""
    values = [0.0, *(value for curve in curves for _, value in curve if math.isfinite(value))]
    low, high = max(min(values), -LARGEST), min(max(values), LARGEST)
    air = 0.15 * (high - low) or 1.0
    scale = Scale(top + TITLE + 6, top + TITLE + height, low - air, high + air, law=float)
    apart = [value for value in {low, high} if abs(scale.y(value) - scale.y(0)) > SMALL]
    page.frame(scale, title, [0.0, *apart])
    page.line([(LEFT, scale.y(0)), (RIGHT, scale.y(0))], REST, 2)
    _curves(page, scale, reports, curves)


def _gradient(report: RunReport) -> Curve:
    """How much the motion score rose since it was last measured, per sampler step."""
    known = [record for record in report.evaluations if record.motion is not None]
    return [
        (now.index, (now.motion - before.motion) / max(1, now.step - before.step))
        for before, now in pairwise(known)
        if now.motion is not None and before.motion is not None
    ]


def _moreg(page: Page, top: float, reports: Sequence[RunReport]) -> None:
    factors = [_of_each(report, "moreg") for report in reports]
    scale = page.diagram(
        top, MOREG, "MoReg factor", *range_of([1.0, *(value for curve in factors for _, value in curve)])
    )
    page.line([(LEFT, scale.y(1)), (RIGHT, scale.y(1))], REST, 2)
    _curves(page, scale, reports, factors)


def _rate(page: Page, top: float, reports: Sequence[RunReport]) -> None:
    highest = max(record.rate or 1 for report in reports for record in report.evaluations)
    scale = Scale(top + TITLE + 6, top + TITLE + RATE, 0, 1.2 * highest, law=float)
    page.frame(scale, "rate: steps to the next computed one", sorted({1, highest}))
    for report, (colour, _) in _paired(reports):
        chosen = [(record.index, record.rate) for record in report.evaluations if record.rate is not None]
        page.line([(page.x(index + end), scale.y(rate)) for index, rate in chosen for end in (0, 1)], colour, 5)


def _steps(page: Page, top: float) -> None:
    page.text(LEFT - 14, top - GAP / 2, "step", SMALL, PALE, anchor="ra")
    for slot, label in page.labels.items():
        page.text(page.x(slot + 0.5), top - GAP / 2, label, SMALL, PALE, anchor="ma")


def _note(page: Page, top: float, lines: list[str]) -> None:
    for number, line in enumerate(lines):
        page.text(GAP, top + number * SMALL * SPACING, line, SMALL, PALE, room=1000 - 2 * GAP)


def _of_each(report: RunReport, name: str) -> Curve:
    """One field of a report's evaluations, for those that have it."""
    known = ((record.index, getattr(record, name)) for record in report.evaluations)
    return [(index, value) for index, value in known if value is not None]


def _curves(page: Page, scale: Scale, reports: Sequence[RunReport], curves: Sequence[Curve]) -> None:
    """A curve in each report's colour. A value that is not finite is a cross at the top and a gap in the curve."""
    radius = min(9.0, max(2.0, 0.45 * page.slot))
    for (_, (colour, corners)), curve in zip(_paired(reports), curves, strict=True):
        for finite, run in groupby(curve, key=lambda point: math.isfinite(point[1])):
            places = [(page.x(index + 0.5), value) for index, value in run]
            if finite:
                points = [(x, scale.y(value)) for x, value in places]
                page.line(points, colour, 5)
                for point in points:
                    page.mark(point, radius, colour, corners)
            else:
                for x, _ in places:
                    page.cross((x, scale.top + 14), 11, ALARM)
    if not all(math.isfinite(value) for curve in curves for _, value in curve):
        page.text(RIGHT, scale.top - TITLE - 6, "x not finite", SMALL, ALARM, anchor="ra")


def _paired(reports: Sequence[RunReport]) -> Iterable[tuple[RunReport, tuple[Colour, int]]]:
    return zip(reports, cycle(SERIES), strict=False)
