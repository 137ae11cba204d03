"""Copies keep their past: what is recorded of the same bytes is taken from the database, where the caller may read it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from contract.registry.helpers import publication, submission, submit
from contract.registry.test_served_probes import probe
from support import calls
from support.adapters import base_registration, save_adapter, use_of
from support.people import SEEDS
from support.registries import World
from support.usage import differing, mismeasured

from registry.principal import SYSTEM, Role
from sdk.client import Client
from sdk.errors import Conflict, InvalidInput, InvalidName, NotAllowed, NotFound
from sdk.objects import Version
from sdk.schemas.artifacts import DatasetView
from sdk.schemas.catalog import Published

#: What a copy has of the version: all but its name, its state of affairs there, and who made it when.
PAST = (
    "digest",
    "base",
    "lora",
    "method",
    "quantization",
    "dataset",
    "training",
    "metrics",
    "libraries",
    "unknown",
    "files",
)


class Trained:
    """A version that a job made, and a folder with its files."""

    def __init__(self, world: World, rows: DatasetView, folder: Path, name: str = "") -> None:
        self.name = name or f"trained-{next(SEEDS)}"
        submit(world.writer, submission(self.name, rows))
        held = calls.hold(world.worker)
        self.folder = folder / self.name.replace("/", "-")
        save_adapter(self.folder, seed=next(SEEDS))
        made = publication(
            world.worker,
            self.folder,
            self.name,
            dataset=use_of(rows.digest),
            training={"optimizer": "adamw", "lr": 0.0002},
        )
        done = calls.complete(world.worker, held, version=made, served_probe=probe(-0.7))
        ref = str(done.result and done.result["ref"])
        self.version = world.writer.versions.annotate(ref, description="reviews", tags={"language": "python"})


@pytest.fixture
def trained(world: World, rows: DatasetView, tmp_path: Path, quiet: World) -> Trained:
    return Trained(world, rows, tmp_path)


@pytest.fixture
def other() -> str:
    return f"copy-{next(SEEDS)}"


def parents(version: Version) -> list[tuple[str, str]]:
    return sorted((parent.relation, parent.ref) for parent in version.info.parents)


def test_copy_has_the_past_of_its_version_and_an_edge_to_it(world: World, trained: Trained, other: str) -> None:
    writer, of = world.writer, trained.version
    copied = writer.versions.copy(of.ref, other, tags={"for": "tests"})
    assert copied.ref == f"{other}@v1"
    for field in PAST:
        assert getattr(copied.info, field) == getattr(of.info, field), field
    assert (copied.info.training or {})["lr"] == 0.0002
    assert parents(copied) == [("copied-from", of.ref)]
    assert (copied.info.tags, copied.info.description) == ({"language": "python", "for": "tests"}, "reviews")
    # No job made it, and nothing is said to be stated by whoever copied it.
    assert (copied.info.job, copied.info.reported) == (None, of.info.reported)
    answers = [writer.versions.served_probe(ref) for ref in (copied.ref, of.ref)]
    assert [answer.probe for answer in answers] == [probe(-0.7)] * 2
    assert [answer.source for answer in answers] == ["training"] * 2
    assert writer.get(of.ref).as_dict() == of.as_dict()
    assert writer.versions.copy(of.ref, other).ref == copied.ref
    assert [each.ref for each in writer.versions(other)] == [copied.ref]
    edges = {(edge.source, edge.relation, edge.target) for edge in writer.lineage(copied.ref).edges}
    assert (copied.ref, "copied-from", of.ref) in edges
    assert not differing(world)
    assert not mismeasured(world.services)


def test_search_and_lineage_find_a_copy_by_its_data(
    world: World, trained: Trained, other: str, rows: DatasetView
) -> None:
    copied = world.writer.versions.copy(trained.version.ref, other)
    found = {each.ref for each in world.writer.search(f"dataset = {rows.digest[:12]} and name = {other}")}
    assert found == {copied.ref}


def test_push_of_the_same_bytes_takes_the_past_from_the_database(world: World, trained: Trained, other: str) -> None:
    # What the folder says of itself counts for nothing.
    (trained.folder / "training.json").write_text(json.dumps({"dataset": "made up"}))
    (trained.folder / "training.json").unlink()
    body = publication(world.writer, trained.folder, other, metrics={"loss": 0.0}, method="lora", tags={"own": "tag"})
    pushed = world.writer.call("POST", "/versions", Published, body=body).version
    of = trained.version.info
    assert [(parent.relation, parent.ref) for parent in pushed.parents] == [("copied-from", of.ref)]
    for field in PAST:
        assert getattr(pushed, field) == getattr(of, field), field
    assert pushed.tags == {"own": "tag"}


def test_what_was_only_pushed_is_no_past_of_another_push(world: World, tmp_path: Path, other: str) -> None:
    save_adapter(tmp_path / "made", seed=next(SEEDS))
    first = publication(world.writer, tmp_path / "made", f"claims-{other}", training={"optimizer": "made-up"})
    world.writer.call("POST", "/versions", Published, body=first)
    second = publication(world.writer, tmp_path / "made", other)
    pushed = world.writer.call("POST", "/versions", Published, body=second).version
    assert (pushed.training, pushed.parents) == (None, [])
    # Whoever names the version that is to be copied gets what it says, and that somebody said it.
    copied = world.writer.versions.copy(f"claims-{other}@v1", f"{other}-named").info
    assert (copied.training, copied.reported) == ({"optimizer": "made-up"}, ["metrics", "training"])


def test_copy_of_a_copy_leads_to_both(world: World, trained: Trained, other: str) -> None:
    first = world.writer.versions.copy(trained.version.ref, other)
    second = world.writer.versions.copy(first.ref, f"{other}-2")
    assert parents(second) == [("copied-from", first.ref)]
    found = world.writer.lineage(second.ref, depth=5)
    assert trained.version.ref in {node.key for node in found.nodes}


def test_all_versions_are_copied_in_their_order_and_a_copy_goes_on(
    world: World, rows: DatasetView, tmp_path: Path, other: str, quiet: World
) -> None:
    made = [Trained(world, rows, tmp_path / str(number), f"series-{other}") for number in range(3)]
    world.writer.versions.archive(made[1].version.ref)
    world.writer.versions.copy(made[0].version.ref, other)
    copies = world.writer.versions.copy_all(f"series-{other}", other)
    assert [(old, copy.ref) for old, copy in copies] == [
        (each.version.ref, f"{other}@v{number}") for number, each in enumerate(made, 1)
    ]
    assert world.writer.versions.copy_all(f"series-{other}", other)[2][1].ref == f"{other}@v3"


def test_bad_copies_are_refused_and_make_nothing(world: World, trained: Trained, other: str) -> None:
    ref, copy = trained.version.ref, world.writer.versions.copy
    with pytest.raises(Conflict, match="already; copy it to another name"):
        copy(ref, trained.name)
    with pytest.raises(InvalidInput, match="name the version that is meant"):
        copy(ref, other, digest="0" * 64)
    with pytest.raises(NotFound):
        copy(f"{trained.name}@v9", other)
    with pytest.raises(InvalidName):
        copy(ref, "no/such/name")
    with pytest.raises(NotFound):
        world.writer.versions(other)


class TestRights:
    """Who may copy what where."""

    @pytest.fixture
    def acting(self, guarded: World) -> Iterator[Callable[..., Client]]:
        guarded.admin.bases.register(base_registration())
        with ExitStack() as stack:

            def act(**grants: Role) -> Client:
                made = guarded.services.tokens.create(name=f"t{next(SEEDS)}", grants=grants, who=SYSTEM)
                return stack.enter_context(closing(Client(guarded.url, made.secret, cache=guarded.folder / "cache")))

            yield act

    def test_reader_there_and_writer_here_may_and_all_others_may_not(
        self, guarded: World, acting: Callable[..., Client], tmp_path: Path
    ) -> None:
        ours, theirs = f"ours{next(SEEDS)}", f"theirs{next(SEEDS)}"
        owner = acting(**{theirs: Role.WRITER})
        save_adapter(tmp_path / "made", seed=next(SEEDS))
        body = publication(owner, tmp_path / "made", f"{theirs}/a", training={"optimizer": "secret"})
        owner.call("POST", "/versions", Published, body=body)
        both = acting(**{ours: Role.WRITER, theirs: Role.READER})
        copied = both.versions.copy(f"{theirs}/a@v1", f"{ours}/b")
        assert copied.info.training == {"optimizer": "secret"}
        assert parents(copied) == [("copied-from", f"{theirs}/a@v1")]
        # Who reads here alone isn't told of the other namespace.
        assert parents(acting(**{ours: Role.READER}).get(f"{ours}/b@v1")) == []
        with pytest.raises(NotAllowed):
            acting(**{ours: Role.READER, theirs: Role.READER}).versions.copy(f"{theirs}/a@v1", f"{ours}/c")
        with pytest.raises(NotFound):
            acting(**{ours: Role.WRITER}).versions.copy(f"{theirs}/a@v1", f"{ours}/c")
        # A reader may write nowhere, and isn't told whether the other namespace is there.
        with pytest.raises(NotAllowed):
            acting(**{theirs: Role.READER}).versions.copy(f"{theirs}/a@v1", f"{ours}/c")
