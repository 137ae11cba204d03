"""Reports over both databases: whole in themselves, of what their maker may see, and from a moment that they name."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.compared import Bench, write_rows
from support.merging_desk import MergingDesk
from support.registries import World

from registry.principal import Principal, Role
from registry.web.reports.query import ReportQuery


@pytest.fixture
def bench(desk: MergingDesk, tmp_path: Path) -> Bench:
    return Bench(desk, write_rows(tmp_path / "rows.jsonl"))


def report(people: World, bench: Bench, *of: str, **asked: object) -> str:
    who = Principal("reader", {bench.desk.space: Role.READER})
    made = people.services.reports.make(ReportQuery(of=list(of), **asked), who=who)
    return made.text


def test_smoke(people: World, bench: Bench) -> None:
    one, two = bench.pair(loss=0.8)
    bench.desk.writer.set_alias(bench.desk.named("a"), "production", 1)
    out = Path("build/pages")
    out.mkdir(parents=True, exist_ok=True)
    for name, of, asked in (
        ("several", (one, two), {"rows": 3}),
        ("adapter", (bench.desk.named("a"),), {}),
        ("single", (two,), {"rows": 2}),
    ):
        (out / f"{name}.html").write_text(report(people, bench, *of, **asked))
        (out / f"{name}.md").write_text(report(people, bench, *of, format="markdown", **asked))
