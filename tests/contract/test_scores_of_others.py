"""What somebody hands in for the same bytes in a namespace of theirs decides nothing for those of another: not for a
reader of both either, unless they ask for it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support import registries
from support.compared import Bench, scored, write_rows
from support.merging_desk import MergingDesk
from support.people import SEEDS
from support.registries import World
from support.small import write_adapter

from registry.principal import LOCAL, Role
from sdk.cli import cli
from sdk.client import Client
from sdk.errors import InvalidInput, NotFound
from sdk.schemas.catalog import BaseView


@dataclass
class Forged:
    """Two versions of a namespace, the second better; another namespace has their bytes, and says the opposite."""

    own: Bench
    other: Bench
    #: A reader of both namespaces.
    reader: Client
    refs: tuple[str, str]
    theirs: tuple[str, str]
    #: What the reader was told before anything was forged.
    before: Any = None

    @property
    def base(self) -> str:
        return f"base:{self.own.desk.base.fingerprint}"

    def forge(self) -> None:
        """Score the other namespace's versions, the first better, and its bare base best of all."""
        for ref, loss in zip(self.theirs, (0.1, 3.0), strict=True):
            self.other.score(scored(48, loss=loss), ref)
        self.other.score(scored(48, loss=0.01), self.base)

    def seen(self) -> dict[str, Any]:
        """What a reader of both is told of the versions, ids and scores included."""
        name = self.refs[0].partition("@")[0]
        filters = ("eval[{}].loss < 0.5", "eval[{}].loss > 2", "not eval[{}].loss < 0.5", "eval[{}].loss != 0.8")
        return {
            "comparison": self.reader.compare(self.refs).model_dump(mode="json"),
            "with a base": self.reader.compare([*self.refs, self.base]).model_dump(mode="json"),
            "versions": [self.reader.get(ref).as_dict() for ref in self.refs],
            "found": [
                [version.brief.model_dump(mode="json") for version in self.reader.search(f"name = {name} and {one}")]
                for one in (each.format(self.digest[:12]) for each in filters)
            ],
            "diff": self.reader.diff(*self.refs, weights=False).model_dump(mode="json"),
            "lineage": self.reader.lineage(self.refs[1], direction="down", depth=1).model_dump(mode="json"),
        }

    @property
    def digest(self) -> str:
        return self.own.desk.writer.get(self.refs[0]).evaluations[0].dataset


def _scored_twice(people: World, folder: Path, common_base: tuple[BaseView, Path], opened: ExitStack) -> Forged:
    """Score two versions and their base in one namespace; another one has their bytes, and no scores yet."""

    def enter(**grants: Role) -> Client:
        made = registries.named_anew(people.services.tokens, "ci", grants, who=LOCAL)
        return opened.enter_context(closing(Client(people.url, made.secret, cache=people.folder / "cache")))

    own, other = f"team-{next(SEEDS)}", f"rival-{next(SEEDS)}"
    rows = write_rows(folder / "rows.jsonl")
    benches = [
        Bench(MergingDesk(enter(**{name: Role.WRITER}), enter(**{name: Role.WORKER}), name, folder, *common_base), rows)
        for name in (own, other)
    ]
    adapters = [write_adapter(folder / f"adapter-{next(SEEDS)}", value=next(SEEDS) / 1e6) for _ in range(2)]
    refs = [
        desk.writer.push(adapter, desk.named("a"), base=desk.base.fingerprint, method="lora").ref
        for desk in (bench.desk for bench in benches)
        for adapter in adapters
    ]
    found = Forged(*benches, enter(**{own: Role.READER, other: Role.READER}), (refs[0], refs[1]), (refs[2], refs[3]))
    for target, loss in ((refs[0], 1.0), (refs[1], 0.8), (found.base, 1.2)):
        found.own.score(scored(48, loss=loss), target)
    return found


@pytest.fixture(scope="module")
def forged(
    people: World, tmp_path_factory: pytest.TempPathFactory, common_base: tuple[BaseView, Path]
) -> Iterator[Forged]:
    with ExitStack() as opened:
        found = _scored_twice(people, tmp_path_factory.mktemp("forged"), common_base, opened)
        found.before = found.seen()
        found.forge()
        yield found


def test_a_reader_of_both_is_told_the_same_whatever_another_namespace_hands_in(forged: Forged) -> None:
    (pair,) = forged.before["comparison"]["pairs"]
    assert pair["better"] == forged.refs[1]
    assert forged.seen() == forged.before


def test_each_score_names_its_namespace(forged: Forged) -> None:
    own, other = forged.own.desk.space, forged.other.desk.space
    for refs, space in ((forged.refs, own), (forged.theirs, other)):
        assert {one.namespace for ref in refs for one in forged.reader.get(ref).evaluations} == {space}
        assert [one.namespace for one in forged.reader.compare(refs).scores] == [space, space]
    lineage = forged.reader.lineage(f"data:{forged.digest}")
    scored_by = {node.key: node.namespace for node in lineage.nodes if node.kind == "evaluation"}
    assert set(scored_by.values()) == {own, other}
    for edge in lineage.edges:
        if edge.relation == "scored" and not edge.target.startswith("base:"):
            # Each hangs on the version of the namespace that made it, and on no other with the same bytes.
            assert edge.target.startswith(f"{scored_by[edge.source]}/")


def test_scores_of_others_are_used_if_they_are_asked_for_and_marked(forged: Forged) -> None:
    other = forged.other.desk.space
    for asked in (other, "*"):
        found = forged.reader.compare(forged.refs, scores_of=asked)
        assert found.pairs[0].better == forged.refs[0]
        assert [one.namespace for one in found.scores] == [other, other]
        assert found.notes == [f"the scores of {ref} are those that the namespace {other} made" for ref in forged.refs]
    name = forged.refs[0].partition("@")[0]
    low = f"name = {name} and eval[{forged.digest[:12]}].loss < 0.5"
    assert forged.reader.search(low) == []
    for asked in (other, "*"):
        (version,) = forged.reader.search(low, scores_of=asked)
        assert (version.ref, version.brief.scores_of) == (forged.refs[0], [other])
    (version,) = forged.reader.search(low.replace("< 0.5", "> 0.9"))
    assert version.brief.scores_of == [forged.own.desk.space]
    version = forged.reader.get(forged.refs[0])
    assert [one.namespace for one in version.scores_of(other)] == [other]
    assert [one.namespace for one in version.scores_of("*")] == [forged.own.desk.space, other]


def test_what_only_others_have_scored_has_no_scores(forged: Forged) -> None:
    refs = [forged.other.desk.push(), forged.theirs[0]]
    with pytest.raises(
        NotFound, match=r"has no scores that the namespace .+ made, and others' count only with scores_of="
    ):
        forged.reader.compare(refs)
    # Who may read no others is told of none.
    with pytest.raises(NotFound, match=r"has no scores; score them in one job"):
        forged.other.desk.writer.compare(refs)


def test_a_namespace_that_may_not_be_read_is_not_found(forged: Forged) -> None:
    version = forged.reader.get(forged.refs[0])
    for ask in (
        lambda: version.scores_of("secret"),
        lambda: forged.reader.search("eval[x].loss < 1", scores_of="secret"),
        lambda: forged.reader.compare(forged.refs, scores_of="secret"),
        lambda: forged.own.desk.writer.compare(forged.refs, scores_of=forged.other.desk.space),
    ):
        with pytest.raises(NotFound, match="may not read the scores of a namespace"):
            ask()


def test_bytes_alone_do_not_say_whose_scores_are_meant(forged: Forged) -> None:
    """As an earlier client asks, which names no namespace."""
    digest = forged.reader.get(forged.refs[0]).digest
    with pytest.raises(InvalidInput, match=r"versions of several namespaces have these bytes \(.+\); say whose"):
        forged.reader.evaluations(digest=digest)
    # Who may read one of the namespaces has nothing to choose.
    for bench in (forged.own, forged.other):
        (found,) = bench.desk.writer.evaluations(digest=digest)
        assert found.namespace == bench.desk.space
    assert len(forged.reader.evaluations(digest=digest, scores_of="*")) == 2


def test_a_base_beside_versions_of_several_namespaces_needs_to_be_told_whose(forged: Forged) -> None:
    refs = [forged.refs[0], forged.theirs[1], forged.base]
    with pytest.raises(InvalidInput, match=r"each of which has its own scores of a base; .+ scores_of=NAMESPACE"):
        forged.reader.compare(refs)
    assert len(forged.reader.compare(refs, scores_of="*").pairs) == 3
    assert [pair.better for pair in forged.reader.compare(refs[:2]).pairs] == [forged.refs[0]]


def test_a_base_alone_has_the_scores_of_where_the_caller_would_score_it(
    forged: Forged, acting: Callable[..., Client]
) -> None:
    own, other = forged.own.desk.space, forged.other.desk.space
    fingerprint = forged.own.desk.base.fingerprint
    for grants, space in (
        ({own: Role.READER, other: Role.WRITER}, other),
        ({own: Role.WRITER, other: Role.READER}, own),
        ({own: Role.READER, other: Role.READER}, min(own, other)),
    ):
        client = acting(**grants)
        assert {one.namespace for one in client.evaluations(base=fingerprint)} == {space}
        assert {one.namespace for one in client.evaluations(base=fingerprint, scores_of="*")} >= {own, other}


def test_a_name_of_rows_is_that_of_the_versions_namespace(
    people: World, tmp_path: Path, common_base: tuple[BaseView, Path]
) -> None:
    """Another namespace that gives other rows the same name makes no version found, or not found, by it."""
    with ExitStack() as opened:
        _names_rows(_scored_twice(people, tmp_path, common_base, opened), tmp_path)


def _names_rows(forged: Forged, tmp_path: Path) -> None:
    adapter = forged.refs[0].partition("@")[0]
    better = f"name = {adapter} and eval[rows.jsonl].loss < 0.9"
    digest = forged.digest
    (before,) = forged.reader.search(better)
    easy, renamed = write_rows(tmp_path / "easy.jsonl"), tmp_path / "other" / "rows.jsonl"
    for ref in forged.refs:
        forged.own.score(scored(48, loss=0.1), ref, data=easy)
    renamed.parent.mkdir()
    shutil.copy(easy, renamed)
    forged.other.score(scored(48), forged.theirs[0], data=renamed)
    assert {one.name for one in forged.reader.datasets() if one.digest != digest} == {"easy.jsonl"}
    assert forged.reader.search(better) == [before]
    assert forged.reader.compare(forged.refs, data="rows.jsonl").dataset == digest


def test_the_command_line_takes_and_marks_them(forged: Forged, people: World) -> None:
    other = forged.other.desk.space
    runner = CliRunner(env={"ADAPTERCTL_URL": people.url, "ADAPTERCTL_TOKEN": forged.reader.config.token or ""})

    def run(*args: str) -> str:
        done = runner.invoke(cli, [*args, *(() if "--format" in args else ("--format", "table"))])
        assert done.exit_code == 0, done.output
        assert all(len(line) <= 80 for line in done.output.splitlines() if "--format" not in args)
        return done.output

    assert other not in run("evals", "list", forged.refs[0])
    assert other[:16] in run("evals", "list", forged.refs[0], "--scores-of", "*")
    assert f"are those that the namespace {other}" in run("compare", *forged.refs, "--scores-of", other).replace(
        "\n  ", " "
    )
    low = f"name = {forged.refs[0].partition('@')[0]} and eval[{forged.digest[:12]}].loss < 0.5"
    assert run("search", low, "--format", "json") == "[]\n"
    assert other[:10] in run("search", low, "--scores-of", "*")
    shown = json.loads(run("show", forged.refs[0], "--format", "json"))
    assert {one["namespace"] for one in shown["evaluations"]} == {forged.own.desk.space}
