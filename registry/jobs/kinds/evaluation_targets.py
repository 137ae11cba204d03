"""The targets of an evaluation, made exact: those that were asked for, and those that are scored with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from sqlalchemy.orm import Session

from registry.catalog.models import Version
from registry.catalog.versions.finding import exact_ref, find_version, parse_ref
from registry.catalog.versions.kinds import require_adapter
from registry.errors import Invalid, NotFound
from registry.jobs.objectives import is_classifier, require_rows_for
from registry.jobs.pins import Chosen, base_of, pin_base
from registry.principal import Principal
from sdk.formats.refs import Ref
from sdk.schemas.evaluation import EvaluationSpec
from sdk.schemas.job_requests import BaseChoice, EvaluationTarget

#: The alias of the version that is in use.
_PRODUCTION = "production"


def versions_of(session: Session, targets: Sequence[EvaluationTarget], who: Principal) -> dict[str, Version]:
    """Return the versions that the targets name now, by ref. Raises NotFound, Forbidden, and Invalid for a merged
    model.
    """
    found = {
        target.ref: find_version(session, parse_ref(target.ref), who, action="write")
        for target in targets
        if target.ref is not None
    }
    for version in found.values():
        require_adapter(session, version, "evaluated", param="targets")
    return found


@dataclass(frozen=True)
class Rows:
    """The rows that are scored, how, and in whose job."""

    digest: str
    spec: EvaluationSpec
    who: Principal
    namespace: str
    #: Whether every folder is a shared path.
    embedded: bool

    def choose(self, session: Session, target: EvaluationTarget, versions: Mapping[str, Version]) -> Chosen:
        """Return a target made exact. Raises NotFound for a base that is gone, InvalidBase for one that no worker can
        reach.
        """
        if target.ref is not None:
            version = versions[target.ref]
            exact = EvaluationTarget(ref=exact_ref(version))
            return Chosen(exact, version, version.digest, base_of(session, version, self.embedded))
        if target.base is None:
            raise Invalid("an evaluation target without ref and base")
        choice, base = pin_base(session, target.base, self.namespace, self.embedded)
        return Chosen(EvaluationTarget(base=choice), None, None, base)

    def require(self, session: Session, chosen: Sequence[Chosen]) -> None:
        """Raise Invalid for a target that doesn't go with these rows."""
        versions = [one.version for one in chosen]
        require_rows_for(session, versions, self.digest, self.spec, self.who, self.namespace)


def scored_beside(session: Session, asked: Sequence[Chosen], rows: Rows) -> list[Chosen]:
    """Return the targets that nobody named, pinned: the bare bases of versions, and the version in production of each
    name.

    Targets that can't be scored on these rows are left out. The bare base of a classifier has no labels.
    """
    found = [_bare(one) for one in asked if one.version is not None and not is_classifier(one.version)]
    for name in dict.fromkeys(one.version.adapter.name for one in asked if one.version is not None):
        with suppress(NotFound, Invalid):
            found.append(_in_production(session, name, rows))
    known, new = {one.target.label for one in asked}, dict[str, Chosen]()
    bases = {one.base.fingerprint for one in asked if one.version is None and one.base is not None}
    for one in found:
        if one.target.label not in known and _fingerprint(one) not in bases:
            new.setdefault(one.target.label, one)
    return list(new.values())


def _bare(of: Chosen) -> Chosen:
    if of.base is None:
        raise Invalid("a version without a base")
    choice = BaseChoice(id=of.base.id, revision=of.base.revision, fingerprint=of.base.fingerprint)
    return Chosen(EvaluationTarget(base=choice, beside="base"), None, None, of.base)


def _fingerprint(of: Chosen) -> str | None:
    """The fingerprint of a bare base, which may have been asked for by another of its names."""
    return of.base.fingerprint if of.version is None and of.base is not None else None


def _in_production(session: Session, name: str, rows: Rows) -> Chosen:
    """Raises NotFound if there is none, Invalid if it can't be scored."""
    ref = str(Ref(name, _PRODUCTION))
    versions = versions_of(session, [EvaluationTarget(ref=ref)], rows.who)
    found = rows.choose(session, EvaluationTarget(ref=ref), versions)
    rows.require(session, [found])
    return replace(found, target=found.target.model_copy(update={"beside": "production"}))
