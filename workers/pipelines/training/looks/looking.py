"""Looks at held-out rows during a training: when one comes, that it changes nothing, and what is chosen by it.

>>> scores = {5: 3.0, 10: 2.5, 15: 2.45, 20: 2.6}
>>> looks = [LookRecord(step=step, rows=9, scores={"loss": loss}, seconds=0.1) for step, loss in scores.items()]
>>> best_of(looks).step, best_of(looks, min_delta=0.1).step, looks_after_best(looks, min_delta=0.1)
(15, 10, 2)
"""

from __future__ import annotations

import contextlib
import math
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy
import torch

from sdk.schemas.events import Progress
from sdk.schemas.failures import FailureReason
from sdk.schemas.looks import LookRecord
from sdk.schemas.series import OF_LOOKS, Point
from sdk.schemas.watch_fields import default_interval
from workers.pipelines.data.examples import Example
from workers.pipelines.data.stored_examples import StoredExamples
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.adapters import fill
from workers.pipelines.orders import Host
from workers.pipelines.training.averaging import averaged, result_of
from workers.pipelines.training.checkpoints import LookState
from workers.pipelines.training.fitting import Fitting, Limits
from workers.pipelines.training.inputs import Inputs
from workers.pipelines.training.looks.best_look import KeptLooks, higher
from workers.pipelines.training.looks.evaluating import HeldOutScores, scored
from workers.pipelines.training.looks.row_losses import RowLosses
from workers.pipelines.training.looks.sampling import sample_texts
from workers.pipelines.training.loop import AdapterState, Shared
from workers.pipelines.training.states import generator_states, set_generators

#: After how many steps minutes are turned into steps: the first ones are slower than others.
_MEASURED_STEPS = 4
#: Weights that are read back score what they scored at their look, but for another order of sums.
_ROUNDING = 1e-3


def best_of(looks: Sequence[LookRecord], *, min_delta: float = 0.0) -> LookRecord | None:
    """Return the look with the lowest loss; the earlier one of two that differ by no more than `min_delta`."""
    best: LookRecord | None = None
    for look in looks:
        if best is None or look.scores["loss"] < best.scores["loss"] - min_delta:
            best = look
    return best


def looks_after_best(looks: Sequence[LookRecord], *, min_delta: float) -> int:
    """Return how many looks came after the best one."""
    best = best_of(looks, min_delta=min_delta)
    return 0 if best is None else sum(look.step > best.step for look in looks)


class _StoppedInLook(Exception):  # noqa: N818 - nothing went wrong
    """The training was told to stop in the middle of a look, which is taken again by whoever goes on."""


class Looks:
    """The looks of one training. None of them changes what is trained: neither memory that runs out, nor what is drawn."""

    def __init__(self, given: Inputs, fitting: Fitting, host: Host) -> None:
        self._given, self._spec, self._host = given, given.spec, host
        resumed = given.resumed
        state = LookState() if resumed is None else resumed.record.look_state
        self.records = list(state.looks)
        self.kept = KeptLooks(None if resumed is None else resumed.folder)
        self._training, self._fitting = fitting, _of_looks(fitting)
        self._examples = _part(given)
        self._interval = state.interval or _interval(given)
        #: Whether there is nothing to look at, or no memory for it.
        self._off = given.held_out is None

    @property
    def state(self) -> LookState:
        """What a checkpoint keeps of it."""
        return LookState(interval=self._interval, looks=self.records)

    @property
    def best(self) -> LookRecord | None:
        """The best look so far at what was trained."""
        return self._best_of(self._trained)

    @property
    def is_over(self) -> bool:
        """Whether the training ends for lack of a better look."""
        patience = self._spec.patience
        return patience is not None and looks_after_best(self._trained, min_delta=self._spec.min_delta) >= patience

    def points(self, points: Sequence[Point]) -> list[Point]:
        """Return the points of steps with the scores of their looks, and the point before the first step."""
        looked = {look.step: _values(look) for look in self.records}
        first = [Point(step=0, values=looked[0])] if 0 in looked else []
        return first + [
            point.model_copy(update={"values": point.values | looked.get(point.step, {})}) for point in points
        ]

    def before(self, bare: HeldOutScores, seconds: float) -> None:
        """Take the score of all held-out rows before the first step."""
        if not self._has(0):
            self._note(0, bare, self._in_part(bare.rows), seconds)

    def after_step(self, shared: Shared, adapter: AdapterState, *, for_sweep: bool = False) -> bool:
        """Look if it is time, or `for_sweep`; return whether the training ends. A look in which it is told to stop is taken
        again later.
        """
        self._count_minutes(adapter)
        step = adapter.step
        due = self._interval is not None and step % self._interval == 0 and step < adapter.schedule.total_steps
        if not self._off and ((due and not self._has(step)) or (for_sweep and self.loss_at(step) is None)):
            self._look(shared, adapter, self._stopping, for_sweep=not due)
        return self.is_over

    def loss_at(self, step: int) -> float | None:
        """Return the loss of the look at a step; None: there was none."""
        return next((look.scores["loss"] for look in self.records if look.step == step), None)

    @property
    def are_of_some_rows(self) -> bool:
        """Whether they leave held-out rows out."""
        return self._given.held_out is not None and self._examples is not self._given.held_out.examples

    def at_the_end(self, shared: Shared, adapter: AdapterState) -> HeldOutScores | None:
        """Look at what was trained last, unless that was done, and return what was found."""
        if self._off or self._has(adapter.step):
            return None
        return self._look(shared, adapter, self._host.report)

    def after_all(self, step: int, found: HeldOutScores) -> None:
        """Take the score of all held-out rows after the last step."""
        if not self._has(step):
            self._note(step, found, self._in_part(found.rows), 0.0)

    def take_best(self, shared: Shared, adapter: AdapterState) -> LookRecord | None:
        """Give the model the weights of the best look if the training keeps those, and return that look; None: the last ones
        are kept.
        """
        best = self.best
        if not self._spec.keeps_best or best is None or best.step == adapter.step:
            return None
        fill(shared.model, self.kept.weights())
        return best

    def require_read_back(self, best: LookRecord, found: HeldOutScores) -> None:
        """Raise PipelineError ("internal") if the best look's weights now score otherwise on the same rows."""
        then, now = best.scores["loss"], found.scores["loss"]
        if len(found.rows.losses) == best.rows and not math.isclose(then, now, rel_tol=_ROUNDING, abs_tol=_ROUNDING):
            raise PipelineError(
                FailureReason.INTERNAL,
                f"The weights of step {best.step}, read back, have the held-out loss {now:.4g}, and had {then:.4g} there;"
                " report this base and these library versions.",
            )

    def metrics(self) -> dict[str, float]:
        """Return what is recorded of the best look and the last one."""
        best, looked_s = self.best, math.fsum(look.seconds for look in self.records if look.step)
        if best is None:
            return {}
        last, margin = self._trained[-1], self.kept.margin
        found = {"eval_loss_best": best.scores["loss"], "eval_loss_end": last.scores["loss"], "look_s": looked_s}
        if last is not best and margin is not None:
            found |= {"eval_margin": margin.mean, "eval_margin_low": margin.low, "eval_margin_high": margin.high}
        return found

    @property
    def _trained(self) -> list[LookRecord]:
        return [look for look in self._counting if look.step]

    @property
    def _counting(self) -> list[LookRecord]:
        """The looks by which something may be chosen."""
        return [look for look in self.records if not look.for_sweep]

    def _best_of(self, looks: Sequence[LookRecord]) -> LookRecord | None:
        return best_of(looks, min_delta=self._spec.min_delta)

    def _has(self, step: int) -> bool:
        return any(look.step == step for look in self._counting)

    def _count_minutes(self, adapter: AdapterState) -> None:
        """Turn minutes into steps, once."""
        minutes = self._spec.look_minutes
        if minutes is None or self._interval is not None or adapter.step < _MEASURED_STEPS:
            return
        step_s = statistics.median(value or 0.0 for value in adapter.record.measured["seconds"][1:])
        self._interval = max(1, round(minutes * 60 / max(step_s, 1e-6)))
        self._say(f"{minutes} minutes are {self._interval} steps; held-out rows are scored after as many")

    def _look(
        self, shared: Shared, adapter: AdapterState, report: Any, *, for_sweep: bool = False
    ) -> HeldOutScores | None:
        began, found = time.perf_counter(), None
        try:
            with _unchanged(shared, adapter), averaged(adapter):
                where = f"the look at step {adapter.step}"
                if self._fitting.most_look_rows == 0:
                    raise PipelineError(FailureReason.OOM, f"Memory ran out in {where} with one row a pass.")
                found = scored(
                    self._given,
                    self._examples,
                    shared.model,
                    self._fitting,
                    report,
                    where=where,
                    begin=self._training.looking,
                )
                samples = sample_texts(self._given, shared.model)
            self._note(adapter.step, found, found.rows, time.perf_counter() - began, samples, for_sweep=for_sweep)
            if self._spec.keeps_best and self.best is self.records[-1]:
                self.kept.keep(result_of(shared, adapter))
        except _StoppedInLook:
            pass
        except PipelineError as error:
            if error.reason is not FailureReason.OOM or self._spec.chooses:
                raise
            self._off = True
            self._say(f"held-out rows are not scored before the end: {error.message}")
        self._training.looking(None)
        adapter.record.looked_s += time.perf_counter() - began
        return found

    def _note(
        self,
        step: int,
        found: HeldOutScores,
        rows: RowLosses,
        seconds: float,
        samples: Sequence[Any] = (),
        *,
        for_sweep: bool = False,
    ) -> None:
        """Keep what a look found, in place of what one for a sweep has found there."""
        lowest, best = self._best_of(self._counting), self.best
        earlier = [look for look in self.records if look.step == step]
        record = LookRecord(
            step=step,
            rows=len(found.rows.losses),
            scores={name: value for name, value in found.scores.items() if math.isfinite(value)},
            seconds=seconds + math.fsum(look.seconds for look in earlier),
            worse=None if lowest is None else higher(lowest.step, self.kept.lowest, rows),
            samples=list(samples),
            for_sweep=for_sweep,
        )
        self.records = [*(look for look in self.records if look.step != step), record]
        if not for_sweep:
            self.kept.note(
                rows,
                is_lowest=self._best_of(self._counting) is record,
                is_best=self.best is record,
                best_step=0 if best is None else best.step,
            )
        self._tell(record)

    def _tell(self, record: LookRecord) -> None:
        for sample in record.samples:
            self._say(f"step {record.step}, row {sample.row}: {sample.text!r}")

    def _stopping(self, progress: Progress) -> None:
        """Report, and leave the look if the training is to stop."""
        self._host.report(progress)
        if self._host.told_to_stop:
            raise _StoppedInLook

    def _say(self, message: str) -> None:
        self._host.report(Progress(phase="evaluate", message=message))

    def _in_part(self, rows: RowLosses) -> RowLosses:
        """Return those of all held-out rows that looks score."""
        if self._given.held_out is None or not self.are_of_some_rows:
            return rows
        numbers = numpy.unique([example.row for example in self._given.held_out.examples])
        chosen = numpy.isin(numbers, [example.row for example in self._examples])
        return RowLosses(rows.losses[chosen], rows.weights[chosen])


def _values(look: LookRecord) -> dict[str, float]:
    return {f"{OF_LOOKS}{name}": value for name, value in look.scores.items()}


def _of_looks(fitting: Fitting) -> Fitting:
    """Return a copy for looks, which can only score fewer rows at once: what else takes less memory is the model's."""
    limits = Limits(checkpointing=False, chunk_tokens=fitting.limits.chunk_tokens, offloading=False)
    return replace(fitting, steps=list(fitting.steps), limits=limits, rung_file=None)


def _interval(given: Inputs) -> int | None:
    """Return after how many steps a look comes; None: never before the end, or the minutes are not counted yet."""
    spec, total, like = given.spec, given.schedule.total_steps, given.order.like
    if given.held_out is None:
        return None
    if like is not None and isinstance(interval := like.ran_with.get("look_interval"), int):
        # Minutes have other steps on another machine.
        return interval
    if spec.eval_every is not None:
        return spec.look_steps
    rows = min(given.held_out.rows, spec.eval_rows or given.held_out.rows)
    learnt = total * given.training_rows // math.ceil(given.training_rows / spec.effective_batch)
    found = default_interval(total, learnt_rows=learnt, held_out_rows=rows)
    # What is to be chosen needs something to choose from.
    return found or (max(1, -(-total // 2)) if spec.chooses else None)


def _part(given: Inputs) -> Sequence[Example]:
    """Return the examples of the rows that looks score, chosen by the seed of what is held out: the same ones at each look, and for each
    seed of the training."""
    if given.held_out is None:
        return []
    examples, most = given.held_out.examples, given.spec.eval_rows
    numbers = numpy.unique([example.row for example in examples])
    if most is None or most >= len(numbers):
        return examples
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(given.spec.holdout_seed))[:most]
    chosen = set(numbers[order.numpy()].tolist())
    return StoredExamples(example for example in examples if example.row in chosen)


@contextlib.contextmanager
def _unchanged(shared: Shared, adapter: AdapterState) -> Iterator[None]:
    """Afterwards all random generators, the model's mode and its cache are as before, and the peak of the block is not the
    training's.
    """
    config = shared.model.config.get_text_config()
    torch_states, python, arrays = generator_states(), random.getstate(), numpy.random.get_state()
    training, cached = shared.model.training, config.use_cache
    record = adapter.record
    record.peak_bytes = max(record.peak_bytes, shared.device.peak_memory_bytes())
    shared.device.forget_peak()
    try:
        yield
    finally:
        record.look_peak_bytes = max(record.look_peak_bytes, shared.device.peak_memory_bytes())
        shared.device.forget_peak()
        config.use_cache = cached
        shared.model.train(training)
        set_generators(torch_states)
        random.setstate(python)
        numpy.random.set_state(arrays)
