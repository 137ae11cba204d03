"""Which workers have the users' own scorers that an evaluation asks for.

>>> written(["politeness", "length"]), written([])
(',length,,politeness,', None)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from importlib.metadata import entry_points

from sqlalchemy import ColumnElement, case, func, literal, or_, true
from sqlalchemy.orm import Session

from registry.errors import Invalid
from registry.jobs.available_workers import AvailableWorker, available_workers, lately_seen_workers
from registry.jobs.models import Job
from registry.principal import Principal
from sdk.schemas.work import SCORERS_GROUP, WorkerInfo

#: How many of the scorers that workers have are named at most.
_NAMED = 20


def written(names: Iterable[str]) -> str | None:
    """Return names as a job's row has them: each between its own commas, so that none is found inside another."""
    return "".join(f",{name}," for name in sorted(set(names))) or None


def has_all(worker: WorkerInfo) -> ColumnElement[bool]:
    """The condition that a worker has what a job asks for, or doesn't say what it has."""
    if worker.scorers is None:
        return true()
    # It has the length of the names that the worker has. Nested calls of `replace`, one for each name, would be too
    # deep.
    held = (
        case((Job.needs_scorers.contains(written([name]), autoescape=True), len(name) + 2), else_=0)
        for name in sorted({scorer.name for scorer in worker.scorers})
    )
    found: ColumnElement[int] = sum(held, start=literal(0))
    return or_(Job.needs_scorers.is_(None), func.length(Job.needs_scorers) == found)


def may_have_all(worker: AvailableWorker, needed: str | None) -> bool:
    """Whether a worker has what a job asks for, or doesn't say what it has."""
    return worker.scorers is None or _asked(needed) <= _names(worker)


def without_scorers(
    needed: str | None, workers: Sequence[AvailableWorker], *, reads: Collection[str] | None
) -> str | None:
    """Say which of the scorers that a job asks for none of some workers has, as the end of a sentence; None if one may
    have them all.

    The scorers that exist instead are only named from workers that work in the namespaces `reads`, as in the list of
    workers; None: from all.
    """
    asked = _asked(needed)
    if not asked or not workers or any(may_have_all(worker, needed) for worker in workers):
        return None
    lacking = sorted(asked - set().union(*map(_names, workers)))
    if not lacking:
        return f"no worker has all of the scorers {', '.join(sorted(asked))}; install them on one, and start it again"
    said = f"the scorer {lacking[0]}" if len(lacking) == 1 else f"any of the scorers {', '.join(lacking)}"
    shown = [worker for worker in workers if reads is None or worker.spaces <= set(reads)]
    there = _there(shown, all_of_them=len(shown) == len(workers))
    return f"no worker has {said}{there}; install what brings it on the workers, and start them again"


def require_scorers(session: Session, needed: str | None, who: Principal, *, namespace: str, queue: str) -> None:
    """Raise Invalid if none of the workers that could have a job of the caller's has the scorers that it asks for.

    If there is none at present, nobody knows which workers will come; one that was seen within the week may come back.
    """
    if needed is None or not any(worker.serves(queue, namespace) for worker in available_workers(session)):
        return
    known = [worker for worker in lately_seen_workers(session) if worker.serves(queue, namespace)]
    if (said := without_scorers(needed, known, reads=who.namespaces())) is not None:
        raise Invalid(f"{said}, or leave it out", param="spec.scorers")


def require_installed(names: Iterable[str]) -> None:
    """Raise Invalid for a scorer that is missing in this process's environment, which an embedded registry's runner
    shares.
    """
    asked = sorted(set(names))
    here = {entry.name for entry in entry_points(group=SCORERS_GROUP)} if asked else set()
    if lacking := [name for name in asked if name not in here]:
        known = ", ".join(sorted(here)[:_NAMED])
        raise Invalid(
            f"this environment has no scorer {lacking[0]} ({f'there is {known}' if known else 'there is none'}); install what brings "
            "it where adapterctl is installed, or leave it out",
            param="spec.scorers",
        )


def _there(workers: Sequence[AvailableWorker], *, all_of_them: bool) -> str:
    found = {
        f"{each['name']} of {each['distribution']} {each['version']}" for one in workers for each in one.scorers or ()
    }
    if not found:
        return " (there is none)" if all_of_them else ""
    known = sorted(found)[:_NAMED]
    return f" (there {'is' if len(known) == 1 else 'are'} {', '.join(known)})"


def _asked(needed: str | None) -> set[str]:
    return {name for name in (needed or "").split(",") if name}


def _names(worker: AvailableWorker) -> set[str]:
    return {each["name"] for each in worker.scorers or ()}
