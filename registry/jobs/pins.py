"""What a job's request names, made exact when it is accepted, for somebody who may see and change it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalog.bases.finding import files_of, find_base
from registry.catalog.models import NamedBase, Version
from registry.catalog.versions.finding import exact_ref, find_version, parse_ref, space_of
from registry.datasets.finding import find_dataset
from registry.db.database import db_now
from registry.errors import Invalid, InvalidBase
from registry.jobs.available_workers import FORGOTTEN_AFTER, works_in
from registry.jobs.models import Worker
from registry.principal import Principal
from sdk.schemas.jobs import BaseChoice, EvaluationRequest, EvaluationTarget, MergeRequest, TrainingRequest

Request = TrainingRequest | EvaluationRequest | MergeRequest


@dataclass(frozen=True)
class Pinned:
    """A request with every name made exact."""

    request: Request
    #: Whose job it is.
    namespace: str
    #: What it is about, for lists.
    subject: str
    #: The base that a worker will need, where it is known; the first one of an evaluation.
    base: NamedBase | None

    @property
    def base_fingerprint(self) -> str | None:
        """The fingerprint of the base."""
        return None if self.base is None else self.base.base.fingerprint


def pin(session: Session, request: Request, who: Principal, *, embedded: bool) -> Pinned:
    """Make a request exact. In embedded mode client and worker share one machine, so every folder is a shared path.

    Raises NotFound for what is not there or may not be seen, Forbidden, InvalidBase for a base that no worker reaches,
    Invalid for an evaluation over several namespaces.
    """
    if isinstance(request, TrainingRequest):
        namespace = space_of(request.adapter)
        missing = f"there is no adapter {request.adapter!r} that this token may see; choose another name"
        who.require("write", namespace, missing=missing, param="adapter")
        digests = {
            name: find_dataset(session, digest, who, prefer=namespace, param=name).digest
            for name, digest in (("data", request.data), ("eval_data", request.eval_data))
            if digest is not None
        }
        choice, row = _pin_base(session, request.base, namespace, embedded)
        exact = request.model_copy(update={"base": choice, **digests})
        return Pinned(exact, namespace, request.adapter, row)
    if isinstance(request, MergeRequest):
        version = find_version(session, parse_ref(request.ref), who, action="write")
        base = _base_of(session, version, embedded)
        ref = exact_ref(version)
        merge = request.model_copy(update={"ref": ref})
        return Pinned(merge, version.adapter.namespace, ref, base)
    return _pin_evaluation(session, request, who, embedded)


def require_data(session: Session, request: Mapping[str, Any], who: Principal, namespace: str) -> None:
    """Raise NotFound where somebody who submits a stored request again may not use its rows any more.

    That a stranger has the same bytes is no leave to use them, nor anybody's to know.
    """
    for name in ("data", "eval_data"):
        if isinstance(digest := request.get(name), str):
            find_dataset(session, digest, who, prefer=namespace, param=name)


def _pin_evaluation(session: Session, request: EvaluationRequest, who: Principal, embedded: bool) -> Pinned:
    versions = {
        target.ref: find_version(session, parse_ref(target.ref), who, action="write")
        for target in request.targets
        if target.ref is not None
    }
    namespaces = {version.adapter.namespace for version in versions.values()}
    if len(namespaces) > 1:
        # Whoever may see one of them would see the others' names in the job.
        raise Invalid("the versions of an evaluation are of one namespace; submit one for each", param="targets")
    namespace = namespaces.pop() if namespaces else who.home()
    data = find_dataset(session, request.data, who, prefer=namespace, param="data").digest
    targets: list[EvaluationTarget] = []
    bases: list[NamedBase] = []
    for target in request.targets:
        if target.ref is not None:
            bases.append(_base_of(session, versions[target.ref], embedded))
            targets.append(EvaluationTarget(ref=exact_ref(versions[target.ref])))
        elif target.base is not None:
            choice, row = _pin_base(session, target.base, namespace, embedded)
            targets.append(EvaluationTarget(base=choice))
            bases.extend([] if row is None else [row])
    return Pinned(
        request.model_copy(update={"targets": targets, "data": data}),
        namespace,
        " ".join(target.label for target in targets)[:300],
        bases[0] if bases else None,
    )


def _base_of(session: Session, version: Version, embedded: bool) -> NamedBase:
    """The base of a version, as its namespace knows it. Raises NotFound where it was taken away, InvalidBase."""
    base = find_base(session, version.base.fingerprint, version.adapter.namespace)
    _require_reachable(session, base, version.adapter.namespace, embedded)
    return base


def _pin_base(
    session: Session, choice: BaseChoice, namespace: str, embedded: bool
) -> tuple[BaseChoice, NamedBase | None]:
    if choice.fingerprint is None and choice.revision is not None:
        # A base of the hub at an exact revision, which a worker will fetch and fingerprint.
        return choice, None
    row = find_base(session, choice.fingerprint or choice.id, namespace)
    _require_reachable(session, row, namespace, embedded)
    return BaseChoice(id=row.id, revision=row.revision, fingerprint=row.base.fingerprint), row


def _require_reachable(session: Session, base: NamedBase, namespace: str, embedded: bool) -> None:
    """Raise InvalidBase where the base is a folder that no worker of the namespace shares, and was not uploaded."""
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
        f"base {base.id} lies in a folder that no worker shares; upload it with: adapterctl base add FOLDER --upload",
        param="base",
    )
