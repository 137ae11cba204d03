"""The rule that a version's effect on its base, as its training recorded it, was measured again by somebody else."""

from __future__ import annotations

from math import inf

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.promotion.counted_approvals import MOST_READ, people_of
from registry.promotion.makers import makers_of
from registry.promotion.models import ProbeReplayRow
from registry.promotion.probes import ACTION
from registry.promotion.question import Gathered, Question, StandingPolicy
from registry.promotion.rules.read_outcomes import ReadOutcomes, outcome_of


def probe(session: Session, question: Question, policy: StandingPolicy) -> Gathered | None:
    """Read what replays of the version's probe found: one that differs is enough to fail, whoever ran it."""
    asked = policy.document.probe
    if asked is None or question.digest is None:
        return None
    of = (ProbeReplayRow.adapter_pk == question.adapter_pk, ProbeReplayRow.digest == question.digest)
    newest = select(ProbeReplayRow).where(*of).order_by(ProbeReplayRow.agrees, ProbeReplayRow.pk.desc())
    rows = session.scalars(newest.limit(MOST_READ)).all()
    people = people_of(session, [row.token_id for row in rows], question.namespace, question.now_s, ACTION)
    # What somebody without a token recorded, in a registry of their own, stays as it is.
    rows = [row for row in rows if row.token_id is None or (row.token_id in people and people[row.token_id].may)]
    until_s = min((people[row.token_id].until_s for row in rows if row.token_id is not None), default=inf)
    ref = f"{question.adapter}@v{question.number}"
    rule = "probe replayed" + (" by another worker" if asked.replayed_by == "other_worker" else "")
    for row in rows:
        if not row.agrees:
            found = {"difference": row.difference, "tolerance": row.tolerance}
            numbers = {name: value for name, value in found.items() if value is not None}
            message = (
                f"{row.created_by} measured something other than its record"
                f"{f': {row.message}' if row.message else ''}; see whether the libraries are those of: adapterctl lineage {ref}"
            )
            return ReadOutcomes([outcome_of(policy, "probe", rule, "failed", message, numbers=numbers)], until_s)
    makers = makers_of(session, question.digest, question.namespace)
    others = [row for row in rows if asked.replayed_by == "any" or not makers.include(row.owner, row.created_by)]
    how = f"on another worker, with a token of its own: adapterctl verify {ref} --probe --record"
    if not others:
        own = (
            f"only who trained or pushed it has replayed it ({rows[0].created_by})"
            if rows
            else "nobody has replayed it"
        )
        return ReadOutcomes([outcome_of(policy, "probe", rule, "unknown", f"{own}; run, {how}")])
    furthest = max(others, key=lambda row: (row.difference or 0.0, -row.pk))
    numbers = {"difference": furthest.difference or 0.0, "tolerance": furthest.tolerance or 0.0}
    message = (
        f"{furthest.created_by} measured the same up to {numbers['difference']:.3g}, of {numbers['tolerance']:.3g} that rounding "
        "allows"
    )
    return ReadOutcomes([outcome_of(policy, "probe", rule, "passed", message, numbers=numbers)], until_s)
