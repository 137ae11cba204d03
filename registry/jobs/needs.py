"""What a job needs its worker to know: the fields that its request uses, users' own scorers, and the libraries of
trackers; and which workers have those.

A worker ignores a field that it doesn't know, and would do something other than what was asked for; so does a server that
gives the job out. Both say which fields they know, as `sdk.schemas.job_requests` names them.

>>> written(["politeness", "merge.spec.quantize"]), written([])
(',merge.spec.quantize,,politeness,', None)
>>> fields_in(",merge.spec.quantize,,politeness,"), scorers_in(",merge.spec.quantize,,politeness,")
({'merge.spec.quantize'}, {'politeness'})
>>> trackers_in(written(["training.spec.report_to", *map(of_tracker, ["mlflow"])]))
{'mlflow'}
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import cache, lru_cache
from hashlib import sha256
from importlib.metadata import entry_points

from sqlalchemy import ColumnElement, Integer, case, func, literal, literal_column, or_
from sqlalchemy.orm import Session

from registry.errors import Invalid
from registry.jobs.available_workers import TRACKER, AvailableWorker, available_workers, lately_seen_workers
from registry.jobs.models import Job
from registry.principal import Principal
from sdk.schemas.evaluation import WORDNET
from sdk.schemas.job_requests import known_fields
from sdk.schemas.work import SCORERS_GROUP, WorkerInfo

#: How many fields are named at most.
_FIELDS_NAMED = 5


#: How many of the scorers that workers have are named at most.
_SCORERS_NAMED = 20


def written(names: Iterable[str]) -> str | None:
    """Return names as a job's row has them: each between its own commas, so that none is found inside another."""
    return "".join(f",{name}," for name in sorted(set(names))) or None


def fields_in(needed: str | None) -> set[str]:
    """Return the fields that a job uses."""
    return {name for name in _names_in(needed) if "." in name}


def scorers_in(needed: str | None) -> set[str]:
    """Return the scorers that a job asks for."""
    return {name for name in _names_in(needed) if "." not in name and not name.startswith(TRACKER)}


def trackers_in(needed: str | None) -> set[str]:
    """Return the trackers that a job asks for."""
    return {name.removeprefix(TRACKER) for name in _names_in(needed) if name.startswith(TRACKER)}


def of_tracker(name: str) -> str:
    """Return a tracker's name as it is written among those of scorers."""
    return TRACKER + name


def _names_in(needed: str | None) -> list[str]:
    return [name for name in (needed or "").split(",") if name]


@cache
def our_fields() -> int:
    """Return a number for the fields that this server knows: servers with the same number know the same."""
    return int(sha256(",".join(sorted(known_fields())).encode()).hexdigest()[:7], 16) + 1


@lru_cache(maxsize=64)
def _held(names: frozenset[str]) -> ColumnElement[int]:
    """The length of those of some names that a job needs: it has what it needs if there is nothing else in it.

    Its text is written once for the names. Built anew for each statement it took half of a claim's time.
    """
    # Nested calls of `replace`, one for each name, would be too deep.
    held = (
        case((Job.needs.contains(written([name]), autoescape=True), len(name) + 2), else_=0) for name in sorted(names)
    )
    found: ColumnElement[int] = sum(held, start=literal(0))
    return literal_column(str(found.compile(compile_kwargs={"literal_binds": True})), Integer)


def has_all(worker: WorkerInfo) -> ColumnElement[bool]:
    """The condition that a worker has what a job needs, and that this server knows all fields of it."""
    fields = known_fields() & set(worker.fields)
    names = fields | {scorer.name for scorer in worker.scorers or ()} | set(map(of_tracker, worker.trackers))
    # Where all programs know the same, no names are compared.
    alike = [] if fields < known_fields() else [our_fields(), *([-our_fields()] if worker.scorers is None else [])]
    return or_(Job.known_fields.in_(alike), Job.needs.is_(None), func.length(Job.needs) == _held(frozenset(names)))


def may_have_all(worker: AvailableWorker, needed: str | None) -> bool:
    """Whether a worker has what a job needs."""
    return (
        fields_in(needed) <= worker.fields
        and worker.may_have(scorers_in(needed))
        and trackers_in(needed) <= worker.trackers
    )


def unknown_here(needed: str | None) -> str | None:
    """Say that this server does not know all fields that a job uses; None if it does."""
    lacking = fields_in(needed) - known_fields()
    return f"it uses {_listed(lacking)}, which this registry does not know; upgrade it" if lacking else None


def unknown_to_all(needed: str | None, workers: Sequence[AvailableWorker]) -> str | None:
    """Say that none of some workers knows all fields that a job uses; None if one does."""
    used = fields_in(needed)
    if any(used <= worker.fields for worker in workers):
        return None
    lacking = used.difference(*(worker.fields for worker in workers)) or used
    return f"it uses {_listed(lacking)}, which no worker that may run it knows; upgrade the workers"


def _listed(fields: Collection[str]) -> str:
    """Name fields as people write them, without the kind."""
    shown = sorted({field.partition(".")[2] for field in fields})
    more = f" and {len(shown) - _FIELDS_NAMED} more" if len(shown) > _FIELDS_NAMED else ""
    return f"{', '.join(shown[:_FIELDS_NAMED])}{more}"


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
    if lacking == [WORDNET]:
        return "no worker has WordNet, which meteor needs; set ADAPTER_WORKER_WORDNET to its folder on the workers, and start them again"
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
        param = "spec.metrics" if scorers_in(needed) == {WORDNET} else "spec.scorers"
        raise Invalid(f"{said}, or leave it out", param=param)


def require_installed(names: Iterable[str]) -> None:
    """Raise Invalid for a scorer that is missing in this process's environment, which an embedded registry's runner
    shares.
    """
    # The runner says itself whether it has WordNet.
    asked = sorted({*names} - {WORDNET})
    here = {entry.name for entry in entry_points(group=SCORERS_GROUP)} if asked else set()
    if lacking := [name for name in asked if name not in here]:
        known = ", ".join(sorted(here)[:_SCORERS_NAMED])
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
    known = sorted(found)[:_SCORERS_NAMED]
    return f" (there {'is' if len(known) == 1 else 'are'} {', '.join(known)})"
