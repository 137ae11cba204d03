"""What a pulled folder tells is kept where it is pushed, shown as claimed, and known to nothing that decides."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from contract.registry.helpers import publication
from contract.registry.pulled import Pulled
from sqlalchemy import event
from support import calls, registries
from support.adapters import base_registration
from support.page_readers import signed_in
from support.people import SEEDS
from support.registries import World
from support.scored_rows import CONDITIONS
from support.usage import differing, mismeasured

from registry.evaluations.contamination.trained_on import trained_on
from registry.principal import SYSTEM, Role
from sdk.client import Client
from sdk.errors import AdapterctlError, InvalidInput, NotFound, QuotaExceeded
from sdk.formats.about_file import ABOUT, MOST_ABOUT_BYTES
from sdk.pulling.folder import verify_folder
from sdk.pulling.http import HttpClient
from sdk.pulling.puller import Puller
from sdk.pulling.source import HttpSource
from sdk.schemas.catalog import Published
from sdk.schemas.claimed_facts import claimed_facts
from sdk.schemas.claims import read_about
from sdk.schemas.evaluation import EvaluationReport
from sdk.schemas.sent_claims import SentClaims

#: What a push of what nobody here has made knows of its past.
UNTOLD: dict[str, Any] = {
    "training": None,
    "dataset": None,
    "metrics": {},
    "libraries": {},
    "method": "unknown",
    "parents": [],
}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with registries.embedded(tmp_path_factory.mktemp("target") / "home") as world:
        world.admin.bases.register(base_registration())
        yield world


@pytest.fixture
def name() -> str:
    return f"claimed-{next(SEEDS)}"


def test_pushed_folder_keeps_what_the_other_registry_told_as_claimed(world: World, pulled: Pulled, name: str) -> None:
    of = pulled.made.version.info
    report = world.writer.versions.push(pulled.folder, name, base="tiny")
    assert (report.claims, report.claimed_by, report.version.digest) == ("claimed", "local:elsewhere", of.digest)
    version = world.writer.get(f"{name}@v1")
    found = version.claimed
    assert found is not None
    assert (found.state, found.key_id, found.registry) == ("claimed", None, "local:elsewhere")
    for field in (
        "ref",
        "digest",
        "base",
        "method",
        "quantization",
        "dataset",
        "training",
        "metrics",
        "libraries",
        "job",
    ):
        assert getattr(found.about, field) == getattr(of, field), field
    assert found.about.created_at == of.created_at.isoformat()
    assert of.dataset is not None
    assert list(found.about.dataset_names) == [of.dataset.digest]
    assert found.about.dataset_names[of.dataset.digest].startswith("reviews@v")
    assert version.as_dict()["claimed"] == found.model_dump(mode="json")
    # The record itself says nothing of it.
    for field, value in UNTOLD.items():
        assert getattr(version.info, field) == value, field
    assert not differing(world)
    assert not mismeasured(world.services)
    # Again, it is the version that is there, with the first claims.
    pulled.tell(libraries={"torch": "9"})
    again = world.writer.versions.push(pulled.folder, name, base="tiny")
    assert (again.existing, again.claims) == (True, "claimed")
    assert world.writer.get(f"{name}@v1").claimed == found
    assert not mismeasured(world.services)


def test_claims_go_with_a_copy_and_go_on_to_a_third_registry_and_end_with_the_version(
    world: World, pulled: Pulled, name: str, tmp_path: Path
) -> None:
    world.writer.push(pulled.folder, name, base="tiny")
    copy = world.writer.versions.copy(f"{name}@v1", f"{name}-copy")
    assert copy.claimed == world.writer.get(f"{name}@v1").claimed
    again = world.writer.pull(copy.ref, tmp_path / "again")
    told = read_about((again / ".adapterctl" / ABOUT).read_text())
    assert (told.about.training, told.about.ref) == (None, copy.ref)
    assert told.about.claimed is not None
    assert told.about.claimed.registry == "local:elsewhere"
    assert told.about.claimed.about.training == pulled.made.version.info.training
    world.admin.versions.delete(copy.ref)
    assert not mismeasured(world.services)
    assert not differing(world)
    with registries.embedded(tmp_path / "third") as third:
        third.admin.bases.register(base_registration())
        found = third.writer.push(again, "onward", base="tiny").claimed
        assert found is not None
        assert found.about == told.about
        # A fourth would be told by the first one, too, and not by a longer and longer chain.
        last = third.writer.pull("onward@v1", tmp_path / "last")
        onward = read_about((last / ".adapterctl" / ABOUT).read_text()).about
        assert onward.claimed == told.about.claimed


def test_folder_tells_the_scores_that_its_own_namespace_made_and_a_card_states_them_as_claimed(
    world: World, pulled: Pulled, name: str, tmp_path: Path
) -> None:
    there, of = pulled.there, pulled.made.version
    data = tmp_path / "held-out.jsonl"
    data.write_text(json.dumps({"text": f"{next(SEEDS)}"}) + "\n")
    there.writer.datasets.add(data, name="held-out")
    there.writer.submit_evaluation([of.ref], data=data)
    held = calls.hold(there.worker)
    report = EvaluationReport(metrics={"loss": 1.5}, precision="float32", conditions=CONDITIONS)
    calls.complete(there.worker, held, evaluations=[calls.scored(target, report=report) for target in held.targets])
    world.writer.push(there.writer.pull(of.ref, pulled.folder), name, base="tiny")
    found = world.writer.get(f"{name}@v1")
    assert found.claimed is not None
    (scores,) = found.claimed.about.evaluations
    named = found.claimed.about.dataset_names[scores.dataset]
    assert scores.metrics == {"loss": 1.5}
    assert named.startswith("held-out@v")
    assert found.evaluations == []
    card = (world.writer.versions.export_folder(found.ref, tmp_path / "card").path / "README.md").read_text()
    assert "claimed by: `another registry on " in card
    # Whoever reads it at a hub learns no address.
    assert "elsewhere" not in card
    assert f"on {named}: loss 1.5" in card
    # What the Hub reads as its scores is only what was scored here.
    assert "model-index" not in card


def test_same_registry_reads_nothing_of_the_folder(pulled: Pulled, name: str) -> None:
    pulled.tell(training={"optimizer": "made-up"}, libraries={"torch": "9"})
    back = pulled.there.writer.versions.push(pulled.folder, name, base="tiny")
    assert (back.claims, back.version.training) == (None, pulled.made.version.info.training)
    assert pulled.there.writer.get(back.version.ref).claimed is None
    # Under its own name it is the version that is there.
    own = pulled.there.writer.versions.push(pulled.folder, pulled.made.name, base="tiny")
    assert (own.existing, own.claims) == (True, None)


def test_version_that_was_only_pushed_here_is_not_claimed_by_this_registry(
    world: World, pulled: Pulled, name: str, tmp_path: Path
) -> None:
    world.writer.push(pulled.folder, name, base="tiny", claims=False)
    own = world.writer.pull(f"{name}@v1", tmp_path / "own")
    assert world.writer.versions.push(own, f"{name}-b", base="tiny").claims is None
    assert world.writer.get(f"{name}-b@v1").claimed is None


def test_nothing_is_sent_unless_wanted_and_older_folders_tell_nothing(world: World, pulled: Pulled, name: str) -> None:
    report = world.writer.versions.push(pulled.folder, name, base="tiny", claims=False)
    assert (report.claims, report.claims_left_out) == (None, None)
    assert world.writer.versions.claimed(f"{name}@v1") is None
    pulled.about.unlink()
    assert world.writer.versions.push(pulled.folder, f"{name}-b", base="tiny").claims is None
    with pytest.raises(NotFound, match="nothing is claimed of"):
        world.writer.call("GET", "/version/claims", dict, params={"ref": f"{name}@v1"})


def _doors(world: World, name: str, data: str) -> Iterator[tuple[str, Any]]:
    """What each door that decides, compares or finds answers about a version, without what differs between two pushes."""
    client, ref = world.writer, f"{name}@v1"

    def plain(value: Any) -> Any:
        return json.dumps(value, sort_keys=True, default=str).replace(name, "NAME")

    def answer(ask: Callable[[], Any]) -> Any:
        try:
            return plain(ask())
        except AdapterctlError as error:
            return type(error).__name__, error.message.partition("; see why")[0].replace(name, "NAME")

    view = client.get(ref).info
    yield "record", plain(view.model_dump(mode="json", exclude={"created_at"}))
    for clause in (f"dataset = {data[:12]}", "method = lora", "rank < 9", "rank > 1", "name = reviews"):
        yield clause, [each.ref == ref for each in client.search(f"{clause} and name = {name}")]
    yield (
        "lineage",
        answer(lambda: client.lineage(ref).model_dump(mode="json", exclude={"nodes": {"__all__": {"created_at"}}})),
    )
    yield "like", answer(lambda: client.submit_training(f"{name}-again", like=ref).id)
    yield "rows", answer(lambda: client.versions.training_rows(ref).model_dump(mode="json"))
    yield "series", answer(lambda: client.versions.series(ref).model_dump(mode="json"))
    yield "scores", answer(lambda: [each.model_dump() for each in client.evaluations(digest=view.digest)])
    yield "gate", answer(lambda: world.admin.promote(ref, "production").ref)
    with world.services.db.read() as session:
        found = trained_on(session, ref, view.digest, "-")
    yield "contamination", (found.rows, [each.replace(name, "NAME") for each in found.unknown])


def test_every_door_answers_as_if_nothing_were_claimed(world: World, pulled: Pulled, name: str) -> None:
    data = pulled.made.version.info.dataset
    assert data is not None
    with_claims, without = f"{name}-a", f"{name}-b"
    for each, claims in ((with_claims, True), (without, False)):
        world.writer.push(pulled.folder, each, base="tiny", claims=claims)
        world.admin.policies.set(each, {"alias": "production", "probe": {"replayed_by": "any"}})
    asked: list[str] = []
    engine = world.services.db.engine

    def listen(*given: Any) -> None:
        asked.append(given[2])

    event.listen(engine, "before_cursor_execute", listen)
    try:
        answers = dict(_doors(world, with_claims, data.digest))
    finally:
        event.remove(engine, "before_cursor_execute", listen)
    assert answers == dict(_doors(world, without, data.digest))
    assert answers["gate"][0] == "PromotionRefused"
    assert answers["contamination"] == ({}, ["what NAME@v1 was trained on is not known"])
    # And none has so much as read the claims.
    assert asked
    assert not [statement for statement in asked if "version_claims" in statement]
    diff = world.writer.diff(f"{with_claims}@v1", f"{without}@v1").model_dump(mode="json")
    back = world.writer.diff(f"{without}@v1", f"{with_claims}@v1").model_dump(mode="json")
    assert "elsewhere" not in json.dumps([diff, back], default=str)


class TestHostile:
    """Folders and bodies that no pull has written."""

    def left_out(self, world: World, pulled: Pulled, name: str) -> str:
        report = world.writer.versions.push(pulled.folder, name, base="tiny")
        assert report.claims is None
        assert world.writer.versions.claimed(f"{name}@v1") is None
        return str(report.claims_left_out)

    def test_file_of_other_bytes_is_not_sent(self, world: World, pulled: Pulled, name: str) -> None:
        pulled.tell(digest="0" * 64)
        assert self.left_out(world, pulled, name).startswith("it is about other bytes (000000000000, and ")

    @pytest.mark.parametrize("how", ["link", "pipe", "folder", "long", "deep", "binary", "number", "empty"])
    def test_file_that_is_none_is_neither_followed_nor_waited_for_nor_sent(
        self, how: str, pulled: Pulled, name: str, target: World
    ) -> None:
        text = pulled.about.read_bytes()
        pulled.about.unlink()
        if how == "link":
            (pulled.folder.parent / "elsewhere.json").write_bytes(text)
            pulled.about.symlink_to(pulled.folder.parent / "elsewhere.json")
        elif how == "pipe":
            os.mkfifo(pulled.about)
        elif how == "folder":
            pulled.about.mkdir()
        elif how == "long":
            with pulled.about.open("wb") as file:
                # It takes no room, and no time to be refused.
                file.truncate(1 << 30)
        else:
            made = {
                "deep": b"[" * 100_000,
                "binary": b"\xff\xfe",
                "number": text.replace(b'"lr":0.0002', b'"lr":1e999'),
                "empty": b"",
            }
            pulled.about.write_bytes(made[how])
        # One registry is enough: nothing is sent.
        assert self.left_out(target, pulled, name)

    def test_registry_refuses_by_itself_what_no_pull_writes(self, world: World, pulled: Pulled, name: str) -> None:
        told = pulled.about.read_text()

        def refused(text: str) -> str:
            body = publication(world.writer, pulled.made.folder, name).model_copy(
                update={"claimed": SentClaims(text=text), "metrics": {}}
            )
            with pytest.raises(InvalidInput) as caught:
                world.writer.call("POST", "/versions", Published, body=body)
            return caught.value.message

        assert "push with --no-claims" in refused('{"format": "adapterctl.about/2"}')
        assert "about 000000000000" in refused(told.replace(pulled.made.version.digest, "0" * 64))
        assert "push with --no-claims" in refused("[" * 60_000)
        assert "push with --no-claims" in refused("é" * (MOST_ABOUT_BYTES - 10))
        with pytest.raises(NotFound):
            world.writer.versions(name)

    def test_what_can_not_be_shown_is_shown_as_a_question_mark(self, world: World, pulled: Pulled, name: str) -> None:
        signed = "a@v1; signed by the key 0123456789ab"
        pulled.tell(
            libraries={"to\x1b[31mrch\u202e": "1\x00\ud800\u2800"}, dataset_names={}, unknown=["<script>"], ref=signed
        )
        world.writer.push(pulled.folder, name, base="tiny")
        found = world.writer.get(f"{name}@v1").claimed
        assert found is not None
        assert (found.about.libraries, found.about.unknown) == ({"to?[31mrch?": "1???"}, ["<script>"])
        # Nor does a ref end the sentence in which it stands.
        (by,) = [value for label, value in claimed_facts(found) if label == "claimed by"]
        assert by.endswith(
            "of a@v1%3B%20signed%20by%20the%20key%200123456789ab; not verified: nothing is decided by it"
        )

    def test_claims_count_among_the_records_of_a_namespace(self, guarded: World, pulled: Pulled) -> None:
        guarded.admin.bases.register(base_registration())
        space = f"space{next(SEEDS)}"
        made = guarded.services.tokens.create(name=f"t{next(SEEDS)}", grants={space: Role.WRITER}, who=SYSTEM)
        with closing(Client(guarded.url, made.secret, cache=guarded.folder / "cache")) as writer:
            writer.push(pulled.folder, f"{space}/without", base="tiny", claims=False)
            before = guarded.admin.quotas.get(space).records_bytes
            pulled.tell(libraries={f"library-{number}": "x" * 200 for number in range(400)})
            limits = {"max_record_bytes": before + 20_000}
            guarded.admin.quotas.set(space, **limits)
            with pytest.raises(QuotaExceeded):
                writer.push(pulled.folder, f"{space}/with", base="tiny")
            writer.push(pulled.folder, f"{space}/with", base="tiny", claims=False)
            # Whoever reads elsewhere alone is told nothing.
            other = guarded.services.tokens.create(
                name=f"t{next(SEEDS)}", grants={f"{space}b": Role.READER}, who=SYSTEM
            )
            with closing(Client(guarded.url, other.secret, cache=guarded.folder / "cache")) as stranger:
                for path in ("/version/claims", "/version/about"):
                    with pytest.raises(NotFound):
                        stranger.call("GET", path, dict, params={"ref": f"{space}/with@v1"})


def test_page_of_a_version_says_who_claims_it_and_that_nobody_has_checked(guarded: World, pulled: Pulled) -> None:
    guarded.admin.bases.register(base_registration())
    adapter = f"space{next(SEEDS)}/sql"
    pulled.tell(unknown=[], libraries={"<script>": "1"}, parents=[{"ref": "<script>@v1", "relation": "continued-from"}])
    guarded.writer.push(pulled.folder, adapter, base="tiny")
    guarded.writer.push(pulled.folder, f"{adapter}-bare", base="tiny", claims=False)
    with signed_in(guarded.url, guarded.token(Role.READER)) as reader:
        page, bare = (reader.get(f"/ui/adapters/{name}/v1").text for name in (adapter, f"{adapter}-bare"))
    assert "Claimed by local:elsewhere, not verified: nobody here has checked it" in page
    assert "continued-from &lt;script&gt;@v1" in page
    assert "<script>@" not in page
    assert "Claimed" not in bare


def test_light_pull_writes_what_the_client_s_does(guarded: World, pulled: Pulled, tmp_path: Path) -> None:
    guarded.admin.bases.register(base_registration())
    ref = guarded.writer.push(pulled.folder, f"light-{next(SEEDS)}", base="tiny").ref
    config = guarded.writer.config
    http = HttpClient(guarded.writer.reach)
    light = Puller(HttpSource(config, http), guarded.writer.cache, config.url, http=http)
    written = [
        read_about((puller.pull(ref, tmp_path / name).path / ".adapterctl" / ABOUT).read_text())
        for name, puller in (("light", light), ("whole", guarded.writer.puller))
    ]
    http.close()
    assert written[0].about == written[1].about
    assert written[0].registry == guarded.url
    assert config.token is not None
    assert config.token not in (tmp_path / "light" / ".adapterctl" / ABOUT).read_text()
    # Without the registry nobody tells anything, and the copy is whole all the same.
    offline = guarded.writer.pull(ref, tmp_path / "offline", offline=True)
    assert not (offline / ".adapterctl" / ABOUT).exists()
    assert verify_folder(offline).digest == written[0].about.digest
