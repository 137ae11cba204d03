"""The engines' tables as Markdown, for docs/compatibility.md: `python -m sdk.lora.compatibility.tables`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from sdk.lora.compatibility.engines import ENGINES
from sdk.lora.compatibility.rules import Engine, Rule


def markdown() -> str:
    """Return one table for each engine: each rule, the versions that it applies to, and its source."""
    return "\n".join(line for engine in ENGINES.values() for line in _table(engine)) + "\n"


def _table(engine: Engine) -> Iterator[str]:
    yield f"### {engine.name} {engine.oldest} to {engine.newest}"
    yield ""
    yield "| rule | versions | what the engine does | read in |"
    yield "|---|---|---|---|"
    for rule in engine.rules:
        yield f"| {rule.name} | {_versions(rule)} | {rule.says} | {rule.source} |"
    yield ""


def _versions(rule: Rule) -> str:
    if rule.since and rule.before:
        return f"{rule.since} to before {rule.before}"
    return f"from {rule.since}" if rule.since else f"before {rule.before}" if rule.before else "all"


if __name__ == "__main__":
    sys.stdout.write(markdown())
