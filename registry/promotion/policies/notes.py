"""What readers of a policy should know of it: what it does not ask for, and when its rows have been used up.

>>> document = PolicyDocument(alias="production", approvals=1)
>>> notes_on(document)
[]
>>> notes_on(PolicyDocument(alias="production"))[0].text
'it asks for nothing but a promoter; give rules under require, or approvals'
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from registry.promotion.policies.metrics import asks_nothing
from sdk.schemas.policies import PolicyDocument, RowsRule
from sdk.statistics.gates import rows_for, tried_alpha


class Note(NamedTuple):
    """A sentence, and the dataset whose rows it is about: only who may read these is told; None: no rows."""

    text: str
    data: str | None = None


class UsedRows(NamedTuple):
    """How often the rows of a dataset were tried."""

    #: How many rows there are; None: nobody has said so.
    rows: int | None
    #: How many versions of the adapter were scored on them or chosen by them; 0 for a policy of more than one adapter.
    tries: int


def notes_on(
    document: PolicyDocument, used: Mapping[str, UsedRows] | None = None, *, approvers: int | None = None
) -> list[Note]:
    """Return the notes on a policy; `used` has the digests of datasets, and `approvers` is how many tokens may approve.

    What is not given is not known, and nothing is noted of it.
    """
    notes = [Note(text) for text in _of_the_whole(document, approvers)]
    for rule in document.require:
        notes += [Note(text, rule.data) for text in _of_rows(rule, document, (used or {}).get(rule.data))]
    return list(dict.fromkeys(notes))


def _of_the_whole(document: PolicyDocument, approvers: int | None) -> Iterator[str]:
    if not document.asks:
        yield "it asks for nothing but a promoter; give rules under require, or approvals"
    metrics = [metric for rule in document.require for metric in rule.metrics.values()]
    if metrics and all(metric.at_least is metric.at_most is None for metric in metrics):
        yield (
            "it has no floor: the first version that the alias names is compared with nothing, so any passes, unless another "
            "policy has one; give at_least or at_most"
        )
    if approvers is not None and document.approvals > approvers:
        yield (
            f"it needs {_counted(document.approvals, 'approval')}, and {_counted(approvers, 'token')} may approve there, that of "
            "a version's author included; give more people the role of a promoter: adapterctl token create NAME"
        )


def _of_rows(rule: RowsRule, document: PolicyDocument, used: UsedRows | None) -> Iterator[str]:
    named = rule.data_name or rule.data[:12]
    for name, metric in rule.metrics.items():
        if nothing := asks_nothing(name, metric):
            yield f"{nothing}, so that {named} decides nothing; give a stricter bound"
        if metric.not_worse_than == 0:
            yield (
                f"{name} on {named} may not be worse at all, which an equally good version does not show; give a margin above 0"
            )
    if used is None or used.rows is None or all(metric.point for metric in rule.metrics.values()):
        return
    rows = used.rows if rule.first_rows is None else min(used.rows, rule.first_rows)
    needed = rows_for(tried_alpha(document.alpha, used.tries + 1))
    judged = f"{rows} rows" if rows == used.rows else f"{used.rows} rows, of which the first {rows} are answered"
    if needed > rows and not used.tries:
        yield f"{named} has {judged}, and the first version of an adapter that they judge needs {needed}"
    elif needed > rows:
        yield (
            f"{named} has {judged}, by which {_counted(used.tries, 'version')} of this adapter "
            f"{'was' if used.tries == 1 else 'were'} judged: the next one needs {needed} rows or fresh ones"
        )
    if document.cap is not None and (last := rows_for(tried_alpha(document.alpha, document.cap))) > rows:
        yield f"{named} has {judged}, and the last of {document.cap} versions needs {last} rows or fresh ones"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
