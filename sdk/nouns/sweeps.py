"""Sweeps: several trainings of one adapter, which say together which setting is the best."""

from __future__ import annotations

import builtins
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sdk.api import sweeps
from sdk.errors import Conflict, JobCancelled, JobFailed
from sdk.formats.refs import SWEEP
from sdk.notebook.table_list import TableList
from sdk.objects import Registry, Version, registry_of_this_process
from sdk.schemas.sweeps import SweepMember, SweepState, SweepVerdict, SweepView
from sdk.schemas.wire import read_json
from sdk.submitting.sweep_watch import ProgressLines, SweepProgress, follow_sweep

if TYPE_CHECKING:
    from sdk.plotting.plot import SweepPlot

_log = logging.getLogger("adapterctl")
_FINAL = (SweepState.ENDED, SweepState.CANCELLED)


class Sweep:
    """A sweep. It goes on whatever happens to this object."""

    def __init__(self, view: SweepView, registry: Registry, *, whole: bool = True) -> None:
        self._view = view
        self._registry = registry
        # Lists have no members and no verdicts.
        self._whole = whole

    def __repr__(self) -> str:
        return f"Sweep(id={self.id!r}, adapter={self._view.adapter!r}, state={self._view.state.value!r})"

    def _repr_html_(self) -> str:
        from sdk.notebook.sweeps import sweep_page

        return sweep_page(self._view)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self._view.model_dump_json(), self._whole)

    def __copy__(self) -> Sweep:
        return Sweep(self._view, self._registry, whole=self._whole)

    def __deepcopy__(self, memo: object) -> Sweep:
        return self.__copy__()

    @property
    def id(self) -> str:
        """Its id; its members are `sweep:ID/1`, `sweep:ID/2` …"""
        return self._view.id

    @property
    def view(self) -> SweepView:
        """Everything the registry said about it when last asked."""
        return self._view

    @property
    def state(self) -> SweepState:
        """Its state now: asks the registry unless the state is already final."""
        return self._now().state

    @property
    def members(self) -> list[SweepMember]:
        """Its trainings as they are now, each with its setting, its job and its numbers."""
        return self._now().members

    @property
    def verdict(self) -> SweepVerdict | None:
        """What it says about its settings; None until all members have ended, or if none has a score."""
        return self._now().verdict

    @property
    def winner(self) -> str | None:
        """The ref of the best: of the version that it became, or `sweep:ID/N`; None until it has been chosen."""
        return winner_ref(self._now())

    def wait(
        self, timeout: float | None = None, progress: bool | Callable[[SweepProgress], object] | None = None
    ) -> Sweep:
        """Wait until it has ended, even while the registry is unavailable, which is logged; `timeout` in seconds. About once a
        second, `progress` is told how far the members are; True writes a line to standard error whenever that has changed.

        That settings are not told apart is a result, and so is a sweep some of whose members failed. Raises JobFailed if it
        ended without a winner, or without the version that this should have become, JobCancelled, TimedOut.
        """
        told = ProgressLines() if progress is True else progress or None
        for one in follow_sweep(self._registry.transport, self.id, note=_log.warning, timeout_s=timeout):
            self._view, self._whole = one.view, True
            if told is not None:
                told(one)
        if (error := self.error) is not None:
            raise error
        return self

    @property
    def error(self) -> JobFailed | None:
        """Why it ended without a winner, or without the version that this should have become; None if it did not."""
        return error_of(self._now())

    def pause(self) -> Sweep:
        """Begin no further members; those that run go on. Raises Conflict for a sweep that has ended, NotAllowed."""
        self._view, self._whole = sweeps.pause(self._registry.transport, self.id), True
        return self

    def go(self) -> Sweep:
        """Go on after a pause. Raises Conflict for a sweep that has ended, NotAllowed."""
        self._view, self._whole = sweeps.go(self._registry.transport, self.id), True
        return self

    def cancel(self) -> Sweep:
        """Cancel it, and its members with it. Raises Conflict for a sweep that has ended, NotAllowed."""
        self._view, self._whole = sweeps.cancel(self._registry.transport, self.id), True
        return self

    def result(self) -> Version:
        """Wait, then return the version that the winner became.

        Raises what `wait` does; Conflict if it was made none, since `publish` is "none".
        """
        self.wait()
        ref = self.winner
        if ref is None or ref.startswith(SWEEP):
            raise Conflict(f"the winner, {ref}, was made no version; make it one with: adapterctl jobs publish JOB")
        return self._registry.get(ref)

    def plot(self) -> SweepPlot:
        """The score of each setting by the options that vary, beside its size, time, memory and steps to its best look.

        A notebook shows it as it is; `.save("sweep.svg")` writes it. Raises NotFound if no member has a score yet.
        """
        from sdk.plotting.plot import SweepPlot

        return SweepPlot(self._now()).checked()

    def _now(self) -> SweepView:
        if not self._whole or self._view.state not in _FINAL:
            self._view, self._whole = sweeps.get(self._registry.transport, self.id), True
        return self._view


def _unpickled(text: str, whole: bool) -> Sweep:
    return Sweep(read_json(SweepView, text, open_ended=True), registry_of_this_process(), whole=whole)


def error_of(view: SweepView) -> JobFailed | None:
    """Return why a sweep that has ended made nothing: it was cancelled, none of its members is the best, or the best was not published
    though it should have been. None if it did, or has not ended.
    """
    see = f"see: adapterctl sweep show {view.id}"
    if view.state is SweepState.CANCELLED:
        return JobCancelled(f"sweep {view.id} was cancelled; {see}")
    if view.state is not SweepState.ENDED:
        return None
    if view.winner is None:
        why = view.message or "none of its members has a score"
        return JobFailed(f"sweep {view.id} ended without a winner: {why}; {see}")
    if view.request.publish != "none" and (ref := winner_ref(view) or "").startswith(SWEEP):
        why = f": {view.message}" if view.message else ""
        return JobFailed(f"the winner of sweep {view.id}, {ref}, was made no version{why}; {see}")
    return None


def winner_ref(view: SweepView) -> str | None:
    """Return the ref of the winner: of the version that it became, or else of the member; None if there is none yet."""
    if view.winner is None:
        return None
    made = view.ref or next((member.ref for member in view.members if member.number == view.winner), None)
    return made or f"{SWEEP}{view.id}/{view.winner}"


class SweepsAPI:
    """Sweeps. Called, it lists the last ones."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def __call__(self, *, state: str | None = None, limit: int = 50) -> builtins.list[Sweep]:
        """The last `limit` sweeps, newest first; optionally only those in one state."""
        found = sweeps.listed(self._registry.transport, state=state, limit=limit)
        return TableList(Sweep(view, self._registry, whole=False) for view in found)

    list = __call__

    def get(self, sweep_id: str) -> Sweep:
        """A sweep by its id, also as `sweep:ID`. Raises NotFound."""
        return Sweep(sweeps.get(self._registry.transport, sweep_id), self._registry)
