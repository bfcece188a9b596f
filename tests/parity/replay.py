"""Replays recorded traces of the published AdaCache code: `python tests/parity/replay.py DIR`.

DIR is in the format of `golden/README.md`, with scheduler cases, model runs or both. One line per case, the
last line `N passed, M failed`. Exit status 1 if any failed, 2 if there is nothing that can be replayed.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace

if __name__ == "__main__":  # no test runner has told Python where the core is
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

import torch
from safetensors.torch import load_file

from adacache_core import Grid
from adacache_core.decide.change import change_sums
from adacache_core.decide.metric import Sums
from adacache_core.decide.motion import motion_sums
from adacache_core.reuse.blocks import motion_unusable
from adacache_core.reuse.layout import Head, StackLayout
from adacache_core.reuse.recording import Recording
from adacache_core.reuse.stack import BlockStack
from parity.reference import ReferenceRun, Settings
from parity.stdit3 import STDiT3, sample

FORMAT_VERSION = 1

STEP_KEYS = ("step", "timestep", "computed", "rate_after", "residual_sum", "residual_l1", "residual_l2")
CHANGE_NUMBERS = ("raw_diff", "step_diff", "sync_diff", "motion")
MOREG_NUMBERS = ("moreg_base", "prev_moreg", "moreg", "metric")

LAYOUT = StackLayout(("spatial_blocks", "temporal_blocks"), (Head("final_layer"),))

# Where the probed residual is found in a block, and which blocks of an index have it (rules 11 and 12).
PROBED = {"t-attn": ("attn", "t"), "s-attn": ("attn", "s"), "ca-mlp": ("ca-mlp", "st")}


class CannotReplay(Exception):
    """The directory as a whole is of no use; the message says why."""


class Mismatch(Exception):
    """A case does not come out as recorded."""


@dataclass(frozen=True)
class Tolerances:
    """Relative differences that another order of summation makes."""

    change: float  # of relative differences of sums, motion among them
    moreg: float  # of what went through the 8th power and then through a difference times ten


FLOAT32 = Tolerances(change=1e-5, moreg=3e-4)  # these two as golden/README.md states them
BFLOAT16 = Tolerances(change=1e-2, moreg=1e-2)

# A network of our own rounds differently before anything is measured: 1.5e-5 and 2.1e-4 on the golden runs.
NETWORK = Tolerances(change=1e-4, moreg=1e-3)
LATENT = 2e-5  # of latents and residuals; 1.3e-6 on the golden runs


@dataclass
class Comparison:
    """Compares what was recorded with what came out; counts numbers, raises at the first that differs."""

    numbers: int = 0
    place: list[str] = field(default_factory=list)

    @contextmanager
    def at(self, place: str) -> Iterator[None]:
        self.place.append(place)
        yield
        self.place.pop()

    def exact(self, what: str, recorded, ours) -> None:
        self.numbers += len(recorded) if isinstance(recorded, list) else 1
        if recorded != ours:
            raise Mismatch(self._sentence(what, recorded, ours))

    def close(self, what: str, recorded, ours: float, tolerance: float, scale: float | None = None) -> None:
        """`tolerance` is relative to `scale`, by default the recorded number itself."""
        self.numbers += 1
        recorded = float(recorded)  # "nan", "inf" and "-inf" are written as strings
        if math.isnan(recorded) and math.isnan(ours):
            return
        scale = recorded if scale is None or not math.isfinite(scale) else scale
        near = math.isfinite(recorded) and abs(recorded - ours) <= tolerance * abs(scale)
        if not near and recorded != ours:
            raise Mismatch(self._sentence(what, recorded, ours))

    def tensors(self, what: str, recorded: torch.Tensor, ours: torch.Tensor, tolerance: float) -> None:
        """`tolerance` is relative to the largest recorded value."""
        self.exact(f"shape of {what}", list(recorded.shape), list(ours.shape))
        self.numbers += recorded.numel()
        error, scale = float((recorded - ours).abs().max()), float(recorded.abs().max())
        if not error <= tolerance * scale:
            raise Mismatch(self._sentence(f"largest error of {what}", f"at most {tolerance * scale:g}", error))

    def _sentence(self, what: str, recorded, ours) -> str:
        return f"{', '.join([*self.place, what])}: recorded {recorded!r}, ours {ours!r}"


@dataclass(frozen=True)
class Case:
    """Something recorded under a name, that can be checked."""

    name: str
    replay: Callable[[Comparison], None]

    def check(self) -> int:
        """How many numbers were compared.

        Raises:
            Mismatch: with the first number that differs. Whatever else is wrong raises as it comes.
        """
        comparison = Comparison()
        self.replay(comparison)
        if not comparison.numbers:
            raise Mismatch("nothing recorded to compare with")
        return comparison.numbers


def load_cases(directory: Path) -> list[Case]:
    """All cases of a directory, in the order in which they are recorded.

    Raises:
        CannotReplay: no such directory, nothing in it, or not readable.
    """
    cases = []
    for file, entries, replay in (
        ("scheduler_cases.json", "cases", _scheduler_case),
        ("model_runs.json", "runs", _model_run),
    ):
        if (directory / file).exists():
            data = _read_json(directory / file, entries)
            cases += [Case(entry["name"], partial(replay, directory, data, entry)) for entry in data[entries]]
    if not cases:
        raise CannotReplay(f"no cases in {directory}: neither scheduler_cases.json nor model_runs.json has any")
    return cases


def _read_json(path: Path, entries: str) -> dict:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        version, names = data["format_version"], [entry["name"] for entry in data[entries]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CannotReplay(f"{path} cannot be read: {error!r}") from None
    if version != FORMAT_VERSION:
        raise CannotReplay(f"{path} has format version {version!r}; this program reads {FORMAT_VERSION}")
    if len(set(names)) < len(names):
        raise CannotReplay(f"{path} has two cases of one name")
    return data


def _scheduler_case(directory: Path, data: Mapping, case: Mapping, compare: Comparison) -> None:
    """Recorded residuals through a controller."""
    tensors = load_file(directory / "scheduler_residuals.safetensors")
    settings = Settings.from_params(case["params"])
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[case["dtype"]]
    ours = None
    for number, video in enumerate(case["videos"]):
        ours = ReferenceRun(settings, dtype, before=ours)
        probes = {block: tensors[video["tensors"][block]] for block in case["probe_blocks"]}
        computed, rates = _simulated(ours, probes, case["shape"]["T"])
        with compare.at(f"video {number}"):
            compare.exact("computed_steps", video["computed_steps"], computed)
            compare.exact("rate_after_step", video["rate_after_step"], _with_reset(rates))
            _compare_calls(compare, video["calls"], ours.calls, FLOAT32 if dtype == torch.float32 else BFLOAT16)


def _simulated(run: ReferenceRun, probes: Mapping[str, torch.Tensor], frames: int) -> tuple[list[int], list[int]]:
    """The computed steps, from 1, and the rate after each step; no probes: a block that does not exist (rule 13)."""
    computed, rates, cached = [], [], {}
    for step in range(run.steps):
        if run.decides_to_compute(step):
            new = {name: rows[step] for name, rows in probes.items()}
            run.computed(step, _sums(run, new, cached, frames))
            cached = new
            computed.append(step + 1)
        rates.append(run.rate)
    return computed, rates


def _sums(run: ReferenceRun, new: Mapping, cached: Mapping, frames: int) -> dict[str, Sums]:
    """What the probes measured; nothing at the first computed step."""
    moreg = run.config.moreg
    usable = moreg is not None and not motion_unusable(Grid(frames, 1), moreg.strides)
    return {
        name: Sums(change_sums(probe, cached[name]), motion_sums(probe, frames, moreg.strides) if usable else None)
        for name, probe in new.items()
        if cached
    }


def _with_reset(rates: list[int]) -> list[int]:
    """The traces show the rate after the last step when the controller has been reset already (rule 26)."""
    return [*rates[:-1], 1]


def _model_run(directory: Path, data: Mapping, run: Mapping, compare: Comparison) -> None:
    """Recorded noise through the small STDiT3, its whole block stack reused as one."""
    weights, inputs, outputs = (
        load_file(directory / f"model_{name}.safetensors") for name in ("weights", "inputs", "outputs")
    )
    model = STDiT3(data["model_config"]).eval()
    model.load_state_dict(weights)
    params, micro = run["params"], data["micro_conditioning"]
    settings = Settings.from_params(params)
    ours = None
    for number, video in enumerate(run["videos"]):
        ours = ReferenceRun(settings, before=ours)
        prompts = [
            {kind: inputs[f"{name}/{kind}"] for kind in ("caption", "mask", "noise")} for name in video["prompts"]
        ]
        frames = prompts[0]["noise"].shape[2]
        watched = CachedRun(model, frames, ours, params) if params["do_cache"] else WatchedRun(model)
        latent = sample(
            model, prompts, params["num_steps"], run["cfg_scale"], micro, data["num_timesteps"], watched.around
        )
        with compare.at(f"video {number}"):
            compare.exact("computed_steps", video["computed_steps"], [row.step for row in watched.rows if row.computed])
            _compare_steps(compare, video, watched.rows, outputs)
            _compare_calls(compare, video["calls"], ours.calls, NETWORK)
            compare.tensors("the final latent", outputs[video["final_latent"]], latent, LATENT)


def _compare_steps(compare: Comparison, video: Mapping, rows: list, outputs: Mapping[str, torch.Tensor]) -> None:
    compare.exact("number of steps", len(video["steps"]), len(rows))
    rates = _with_reset([row.rate for row in rows])
    for recorded, row, rate in zip(video["steps"], rows, rates, strict=True):
        with compare.at(f"step {row.step}"):
            _same_keys(compare, recorded, STEP_KEYS)
            compare.exact("step", recorded["step"], row.step)
            compare.exact("computed", recorded["computed"], row.computed)
            compare.exact("rate_after", recorded["rate_after"], rate)
            compare.close("timestep", recorded["timestep"], row.timestep, 1e-6)
            r = row.residual.double()
            l1 = float(r.abs().sum())
            compare.close("residual_sum", recorded["residual_sum"], float(r.sum()), LATENT, scale=l1)
            compare.close("residual_l1", recorded["residual_l1"], l1, LATENT)
            compare.close("residual_l2", recorded["residual_l2"], float(r.norm()), LATENT)
    for step, name in video.get("residuals", {}).items():
        compare.tensors(f"R of step {step}", outputs[name], rows[int(step) - 1].residual, LATENT)


def _compare_calls(compare: Comparison, recorded: list[Mapping], ours: list[Mapping], tolerances: Tolerances) -> None:
    """Every number of every metric call."""
    compare.exact("number of metric calls", len(recorded), len(ours))
    for number, (theirs, call) in enumerate(zip(recorded, ours, strict=True)):
        with compare.at(f"call {number} (step {call['step']}, {call['block']})"):
            _same_keys(compare, theirs, call)
            for key, value in theirs.items():
                if key in CHANGE_NUMBERS:
                    compare.close(key, value, call[key], tolerances.change)
                elif key in MOREG_NUMBERS:
                    compare.close(key, value, call[key], tolerances.moreg)
                elif key == "mograd":  # a small difference of large factors
                    compare.close(key, value, call[key], tolerances.moreg, scale=call["moreg"])
                else:
                    compare.exact(key, value, call[key])


def _same_keys(compare: Comparison, recorded: Mapping, ours: Iterable[str]) -> None:
    compare.exact("what is recorded", sorted(recorded), sorted(ours))


class WatchedRun:
    """Sees, at every step, which blocks ran and what the head is given beyond what the block stack is given."""

    def __init__(self, model: STDiT3) -> None:
        self.model = model
        self.blocks = [*model.spatial_blocks, *model.temporal_blocks]
        self.rows: list[SimpleNamespace] = []
        self.rate = 1

    @contextmanager
    def around(self, step: int, timestep: float) -> Iterator[None]:
        row = SimpleNamespace(step=step + 1, timestep=timestep)
        for block in self.blocks:
            block.added = {}
        hooks = (
            self.model.x_embedder.register_forward_hook(lambda _, args, out: setattr(row, "stack_input", out)),
            self.model.final_layer.register_forward_pre_hook(lambda _, args: setattr(row, "head_input", args[0])),
        )
        with self.model_call(step):
            yield
        for hook in hooks:
            hook.remove()
        ran = sum(bool(block.added) for block in self.blocks)
        assert ran in (0, len(self.blocks)), f"{ran} of {len(self.blocks)} blocks ran"
        row.computed = ran > 0
        row.residual = row.head_input - row.stack_input
        row.rate = self.rate
        self.rows.append(row)

    @contextmanager
    def model_call(self, step: int) -> Iterator[None]:
        yield


class CachedRun(WatchedRun):
    """The controller in charge: blocks run and are recorded, or are skipped and their sum R is added."""

    def __init__(self, model: STDiT3, frames: int, run: ReferenceRun, params: Mapping) -> None:
        super().__init__(model)
        self.frames = frames
        self.run = run
        self.stack = BlockStack(model, LAYOUT)
        self.kind, axes = PROBED[params["cache_res"]]
        stacks = {"s": model.spatial_blocks, "t": model.temporal_blocks}
        self.probe_blocks = {
            f"{axis}{index}": stacks[axis][index]
            for index in range(len(model.spatial_blocks))
            if index in params["cache_loc"]
            for axis in axes
        }
        self.r: list[torch.Tensor] = []
        self.probes: dict[str, torch.Tensor] = {}

    @contextmanager
    def model_call(self, step: int) -> Iterator[None]:
        if self.run.decides_to_compute(step):
            recording = Recording()
            with self.stack.recording(recording):
                yield
            self.r = recording.residual
            new = {name: block.added[self.kind] for name, block in self.probe_blocks.items()}
            self.run.computed(step, _sums(self.run, new, self.probes, self.frames))
            self.probes = new
        else:
            with self.stack.skipping(self.r):
                yield
        self.rate = self.run.rate


def main(directory: Path) -> int:
    """Replays a directory, prints what came of it and returns the exit status."""
    try:
        cases = load_cases(directory)
    except CannotReplay as error:
        print(error, file=sys.stderr)
        return 2
    failed = 0
    for case in cases:
        try:
            print(f"passed  {case.name} ({case.check()} values)", flush=True)
        except Exception as error:  # whatever it is, this case has not come out as recorded
            failed += 1
            reason = str(error) if isinstance(error, Mismatch) else f"{type(error).__name__}: {error}"
            print(f"FAILED  {case.name}: {reason}", flush=True)
    print(f"{len(cases) - failed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/parity/replay.py DIR")
    sys.exit(main(Path(sys.argv[1])))
