"""How a policy asks for less than the one before it. Nothing forbids that: it is written down, and decisions of the following
weeks name it.

>>> before = PolicyDocument(alias="production", approvals=2, rollback="checked")
>>> [one["text"] for one in loosened(before, before.model_copy(update={"approvals": 1, "rollback": "allowed"}))]
['it asks for 1 approval, before for 2', 'a rollback is no longer checked']
>>> loosened(before, before.model_copy(update={"approvals": 3}))
[]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, TypedDict

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.promotion.generations import scopes_of
from registry.promotion.models import Policy
from sdk.schemas.policies import MetricRule, PolicyDocument, ProbeRule, RowsRule, seconds_of

#: For so long decisions name a loosening.
NAMED_FOR = timedelta(days=30)
#: So many of them at most, the newest; all are in the history.
_MOST_NAMED = 10
#: So many sentences are kept of one change, so that what a policy takes is bounded.
_MOST_KEPT = 50
#: Limits that are not of rows: rule, field, and how a sentence about it begins.
_LIMITS = (
    ("forgetting", "loss_rise_at_most", "the loss on general texts may rise by"),
    ("forgetting", "kl_at_most", "the divergence on general texts may be"),
    ("contamination", "at_most", "the contaminated share of rows may be"),
)


class Loosening(TypedDict):
    """One thing that is no longer asked for, or less of it."""

    text: str
    #: The dataset whose rows it is about, by its digest: only who may read these is told; None: no rows.
    data: str | None


def loosened(before: PolicyDocument, after: PolicyDocument | None) -> list[Loosening]:
    """Return how a policy asks for less than the one before; None: it was removed."""
    if after is None:
        return [_plain("it was removed")]
    texts = [_plain(text) for text in (*_of_the_whole(before, after), *_of_versions(before, after))]
    texts += [one for rule in before.require for one in _of_rows(rule, after.require)]
    more = len(texts) - _MOST_KEPT
    return texts if more <= 0 else [*texts[:_MOST_KEPT], _plain(f"and of {more} more things it asks for less")]


def recent_loosenings(session: Session, adapter: str, namespace: str, alias: str, now: datetime) -> list[str]:
    """Return for each loosening of an alias's policies within the last 30 days a sentence that every reader may see, newest
    first.
    """
    columns = (Policy.scope, Policy.version, Policy.created_by, Policy.created_at)
    changes = select(*columns, Policy.document.is_(None).label("removed")).where(
        Policy.scope.in_(scopes_of(adapter, namespace)),
        Policy.alias == alias,
        Policy.loosens,
        Policy.created_at > now - NAMED_FOR,
    )
    return [
        f"the policy of {row.scope} was {'removed' if row.removed else 'loosened'} on {row.created_at:%Y-%m-%d} by "
        f"{row.created_by} (version {row.version}); see how with: adapterctl policy history {row.scope} {alias}"
        for row in session.execute(changes.order_by(Policy.pk.desc()).limit(_MOST_NAMED))
    ]


def _of_the_whole(before: PolicyDocument, after: PolicyDocument) -> Iterator[str]:
    if after.alpha > before.alpha:
        yield f"alpha is {after.alpha:g}, before {before.alpha:g}"
    if after.approvals < before.approvals:
        yield f"it asks for {_counted(after.approvals, 'approval')}, before for {before.approvals}"
    if after.approvals and before.approval_age is not None and _longer(after.approval_age, before.approval_age):
        yield f"an approval counts {_for(after.approval_age)}, before for {before.approval_age}"
    if before.rollback == "checked" and after.rollback == "allowed":
        yield "a rollback is no longer checked"
    if before.promote is None and after.promote is not None:
        yield "the registry moves the alias by itself, which before only people did"
    if before.cap is not None and after.cap is not None and after.cap > before.cap:
        yield f"{after.cap} versions may be tried by the registry itself, before {before.cap}"


def _of_versions(before: PolicyDocument, after: PolicyDocument) -> Iterator[str]:
    """What is asked of a version beside scores on rows."""
    for rule, field, named in _LIMITS:
        was, now = (getattr(getattr(one, rule), field, None) for one in (before, after))
        if was is not None and (now is None or now > was):
            yield f"{named} {'anything' if now is None else f'{now:g}'}, before {was:g}"
    if before.probe is not None and after.probe is None:
        yield "no replay of the probe is asked for"
    elif before.probe == ProbeRule(replayed_by="other_worker") and before.probe != after.probe:
        yield "the worker that made a version may replay its probe itself"
    if before.signed_by is not None and after.signed_by is None:
        yield "no signature is asked for"
    elif before.signed_by is not None and (more := set(after.signed_by or ()) - set(before.signed_by)):
        yield f"{_counted(len(more), 'more key')} may sign"


def _of_rows(before: RowsRule, after: Sequence[RowsRule]) -> list[Loosening]:
    """How what a rule asked on some rows is no longer asked by any rule on these rows."""
    found: list[Loosening] = []
    named = before.data_name or before.data[:12]
    for metric, rule in before.metrics.items():
        for asked in _asked(rule):
            there = [one for one in after if one.data == before.data and metric in one.metrics]
            ways = [list(_of_one(asked, rule, one.metrics[metric], before, one)) for one in there]
            less = min(ways, key=len, default=["it is no longer asked for"])
            text = f"{metric} on {named}, {_words(asked, rule)}: {'; '.join(less)}"
            if less and not any(one["text"] == text for one in found):
                found.append({"text": text, "data": before.data})
    return found


def _asked(rule: MetricRule) -> list[str]:
    """The single things that a rule asks for."""
    bounds = [name for name in ("at_least", "at_most") if getattr(rule, name) is not None]
    return bounds + (rule.references if rule.not_worse_than is not None else [])


def _words(asked: str, rule: MetricRule) -> str:
    if asked in ("at_least", "at_most"):
        return f"{asked.replace('_', ' ')} {getattr(rule, asked):g}"
    return f"not worse than {asked} by more than {rule.not_worse_than:g}"


def _of_one(asked: str, was: MetricRule, now: MetricRule, before: RowsRule, after: RowsRule) -> Iterator[str]:
    """How one thing that was asked of a metric is asked for less by another rule on the same rows."""
    if asked not in _asked(now):
        yield "it is no longer asked for"
        return
    if asked == "at_least" and now.at_least is not None and was.at_least is not None and now.at_least < was.at_least:
        yield f"now {now.at_least:g}"
    elif asked == "at_most" and now.at_most is not None and was.at_most is not None and now.at_most > was.at_most:
        yield f"now {now.at_most:g}"
    elif asked in now.references and (now.not_worse_than or 0) > (was.not_worse_than or 0):
        yield f"now by more than {now.not_worse_than:g}"
    if asked in ("at_least", "at_most") and now.point and not was.point:
        yield "the score itself decides, before the end of its interval"
    if was.better is not None and now.better != was.better:
        yield f"{now.better or 'nothing'} is better, before {was.better}"
    yield from _of_counting(before, after)


def _of_counting(before: RowsRule, after: RowsRule) -> Iterator[str]:
    """How more scores of rows count than before."""
    if before.grader is not None and after.grader != before.grader:
        yield f"scores of {after.grader or 'any grader'} count, before only of {before.grader}"
    if before.by is not None and after.by != before.by:
        yield f"the groups by {before.by} are not judged"
    if before.cluster is not None and after.cluster != before.cluster:
        yield f"rows with the same {before.cluster} are taken one by one"
    if after.min_rows < before.min_rows:
        yield f"{after.min_rows} rows are enough, before {before.min_rows}"
    if before.chosen_rows == "refused" and after.chosen_rows == "allowed":
        yield "the rows may have chosen the version"
    if before.scored_by == "other_worker" and after.scored_by == "any":
        yield "the worker that made a version may score it"
    if before.max_age is not None and _longer(after.max_age, before.max_age):
        yield f"scores count {_for(after.max_age)}, before for {before.max_age}"
    if _scored(before) != _scored(after):
        yield "the rows are scored otherwise"


def _scored(rule: RowsRule) -> dict[str, Any]:
    # How many answers are generated follows from min_rows, which is compared by itself.
    return rule.evaluation.model_dump(exclude={"generate_rows"})


def _longer(now: str | None, before: str) -> bool:
    return now is None or seconds_of(now) > seconds_of(before)


def _for(age: str | None) -> str:
    return "whatever its age" if age is None else f"for {age}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _plain(text: str) -> Loosening:
    return {"text": text, "data": None}
