"""Other probes for the ablation: other metrics than L1, and other parts of the network than one block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from adacache_core import AdaCache, CacheConfig
from adacache_core.decide.change import change_sums
from research import demo_model

from .videos import CFG, Video

# (new, old) -> two numbers, (2,), whose ratio is the relative change. The engine sums them over conditionings.
Change = Callable[[Tensor, Tensor], Tensor]


def l2_sums(new: Tensor, old: Tensor) -> Tensor:
    """||old - new||_2 and ||old||_2; float32, (2,)."""
    return torch.stack([torch.linalg.vector_norm(each, dtype=torch.float32) for each in (old - new, old)])


def cosine_sums(new: Tensor, old: Tensor) -> Tensor:
    """1 - cos(old, new), and 1, so that the mean over conditionings is taken; float32, (2,)."""
    old, new = old.flatten().float(), new.flatten().float()
    return torch.stack([1 - torch.cosine_similarity(old, new, dim=0), torch.ones((), device=old.device)])


METRICS: dict[str, Change] = {"L1": change_sums, "L2": l2_sums, "cosine": cosine_sums}

Span = tuple[str, str]  # part of the token stream: from the input of one module to the input of a later one

# Parts of diffusers' Wan transformer; {first}, {second}, {middle}, {next} and {last} stand for numbers of blocks.
FIRST: Span = ("blocks.{first}", "blocks.{second}")
MIDDLE: Span = ("blocks.{middle}", "blocks.{next}")
LAST: Span = ("blocks.{last}", "norm_out")
PLACES: dict[str, tuple[Span, ...]] = {
    "first block": (FIRST,),
    "middle block": (MIDDLE,),
    "last block": (LAST,),
    "several blocks": (FIRST, MIDDLE, LAST),
    "whole stack": (("blocks.{first}", "norm_out"),),
    "self-attention": (("blocks.{middle}", "blocks.{middle}.norm2"),),
    "cross-attention": (("blocks.{middle}.norm2", "blocks.{middle}.norm3"),),
    "MLP": (("blocks.{middle}.norm3", "blocks.{next}"),),
}


@dataclass(frozen=True)
class Probe:
    """How the change is measured.

    Attributes:
        metric: a name of METRICS.
        place: a name of PLACES; for several spans, the mean of their relative changes counts.
    """

    metric: str = "L1"
    place: str = "middle block"

    @property
    def spans(self) -> tuple[Span, ...]:
        return PLACES[self.place]

    def sums(self, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Two numbers, (2,), whose ratio is the change, from (new, old) of each span for one conditioning."""
        each = [METRICS[self.metric](new, old) for new, old in pairs]
        return each[0] if len(each) == 1 else torch.stack([sums / sums[1] for sums in each]).sum(0)


USUAL = Probe()  # as in the pack


@contextmanager
def probed(
    model: WanTransformer3DModel,
    video: Video,
    config: CacheConfig,
    probes: Sequence[Probe] = (USUAL,),
    notice: Callable[[list[Tensor]], object] = lambda sums: None,
) -> Iterator[tuple[demo_model.Evaluate, AdaCache]]:
    """A run of the demo model whose schedule follows the first of the probes; the others only measure.

    Args:
        config: settings; MoReg works only with USUAL.
        notice: called with the sums of every probe, for each conditioning of each measured step.
    """
    context = demo_model.guided_context(video.prompt, CFG).to(model.device)
    spans = [_in_model(model, span) for probe in probes for span in probe.spans]
    with (
        AdaCache(model, blocks="blocks", head="norm_out", steps=video.steps, config=config) as run,
        _stream_at(model, {place for span in spans for place in span}) as stream,
    ):

        def change(new: Tensor, old: Tensor) -> Tensor:
            pairs = iter(zip(new.chunk(len(spans), 1), old.chunk(len(spans), 1), strict=True))
            sums = [probe.sums([next(pairs) for _ in probe.spans]) for probe in probes]
            notice(sums)
            return sums[0]

        @contextmanager
        def around(step: int, sigma: float) -> Iterator[None]:
            with run.evaluation(step, sigma), run.call(["positive", "negative"], *demo_model.PATCHED) as recording:
                yield
                if recording is not None and recording.want_probe:
                    residuals = [
                        recording.sample(stream[end]) - recording.sample(stream[begin]) for begin, end in spans
                    ]
                    recording.probe = torch.cat(residuals, dim=1)

        run.engine.blocks.measure_change = change
        yield demo_model.guided(model, context, CFG, around), run


def _in_model(model: WanTransformer3DModel, span: Span) -> Span:
    depth = len(model.blocks)
    middle = depth // 2
    numbers = {"first": 0, "second": 1, "middle": middle, "next": middle + 1, "last": depth - 1}
    begin, end = (place.format(**numbers) for place in span)
    return begin, end.replace(f"blocks.{depth}", "norm_out")


@contextmanager
def _stream_at(model: WanTransformer3DModel, places: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Name of a module -> its last input."""
    given: dict[str, Tensor] = {}

    def remember(place: str) -> Callable[..., None]:
        return lambda module, arguments: given.update({place: arguments[0]})

    hooks = [model.get_submodule(place).register_forward_pre_hook(remember(place)) for place in places]
    try:
        yield given
    finally:
        for hook in hooks:
            hook.remove()
