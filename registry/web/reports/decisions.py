"""A decision as sections of a report: what it was about, and what each rule found."""

from __future__ import annotations

from registry.web.document import NOTHING, Block, Cell, CellTable, FactList, Section, Sentences, ref
from registry.web.naming import DatasetNames
from sdk.schemas.decisions import Decision, RuleOutcome
from sdk.schemas.promotion_words import facts_of, rules_of


def decision_sections(decision: Decision, names: DatasetNames) -> list[Section]:
    """Return the sections; `names` are those of the datasets of its rules."""
    version = NOTHING if decision.ref is None else ref(decision.ref)
    facts = [("Version", version), *((name.capitalize(), Cell(value)) for name, value in facts_of(decision))]
    return [Section("Decision", [FactList(facts)]), _rules(decision, names)]


def _rules(decision: Decision, names: DatasetNames) -> Section:
    if not decision.rules:
        return Section("Rules", [Sentences(["No policy stood, so there was no rule."])])
    rows = [_rule(one, names) for one in rules_of(decision)]
    heads = [Cell(name) for name in ("Rule", "Outcome", "Found", "Numbers", "On", "Policy of")]
    blocks: list[Block] = [CellTable("Rules", heads, rows)]
    if decision.notes:
        blocks.append(Sentences(decision.notes))
    return Section("Rules", blocks)


def _rule(one: RuleOutcome, names: DatasetNames) -> list[Cell]:
    on = ", ".join(names[digest] for digest in one.data)
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in one.numbers.items())
    return [
        Cell(one.rule),
        Cell(one.outcome),
        Cell(one.message or "–"),
        Cell(numbers or "–"),
        Cell(on or "–"),
        Cell(one.scope),
    ]
