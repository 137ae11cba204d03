"""A decision for the terminal, as Markdown, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sdk.cli.support.output import filled, plain
from sdk.formats.markdown import quoted, table_lines
from sdk.schemas.decisions import Decision, RuleOutcome

_WIDEST = max(len(outcome) for outcome in ("passed", "failed", "unknown"))


def document_of(decision: Decision) -> dict[str, Any]:
    """Return a decision as JSON has it."""
    dumped = decision.model_dump(mode="json")
    return {"ref": decision.ref, "alias": decision.alias, "decision": dumped.pop("id"), **dumped}


def title_of(decision: Decision) -> str:
    """Return what was to move, and what came of it: "code-review@production to v3: refused"."""
    return plain(decision.title)


def facts_of(decision: Decision) -> list[tuple[str, str]]:
    """Return what there is to know beside the rules."""
    named = "nothing" if decision.from_number is None else f"v{decision.from_number}"
    facts = [
        ("decision", decision.id),
        ("digest", (decision.digest or "")[:12]),
        ("outcome", decision.meaning),
        ("named then", named),
        ("reason", decision.reason),
        ("by", f"{decision.decided_by}, {decision.decided_at:%Y-%m-%d %H:%M}"),
        ("policies", ", ".join(f"{each.scope} version {each.version}" for each in decision.policies)),
    ]
    return [(name, plain(value)) for name, value in facts if value]


def count_of(decision: Decision) -> str:
    """Return how many rules passed: "3 of 4"."""
    passed = sum(rule.outcome == "passed" for rule in decision.rules)
    return f"{passed} of {len(decision.rules)}" if decision.rules else "-"


def rule_lines(decision: Decision) -> Iterator[str]:
    """Yield each rule with what was found, what did not pass first, in lines of at most 80 columns."""
    for rule in _in_order(decision):
        yield filled(_named(rule), f"{rule.outcome:<{_WIDEST}}  ")
        if rule.message:
            yield filled(rule.message, " " * (_WIDEST + 2))
    for note in decision.notes:
        yield filled(note, "! ")


def _in_order(decision: Decision) -> list[RuleOutcome]:
    return sorted(decision.rules, key=lambda rule: ("failed", "unknown", "passed").index(rule.outcome))


def _named(rule: RuleOutcome) -> str:
    return f"{rule.rule} ({rule.scope})" if rule.scope else rule.rule


def missing_lines(decision: Decision) -> Iterator[str]:
    """Yield what would make unknown rules known."""
    for request in decision.missing:
        rows = request.data_name or request.data[:12]
        refs = ", ".join(target.label for target in request.targets)
        yield filled(f"missing: scores of {refs} on {rows}; have them made with --wait")


def markdown_page(decision: Decision) -> str:
    """Return the decision as Markdown, as GitHub shows it."""
    return "\n".join(_markdown(decision)) + "\n"


def _markdown(decision: Decision) -> Iterator[str]:
    yield f"# {quoted(title_of(decision))}\n"
    for name, value in facts_of(decision):
        yield f"- {name}: {quoted(value)}"
    if decision.rules:
        yield ""
        rows = [[rule.outcome, rule.rule, rule.message, _numbers(rule), rule.scope] for rule in _in_order(decision)]
        yield from table_lines(["outcome", "rule", "found", "numbers", "policy of"], rows)
    for note in decision.notes:
        yield f"\n{quoted(note)}"


def _numbers(rule: RuleOutcome) -> str | None:
    return ", ".join(f"{name} {value:.4g}" for name, value in rule.numbers.items()) or None
