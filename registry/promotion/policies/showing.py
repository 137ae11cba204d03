"""What somebody is shown of a policy: nothing of rows that they may not read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.access.models import Grant, Token, in_use
from registry.datasets.finding import readable_rows, usable_by
from registry.datasets.models import DatasetAccess
from registry.db.stored_json import view_of
from registry.principal import EVERYWHERE, Principal, roles_of
from registry.promotion.models import Policy
from registry.promotion.policies.finding import document_of
from registry.promotion.policies.notes import Note, UsedRows, notes_on
from sdk.schemas.policies import PolicyDocument, PolicyView

#: How many versions of an adapter were scored on the rows of each dataset, or chosen by them.
TriesOf = Callable[[Session, str, Mapping[str, int | None]], Mapping[str, int]]
#: What stands in place of sentences about rows that the reader may not read.
HIDDEN_LOOSENING = "a rule that you may not see asks for less"


def shown(
    session: Session,
    rows: Sequence[Policy],
    who: Principal,
    *,
    notes: bool = True,
    adapter: str | None = None,
    tries_of: TriesOf | None = None,
    counts_tokens: bool = True,
) -> list[PolicyView]:
    """Return policies as the caller may see them; with `notes`, what to know of each, also of how an adapter has used the
    rows. Raises Unreadable.
    """
    documents = [None if row.document is None else document_of(row) for row in rows]
    digests = {rule.data for document in documents if document is not None for rule in document.require}
    digests |= {one["data"] for row in rows for one in row.loosened if one["data"] is not None}
    readable = set(readable_rows(session, digests, who)) if digests else set()
    used: dict[str, UsedRows] = {}
    if notes and readable:
        rules = [rule for document in documents if document is not None for rule in document.require]
        judged: dict[str, int | None] = dict.fromkeys(readable)
        for rule in rules:
            if rule.data in judged and rule.first_rows is not None:
                judged[rule.data] = min(rule.first_rows, judged[rule.data] or rule.first_rows)
        tried = tries_of(session, adapter, judged) if adapter is not None and tries_of is not None else {}
        used = {digest: UsedRows(count, tried.get(digest, 0)) for digest, count in _lengths(session, readable, who)}
    approvers: dict[str, int | None] = {}
    views = []
    for row, document in zip(rows, documents, strict=True):
        noted: list[Note] = []
        if notes and document is not None:
            if row.namespace not in approvers:
                counted = counts_tokens and row.namespace != EVERYWHERE and who.may("admin", row.namespace)
                approvers[row.namespace] = _approvers(session, row.namespace) if counted else None
            noted = notes_on(document, used, approvers=approvers[row.namespace])
        views.append(_view(row, document, noted, readable))
    return views


def _view(row: Policy, document: PolicyDocument | None, notes: Sequence[Note], readable: Collection[str]) -> PolicyView:
    seen, hidden = (None, 0) if document is None else without_rows(document, readable)
    told = [one["text"] if one["data"] in {None, *readable} else HIDDEN_LOOSENING for one in row.loosened]
    return view_of(
        PolicyView,
        row,
        policy=seen,
        hidden=hidden,
        loosened=list(dict.fromkeys(told)),
        notes=[note.text for note in notes if note.data is None or note.data in readable],
    )


def without_rows(document: PolicyDocument, readable: Collection[str]) -> tuple[PolicyDocument, int]:
    """Return a policy without the rules over rows that aren't among the readable ones, and how many were left out."""
    rules = [rule for rule in document.require if rule.data in readable]
    hidden = len(document.require) - len(rules)
    if not hidden:
        return document, 0
    rest = document.model_copy(update={"require": rules})
    if rules:
        return rest, hidden
    # Without rows these say nothing, and a policy that has them is refused where it is read.
    hidden += document.contamination is not None
    return rest.model_copy(update={"contamination": None, "evaluate": None}), hidden


def _lengths(session: Session, digests: Collection[str], who: Principal) -> list[tuple[str, int | None]]:
    """How many rows these datasets have, as far as namespaces that the caller may read say so."""
    counts = select(DatasetAccess.digest, func.min(DatasetAccess.rows)).where(DatasetAccess.digest.in_(digests))
    return [(digest, rows) for digest, rows in session.execute(counts.where(usable_by(who)).group_by("digest"))]


def _approvers(session: Session, namespace: str) -> int:
    """How many tokens in use may approve in a namespace."""
    may = (Grant.namespace.in_((namespace, EVERYWHERE)), Grant.role.in_(roles_of("promote")), in_use())
    tokens = select(func.count(Token.id.distinct())).join(Grant, Grant.token_id == Token.id).where(*may)
    return session.scalar(tokens) or 0
