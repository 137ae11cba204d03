"""Which workers have the users' own scorers that an evaluation asks for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from importlib.metadata import entry_points

from sqlalchemy.orm import Session

from registry.errors import Invalid
from registry.jobs.available_workers import AvailableWorker, available_workers, lately_seen_workers
from registry.jobs.needs import scorers_in
from registry.principal import Principal
from sdk.schemas.work import SCORERS_GROUP

#: How many of the scorers that workers have are named at most.
_NAMED = 20


def without_scorers(
    needed: str | None, workers: Sequence[AvailableWorker], *, reads: Collection[str] | None
) -> str | None:
    """Say which of the scorers that a job asks for none of some workers has, as the end of a sentence; None if one may
    have them all.

    The scorers that exist instead are only named from workers that work in the namespaces `reads`, as in the list of
    workers; None: from all.
    """
    asked = scorers_in(needed)
    if not asked or not workers or any(worker.may_have(asked) for worker in workers):
        return None
    lacking = sorted(asked - set().union(*(worker.scorer_names for worker in workers)))
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
    if not scorers_in(needed) or not any(worker.serves(queue, namespace) for worker in available_workers(session)):
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
