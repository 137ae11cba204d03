"""The rungs of a training of a sweep: after these steps it tells its held-out loss and asks whether it goes on.

It waits for the answer, but not for long: then it trains on, and ends after the step at which an answer has come that says
so.

>>> rung_steps([0.1, 0.4], 30)
[3, 12]
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np

from sdk.schemas.sweeps import MemberResult
from sdk.statistics.row_sums import packed_rows
from workers.pipelines.data.tokenise import Tokenised
from workers.pipelines.orders import Host
from workers.pipelines.training.inputs import Inputs
from workers.pipelines.training.looks.row_losses import RowLosses

#: How often it looks for an answer while it waits, in seconds.
_LOOK_S = 0.02


def rung_steps(shares: Sequence[float], total: int) -> list[int]:
    """Return the step of each rung, ⌈share · total⌉, without those at which a training of `total` steps ends anyway."""
    steps = [math.ceil(share * total) for share in sorted(shares)]
    return [step for step in steps if step < total]


class MemberRungs:
    """The rungs of one training; there are none without a sweep."""

    def __init__(self, given: Inputs, host: Host, say: Callable[[str], None]) -> None:
        place = given.order.sweep
        self._sweep, self._wait_s = "" if place is None else place.sweep, given.order.wait_s
        self._host, self._say = host, say
        self._total = given.schedule.total_steps
        self._steps = [] if place is None else rung_steps(place.rungs, self._total)
        #: Of each rung that was reached, whether it goes on; None: there is no answer yet.
        self.answers: list[bool | None] = [] if given.resumed is None else list(given.resumed.record.rungs)
        self._asked: set[int] = set()

    @property
    def pruned_at(self) -> int | None:
        """The step of the rung after which the training had to end; None: it hadn't."""
        return next((step for step, answer in zip(self._steps, self.answers, strict=False) if answer is False), None)

    def is_at(self, step: int) -> bool:
        """Whether there is a rung after a step."""
        return step in self._steps

    def after_step(self, step: int, loss_at: Callable[[int], float | None]) -> bool:
        """Ask at a rung, or look for the answers to earlier ones; return whether the training ends. `loss_at` gives the
        held-out loss of a step at which it was measured. One that has taken its last step is finished, whatever is answered.
        """
        if step >= self._total:
            return True
        self.answers += [None] * (sum(at <= step for at in self._steps) - len(self.answers))
        if self._ask(loss_at):
            self._wait(step)
        self._read()
        if (pruned_at := self.pruned_at) is None:
            return False
        surplus = "" if step == pruned_at else f", {step - pruned_at} steps after that rung"
        self._say(
            f"pruned by sweep {self._sweep} for its held-out loss at the rung of step {pruned_at},"
            f" {loss_at(pruned_at):.4g}: the training ends at step {step}{surplus}"
        )
        return True

    def _ask(self, loss_at: Callable[[int], float | None]) -> bool:
        """Ask about rungs that this process hasn't asked about; return whether there are any."""
        new = [number for number in self._open if number not in self._asked]
        for number in new:
            loss = loss_at(self._steps[number])
            if loss is not None:
                self._host.reached_rung(number, self._steps[number], loss)
            elif not self._host.told_to_stop:
                # There was no memory for a look.
                self.answers[number] = True
        self._asked.update(new)
        return bool(new)

    def _wait(self, step: int) -> None:
        until = time.monotonic() + self._wait_s
        self._read()
        while self._open and not self._host.told_to_stop:
            if time.monotonic() >= until:
                self._say(f"sweep {self._sweep} has not answered at step {step} yet; training on until it does")
                return
            time.sleep(_LOOK_S)
            self._read()

    def _read(self) -> None:
        for number in self._open:
            self.answers[number] = self._host.goes_on(number)

    @property
    def _open(self) -> list[int]:
        return [number for number, answer in enumerate(self.answers) if answer is None]


def member_result(rungs: MemberRungs, held_out: Tokenised, rows: RowLosses, *, steps: int) -> MemberResult:
    """Return what a member of a sweep hands in after so many steps; `rows` are the held-out ones, scored with the weights that
    it hands in.
    """
    pruned_at, total = rungs.pruned_at, held_out.rows + held_out.dropped
    numbers = np.unique([example.row for example in held_out.examples])
    losses, weights = (packed_rows(numbers, each, total) for each in (rows.losses, rows.weights))
    return MemberResult(
        outcome="finished" if pruned_at is None else "pruned",
        steps=steps,
        surplus_steps=0 if pruned_at is None else steps - pruned_at,
        row_losses=losses,
        row_weights=weights,
    )
