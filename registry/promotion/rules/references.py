"""What a version must not be worse than: what the alias named last, the best that it has named, or a given version."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalog.models import AliasMoveRow, Version
from registry.catalog.versions.lifecycle import PULLABLE
from registry.promotion.models import DecisionRow
from registry.promotion.question import Question

#: Of the versions that an alias has named by decisions that passed, the last are compared with.
MOST_PASSED = 200


class _Facts(NamedTuple):
    """What is read of a version."""

    number: int
    digest: str
    state: str
    kind: str


@dataclass(frozen=True)
class Reference:
    """A version that another one is compared with."""

    #: What the policy calls it: "incumbent", "best" or "v3"; both of the first if they are the same.
    called: tuple[str, ...]
    #: "team/code-review@v3".
    ref: str
    digest: str
    #: Whether it can be scored: it is there, and no merged model.
    is_there: bool

    @property
    def said(self) -> str:
        """What it is, for a sentence about it."""
        roles = {"incumbent": "what it named last", "best": "the best that it has named"}
        said = [roles[one] for one in self.called if one in roles]
        return self.ref.partition("@")[2] + (f" ({' and '.join(said)})" if said else "")


def incumbent(session: Session, question: Question) -> Reference | None:
    """Return what the alias named last, also if it was removed since; None: it has named nothing."""
    moves = select(AliasMoveRow.to_number, AliasMoveRow.from_number).order_by(AliasMoveRow.pk.desc()).limit(1)
    of = (AliasMoveRow.adapter_pk == question.adapter_pk, AliasMoveRow.alias == question.alias)
    last = session.execute(moves.where(*of)).first()
    number = question.from_number if last is None else (last.to_number or last.from_number)
    return None if number is None else numbered(session, question, number, "incumbent")


def passed(session: Session, question: Question) -> list[Reference]:
    """Return the different bytes that the alias has named by decisions that passed, the last first."""
    decided = (
        select(DecisionRow.number, DecisionRow.digest)
        .where(DecisionRow.adapter_pk == question.adapter_pk, DecisionRow.alias == question.alias)
        .where(DecisionRow.moved, DecisionRow.outcome == "passed", DecisionRow.number.is_not(None))
        .order_by(DecisionRow.pk.desc())
    )
    digests: dict[str, int] = {}
    for number, digest in session.execute(decided.limit(10 * MOST_PASSED)):
        if number is not None and digest is not None and len(digests) < MOST_PASSED:
            digests.setdefault(digest, number)
    versions = _by_number(session, question, digests.values())
    return [_reference(question, versions[number], "best") for number in digests.values() if number in versions]


def numbered(session: Session, question: Question, number: int, called: str) -> Reference | None:
    """Return a version of the adapter by its number; None: it never had one with that."""
    version = _by_number(session, question, [number]).get(number)
    return None if version is None else _reference(question, version, called)


def _by_number(session: Session, question: Question, numbers: Iterable[int]) -> dict[int, _Facts]:
    columns = select(Version.number, Version.digest, Version.state, Version.kind)
    of = (Version.adapter_pk == question.adapter_pk, Version.number.in_(list(numbers)))
    facts = [_Facts(number or 0, *rest) for number, *rest in session.execute(columns.where(*of)).tuples()]
    return {one.number: one for one in facts}


def _reference(question: Question, version: _Facts, called: str) -> Reference:
    is_there = version.state in PULLABLE and version.kind == "adapter"
    return Reference((called,), f"{question.adapter}@v{version.number}", version.digest, is_there)


def together(references: Sequence[Reference]) -> list[Reference]:
    """Return each version once, with all that it is called."""
    found: dict[str, Reference] = {}
    for one in references:
        same = found.get(one.digest)
        if same is None:
            found[one.digest] = one
        else:
            called = tuple(dict.fromkeys([*same.called, *one.called]))
            better = same if same.is_there or not one.is_there else one
            found[one.digest] = Reference(called, better.ref, one.digest, better.is_there)
    return list(found.values())
