"""What a version must not be worse than: what the alias named last, the best that it has named, or a given version."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
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
        select(DecisionRow.digest)
        .where(DecisionRow.adapter_pk == question.adapter_pk, DecisionRow.alias == question.alias)
        .where(DecisionRow.moved, DecisionRow.outcome == "passed", DecisionRow.digest.is_not(None))
        .order_by(DecisionRow.pk.desc())
    )
    newest = session.scalars(decided.limit(10 * MOST_PASSED))
    digests = list(dict.fromkeys(digest for digest in newest if digest is not None))[:MOST_PASSED]
    there = _with_digests(session, question, digests)
    return [_reference(question, there[digest], "best") for digest in digests if digest in there]


def numbered(session: Session, question: Question, number: int, called: str) -> Reference | None:
    """Return a version of the adapter by its number; None: it never had one with that.

    Where it was deleted, and its bytes were published again, it is the version that has them now.
    """
    of = (Version.adapter_pk == question.adapter_pk, Version.number == number)
    digest = session.scalar(select(Version.digest).where(*of))
    return None if digest is None else _reference(question, _with_digests(session, question, [digest])[digest], called)


def _with_digests(session: Session, question: Question, digests: Iterable[str]) -> dict[str, _Facts]:
    """The version of the adapter that has each of these digests: the first that is not deleted, else the first."""
    columns = select(Version.number, Version.digest, Version.state, Version.kind)
    of = (Version.adapter_pk == question.adapter_pk, Version.digest.in_(list(digests)), Version.number.is_not(None))
    found: dict[str, _Facts] = {}
    for number, *rest in session.execute(columns.where(*of).order_by(Version.number)):
        one = _Facts(number or 0, *rest)
        if one.digest not in found or (one.state in PULLABLE and found[one.digest].state not in PULLABLE):
            found[one.digest] = one
    return found


def _reference(question: Question, version: _Facts, called: str) -> Reference:
    is_there = version.state in PULLABLE and version.kind == "adapter"
    return Reference((called,), f"{question.adapter}@v{version.number}", version.digest, is_there)


def together(references: Sequence[Reference]) -> list[Reference]:
    """Return each version once, with all that it is called."""
    called: dict[str, dict[str, None]] = {}
    for one in references:
        called.setdefault(one.digest, {}).update(dict.fromkeys(one.called))
    first = {one.digest: one for one in reversed(references)}
    return [replace(first[digest], called=tuple(names)) for digest, names in called.items()]
