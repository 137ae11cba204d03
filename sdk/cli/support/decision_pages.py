"""A decision for the terminal, as Markdown, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sdk.cli.support.output import filled, plain
from sdk.formats.markdown import quoted, table_lines
from sdk.schemas import promotion_words
from sdk.schemas.decisions import Decision, RuleOutcome

_WIDEST = max(len(outcome) for outcome in ("passed", "failed", "unknown"))


def document_of(decision: Decision) -> dict[str, Any]:
    """Return a decision as JSON has it."""
    dumped = decision.model_dump(mode="json")
    return {"ref": decision.ref, "alias": decision.alias, "decision": dumped.pop("id"), **dumped}


def title_of(decision: Decision) -> str:
    """Return what was to move, and what came of it, for a line."""
    return plain(promotion_words.title_of(decision))


def facts_of(decision: Decision) -> list[tuple[str, str]]:
    """Return what there is to know beside the rules, each for a line."""
    return [(name, plain(value)) for name, value in promotion_words.facts_of(decision)]


def count_of(decision: Decision) -> str:
    """Return how many rules passed: "3 of 4"."""
    passed = sum(rule.outcome == "passed" for rule in decision.rules)
    return f"{passed} of {len(decision.rules)}" if decision.rules else "-"


def rule_lines(decision: Decision) -> Iterator[str]:
    """Yield each rule with what was found, what did not pass first, in lines of at most 80 columns."""
    for rule in promotion_words.rules_of(decision):
        yield filled(promotion_words.named(rule), f"{rule.outcome:<{_WIDEST}}  ")
        if rule.message:
            yield filled(rule.message, " " * (_WIDEST + 2))
    for note in decision.notes:
        yield filled(note, "! ")


def missing_lines(decision: Decision) -> Iterator[str]:
    """Yield what would make unknown rules known."""
    for sentence in promotion_words.missing_of(decision):
        yield filled(sentence)


def markdown_page(decision: Decision) -> str:
    """Return the decision as Markdown, as GitHub shows it."""
    return "\n".join(_markdown(decision)) + "\n"


def _markdown(decision: Decision) -> Iterator[str]:
    yield f"# {quoted(title_of(decision))}\n"
    for name, value in facts_of(decision):
        yield f"- {name}: {quoted(value)}"
    if decision.rules:
        yield ""
        rows = [
            [rule.outcome, rule.rule, rule.message, _numbers(rule), rule.scope]
            for rule in promotion_words.rules_of(decision)
        ]
        yield from table_lines(["outcome", "rule", "found", "numbers", "policy of"], rows)
    for note in decision.notes:
        yield f"\n{quoted(note)}"


def _numbers(rule: RuleOutcome) -> str | None:
    return ", ".join(f"{name} {value:.4g}" for name, value in rule.numbers.items()) or None
