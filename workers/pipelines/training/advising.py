"""What a training is advised by its own numbers: while it goes on, at its end, and where it diverges."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sdk.advice.broken_rows import RowRun, run_of_rows
from sdk.advice.rules import advice_after_divergence, advice_of, advice_so_far, checks_every, merged
from sdk.schemas.advice import Advice
from sdk.schemas.failures import FailureReason
from sdk.schemas.training_report import TrainingReport
from sdk.schemas.version_records import TrainingRecord
from workers.pipelines.errors import PipelineError
from workers.pipelines.orders import Host
from workers.pipelines.training.loop import StepRecord
from workers.pipelines.training.reports import Setting, training_record


class Advising:
    """The advice of one training. Each rule is logged once; whoever shows the job is told all that was seen so far."""

    def __init__(self, setting: Setting, host: Host) -> None:
        self._setting, self._host = setting, host
        resumed, classes = setting.given.resumed, setting.given.classes
        #: What it was advised before its end.
        self.told: list[Advice] = [] if resumed is None else list(resumed.record.advice)
        self._labels = 0 if classes is None else len(classes.names)
        if self.told:
            # Whoever shows the job knows nothing of the process that told it.
            host.advised(self.told)

    def after_step(self, steps: StepRecord) -> None:
        """Judge the steps so far, if there was a look at held-out rows, other than for a sweep, or enough steps have passed."""
        total, step = self._setting.given.schedule.total_steps, len(steps.losses)
        looks = self._setting.looks.records
        looked = bool(looks) and looks[-1].step == step and not looks[-1].for_sweep
        if step < total and (looked or step % checks_every(total) == 0):
            record = training_record(self._setting)
            self._tell(merged(self.told, advice_so_far(record, steps.losses, looks, labels=self._labels), newer=False))

    def at_the_end(self, report: TrainingReport, steps: StepRecord, *, had_to_end: bool = False) -> TrainingReport:
        """Return the report of a training that has ended, with what its steps and looks advise, then or on the way; only on the
        way if it `had_to_end` early, since what it says of its end would be that it is too short.
        """
        found = [] if had_to_end else self._found(report, steps)
        _log(self.told, found)
        advice = merged(self.told, found)
        if not advice:
            return report
        rules = TrainingRecord(advice=",".join(one.rule for one in advice))
        return report.model_copy(update={"advice": advice, "training": {**report.training, **rules.flat()}})

    def _found(self, report: TrainingReport, steps: StepRecord) -> list[Advice]:
        return advice_of(
            report.record,
            steps.points(0),
            report.looks,
            labels=self._labels,
            update=report.metrics.get("largest_update"),
            run=self._run_of_rows(steps),
        )

    def _run_of_rows(self, steps: StepRecord) -> RowRun | None:
        """Return the rows of the dataset that follow each other and are unlike the others, if there are any."""
        found = None if steps.rows is None else run_of_rows(steps.rows.means())
        if found is None:
            return None
        # A row may be several examples, and others may be held out.
        examples = self._setting.given.rows.examples
        return found._replace(first=examples[found.first].row, last=examples[found.last].row)

    @contextmanager
    def of_divergence(self, steps: StepRecord) -> Iterator[None]:
        """If the block ends because numbers are no longer finite, say what the loss did before, and what to try."""
        try:
            yield
        except PipelineError as error:
            # Before the first step no rate has changed anything.
            if error.reason is FailureReason.DIVERGED and steps.losses:
                record = training_record(self._setting)
                found = advice_after_divergence(record, steps.losses, rate=steps.rates[-1])
                self._tell(merged(self.told, [found]))
            raise

    def _tell(self, advice: Sequence[Advice]) -> None:
        """Tell what is new."""
        new = [one for one in advice if one not in self.told]
        if not new:
            return
        _log([], new)
        self.told = list(advice)
        self._host.advised(self.told)


def _log(told: Sequence[Advice], found: Sequence[Advice]) -> None:
    """Log what other rules than those that were told have found."""
    rules = {one.rule for one in told}
    for one in found:
        if one.rule not in rules:
            sys.stderr.write(f"advice: {one.message}\n")
