"""One sampling run. The controller, what is reused, and the report meet here and nowhere else.

Nothing in it outlives the run. It knows keys and modules; conditionings and models are known to its callers, `loop.py`
and `nodes/host`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor, nn

from .clock import Clock
from .closeness import MARKS, closeness_of, deviation_of
from .config import CacheConfig
from .correct.sampler import Sampler
from .decide.base import Course, Decision
from .decide.error_control import ErrorController, ErrorState
from .decide.fixed import Fixed
from .decide.levels import flow_level
from .decide.metric import BlockController
from .decide.quality import Quality
from .decide.target import Target
from .decide.watch import Watch
from .errors import AdaCacheError
from .reuse.blocks import Blocks
from .reuse.forecast import distance
from .reuse.layout import Grid, StackLayout
from .reuse.output import Output
from .reuse.recording import Recording
from .reuse.stack import BlockStack
from .tell.report import ANSWERED, BLOCKS, OUTPUT, PARTLY, REUSED, RunReport, StepRecord

# With codebooks nothing is skipped in a run of fewer steps from noise to video. Such runs belong to distilled models,
# where every step matters: LTX-2.3 and MiniMax-H3 turbo take 8 steps, and lose 18 to 24 dB if some are skipped.
FEW_STEPS = 12


@dataclass
class _Evaluation:
    """One model evaluation under way."""

    record: StepRecord
    reuse: bool
    forecast: bool = False  # whether its output was forecast and the model not called
    answered: int = 0  # calls that were not skipped, and yet ran no block


class Engine:
    """Decides, records and reuses in one run of a sampler.

    Args:
        config: settings.
        steps: number of sampler steps.
        layout: where modules keep their blocks; None: not known, which is enough if `config.at_output`.
        ends_at_zero: whether the run finishes the video, see `Course.ends`.
        sampler: what is known about it; None: no output is forecast.
        span: the part of the way from noise to video that the run covers, in (0, 1], before any shift.
        flow: whether latents are (1 - sigma) video + sigma noise; else they are video + sigma noise.
        changing: steps at which the model's output jumps, and why.
        mask: where the latent is made; see `Output`.
        guidance: strength of classifier-free guidance; 1 is none.
        before: `left` of the run that made this one's first latent, if it had the same settings.
        report: to be filled; the caller has filled in what it knows.

    Attributes:
        idle_reason: why nothing is skipped in this run, "" if something may be. Blocks that run are still counted, so
            the report stays true.
        others: who else has functions on this model, for notes about another pack that answered.
        output: forecasts the model's output; None: not in this run.
        blocks: reuses residuals of the model's blocks; None: not in this run.
        left: after `finish`, what a run that continues with this one's latent should know; None: nothing.
    """

    def __init__(
        self,
        config: CacheConfig,
        steps: int,
        layout: StackLayout | None,
        *,
        ends_at_zero: bool = True,
        sampler: Sampler | None = None,
        span: float = 1.0,
        flow: bool = True,
        changing: Mapping[int, str] | None = None,
        mask: Tensor | None = None,
        guidance: float = 1.0,
        before: ErrorState | None = None,
        report: RunReport | None = None,
    ) -> None:
        self.config = config
        self.left: ErrorState | None = None
        self.others = ""
        self.report = report or RunReport()
        self.report.sampler_steps = steps
        policy = config.policy
        self.report.target = policy.speedup if isinstance(policy, Target) else None
        self.report.closeness = policy.closeness if isinstance(policy, Quality) else None
        self.report.reuse = OUTPUT if config.at_output else BLOCKS
        self.output: Output | None = None
        self.blocks: Blocks | None = None
        course = _course(config, steps, ends_at_zero, sampler, flow, changing or {}, guidance)
        if not config.at_output or (sampler is not None and not config.never_skips):
            controller = policy.controller(course, config.moreg)
            if isinstance(controller, ErrorController) and sampler is not None:
                self.output = Output(controller, sampler, flow=flow, changing=changing, mask=mask, before=before)
            elif isinstance(controller, BlockController):
                self.blocks = Blocks(controller, config)
                self.report.codebook = controller.table
        self.layout = layout
        self.idle_reason = self._why_idle(steps, span, sampler)
        if not config.never_skips:
            self.note(self.idle_reason)
            self.note(self._what_differs(steps))
            if sampler is not None and sampler.draws_noise and not self.idle_reason and not isinstance(policy, Watch):
                self.note(f"{sampler.name} draws fresh noise: expect a similar video, not the same one")
            if config.moreg is not None and config.at_output:
                self.note("MoReg does nothing with auto and quality; it belongs to the tables of the paper")
        self._stacks: dict[nn.Module, BlockStack] = {}
        self._proved: set[Hashable] = set()  # kinds of calls
        self._evaluation: _Evaluation | None = None
        self._clock = Clock()
        self._lock = threading.Lock()

    def _why_idle(self, steps: int, span: float, sampler: Sampler | None) -> str:
        if self.config.never_skips:
            return "off"
        if self.config.at_output and sampler is None:
            return "the noise levels of this run are not known, so nothing can be forecast: every step is computed"
        judge = not self.config.policy.settled
        if judge and self.config.at_output and sampler is not None and sampler.draws_noise:
            return (
                f"{sampler.name} draws fresh noise, so any skipped step would give another video: every step is "
                "computed. To skip steps anyway, connect a schedule"
            )
        if judge and sampler is not None and sampler.starts_over:
            return (
                f"{sampler.name} starts over from fresh noise at every step, so no step can reuse an earlier one: "
                "every step is computed"
            )
        whole = round(steps / span)
        if judge and not self.config.at_output and whole < FEW_STEPS:
            as_few = f" (they are as far apart as in a run of {whole})" if whole != steps else ""
            return (
                f"{steps} steps are too few to skip any{as_few}: every step is computed. "
                "To skip steps anyway, connect a schedule"
            )
        reuse = self.output or self.blocks
        if reuse is not None and reuse.controller.never_skips:
            what = "the codebook" if self.report.codebook else "what was asked for"
            return f"with {steps} steps {what} allows no skipped step: every step is computed"
        return ""

    def _what_differs(self, steps: int) -> str:
        """How the run will differ from what was asked for, in a sentence; "" if it will not."""
        policy = self.config.policy
        if not isinstance(policy, Fixed):
            return "" if self.output is None or self.idle_reason else self.output.controller.what_differs
        made_for = len(policy.schedule.computed)
        return "" if made_for == steps else f"the schedule was made for {made_for} steps and is stretched to {steps}"

    def stand_down(self, reason: str) -> None:
        """From here on, every step of this run is computed, and the report says why."""
        self.note(f"cannot skip steps: {reason}", first=True)
        self.idle_reason = self.idle_reason or reason
        self.output = None
        if self.blocks is not None:
            self.blocks.cache.clear()

    def note(self, text: str, first: bool = False) -> None:
        """Adds a sentence to the report, once; with `first`, before all others, because a node shows only one."""
        if text and text not in self.report.notes:
            self.report.notes.insert(0 if first else len(self.report.notes), text)

    def changes(self, step: int, why: str) -> None:
        """The output will jump at this step, so no forecast may go across it. Call it before the step begins."""
        if self.output is not None:
            self.output.changes(step, why)

    @property
    def current(self) -> StepRecord | None:
        """The evaluation under way; `call` and `answer` may only be used in one."""
        return None if self._evaluation is None else self._evaluation.record

    @contextmanager
    def evaluation(
        self, step: int, sigma: float | None = None, device: torch.device | None = None
    ) -> Iterator[StepRecord]:
        """One model evaluation: entering it decides whether it computes, leaving it takes in what was measured.

        Args:
            step: sampler step, 0..N-1; a step may have several evaluations.
            sigma: for the report.
            device: where the work is done; None is the CPU.
        """
        if self.output is not None and self.report.evaluations and step < self.report.evaluations[-1].step:
            self.stand_down(f"the noise level rises at step {step + 1}; from there on every step is computed")
        record = StepRecord(index=len(self.report.evaluations), step=step, sigma=sigma)
        if self.idle_reason:
            record.reason = self.idle_reason
            current = _Evaluation(record, reuse=False)
        else:
            decision = self._decide(step)
            record.reason = decision.reason
            current = _Evaluation(record, not decision.compute)
        self._evaluation = current
        self.report.evaluations.append(record)
        self._clock.lap(device)
        try:
            yield record
            with self._clock.own():
                self._close(current)
        except BaseException:
            if not record.calls and not current.forecast:  # it failed before it began
                self.report.evaluations.pop()
            raise
        finally:
            self._evaluation = None
            if current.forecast:
                record.state = REUSED
            elif record.calls_computed < record.calls:
                record.state = PARTLY if record.calls_computed else ANSWERED if current.answered else REUSED

    def _decide(self, step: int) -> Decision:
        if self.output is not None:
            return self.output.decide(step)
        assert self.blocks is not None
        return self.blocks.begin(step)

    def _close(self, current: _Evaluation) -> None:
        record = current.record
        if current.forecast:
            return
        if not record.calls:
            record.state, answer = ANSWERED, f"the model was not called{self.others}"
        elif current.answered:
            answer = f"another pack answered in place of the model{self.others}"
        else:
            answer = ""
        if answer and not self.idle_reason:
            self.stand_down(f"{answer} at step {record.step + 1}; from there on every step is computed")
        if self.idle_reason:
            record.reason = answer or self.idle_reason
            return
        if current.reuse and record.calls_computed:
            record.reason = "nothing to reuse"
        if self.blocks is not None:
            reading, note = self.blocks.close(record.step, ran=record.calls_computed > 0)
            if self.report.codebook:  # a schedule has no rate
                record.rate = self.blocks.state.rate
            if reading is not None:
                record.metric, record.motion, record.moreg = reading.metric, reading.motion, reading.moreg
            self.note(note)

    def answer(self, x: Tensor, ask: Callable[[], Tensor]) -> Tensor:
        """What the sampler is given in this evaluation: the denoised latent of the model, or a forecast of it.

        Args:
            x: the latent that is evaluated, as the sampler has it.
            ask: evaluates the model; gives the denoised latent, after guidance, of the shape of x.
        """
        current = self._evaluation
        assert current is not None, "answer() belongs inside evaluation()"
        record, output = current.record, self.output
        if output is None or self.idle_reason or not record.sigma:
            return ask()
        if current.reuse and output.fits(x):
            current.forecast = True
            with self._clock.own():
                given = output.forecast(record.step, record.sigma, x)
                self._note_output(record)
                return given
        denoised = ask()
        if self.output is None or current.answered or not record.calls:  # another pack's answer, see `_close`
            return denoised
        with self._clock.own():
            predicted = output.state.predicted
            given, record.error = output.found(record.step, record.sigma, x, denoised)
            record.wrong = sqrt(output.state.predicted - predicted) or None
            record.tolerance = None if self.config.policy.settled else output.state.allowed
            if output.state.guarded and not output.controller.what_differs:
                self.note(f"{self.report.target:g}x would change this video visibly, so more steps are computed")
            self._note_output(record)
            return given

    def _note_output(self, record: StepRecord) -> None:
        assert self.output is not None
        record.corrected = self.output.corrected
        self.report.cache_bytes_max = max(self.report.cache_bytes_max, self.output.bytes_held)

    @contextmanager
    def call(
        self,
        module: nn.Module,
        keys: Sequence[Hashable],
        *,
        variant: Hashable = None,
        signature: Hashable = None,
        grid: Grid | None = None,
        replaced_blocks: Collection[int] = (),
    ) -> Iterator[Recording | None]:
        """One call of the module within an evaluation.

        Args:
            module: whose blocks run or are skipped.
            keys: one for each chunk of the batch, in order (its conditioning, say); chunks are equally large.
            variant: what else tells two calls for one key apart (other patches, say).
            signature: what must be equal for a residual to fit (shapes, dtype).
            grid: where the video is in the tokens, for MoReg and the probe.
            replaced_blocks: indices of blocks that do not run in this call, because other functions replace them.

        Yields:
            What is recorded; None if the call is skipped, or its blocks are only counted.
        """
        current = self._evaluation
        assert current is not None, "call() belongs inside evaluation()"
        with self._lock, self._clock.own():
            current.record.calls += 1
            visit = None
            if self.blocks is not None and not self.idle_reason:
                visit = self.blocks.visit(keys, variant, signature)
                stack = self._stack(module)
        if visit is None:
            recording = Recording()
            with self._counting(module, recording), self._counted(current, recording):
                yield None
        elif visit.residuals:
            with stack.skipping(visit.residuals) as skip:
                yield None
            current.answered += not skip.added
        else:
            assert self.blocks is not None
            recording = self.blocks.recording_for(visit, grid)
            with stack.recording(recording, replaced_blocks), self._counted(current, recording):
                yield recording
            with self._lock, self._clock.own():
                if recording.mismatch:
                    self.stand_down(f"this model uses its blocks in an unexpected way ({recording.mismatch})")
                else:
                    self.blocks.store(visit, recording)

    def prove(
        self,
        module: nn.Module,
        variant: Hashable,
        recording: Recording,
        x: Tensor,
        answer: Tensor,
        again: Callable[[], Tensor],
        *stop: type[Exception],
    ) -> None:
        """Stands down unless the recorded call gives the same answer again with its blocks skipped.

        Done for the first call of each variant, within its evaluation. If a row is wrong about a model, or a patch
        passes something by the blocks and the head, this costs the speed-up and not the video.

        Args:
            module: whose call was recorded.
            variant: what tells it from calls that take another way through the module.
            recording: of the call.
            x: input of the model.
            answer: output of the model, of the shape of x.
            again: makes the same call again.
            stop: what it raises if the user stops the run, which is no fault of the model.
        """
        never_skipped = self.idle_reason or isinstance(self.config.policy, Watch) or not recording.residual
        if never_skipped or (module, variant) in self._proved:
            return
        self._proved.add((module, variant))
        with self._clock.own():
            try:
                with self._stack(module).skipping(recording.residual):
                    wrong = distance(x - answer, x - again())
            except torch.OutOfMemoryError:
                raise
            except stop:
                raise
            except Exception as error:  # an unknown model may raise anything, and the video must go on
                self.stand_down(f"this model fails without its blocks ({type(error).__name__}: {error})")
                return
        if not wrong <= torch.finfo(recording.residual[0].dtype).eps ** 0.5:
            self.stand_down(f"skipping the blocks of this model would not give its answer ({wrong:.1%} off)")

    @contextmanager
    def _counted(self, current: _Evaluation, recording: Recording) -> Iterator[None]:
        """Counts a call that is not skipped: its blocks ran, also if they failed, or another pack answered it."""
        ran = True
        try:
            yield
            ran = recording.ran
        finally:
            with self._lock:
                current.record.calls_computed += ran
                current.answered += not ran

    def _counting(self, module: nn.Module, recording: Recording) -> AbstractContextManager[None]:
        if self.layout is None:
            recording.ran = True
            return nullcontext()
        try:
            with self._lock:
                return self._stack(module).counting(recording)
        except AdaCacheError:  # another pack's model is in this place, and its blocks are not known
            recording.ran = True
            return nullcontext()

    def _stack(self, module: nn.Module) -> BlockStack:
        assert self.layout is not None
        if module not in self._stacks:
            self._stacks[module] = BlockStack(module, self.layout, self.config.probe_position)
        return self._stacks[module]

    def finish(self) -> RunReport:
        """Ends the run: nothing is held afterwards, and the report has its times."""
        self._stacks.clear()
        if self.blocks is not None:
            self.blocks.cache.clear()
            self.report.cache_bytes_max = self.blocks.cache.bytes_max
            self.report.cache_bytes_each = self.blocks.cache.bytes_each
        if self.output is not None:
            self.left = self.output.controller.end(self.output.state)
            self._estimate(self.output)
        self.output = None
        for record, (seconds, own) in zip(self.report.evaluations, self._clock.read(), strict=False):
            record.seconds, record.own_seconds = seconds, own
        return self.report

    def _estimate(self, output: Output) -> None:
        """How close the finished video is. It can be told only if the run was corrected up to its end."""
        report = self.report
        ended = report.evaluations and report.evaluations[-1].step == report.sampler_steps - 1 and not report.stopped
        if not (output.controller.course.ends and ended and output.corrects and report.skipped):
            return
        found = closeness_of(output.state.deviation, output.controller.course.guidance)
        report.expected_db, report.expected_db_low, report.expected_db_high = found.db, found.low, found.high
        report.would_take = {
            name: output.controller.would_take(output.state, deviation_of(db)) for name, db in MARKS.items()
        }


def _course(
    config: CacheConfig,
    steps: int,
    ends: bool,
    sampler: Sampler | None,
    flow: bool,
    changing: Mapping[int, str],
    guidance: float,
) -> Course:
    """Arguments as of `Engine`."""
    outside = config.outside(steps)
    if not config.at_output or sampler is None:
        return Course(steps, ends, outside)
    levels = [min(flow_level(sigma, flow), 1.0) for sigma in sampler.sigmas]  # some samplers begin above pure noise
    return Course.along(levels, {**outside, **changing}, sampler.evaluations or (), guidance)
