"""The rule that others have approved, and that nobody has disapproved."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from sqlalchemy.orm import Session

from registry.promotion.counted_approvals import (
    MOST_NAMED,
    ApprovalCount,
    GivenApproval,
    approvals_of,
    people_of,
    vetoes_of,
)
from registry.promotion.makers import makers_of
from registry.promotion.question import Gathered, Question, StandingPolicy
from registry.promotion.rules.read_outcomes import ReadOutcomes, outcome_of

#: How much of a reason is repeated in a sentence.
_MOST_REASON_CHARS = 200


def approvals(session: Session, question: Question, policy: StandingPolicy) -> Gathered | None:
    """Read the approvals of the version that the alias is to name, or no longer to name.

    A veto fails whatever the policies ask for; it is about naming a version, so it does not stand against a removal.
    """
    needed = policy.document.approvals
    removed = question.kind == "remove"
    digest = question.from_digest if removed else question.digest
    asking = [one for one in question.policies if one.document.approvals]
    # Without a policy that asks for approvals, the first one says that there is a veto.
    if digest is None or (not needed and (asking or policy != question.policies[0])):
        return None
    vetoes = [] if removed else vetoes_of(session, question.adapter_pk, question.alias, digest)
    if not needed and not vetoes:
        return None
    given = approvals_of(session, question.adapter_pk, question.alias, digest, question.policies_digest)
    count = ApprovalCount(
        policies_digest=question.policies_digest,
        makers=makers_of(session, digest, question.namespace),
        people=people_of(session, [one.token_id for one in given], question.namespace, question.now_s),
        namespace=question.namespace,
        now_s=question.now_s,
        age=policy.document.approval_age,
        mover=question.who,
    )
    ref = f"{question.adapter}@v{question.from_number if removed else question.number}"
    counted, void = [], []
    for one, why in count.counted(given):
        if why is None:
            counted.append(one)
        else:
            void.append((one, why))
    passed = len(counted) >= needed and not vetoes
    message = _said(needed, counted, void, passed=passed)
    if vetoes:
        message = _vetoed(vetoes, f"{ref} --for {question.alias}")
    elif not passed:
        message += f"; ask somebody else to: adapterctl approve {ref} --for {question.alias}"
    numbers = {"approvals": len(counted), "needed": needed, "vetoes": len(vetoes)}
    rule = f"{needed} approval{'' if needed == 1 else 's'}" if needed else "no disapproval"
    result = outcome_of(policy, "approvals", rule, "passed" if passed else "failed", message, numbers=numbers)
    return ReadOutcomes([result], min(map(count.until_s, counted), default=inf))


def _said(
    needed: int, counted: Sequence[GivenApproval], void: Sequence[tuple[GivenApproval, str]], *, passed: bool
) -> str:
    names = _listed([one.name for one in counted])
    said = f"{len(counted)} of {needed}" + (f": {names}" if names else "")
    if void and not passed:
        said += f"; not counted: {_listed([f'{one.name} ({why})' for one, why in void])}"
    return said


def _vetoed(vetoes: Sequence[GivenApproval], what: str) -> str:
    """Name who has disapproved, and why the first did."""
    first = vetoes[0]
    why = " ".join(first.reason.split())[:_MOST_REASON_CHARS]
    names = _listed([one.name for one in vetoes])
    return (
        f"disapproved by {names}{f' ({why})' if why else ''}; ask them, or an admin of the namespace, to withdraw that: "
        f"adapterctl disapprove {what} --withdraw"
    )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
