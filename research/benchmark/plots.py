"""The plots of docs/benchmarks.md: PSNR against work, one for each model, at most six curves each. Measures nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt

from .paired import OURS, Place, Point, at_speed
from .plan import DRAW_NOISE

ALWAYS = (OURS, "fewer steps")  # always drawn; the second needs no cache
MEASURED = 0.75  # of the other methods must be measured where conditions are drawn
RANKED_AT = 2.0  # the speed by which the other methods are chosen

# Okabe and Ito's colours, which colour-blind people can tell apart; without yellow, which is hard to see on white. Ours
# has the blue of the node's timeline. No two share a dash or a marker, so they can be told apart in grey, too.
STYLES = (
    {"color": "#0072B2", "linestyle": "-", "marker": "o", "linewidth": 3.2},
    {"color": "#D55E00", "linestyle": (0, (5, 1.5)), "marker": "s"},
    {"color": "#000000", "linestyle": (0, (1, 1)), "marker": "^"},
    {"color": "#009E73", "linestyle": (0, (6, 1.5, 1, 1.5)), "marker": "D"},
    {"color": "#CC79A7", "linestyle": (0, (3, 1, 1, 1, 1, 1)), "marker": "v"},
    {"color": "#E69F00", "linestyle": (0, (9, 3)), "marker": "X"},
)
SPEEDS = (1, 1.25, 1.5, 2, 2.5, 3, 4, 5)  # marks of the upper axis


def picture(model: str) -> str:
    """Name of the file that `draw` writes for a model."""
    return f"benchmark_{model}.png"


def draw(measured: Mapping[Place, Sequence[Point]], folder: Path) -> list[Path]:
    """Draws one picture for each model.

    Args:
        measured: from `paired.points`.
        folder: for the pictures; it must exist.

    Returns:
        The files.
    """
    of_model: dict[str, list[Sequence[Point]]] = defaultdict(list)
    for place, here in measured.items():
        of_model[place.model].append(here)
    of_model = {model: compared(several) for model, several in of_model.items()}
    drawn = styled([shown(several) for several in of_model.values()])
    return [
        _draw(model, several, styles, folder / picture(model))
        for (model, several), styles in zip(of_model.items(), drawn, strict=True)
    ]


def compared(several: Sequence[Sequence[Point]]) -> Sequence[Sequence[Point]]:
    """The places of a model to draw: those in which ALWAYS and MEASURED of its other methods were measured.

    Not those whose sampler draws noise: there any difference grows into another video, and ours computes every step.
    Others are those that were measured in at least half of the places. All places if there are none of these. A curve
    is the mean over places, so a method that is missing in one of them has none.
    """
    several = [here for here in several if here[0].place.condition.split()[0] not in DRAW_NOISE] or several
    methods = [{one.choice.method for one in here} for here in several]
    often = Counter(method for of_place in methods for method in of_place if not method.startswith("AdaCache"))
    others = {method for method, places in often.items() if 2 * places >= len(several)}
    enough = [
        here
        for here, of_place in zip(several, methods, strict=True)
        if of_place.issuperset(ALWAYS) and len(of_place & others) >= MEASURED * len(others)
    ]
    return enough or several


def styled(methods: Iterable[Sequence[str]]) -> list[dict[str, dict]]:
    """A style for each method of each picture. The first style is for ours only; others keep theirs if possible.

    If two methods of a picture have the same style, one of them gets another style there.
    """
    known = {method: number for number, method in enumerate(ALWAYS)}
    pictures = []
    for together in methods:
        numbers: dict[str, int] = {}
        for method in sorted(together, key=lambda method: method not in known):
            free = [number for number in range(method != OURS, len(STYLES)) if number not in numbers.values()]
            new = min(free, key=lambda number: (number in known.values(), number))
            numbers[method] = known[method] if known.get(method) in free else new
            known.setdefault(method, numbers[method])
        pictures.append({method: STYLES[numbers[method]] for method in together})
    return pictures


def _draw(model: str, several: Sequence[Sequence[Point]], styles: Mapping[str, dict], file: Path) -> Path:
    figure, axis = plt.subplots(figsize=(7.5, 4.8), layout="constrained")
    for method, style in styles.items():
        axis.plot(*curve(several, method), label=method, **{"linewidth": 1.6, "markersize": 7} | style)
    axis.set(xlabel="work / plain's", ylabel="PSNR to the plain video (dB)")
    axis.invert_xaxis()
    axis.secondary_xaxis("top", functions=(_inverse, _inverse)).set(
        xlabel="times less work", xticks=SPEEDS, xticklabels=[f"{speed:g}x" for speed in SPEEDS]
    )
    axis.grid(alpha=0.3)
    axis.legend(handlelength=5, labelcolor="linecolor")
    conditions = "1 condition" if len(several) == 1 else f"{len(several)} conditions"
    axis.set_title(f"{model}: mean of {conditions}", loc="left")
    figure.savefig(file, dpi=100)
    plt.close(figure)
    return file


def _inverse(values: np.ndarray) -> np.ndarray:
    """Converts work to speed, and speed to work. Matplotlib also passes 0."""
    return 1 / np.maximum(values, 1e-9)


def shown(several: Sequence[Sequence[Point]]) -> list[str]:
    """The methods to draw, among those that have a curve: ALWAYS, then the best at RANKED_AT.

    Args:
        several: the points of each place of a model.
    """
    methods = {one.choice.method for here in several for one in here}
    drawable = {method for method in methods if len(curve(several, method)[0])}
    found = at_speed(several, RANKED_AT)
    ranked = sorted(drawable & found.keys(), key=lambda method: (-found[method].near_best, -found[method].psnr))
    first = [method for method in ALWAYS if method in drawable]
    others = [method for method in ranked if method not in ALWAYS and not method.startswith(OURS)]
    return (first + others)[: len(STYLES) if OURS in first else len(STYLES) - 1]


def curve(several: Sequence[Sequence[Point]], method: str) -> tuple[list[float], list[float]]:
    """Work and PSNR in dB of each setting of a method that was measured in every place: means over the places.

    Two lists of one length, by falling work; empty if there is no such setting.
    """
    found: dict[str, list[Point]] = defaultdict(list)
    for here in several:
        for one in here:
            if one.choice.method == method:
                found[one.choice.setting].append(one)
    means = [
        (fmean(one.work for one in points), fmean(one.psnr for one in points))
        for points in found.values()
        if len(points) == len(several)
    ]
    ordered = sorted(means, reverse=True)
    return [work for work, _ in ordered], [psnr for _, psnr in ordered]
