"""The names in a job's request are made exact, for a caller who may see and change what they name.

This is done twice: before a job is examined, which may take long, and again in the transaction that accepts it. So only
rows are looked up here, by their keys: nothing of the size of a base or of an adapter is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalog.bases.finding import files_of, find_base
from registry.catalog.bases.names import ANYBODYS, Whose
from registry.catalog.models import NamedBase, Version
from registry.datasets.finding import find_dataset, is_named
from registry.db.types import db_now
from registry.errors import Invalid, InvalidBase
from registry.jobs.available_workers import FORGOTTEN_AFTER, works_in
from registry.jobs.base_contents import BaseContents, PinnedBase
from registry.jobs.models import Worker
from registry.jobs.subjects import Subject
from registry.principal import Principal
from sdk.lora.architectures import is_encoder, no_next_token
from sdk.schemas.job_requests import BaseChoice, DataSource, EvaluationTarget, TrainingRequest
from sdk.schemas.wire import Wire

R = TypeVar("R", bound=Wire)


@dataclass(frozen=True)
class Chosen:
    """A target of an evaluation made exact."""

    target: EvaluationTarget
    #: None for a bare base, as for its digest.
    subject: Subject | None = field(compare=False)
    digest: str | None
    #: None for a base that nobody has registered yet.
    base: PinnedBase | None


@dataclass(frozen=True)
class Pinned(Generic[R]):
    """A request with every name made exact: equal to another as long as the names mean the same."""

    request: R
    #: Whose job it is.
    namespace: str
    #: What the job is about, for lists.
    subject: str
    #: The base that a worker will need, if it is known; for an evaluation the first one.
    base: PinnedBase | None
    #: Whether a version to merge was trained over a quantised base, and whether its base predicts the next token.
    quantized: bool = False
    causal: bool = True
    #: The targets of an evaluation that were asked for, and those that may be scored beside them.
    targets: Sequence[Chosen] = ()
    beside: Sequence[Chosen] = ()
    #: How many of the latter are scored at most.
    most_beside: int = 0
    #: Users' own scorers that an evaluation asks for.
    scorers: Sequence[str] = ()


def pin_data(session: Session, request: Wire, fields: Iterable[str], who: Principal, namespace: str) -> dict[str, Any]:
    """Return the digests of the datasets that fields of a request name, by field, and the names with which it gave them,
    by the fields for those. Raises NotFound.

    A name is None if the job's own namespace has no such name for the dataset: readers of the job would see another
    namespace's names.
    """
    found: dict[str, Any] = {}
    for field_ in fields:
        if (said := getattr(request, field_)) is not None:
            digest = find_dataset(session, said, who, prefer=namespace, param=field_).row.digest
            name = _name_here(session, digest, getattr(request, f"{field_}_name"), namespace)
            found |= {field_: digest, f"{field_}_name": name}
    return found


def _name_here(session: Session, digest: str, name: str | None, namespace: str) -> str | None:
    return name if name is not None and is_named(session, digest, namespace, name) else None


def pin_sources(session: Session, request: TrainingRequest, who: Principal, namespace: str) -> list[DataSource] | None:
    """Return the datasets of a training, if there are several, with the names that the job's own namespace has for
    them.

    Raises NotFound for one that the caller may not use.
    """
    if request.sources is None:
        return None
    found = []
    for source in request.sources:
        digest = find_dataset(session, source.data, who, prefer=namespace, param="data").row.digest
        name = _name_here(session, digest, source.data_name, namespace)
        found.append(source.model_copy(update={"data": digest, "data_name": name}))
    return found


def digests_in(request: Mapping[str, Any], fields: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the digests of the datasets that fields of a stored request name, each with its field, which has one or a
    list of them.
    """
    for name in fields:
        value = request.get(name)
        if isinstance(value, str):
            yield name, value
        elif isinstance(value, list):
            yield from (
                (name, one["data"]) for one in value if isinstance(one, dict) and isinstance(one.get("data"), str)
            )


def require_data(
    session: Session, request: Mapping[str, Any], fields: Iterable[str], who: Principal, namespace: str
) -> None:
    """Raise NotFound if a caller who submits a stored request again may no longer use its rows.

    A stranger who has the same bytes gives no permission to use them, and nobody may learn about it.
    """
    for name, digest in digests_in(request, fields):
        find_dataset(session, digest, who, prefer=namespace, param=name)


def today(session: Session) -> str:
    """Return the day on which a job is accepted, in UTC: its chat templates get it at each attempt."""
    return db_now(session).date().isoformat()


def require_causal(base: BaseContents | None) -> None:
    """Raise InvalidBase if the config of a base says that it can't predict the next token; if the config is not known,
    the worker will find out.
    """
    if base is not None and is_encoder(base.config):
        raise InvalidBase(
            f"base {base.id} can't be used for that: {no_next_token(base.config.get('model_type'))}", param="base"
        )


def base_of(session: Session, version: Version, embedded: bool) -> PinnedBase:
    """The base of a version, as its namespace knows it. Raises NotFound if it was removed, and InvalidBase."""
    return base_in(session, version.base.fingerprint, version.adapter.namespace, embedded)


def base_in(session: Session, fingerprint: str, namespace: str, embedded: bool) -> PinnedBase:
    """The base with a fingerprint, as a namespace knows it. Raises NotFound if it was removed, and InvalidBase."""
    base = find_base(session, fingerprint, namespace)
    _require_reachable(session, base, namespace, embedded)
    return PinnedBase.of(base)


def pin_base(
    session: Session, choice: BaseChoice, namespace: str, embedded: bool
) -> tuple[BaseChoice, PinnedBase | None]:
    """Return a base made exact, and what is pinned of it if it is registered.

    Raises NotFound, InvalidBase, Invalid for a name that means several bases in the namespace.
    """
    whose = Whose(choice.base_namespace, choice.published)
    if choice.fingerprint is None and choice.revision is not None:
        if whose != ANYBODYS:
            raise Invalid(
                f"{choice.id[:80]!a} at a revision is a base of the hub, which nobody here has registered; leave out "
                "base_namespace and published, or revision",
                param="base",
            )
        # A base of the hub at an exact revision, which a worker will fetch and fingerprint.
        return choice, None
    row = find_base(session, choice.fingerprint or choice.id, namespace, whose=whose)
    _require_reachable(session, row, namespace, embedded)
    return BaseChoice(id=row.id, revision=row.revision, fingerprint=row.base.fingerprint), PinnedBase.of(row)


def _require_reachable(session: Session, base: NamedBase, namespace: str, embedded: bool) -> None:
    """Raise InvalidBase if the base is a folder that no worker of the namespace shares, and was not uploaded."""
    if embedded or base.location is None or base.location.startswith("hf://") or files_of(session, base) is not None:
        return
    folder = urlsplit(base.location).path
    recent = select(Worker.shared_paths).where(
        Worker.seen_at > db_now(session) - FORGOTTEN_AFTER, works_in([namespace])
    )
    for paths in session.scalars(recent):
        if any(folder == path or folder.startswith(path.rstrip("/") + "/") for path in paths):
            return
    raise InvalidBase(
        f"base {base.id} is in a folder that no worker shares; upload it with: adapterctl base add FOLDER --upload",
        param="base",
    )
