"""How host tests sample, and a witness inside the model that sees what ran. Knows nothing about AdaCache."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from .tiny import Tiny

STEPS = 9
PLAN = (0, 1, 4, 7, 8)  # the steps that a rate of 3 computes


def policy_of(
    core: Any,
    table: Any,
    *,
    target: float | None = None,
    closeness: float | None = None,
    schedule: Any = None,
    watch: bool = False,
    enabled: bool = True,
) -> Any:
    """A policy from a few words. A schedule skips at the output if there is a target, else blocks.

    Args:
        core: the pack's `adacache_core`.
        table: a codebook, used if nothing else is given.
        target, closeness, schedule, watch, enabled: what to use instead; if several are given, the last of them.
    """
    policy = table if target is None else core.Target(target)
    policy = policy if closeness is None else core.Quality(closeness)
    policy = policy if schedule is None else core.Fixed(schedule, at_output=target is not None)
    policy = core.Watch() if watch else policy
    return policy if enabled else core.Off()


def sample(tiny: Tiny, model: Any = None, *, latent: Tensor | None = None, **changes: Any) -> Tensor:
    """`comfy.sample.sample` with the tiny model's latent and conditionings, in inference mode like the host's executor.

    Args:
        tiny: what is sampled.
        model: a patched clone of its MODEL; None: its MODEL.
        latent: instead of its own.
        changes: arguments of the host's function that differ.

    Returns:
        The video; with sound, video and sound flattened in a row.
    """
    import comfy.sample

    latent = tiny.latent if latent is None else latent
    settings = {
        "noise": comfy.sample.prepare_noise(latent, 1),
        "steps": STEPS,
        "cfg": 4.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "positive": tiny.positive,
        "negative": tiny.negative,
        "latent_image": latent,
        "noise_mask": tiny.noise_mask,
        "seed": 1,
        "disable_pbar": True,
    }
    try:
        with torch.inference_mode():
            return joined(comfy.sample.sample(model or tiny.model, **(settings | changes)))
    finally:
        for name in tiny.variant.keeps:
            vars(tiny.module).pop(name, None)


def joined(latent: Any) -> Tensor:
    """A latent as it is; of a NestedTensor, all latents flattened in a row."""
    return torch.cat([part.flatten() for part in latent.unbind()]) if latent.is_nested else latent


def percent_of(tiny: Tiny, step: int) -> float:
    """The `start_percent` that makes something begin at this step of a run (not the first)."""
    import comfy.samplers

    sampling = tiny.model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", STEPS)
    between = (sigmas[step - 1] + sigmas[step]) / 2
    return next(percent / 1000 for percent in range(1000) if sampling.percent_to_sigma(percent / 1000) < between)


def blocks_of(module: nn.Module) -> dict[str, nn.Module]:
    """All blocks of the stack by name, in order. A second list of what the table says, to check the table."""
    containers = (
        *("blocks", "transformer_blocks", "visual_transformer_blocks", "joint_blocks", "layers"),
        *("double_blocks", "double_layers", "double_stream_blocks"),
        *("single_blocks", "single_layers", "single_stream_blocks"),
    )
    return {
        f"{name}.{index}": block
        for name in containers
        if hasattr(module, name)
        for index, block in getattr(module, name)._modules.items()
    }


def head_of(tiny: Tiny) -> nn.Module:
    """The module that follows the blocks (of several, the first)."""
    names = (tiny.variant.head, "head", "final_layer", "norm_final", "norm_out", "final_linear", "out_layer")
    return next(getattr(tiny.module, name) for name in names if name and hasattr(tiny.module, name))


def heads_of(tiny: Tiny) -> list[nn.Module]:
    """The head, and that of the sound if it has its own."""
    sound = tiny.variant.sound_head
    return [head_of(tiny), *([getattr(tiny.module, sound)] if sound else [])]


def patch_of(module: nn.Module) -> tuple[int, int, int]:
    """Frames, rows and columns of the latent that become one token."""
    if hasattr(module, "patch_spatial"):
        return module.patch_temporal, module.patch_spatial, module.patch_spatial
    patch = getattr(module, "patch_size", (1, 1, 1))
    return (getattr(module, "patch_size_t", None) or 1, patch, patch) if isinstance(patch, int) else tuple(patch)


# Hidden states, batch first; for a model with two streams, a list of both.
Streams = Tensor | list[Tensor]


def each(streams: Streams) -> list[Tensor]:
    return [streams] if isinstance(streams, Tensor) else list(streams)


def stream_in(tiny: Tiny, args: tuple, kwargs: dict) -> Streams:
    """The hidden states among the arguments of one of the first blocks."""
    names = ("img", "hidden_states", "image_tokens")
    given = args[tiny.variant.argument] if args else next(kwargs[name] for name in names if name in kwargs)
    return _batch_first(tiny, given) if isinstance(given, Tensor) else list(given)


def stream_out(tiny: Tiny, output: Any) -> Streams:
    if tiny.variant.sound_head:
        return list(output)
    return _batch_first(tiny, output if isinstance(output, Tensor) else output[tiny.variant.output])


def _batch_first(tiny: Tiny, stream: Tensor) -> Tensor:
    return stream[None] if tiny.variant.batch is None else stream.movedim(tiny.variant.batch, 0)


def _as_the_model_has_it(tiny: Tiny, stream: Tensor) -> Tensor:
    return stream[0] if tiny.variant.batch is None else stream.movedim(0, tiny.variant.batch)


def _cloned(thing: Any) -> Any:
    return tree_map_only(Tensor, Tensor.clone, thing)


@dataclass
class Call:
    """One call of the diffusion model.

    Attributes:
        evaluation: index of the sampler's evaluation.
        arguments: (args, kwargs), with cloned tensors.
        ran: how often each block and each module between blocks ran.
        entered, left: block name -> copies of the hidden states before and after it.
        heads: what each head got.
        output: what the model returned; a list if there are several latents.
    """

    evaluation: int
    arguments: tuple[tuple, dict]
    ran: Counter = field(default_factory=Counter)
    entered: dict[str, Streams] = field(default_factory=dict)
    left: dict[str, Streams] = field(default_factory=dict)
    heads: list[Tensor] = field(default_factory=list)
    output: Streams | None = None

    @property
    def head_in(self) -> Tensor:
        return self.heads[0]

    @property
    def computed(self) -> bool:
        return bool(self.ran)

    @property
    def options(self) -> dict:
        """The host's transformer options."""
        args, kwargs = self.arguments
        return next(each for each in (*args, *kwargs.values()) if isinstance(each, dict) and "uuids" in each)

    @property
    def window(self) -> tuple[int, ...]:
        """Frames of the context window; () if there is none."""
        options = self.options
        return tuple(options["context_window"].index_list) if "context_window" in options else ()

    @property
    def whose(self) -> list:
        """The conditionings in the batch."""
        return [*self.options["uuids"], self.window]


class Witness:
    """Hooks on the model's own modules that count what runs and keep what passes. Use as a context.

    Attributes:
        calls: in order, without `proofs`.
        proofs: calls that repeat the call before them without any block (`Engine.prove`).
    """

    def __init__(self, tiny: Tiny) -> None:
        self.tiny = tiny
        self.calls: list[Call] = []
        self.proofs: list[Call] = []
        self.evaluations = 0
        self.error = 0.0  # the largest that `assert_reuse_is_per_block` found
        self._handles: list[Any] = []

    def watched(self, model: Any) -> Any:
        """A clone of a MODEL that also tells the witness when an evaluation begins."""
        from comfy.patcher_extension import WrappersMP

        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "witness", self._evaluation)
        return model

    def __enter__(self) -> Witness:
        module = self.tiny.module
        hook = self._handles.append
        hook(module.register_forward_pre_hook(self._begin, with_kwargs=True))
        hook(module.register_forward_hook(self._end))
        for name, block in blocks_of(module).items():
            hook(on_call(block, self._enter(name), self._leave(name), self.tiny.variant.method))
        for path in self.tiny.variant.between:
            hook(module.get_submodule(path).register_forward_pre_hook(self._count(path)))
        for head in heads_of(self.tiny):
            hook(head.register_forward_pre_hook(self._head))
        return self

    def __exit__(self, *exc_info: object) -> None:
        for handle in self._handles:
            handle.remove()

    def row(self) -> list[tuple[int, int]]:
        """(calls, calls that ran a block) of each evaluation."""
        calls = [[call for call in self.calls if call.evaluation == index] for index in range(self.evaluations)]
        return [(len(each), sum(call.computed for call in each)) for each in calls]

    def _evaluation(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        self.evaluations += 1
        return executor(*args, **kwargs)

    def _begin(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self.calls.append(Call(self.evaluations - 1, _cloned((args, kwargs))))

    def _end(self, module: nn.Module, args: tuple, output: Streams) -> None:
        self.calls[-1].output = _cloned(output)
        if self._is_proof():
            self.proofs.append(self.calls.pop())

    def _is_proof(self) -> bool:
        before, call = [None, *self.calls][-2:]
        if before is None or before.evaluation != call.evaluation or call.computed or not before.computed:
            return False
        given = (each(one.arguments[0][0]) for one in (before, call))  # of several latents a list
        return before.whose == call.whose and all(map(torch.equal, *given))

    def _enter(self, name: str) -> Any:
        def hook(block: nn.Module, args: tuple, kwargs: dict) -> None:
            self.calls[-1].ran[name] += 1
            self.calls[-1].entered[name] = _cloned(stream_in(self.tiny, args, kwargs))

        return hook

    def _leave(self, name: str) -> Any:
        def hook(block: nn.Module, args: tuple, output: Any) -> None:
            self.calls[-1].left[name] = _cloned(stream_out(self.tiny, output))

        return hook

    def _count(self, path: str) -> Any:
        def hook(module: nn.Module, args: tuple) -> None:
            self.calls[-1].ran[path] += 1

        return hook

    def _head(self, module: nn.Module, args: tuple) -> None:
        given = args[0][None] if self.tiny.variant.batch is None else args[0]
        self.calls[-1].heads.append(given.clone())


def row_of(report: Any) -> list[tuple[int, int]]:
    """`Witness.row`, as the report says it."""
    return [(record.calls, record.calls_computed) for record in report.evaluations]


def error_of(video: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest expected number."""
    return ((video - expected).abs().max() / expected.abs().max()).item()


class _Enough(Exception):
    """Ends a call when the input of the first block is known."""


def replay(tiny: Tiny, call: Call) -> Streams:
    """What the unpatched model returns for the arguments of a call."""
    with torch.inference_mode():
        args, kwargs = _cloned(call.arguments)
        return tiny.module(*args, **kwargs)


def embedded(tiny: Tiny, call: Call) -> Streams:
    """What the unpatched model passes to its first block, for the arguments of a call."""
    found = []

    def stop(block: nn.Module, args: tuple, kwargs: dict) -> None:
        found.append(_cloned(stream_in(tiny, args, kwargs)))
        raise _Enough

    first = next(iter(blocks_of(tiny.module).values()))
    handle = on_call(first, stop, method=tiny.variant.method)
    try:
        replay(tiny, call)
    except _Enough:
        pass
    finally:
        handle.remove()
    return found[0]


def held(tiny: Tiny, last: Call, streams: Streams) -> list[Tensor]:
    """What per-block reuse makes of `streams`: it adds what each block, with what follows it, added in `last`."""
    ends = each(list(last.left.values())[-1]) if tiny.variant.head == "" else last.heads
    return [_held(x, [each(given)[n] for given in last.entered.values()], ends[n]) for n, x in enumerate(each(streams))]


def _held(x: Tensor, entered: list[Tensor], end: Tensor) -> Tensor:
    shape = None
    if end.numel() == x.numel():  # some heads get the tokens as rows and columns
        shape, end = end.shape, end.reshape(x.shape)
    tokens = min(x.shape[1], end.shape[1])
    blocks = [stream for stream in entered if stream.shape == x.shape]
    streams = [stream[:, -tokens:].double() for stream in (*blocks, end)]  # references are dropped from the front
    stream = x[:, -tokens:].double() + sum(after - before for before, after in pairwise(streams))
    return stream if shape is None else stream.reshape(shape)


def assert_reuse_is_per_block(tiny: Tiny, witness: Witness) -> int:
    """Computed calls equal those of the unpatched model bit for bit; reused ones equal per-block reuse up to rounding.

    Calls are told apart by their context window, or by their place in an evaluation, which must always be the same.

    Returns:
        The number of reused calls.
    """
    last: dict[Hashable, Call] = {}
    reused = 0
    for number, call in enumerate(witness.calls):
        first = next(n for n, other in enumerate(witness.calls) if other.evaluation == call.evaluation)
        place = call.window or number - first
        if call.computed:
            last[place] = call
            assert all(map(torch.equal, each(replay(tiny, call)), each(call.output)))
            continue
        reused += 1
        dtype = call.head_in.dtype
        rounding = 2 * torch.finfo(dtype).eps
        expected = [stream.to(dtype) for stream in held(tiny, last[place], embedded(tiny, call))]
        if tiny.variant.head != "":
            for given, stream in zip(call.heads, expected, strict=True):
                assert (given - stream).abs().max() <= rounding * stream.abs().max()
        with with_hook(*_behind_the_blocks(tiny, expected)):
            outputs = replay(tiny, call)
        for made, output in zip(each(call.output), each(outputs), strict=True):
            error = error_of(made, output)
            assert error <= 4 * rounding
            witness.error = max(witness.error, error)
    return reused


def _behind_the_blocks(tiny: Tiny, streams: list[Tensor]) -> list[Any]:
    """Replaces the output of the blocks by these hidden states; returns handles."""
    if tiny.variant.head != "":
        given = streams if tiny.variant.batch is not None else [stream[0] for stream in streams]
        return [
            head.register_forward_pre_hook(lambda head, args, stream=stream: (stream, *args[1:]))
            for head, stream in zip(heads_of(tiny), given, strict=True)
        ]
    last_block = list(blocks_of(tiny.module).values())[-1]

    def replaced(block: nn.Module, args: tuple, output: Tensor) -> Tensor:
        (stream,), output = streams, _batch_first(tiny, output)
        return _as_the_model_has_it(tiny, torch.cat([output[:, : -stream.shape[1]], stream], dim=1))

    return [last_block.register_forward_hook(replaced)]


def on_call(module: nn.Module, enter: Callable, leave: Callable | None = None, method: str = "forward") -> Any:
    """Hooks on a method of a module, called (module, args, kwargs) and (module, args, output); returns a handle."""
    if method == "forward":
        handles = [module.register_forward_pre_hook(enter, with_kwargs=True)]
        if leave is not None:
            handles.append(module.register_forward_hook(leave))
        return SimpleNamespace(remove=lambda: [handle.remove() for handle in handles])
    before, called = vars(module).get(method), getattr(module, method)

    def hooked(*args: Any, **kwargs: Any) -> Any:
        enter(module, args, kwargs)
        output = called(*args, **kwargs)
        if leave is not None:
            leave(module, args, output)
        return output

    def remove() -> None:
        vars(module).pop(method)
        vars(module).update({} if before is None else {method: before})

    vars(module)[method] = hooked
    return SimpleNamespace(remove=remove)


def raising(module: nn.Module, error: BaseException, at: int, method: str = "forward") -> Any:
    """Makes the module raise when it is called for the `at`-th time, counted from 1; returns a handle."""
    times = 0

    def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
        nonlocal times
        times += 1
        if times == at:
            raise error

    return on_call(module, hook, method=method)


@contextmanager
def with_hook(*handles: Any) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def holding_no_new_tensor() -> Iterator[Callable[[], list[Any]]]:
    """Asserts that no tensor made in the context outlives it, except weights that the host itself keeps on a card.

    Yields a function that lists new objects.
    """
    gc.collect()
    gc.freeze()  # ignores what exists already
    try:
        yield gc.get_objects
        gc.collect()
        new = [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]
    finally:
        gc.unfreeze()
    assert [tuple(tensor.shape) for tensor in new if not _is_weight_of_dynamic_vram(tensor)] == []


def _is_weight_of_dynamic_vram(tensor: Tensor) -> bool:
    """Whether a layer has it under the names that the host's dynamic VRAM gives to its copies of weights."""
    layers = (each for each in gc.get_referrers(tensor) if isinstance(each, dict))
    return any(each.get(name) is tensor for each in layers for name in ("_v_weight", "_v_bias"))


WATCH = ((0.0, 4), (1.0, 1))  # a table that records every step and skips none


def assert_right(tiny: Tiny, model: Any, adacache: Callable, run: Callable = sample) -> tuple[Witness, Any]:
    """Watching changes nothing; a run that skips two of three steps equals per-block reuse, and its report is true.

    Args:
        tiny: what is sampled.
        model: its MODEL, with or without patches.
        adacache: the fixture.
        run: (tiny, model) -> the video.

    Returns:
        The witness of the run that skips, and its report.
    """
    watching, _ = adacache(model, table=WATCH)
    assert torch.equal(run(tiny, watching), run(tiny, model))
    skipping, attachment = adacache(model, rate=3)
    with Witness(tiny) as witness:
        run(tiny, witness.watched(skipping))
    report = attachment.finished[-1].report
    assert row_of(report) == witness.row()
    assert assert_reuse_is_per_block(tiny, witness) == sum(calls - ran for calls, ran in witness.row())
    return witness, report
