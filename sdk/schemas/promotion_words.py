"""Moves of aliases, decisions and approvals in sentences: the same at the terminal, in Markdown and on pages.

>>> moved(AliasView(adapter="code-review", alias="production", ref="code-review@v3", number=3, protected=True,
...     moved_at=datetime(2026, 3, 1), moved_by="ana"))
'code-review@production names code-review@v3'
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime  # noqa: F401 - the example above uses it

from sdk.schemas.aliases import AliasView
from sdk.schemas.approvals import ApprovalView
from sdk.schemas.decisions import Decision, RuleOutcome

#: What each outcome means for the alias, where it did not move and where it did.
_OUTCOMES = {
    "passed": ("all rules hold, and it was not asked to move", "all rules hold"),
    "refused": ("it did not move", "it moved"),
    "overridden": ("an admin may move it all the same", "an admin moved it all the same"),
    "rolled_back": ("it may go back to what it has named", "it went back to what it had named"),
}
_BY_OUTCOME = ("failed", "unknown", "passed")


def moved(alias: AliasView) -> str:
    """Return what an alias names now."""
    already = " already; nothing was changed" if alias.moved is False else ""
    return f"{alias.adapter}@{alias.alias} names {alias.ref}{already}"


def title_of(decision: Decision) -> str:
    """Return what was to move, and what came of it: "code-review@production to v3: refused"."""
    target = "nothing" if decision.number is None else f"v{decision.number}"
    return f"{decision.adapter}@{decision.alias} to {target}: {decision.outcome.replace('_', ' ')}"


def facts_of(decision: Decision) -> list[tuple[str, str]]:
    """Return what there is to know beside the rules."""
    named = "nothing" if decision.from_number is None else f"v{decision.from_number}"
    meaning = _OUTCOMES.get(decision.outcome, ("it did not move", "it moved"))[decision.moved]
    facts = [
        ("decision", decision.id),
        ("digest", (decision.digest or "")[:12]),
        ("outcome", f"{decision.outcome.replace('_', ' ')}: {meaning}"),
        ("named then", named),
        ("reason", decision.reason),
        ("by", f"{decision.decided_by}, {decision.decided_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"),
        ("policies", ", ".join(f"{each.scope} version {each.version}" for each in decision.policies)),
    ]
    return [(name, value) for name, value in facts if value]


def rules_of(decision: Decision) -> list[RuleOutcome]:
    """Return the rules, what did not pass first."""
    return sorted(decision.rules, key=lambda rule: _BY_OUTCOME.index(rule.outcome))


def named(rule: RuleOutcome) -> str:
    """Return a rule with the scope of its policy."""
    return f"{rule.rule} ({rule.scope})" if rule.scope else rule.rule


def missing_of(decision: Decision) -> Iterator[str]:
    """Yield what would make unknown rules known."""
    for request in decision.missing:
        rows = request.data_name or request.data[:12]
        refs = ", ".join(target.label for target in request.targets)
        yield f"missing: scores of {refs} on {rows}; have them made with --wait"


def given(view: ApprovalView) -> str:
    """Return what an approval or a veto says."""
    if view.kind == "approve":
        return f"{view.created_by} approves of {view.ref} for {view.alias}"
    return f"{view.ref} can't become {view.alias} until this is withdrawn"


def notes_on(view: ApprovalView, reason: str) -> list[str]:
    """Return what whoever has given an approval for this reason should know."""
    other = reason.strip() not in ("", view.reason)
    before = ["it was given before, and its reason stays; to change it, withdraw it first"] if other else []
    void = [f"it does not count: {view.void}"] if view.void else []
    until = (
        [f"it counts until {view.expires_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"]
        if view.expires_at and not void
        else []
    )
    return [*before, *void, *until]


def would_move(decision: Decision) -> bool:
    """Return whether the alias would have moved, or did."""
    return decision.moved or decision.outcome in ("passed", "overridden", "rolled_back")
