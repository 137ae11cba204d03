"""`adapterctl verify --probe`: what a training recorded of its version, found again by whoever pulls it."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from support import tiny
from support.command_line import CommandLine

import sdk.examining.probe_replay
from sdk.client import Client
from sdk.errors import NotFound, Unavailable, VerificationFailed
from sdk.examining.probe_replay import require_equal

pytestmark = pytest.mark.slow


class Place(CommandLine):
    """A registry in a folder, with a version that was trained there."""

    @contextmanager
    def without_base(self) -> Iterator[None]:
        """The base lies elsewhere meanwhile."""
        shutil.move(self.folder / "tiny-llama", self.folder / "elsewhere")
        try:
            yield
        finally:
            shutil.move(self.folder / "elsewhere", self.folder / "tiny-llama")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("probe")
    tiny.save_llama(folder / "tiny-llama")
    tiny.save_llama(folder / "other-llama", seed=9)
    tiny.write_rows(folder / "rows.jsonl")
    found = Place(folder, cwd=folder)
    train = ["train", "counter", "--base", "./tiny-llama", "--data", "rows.jsonl", "--method", "lora", "--rank", "2"]
    done = found.run(*train, "--max-steps", "2", "--lr", "0.01", "--format", "json")
    assert done.returncode == 0, done.stderr
    return found


@pytest.fixture
def client(place: Place) -> Iterator[Client]:
    client = Client(place.env["ADAPTERCTL_URL"], cache=place.folder / "cache")
    yield client
    client.close()


def test_what_the_training_recorded_is_shown_and_found_again(place: Place, client: Client) -> None:
    shown = client.get("counter@v1").as_dict()
    assert len(shown["norms"]) == 8
    assert min(shown["norms"].values()) > 0
    assert shown["metrics"]["probe_logit_gap"] > 1e-6
    assert len(shown["training"]["probe_texts"]) == 64
    assert {"metrics", "training.probe_texts"} <= set(shown["reported"])
    table = place.run("show", "counter@v1", "--format", "table").stdout
    assert re.search(r"^ΔW +norm ", table, re.MULTILINE)
    assert re.search(r"^probe +logits moved by up to ", table, re.MULTILINE)
    done = place.run("verify", "counter@v1", "--probe", "--record", "--base", "./tiny-llama", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert "recorded for local: the replay of counter@v1 agrees with its record" in done.stderr
    found = json.loads(done.stdout)
    assert (found["ok"], found["norms_stored"], found["norms_differing"], found["notes"]) == (True, True, [], [])
    assert found["norms"] == pytest.approx(shown["norms"], rel=1e-9)
    logits = found["logits"]
    # The same machine and libraries.
    assert (logits["found"], logits["dtype"], logits["device"]) == (logits["recorded"], "float32", "cpu")
    (recorded,) = client.versions.probes("counter@v1")
    assert (recorded.agrees, recorded.difference, recorded.created_by) == (True, 0.0, "local")
    assert recorded.tolerance == logits["allowed"]


def test_another_base_is_refused_before_anything_is_measured(
    place: Place, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*given: Any, **said: Any) -> None:
        raise AssertionError("it was measured")

    monkeypatch.setattr(sdk.examining.probe_replay, "run_program", never)
    monkeypatch.setattr("sdk.lora.delta_norms.delta_norms", never)
    with pytest.raises(VerificationFailed, match="is another base") as caught:
        client.versions.replay_probe("counter@v1", base=place.folder / "other-llama")
    assert (caught.value.exit_code, caught.value.param) == (7, "base")


def test_what_is_missing_for_it_is_said(place: Place, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("sdk.worker_program", "sdk.examining.probe_replay"):
        monkeypatch.setattr(f"{module}.missing_libraries", list)
    with pytest.raises(Unavailable, match=r"needs torch and transformers and peft, .*adapterctl\[worker\]") as caught:
        client.versions.replay_probe("counter@v1", base=place.folder / "tiny-llama")
    assert caught.value.exit_code == 9
    # Where nobody asked for it by a folder, the norms are held against the record all the same.
    found = client.versions.replay_probe("counter@v1")
    assert (found.ok, found.logits, len(found.norms)) == (True, None, 8)
    assert "adapterctl[worker]" in found.notes[0]
    with place.without_base():
        (note,) = client.versions.replay_probe("counter@v1").notes
    assert "say where with --base" in note
    monkeypatch.setitem(__import__("sys").modules, "numpy", None)
    with pytest.raises(Unavailable, match=r"replaying a probe needs numpy.*without probe="):
        client.versions.replay_probe("counter@v1")


def test_other_predictions_name_the_text(place: Place, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    info = client.get("counter@v1").info
    real = sdk.examining.probe_replay.recorded_probe(info.metrics, info.record)
    texts = [text.model_dump() for text in real.texts]
    texts[2]["logit_gap"] *= 1.01
    report = {**real.model_dump(), "texts": texts}
    answer = {"report": report, "dtype": "float32", "device": "cpu"}
    monkeypatch.setattr(sdk.examining.probe_replay, "run_program", lambda *given, **said: answer)
    found = client.versions.replay_probe("counter@v1", base=place.folder / "tiny-llama")
    assert [(one.text, one.what) for one in found.logits.differing] == [(3, "logit_gap")]
    with pytest.raises(VerificationFailed, match="text 3 of the probe of counter@v1"):
        require_equal(found)
    # Texts of another release are another measurement.
    answer["report"] = {**report, "texts_digest": "0" * 64}
    found = client.versions.replay_probe("counter@v1", base=place.folder / "tiny-llama")
    assert (found.ok, found.logits and found.logits.recorded) == (True, None)
    assert "another release's texts" in found.notes[0]


def test_another_norm_in_the_record_names_the_module_and_ends_with_7(place: Place) -> None:
    database = next((place.folder / "home").rglob("*.sqlite3"))
    with closing(sqlite3.connect(database)) as opened, opened:
        rows = opened.execute("select sha256, facts from blobs where facts like '%weights%'").fetchall()
        ((sha256, facts),) = rows
        kept = json.loads(facts)
        index = next(number for number, norm in enumerate(kept["norms"]) if norm is not None)
        module = kept["names"].split("\n")[index].removeprefix("base_model.model.").removesuffix(".lora_B.weight")
        kept["norms"][index] *= 1.00001
        opened.execute("update blobs set facts = ? where sha256 = ?", (json.dumps(kept), sha256))
    try:
        with place.without_base():
            done = place.run("verify", "counter@v1", "--probe", "--format", "table")
            piped = place.run("verify", "counter@v1", "--probe").stdout.splitlines()
        assert done.returncode == 7, done.stderr
        assert module in done.stderr
        assert "pull it again, and tell an admin" in done.stderr
        assert max(map(len, done.stdout.splitlines()[1:])) <= 80
        assert piped[0] == "metric\tof\tfound\trecorded\tverdict"
        assert {len(line.split("\t")) for line in piped} == {5}
        assert [line.split("\t")[1] for line in piped if line.endswith("\tdiffers")] == [module]
    finally:
        with closing(sqlite3.connect(database)) as opened, opened:
            opened.execute("update blobs set facts = ? where sha256 = ?", (facts, sha256))
    for wrong in (("./tiny-llama", "--probe"), ("counter@v1", "--base", "x"), ("counter@v1", "--record")):
        assert place.run("verify", *wrong).returncode == 2


def test_what_was_pushed_answers_as_what_was_trained(place: Place, client: Client) -> None:
    trained = client.versions.served_probe("counter@v1")
    assert trained.source == "training"
    pulled = client.pull("counter@v1", to=place.folder / "pulled")
    # In this registry the copy has the record of the version that was trained.
    assert (
        client.versions.served_probe(client.push(pulled, "again", base=place.folder / "tiny-llama").ref).source
        == "training"
    )
    # Another one knows nothing of it.
    elsewhere = f"local:{place.folder / 'other-home'}"
    with closing(Client(elsewhere, cache=place.folder / "other-cache")) as other:
        pushed = other.push(pulled, "pushed", base=place.folder / "tiny-llama")
        with pytest.raises(NotFound, match=r"make one with: adapterctl verify pushed@v1 --probe --record"):
            other.versions.served_probe(pushed.ref)
        told = ["verify", "pushed@v1", "--probe", "--record", "--base", "./tiny-llama", "--format", "json"]
        done = place.run(*told, ADAPTERCTL_URL=elsewhere)
        assert done.returncode == 0, done.stderr
        assert "recorded: what pushed@v1 answers, by which engines are proved to serve it" in done.stderr
        found = other.versions.served_probe("pushed@v1")
    assert (found.source, found.digest, found.base) == ("worker", pushed.digest, trained.base)
    # The same machine and libraries; the training computed it over the base that it had in memory.
    assert found.probe == trained.probe
    # What its training has recorded is not recorded again.
    assert client.versions.record_probe(client.versions.replay_probe("counter@v1", answers=True)) is not None
    assert client.versions.served_probe("counter@v1") == trained
