"""The targets of an evaluation, made exact: those that were asked for, and those that are scored with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from sqlalchemy.orm import Session

from registry.datasets.finding import find_dataset
from registry.errors import Invalid, NotFound
from registry.jobs.objectives import is_classifier, require_rows_for
from registry.jobs.pins import Chosen, base_in, pin_base
from registry.jobs.subjects import Subject, find_scored
from registry.principal import Principal
from sdk.formats.refs import Ref
from sdk.schemas.evaluation import MOST_JOB_ROWS, MOST_TARGET_ROWS, EvaluationSpec
from sdk.schemas.job_requests import MOST_TARGETS, BaseChoice, EvaluationTarget

#: The alias of the version that is in use.
_PRODUCTION = "production"


def subjects_of(session: Session, targets: Sequence[EvaluationTarget], who: Principal) -> dict[str, Subject]:
    """Return the versions, and the members of sweeps, that the targets name now, by ref. Raises NotFound, Forbidden, and
    Invalid for a merged model, or a member with another digest than the target's.
    """
    found = {}
    for target in targets:
        if target.ref is not None:
            subject = found[target.ref] = find_scored(session, target.ref, who, action="write")
            if target.digest not in (None, subject.digest):
                raise Invalid(
                    f"{subject.ref} has the digest {subject.digest[:12]}, not {target.digest[:12]}; leave the digest out",
                    param="targets",
                )
    return found


@dataclass(frozen=True)
class ScoredRows:
    """The rows that are scored, how, and in whose job."""

    digest: str
    spec: EvaluationSpec
    who: Principal
    namespace: str
    #: Whether every folder is a shared path.
    embedded: bool

    def choose(self, session: Session, target: EvaluationTarget, subjects: Mapping[str, Subject]) -> Chosen:
        """Return a target made exact. Raises NotFound for a base that is gone, InvalidBase for one that no worker can
        reach.
        """
        if target.ref is not None:
            subject = subjects[target.ref]
            exact = EvaluationTarget(ref=subject.ref, digest=subject.digest if subject.is_member else None)
            base = base_in(session, subject.fingerprint, subject.namespace, self.embedded)
            return Chosen(exact, subject, subject.digest, base)
        assert target.base is not None
        choice, pinned = pin_base(session, target.base, self.namespace, self.embedded)
        return Chosen(EvaluationTarget(base=choice), None, None, pinned)

    def choose_all(
        self, session: Session, targets: Sequence[EvaluationTarget], subjects: Mapping[str, Subject]
    ) -> list[Chosen]:
        """Return targets made exact, each once: a version that is named by its number and by an alias is one target.

        Raises what `choose` does, and Invalid for different bases of the same id: their scores would have one label.
        """
        found: dict[str, Chosen] = {}
        for one in (self.choose(session, target, subjects) for target in targets):
            same = found.setdefault(one.target.label, one)
            if same.target != one.target:
                raise Invalid(
                    f"two different bases are called {one.target.label.removeprefix('base:')}, so their scores could not be told "
                    "apart; evaluate each in a job of its own",
                    param="targets",
                )
        return list(found.values())

    def require(self, session: Session, chosen: Sequence[Chosen]) -> None:
        """Raise Invalid for a target that doesn't go with these rows."""
        subjects = [one.subject for one in chosen]
        require_rows_for(session, subjects, self.digest, self.spec, self.who, self.namespace)

    def require_few(self, session: Session, targets: int) -> int:
        """Return how many further targets can be scored in the same job; as many as one likes if nobody has counted
        the rows. Raises Invalid for too many rows, in all or of one target.
        """
        rows = find_dataset(session, self.digest, self.who, prefer=self.namespace).row.rows
        if not rows:
            return MOST_TARGETS
        if rows > MOST_TARGET_ROWS:
            raise Invalid(
                f"the dataset has {rows:,} rows, and an evaluation scores {MOST_TARGET_ROWS:,} at most; evaluate on a part of it",
                param="data",
            )
        if rows * targets > MOST_JOB_ROWS:
            raise Invalid(
                f"{targets} targets on {rows:,} rows are {rows * targets:,} rows to score, and one job scores {MOST_JOB_ROWS:,} at "
                f"most; name {MOST_JOB_ROWS // rows} targets at most for each job, or evaluate on fewer rows",
                param="targets",
            )
        return MOST_JOB_ROWS // rows - targets


def scored_beside(session: Session, asked: Sequence[Chosen], rows: ScoredRows) -> list[Chosen]:
    """Return the targets that nobody named, pinned: the bare bases of versions and members, and the version in production
    of each name.

    Targets that can't be scored on these rows are left out. The bare base of a classifier has no labels.
    """
    found = [_bare(one) for one in asked if one.subject is not None and not is_classifier(one.subject)]
    for name in dict.fromkeys(one.subject.adapter for one in asked if one.subject is not None):
        with suppress(NotFound, Invalid):
            found.append(_in_production(session, name, rows))
    known, new = {one.target.label for one in asked}, dict[str, Chosen]()
    bases = {one.base.fingerprint for one in asked if one.subject is None and one.base is not None}
    for one in found:
        # A bare base may have been asked for by another of its names.
        bare = one.base.fingerprint if one.subject is None and one.base is not None else None
        if one.target.label not in known and bare not in bases:
            new.setdefault(one.target.label, one)
    return list(new.values())


def _bare(of: Chosen) -> Chosen:
    if of.base is None:
        raise Invalid("a version without a base")
    choice = BaseChoice(id=of.base.id, revision=of.base.revision, fingerprint=of.base.fingerprint)
    return Chosen(EvaluationTarget(base=choice, beside="base"), None, None, of.base)


def _in_production(session: Session, name: str, rows: ScoredRows) -> Chosen:
    """Raises NotFound if there is none, Invalid if it can't be scored."""
    ref = str(Ref(name, _PRODUCTION))
    subjects = subjects_of(session, [EvaluationTarget(ref=ref)], rows.who)
    found = rows.choose(session, EvaluationTarget(ref=ref), subjects)
    rows.require(session, [found])
    return replace(found, target=found.target.model_copy(update={"beside": "production"}))
