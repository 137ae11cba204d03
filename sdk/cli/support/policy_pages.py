"""Policies for people: YAML that can be set again, in which comments say what else holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from shlex import quote

from sdk.cli.support.output import filled, local_time, plain
from sdk.schemas.policies import PolicyDocument, PolicyView, RowsRule
from sdk.submitting.given_policy import as_yaml


def policy_lines(scope: str, policies: Sequence[PolicyView]) -> Iterator[str]:
    """Yield the policies of a scope as YAML documents, and as comments what wider scopes ask besides.

    What is yielded, written to a file, sets the same policies again.
    """
    own = [each for each in policies if each.scope == scope]
    for at, each in enumerate(own):
        if at:
            yield "---"
        yield from _heading(each)
        yield from _document(each)
    wider = [each for each in policies if each.scope != scope]
    for at, each in enumerate(wider):
        if own or at:
            yield "#"
        yield from _heading(each, f"also holds for {scope}; it is set with: adapterctl policy set {quote(each.scope)}")
        for line in _document(each):
            yield f"#   {line}" if line else "#"


def _heading(view: PolicyView, more: str = "") -> Iterator[str]:
    when = local_time(view.created_at)
    yield filled(f"{view.scope}@{view.alias}, version {view.version}, set by {view.created_by} on {when}", "# ", "# ")
    for note in ([more] if more else []) + view.notes:
        yield filled(note, "# - ", "#   ")
    for loosened in view.loosened:
        yield filled(f"asks for less than version {view.version - 1}: {loosened}", "# - ", "#   ")


def _document(view: PolicyView) -> Iterator[str]:
    if view.policy is None:
        yield "# it was removed"
        return
    for line in as_yaml(view.policy).splitlines():
        yield plain(line)
    if view.hidden:
        # The key makes sure that the rest isn't set in place of the whole.
        yield f"hidden: {view.hidden}  # rules that you may not see are left out"


def asked_of(policy: PolicyDocument | None) -> str:
    """Return what a policy asks for, in few words: "loss, rouge_l on heldout@v2; probe; 2 approvals"."""
    if policy is None:
        return "removed"
    parts = [f"{', '.join(rule.metrics)} on {name_of_rows(rule)}" for rule in policy.require]
    parts += [name for name in ("forgetting", "contamination", "probe") if getattr(policy, name) is not None]
    parts += ["signature"] if policy.signed_by else []
    parts += [f"{policy.approvals} approval{'s' if policy.approvals > 1 else ''}"] if policy.approvals else []
    parts += ["moves by itself"] if policy.promote else []
    return plain("; ".join(parts)) or "nothing"


def name_of_rows(rule: RowsRule) -> str:
    """Return the name that a rule's dataset had when the policy was set, or the beginning of its digest."""
    return rule.data_name or (rule.data[:12] if len(rule.data) == 64 else rule.data)
