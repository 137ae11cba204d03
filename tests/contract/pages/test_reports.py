"""Reports over both databases: of what their maker may see, like with like, and from a moment that they name."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from contract.pages.conftest import ONE_DATABASE
from support import calls
from support.compared import COLUMNS, Bench, scored, write_rows
from support.merging_desk import MergingDesk
from support.people import new_adapter
from support.registries import World
from support.statements import sent

from registry.errors import Invalid, NotFound, ReadOnly
from registry.principal import SYSTEM, Principal, Role
from registry.web.comparing.sections import scores_section
from registry.web.document import CellTable
from registry.web.reports.query import ReportQuery
from sdk.client import Client
from sdk.schemas.catalog import BaseView, Published
from sdk.schemas.reports import ReportView


@pytest.fixture(scope="module")
def bench(
    people: World, common_base: tuple[BaseView, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    """A namespace in which all of these tests score versions."""
    space, folder = f"team-{uuid.uuid4().hex[:12]}", tmp_path_factory.mktemp("bench")
    writer, worker = (people.client(role, namespace=space) for role in (Role.WRITER, Role.WORKER))
    yield Bench(MergingDesk(writer, worker, space, folder, *common_base), write_rows(folder / "rows.jsonl"))
    writer.close()
    worker.close()


@pytest.fixture(scope="module")
def pair(bench: Bench) -> tuple[str, str]:
    """Two versions, the second of which is better, which no test scores again."""
    return bench.pair(loss=0.8)


def reader_of(*spaces: str) -> Principal:
    return Principal("some reader", dict.fromkeys(spaces, Role.READER))


def made(people: World, who: Principal, *of: str, **asked: object) -> ReportView:
    query = ReportQuery(of=list(of), **{"format": "markdown", **asked})
    return people.services.reports.make(query, who=who)


def lines_of(text: str, *words: str) -> list[str]:
    return [line for line in text.replace("\\", "").splitlines() if all(word in line for word in words)]


def test_report_says_what_it_holds_for_whom_and_from_when(people: World, bench: Bench) -> None:
    one, two = bench.pair(loss=0.8)
    name, writer = bench.desk.named("a"), bench.desk.writer
    writer.set_alias(name, "production", one.partition("@")[2])
    who = reader_of(bench.desk.space)
    found = made(people, who, f"{name}@production", two)
    top = found.text.partition("## ")[0].replace("\\", "")
    assert "2 versions side by side" in top
    assert "no rows of any dataset" in top
    assert f"who may read the namespace {bench.desk.space}" in top
    assert f"As of: {found.made_at:%Y-%m-%d %H:%M:%S} UTC" in top
    assert f"{name}@production was {one}" in top
    assert lines_of(found.text, two, "beats", "on loss by")
    assert lines_of(found.text, "By the scores", f" of {one}", f" of {two}")
    # Scores that replace others are named by another id, and at their own time.
    before = {evaluation.id for ref in (one, two) for evaluation in writer.get(ref).evaluations}
    assert all(lines_of(found.text, ident, f"{found.made_at:%Y-%m-%d}") for ident in before)
    bench.score(scored(48, loss=2.0), two)
    (newest,) = {evaluation.id for evaluation in writer.get(two).evaluations} - before
    again = made(people, who, one, two)
    assert lines_of(again.text, newest)
    winner, loser = (ref.partition("@")[2] for ref in (one, two))
    assert lines_of(again.text, two, f"{winner} beats {loser} on loss")
    assert newest not in found.text


@ONE_DATABASE
def test_scores_on_other_rows_or_taken_otherwise_are_never_in_one_line(
    people: World, bench: Bench, tmp_path: Path
) -> None:
    one, two = bench.score(scored(48, loss=1.5)), bench.score(scored(48, loss=2.5), max_length=512)
    three = bench.score(scored(48, loss=3.5), data=write_rows(tmp_path / "others.jsonl"))
    beside = people.services.sides.of([one, two, three], who=reader_of(bench.desk.space))
    losses = [row for row in beside.scores if row.metric == "loss"]
    assert [len(row.of) for row in losses] == [1, 1, 1]
    assert len({row.dataset for row in losses}) == 2
    assert sorted(row.unlike for row in losses) == ["", "max_length 1024", "max_length 512"]
    assert {row.metric: row.direction for row in beside.scores} == {
        "loss": "less is better", "rouge_l": "more is better", "exact_match": "more is better",
    }  # fmt: skip
    tables = [block for block in scores_section(beside).blocks if isinstance(block, CellTable)]
    assert all(sum(cell.text != "–" for cell in row[2:]) == 1 for table in tables for row in table.rows)
    text = made(people, reader_of(bench.desk.space), one, two, three).text.replace("\\", "")
    assert (
        "not compared, since they have no scores by row that were taken in the same way" in text
        or "nothing to compare" in text
    )
    assert "beats" not in text


def test_report_has_nothing_that_its_maker_may_not_see(
    people: World, bench: Bench, pair: tuple[str, str], acting: Callable[..., Client], tmp_path: Path
) -> None:
    one, two = pair
    theirs = f"{bench.desk.space}-b"
    other = acting(**{theirs: Role.WRITER, bench.desk.space: Role.READER})
    # The neighbour has the same rows under a name of its own, and has made a version of one of these.
    other.datasets.add(bench.data, columns=COLUMNS, name="secret-name", namespace=theirs)
    edge = {"ref": one, "relation": "continued-from"}
    body = calls.publication(other, new_adapter(tmp_path), f"{theirs}/child", space=theirs, parents=[edge])
    child = other.call("POST", "/versions", Published, body=body).version
    assert [parent.ref for parent in child.parents] == [one]
    with pytest.raises(NotFound):
        made(people, reader_of(bench.desk.space), one, child.ref)
    with pytest.raises(NotFound):
        made(people, reader_of(theirs), one)
    with pytest.raises(NotFound):
        made(people, reader_of(bench.desk.space), f"{theirs}/child")
    for of in ((one, two), (one,), (bench.desk.named("a"),)):
        for form in ("html", "markdown"):
            text = made(people, reader_of(bench.desk.space), *of, format=form, rows=2).text
            assert "secret-name" not in text
            assert theirs not in text
    # Who may read the child alone doesn't see what it was made from.
    seen = made(people, reader_of(theirs), child.ref).text.replace("\\", "")
    assert "child@v1" in seen
    assert one not in seen
    assert one in made(people, reader_of(theirs, bench.desk.space), child.ref).text.replace("\\", "")


@ONE_DATABASE
def test_report_with_rows_is_audited_and_only_that(
    people: World, bench: Bench, pair: tuple[str, str], admin: Client
) -> None:
    one, two = pair
    who = reader_of(bench.desk.space)
    before = list(admin.audit(namespace=bench.desk.space, action="report.make"))
    assert "q7" not in made(people, who, one, two).text
    assert list(admin.audit(namespace=bench.desk.space, action="report.make")) == before
    found = made(people, who, one, two, rows=3)
    assert found.rows == 3
    assert "prompts and answers" in found.text.partition("## ")[0]
    entry, *others = admin.audit(namespace=bench.desk.space, action="report.make")
    assert others == before
    assert (entry.actor, entry.after["rows"], entry.after["of"]) == ("some reader", 3, [one, two])
    people.services.read_only.turn_on(reason="moving", who=SYSTEM)
    try:
        made(people, who, one, two)
        with pytest.raises(ReadOnly):
            made(people, who, one, two, rows=3)
    finally:
        people.services.read_only.turn_off(who=SYSTEM)


@ONE_DATABASE
def test_decision_has_a_report_for_readers_of_its_adapter(
    people: World, bench: Bench, pair: tuple[str, str], admin: Client
) -> None:
    one, _ = pair
    decision = admin.decisions.check(one, "production")
    found = made(people, reader_of(bench.desk.space), f"decision:{decision.id}").text.replace("\\", "")
    assert found.startswith(f"# {bench.desk.named('a')}@production to {one.partition('@')[2]}: passed")
    assert "no rows of any dataset" in found
    with pytest.raises(NotFound):
        made(people, reader_of("elsewhere"), f"decision:{decision.id}")
    with pytest.raises(Invalid, match="has a report of its own"):
        made(people, reader_of(bench.desk.space), one, f"decision:{decision.id}")
    with pytest.raises(Invalid, match="holds no rows"):
        made(people, reader_of(bench.desk.space), f"decision:{decision.id}", rows=1)


def test_statements_of_a_comparison_don_t_grow_with_its_versions(
    people: World, bench: Bench, pair: tuple[str, str]
) -> None:
    refs = [*pair, *(bench.desk.push() for _ in range(4))]
    who = reader_of(bench.desk.space)
    counts = []
    for some in (refs[:2], refs):
        with sent(people.services.db) as statements:
            people.services.sides.of([*some, bench.desk.named("a")], who=who)
        counts.append(len(statements))
    assert counts[0] == counts[1] <= 12
    with pytest.raises(Invalid, match="101 are more than the 100"):
        people.services.sides.of([f"{bench.desk.named('a')}@v{number}" for number in range(1, 102)], who=who)
    with pytest.raises(Invalid, match="members of sweeps and bare bases are more than 10"):
        people.services.sides.of([f"sweep:5ea9b7d20c11/{number}" for number in range(1, 12)], who=who)


@ONE_DATABASE
def test_client_and_command_line_get_the_same_report(
    people: World, bench: Bench, pair: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    from sdk.cli import cli

    one, two = pair
    found = bench.desk.writer.report([one, two], form="markdown", data=bench.data, metric="rouge_l")
    assert lines_of(found.text, "rouge_l on rows.jsonl", "more is better")
    monkeypatch.setenv("ADAPTERCTL_URL", people.url)
    monkeypatch.setenv("ADAPTERCTL_TOKEN", bench.desk.writer.config.token or "")
    path = tmp_path / "both.md"
    result = CliRunner().invoke(cli, ["report", one, two, "-o", str(path)])
    assert (result.exit_code, result.stdout.strip()) == (0, str(path))
    assert re.sub("As of.*", "", path.read_text()) == re.sub(
        "As of.*", "", bench.desk.writer.report([one, two], form="markdown").text
    )
    page = CliRunner().invoke(cli, ["compare", one, two, "--format", "html"]).stdout
    assert page.startswith("<!doctype html>")
    assert "beats v" in page
