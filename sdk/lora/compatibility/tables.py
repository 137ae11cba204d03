"""The engines' tables as Markdown, for docs/compatibility.md: `python -m sdk.lora.compatibility.tables`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from sdk.lora.compatibility.engines import ENGINES, AllOf, Engine


def markdown() -> str:
    """Return one table for each engine: each rule, and the files of its releases that state it."""
    return "\n".join(line for engine in ENGINES.values() for line in _table(engine)) + "\n"


def _table(engine: Engine) -> Iterator[str]:
    yield f"### {engine.name} {' and '.join(release.version for release in engine.releases)}"
    yield ""
    yield f"Read at the tags {' and '.join(f'{release.tag} ({release.day})' for release in engine.releases)}."
    yield ""
    yield "| rule | what the engine does | read in |"
    yield "|---|---|---|"
    for rule in engine.rules:
        if isinstance(rule, AllOf):
            yield f"| … | all rules of {rule.all_of} | |"
        else:
            yield f"| {rule.name} | {rule.says} | {rule.read} |"
    yield ""


if __name__ == "__main__":
    sys.stdout.write(markdown())
