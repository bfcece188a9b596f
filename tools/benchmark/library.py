"""What the benchmark asks of whoever can run the demo model: a `Library`, with its `Method`s."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from .meter import Meter
from .videos import Video


class NotHere(RuntimeError):
    """This library cannot be run on this machine; the message says what is missing. No failure: "not run"."""


@dataclass(frozen=True)
class Method:
    """One way to cache, and the positions of its control that are measured.

    Attributes:
        name: as its users know it; ours begin with "AdaCache".
        settings: label of a position -> what the method's own code takes, from the safest to the boldest.
        off: the position at which it must do nothing; None where its code has no such position.
        attach: puts it on a model; who calls it, and with what, is the library's own affair.
        baseline: an attach that puts nothing on, for a method that asks the model in another way than the library's
            plain run does (in two calls, say): with this its off position agrees bit for bit. None: with plain.
        everywhere: all its settings are measured, also where only some of everybody else's are.
    """

    name: str
    settings: dict[str, Any]
    attach: Any
    off: Any = None
    baseline: Any = None
    everywhere: bool = False


class Library(ABC):
    """A way to run the demo model, and the methods that come with it.

    Attributes:
        name: with its version, as the records say it.
        methods: what can be measured here.
    """

    name: str
    methods: tuple[Method, ...]

    @classmethod
    def python(cls) -> Path:
        """The Python that it is to be made in; asked from any other.

        Raises:
            NotHere: there is none.
        """
        return Path(sys.executable)

    @abstractmethod
    def sample(self, video: Video, meter: Meter, method: Method | None = None, setting: Any = None) -> Tensor:
        """Make a video on a model that nothing else has touched.

        Args:
            meter: entered around the sampling only, not around loading or calibrating; watches the model's blocks
                from before the method is attached; marked between evaluations.
            method: one of `methods`; None is the plain model.
            setting: what `method.settings` or `method.off` holds.

        Returns:
            The latent as the model works in it, (1, 16, 8, 16, 16), float32 on the CPU.
        """
