"""AdaCache on any module, in a sampling loop of your own."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn

from .config import CacheConfig
from .correct.sampler import Model, euler, probe_sampler
from .engine import Engine
from .errors import AdaCacheError
from .presets import FAST_30
from .reuse.layout import Grid, Head, StackLayout
from .reuse.recording import Recording
from .reuse.stack import BlockStack
from .tell.report import RunReport, StepRecord


class AdaCache:
    """AdaCache in a sampling loop of your own: around any module, or on one whose blocks sit in ModuleLists.

    Example:
        With preset auto, any model:

        >>> with AdaCache(transformer, steps=30, config=auto(2.0), sigmas=sigmas) as run:
        ...     for step, sigma in enumerate(sigmas[:-1]):
        ...         with run.evaluation(step, sigma):
        ...             velocity = run.velocity(x, lambda: transformer(x, sigma, prompt))
        ...         x = x + (sigmas[step + 1] - sigma) * velocity
        >>> run.report.computed, run.report.total

        With a codebook of the paper, which reuses residuals of blocks:

        >>> with AdaCache(transformer, blocks="blocks", head="norm_out", steps=30) as run:
        ...     for step, t in enumerate(timesteps):
        ...         with run.evaluation(step):
        ...             with run.call("prompt", frames=8, positions=256):
        ...                 noise = transformer(x, t, prompt)
        ...         x = scheduler.step(noise, t, x)

    Args:
        module: holds the blocks. It is restored after every call.
        steps: number of sampler steps.
        blocks: dotted path of the block container, or several in the order in which they run. Auto and quality need
            none.
        head: dotted path of the module whose first argument is the stack's output, or a `Head`.
        config: settings; the published fast table by default.
        sigmas: noise levels of the run, falling, (steps + 1,); auto and quality need them. If the first is at most 1,
            they are a flow model's, else latents are video + sigma noise.
        sampler: the loop as a function (see `probe_sampler`), if it is not Euler's.
        stream, output: see `StackLayout`.

    Raises:
        AdaCacheError: a path leads nowhere, or the settings need blocks and none are named.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        steps: int,
        blocks: str | Sequence[str] = (),
        head: str | Head = "",
        config: CacheConfig | None = None,
        sigmas: Sequence[float] | None = None,
        sampler: Callable[[Model, Tensor], Tensor] | None = None,
        stream: str = "hidden_states",
        output: int = 0,
    ) -> None:
        config = config or CacheConfig(FAST_30)
        paths = (blocks,) if isinstance(blocks, str) else tuple(blocks)
        if not paths and not config.at_output:
            raise AdaCacheError("these settings reuse blocks: name blocks and head. Only auto and quality work without")
        self.module = module
        self.layout = (
            StackLayout(paths, (Head(head) if isinstance(head, str) else head,), stream, output) if paths else None
        )
        if self.layout is not None:
            BlockStack(module, self.layout)  # a wrong path should raise here, not in the first step
        report = RunReport(model=type(module).__name__)
        sigmas = None if sigmas is None else [float(sigma) for sigma in sigmas]  # numbers, if it was a tensor
        known = None if sigmas is None else probe_sampler(sampler or euler(sigmas), sigmas)
        flow = sigmas is None or sigmas[0] <= 1
        self.engine = Engine(config, steps, self.layout, sampler=known, flow=flow, report=report)

    def __enter__(self) -> AdaCache:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.engine.finish()

    @property
    def report(self) -> RunReport:
        return self.engine.report

    def evaluation(self, step: int, sigma: float | None = None) -> AbstractContextManager[StepRecord]:
        """Context of one model evaluation of sampler step 0..N-1."""
        device = next((parameter.device for parameter in self.module.parameters()), None)
        return self.engine.evaluation(step, None if sigma is None else float(sigma), device)

    def call(
        self,
        key: Hashable | Sequence[Hashable],
        frames: int | None = None,
        positions: int | None = None,
        start: int = 0,
        signature: Hashable = None,
    ) -> AbstractContextManager[Recording | None]:
        """Context of one call of the module.

        Args:
            key: whose residual it is: one hashable (but not a list), or a list with one for each equal
                chunk of the batch, such as ["uncond", "cond"].
            frames, positions, start: where the video is, see `Grid`. Without the first two MoReg is off.
            signature: what must be equal for a residual to be reused, such as the input's shape.
        """
        keys = key if isinstance(key, list) else [key]
        grid = Grid(frames, positions, start) if frames and positions else None
        return self.engine.call(self.module, keys, signature=signature, grid=grid)

    def velocity(self, x: Tensor, ask: Callable[[], Tensor]) -> Tensor:
        """The velocity to go on with, from the model or from a forecast; inside `evaluation(step, sigma)`.

        Args:
            x: the latent that is evaluated.
            ask: evaluates the model: d x / d sigma at x, after guidance, of the shape of x. If there are `blocks`,
                every call of the module in it stands inside a `call`.
        """
        sigma = self.engine.current.sigma if self.engine.current else None
        assert sigma, "velocity() belongs inside evaluation(step, sigma)"
        asked: list[Tensor] = []

        def video() -> Tensor:
            with nullcontext() if self.layout else self.call("the model"):
                asked.append(ask())
            asked.append(x - sigma * asked[0])
            return asked[1]

        found = self.engine.answer(x, video)
        return asked[0] if asked and found is asked[1] else (x - found) / sigma
