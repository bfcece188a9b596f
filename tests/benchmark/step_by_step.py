"""What a method on ComfyUI's MODEL does at each step of one video of the demo model."""

from __future__ import annotations

from functools import cache

from torch import Tensor

from research import demo_model
from research.benchmark import plan
from research.benchmark.library import PLAIN_RUN, Bench, Method
from research.benchmark.meter import Meter
from research.benchmark.plan import Condition

STEPS = 21  # neither the end of ComfyUI's caches nor the start of a pack is exactly at a step
VIDEO = plan.cases("demo", Condition("euler", STEPS, demo_model.SHIFT, 4.0), 0)[1]


class Steps(Meter):
    """Also counts block calls and operations of each step."""

    def __init__(self) -> None:
        super().__init__()
        self._marks = [(0, 0)]

    def mark(self) -> None:
        super().mark()
        self._marks.append((self.block_calls, self.flops))

    def of_each(self) -> list[tuple[int, int]]:
        """Block calls and operations."""
        return [(b - a, d - c) for (a, c), (b, d) in zip(self._marks, self._marks[1:], strict=False)]


class Ran:
    """Runs of these methods, each made once."""

    def __init__(self, bench: Bench, methods: tuple[Method, ...]) -> None:
        self.bench, self.methods = bench, {method.name: method for method in methods}
        self.sample = cache(self._sample)

    def _sample(self, name: str | None = None, label: str | None = None) -> tuple[Tensor, Steps]:
        """The latent, and the cost of its steps; without a name, those of the plain video."""
        steps = Steps()
        if name is None:
            return self.bench.sample(VIDEO, steps, PLAIN_RUN), steps
        return self.bench.sample(VIDEO, steps, self.methods[name], self.methods[name].settings[label]), steps

    def boldest(self, name: str, number: int = 1) -> list[str]:
        """Labels of the last settings."""
        return list(self.methods[name].settings)[-number:]

    def computed(self, name: str, label: str) -> list[bool]:
        """For each step whether all blocks ran; a step that ran some of them is an error."""
        ran = [(blocks, whole) for (blocks, _), (whole, _) in self._beside_plain(name, label)]
        assert all(blocks in (0, whole) for blocks, whole in ran)
        return [blocks > 0 for blocks, _ in ran]

    def skipped_work(self, name: str, label: str) -> list[float]:
        """Operations of each skipped step, as a share of those of the plain run."""
        return [work / whole for (blocks, work), (_, whole) in self._beside_plain(name, label) if not blocks]

    def _beside_plain(self, name: str, label: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        (_, plain), (_, steps) = self.sample(), self.sample(name, label)
        return list(zip(steps.of_each(), plain.of_each(), strict=True))
