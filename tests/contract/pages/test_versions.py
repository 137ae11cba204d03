"""The page of a version: all that is known of it, for whoever may see it, escaped and bounded."""

from __future__ import annotations

import html
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from contract.pages.conftest import ONE_DATABASE
from support.page_readers import signed_in, without_csrf
from support.registries import World
from support.seeded_versions import Maker
from support.statements import sent

from registry.principal import Role
from registry.web import pages
from registry.web.rendering import render
from registry.web.versions.service import VersionPages
from sdk.schemas.catalog import VersionView

pytestmark = ONE_DATABASE

HOSTILE = "\"><script>alert(1)</script>{{7*7}}'&"


@dataclass
class Scene:
    world: World
    made: Maker
    first: VersionView
    pushed: VersionView
    evaluation: str


@pytest.fixture(scope="module")
def scene(people: World, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    made = Maker(people, tmp_path_factory.mktemp("made"), layers=3)
    first = made.trained("sql", steps=60)
    pushed = made.pushed("hostile/sql", tags={"language": HOSTILE}, description=HOSTILE)
    evaluation = made.scored(first.ref, loss=1.42, rouge_l=0.61)
    made.signed(first)
    people.admin.set_alias("sql", "production", 1)
    return Scene(people, made, first, pushed, evaluation)


@pytest.fixture
def reader(people: World) -> Iterator[httpx.Client]:
    with signed_in(people.url, people.token(Role.READER)) as client:
        yield client


def test_page_has_what_show_has(scene: Scene, reader: httpx.Client) -> None:
    text = html.unescape(reader.get("/ui/adapters/sql/v1").text)
    first = scene.first
    assert first.job is not None
    for part in (
        first.digest, first.base.fingerprint, first.job.id, "production", "held-out loss", "3.2 → 1.45",
        "rank 2, alpha 4", "0.61", "adapterctl train sql --like sql@v1", "adapter_model.safetensors",
        "model.layers.2.", scene.evaluation, "layer 2: ", "dataset, 1 rows", "added by ana",
    ):  # fmt: skip
        assert part in text, part


def test_page_escapes_what_people_wrote(scene: Scene, reader: httpx.Client) -> None:
    answer = reader.get("/ui/adapters/hostile/sql/v1")
    assert answer.status_code == 200
    assert "<script>alert" not in answer.text
    # Neither a template of ours nor one of the browser has taken the text for its own.
    assert "{{7*7}}" in html.unescape(answer.text)
    assert html.escape(HOSTILE, quote=False).replace('"', "&#34;").replace("'", "&#39;") in answer.text
    assert "It was pushed" in answer.text
    assert "--unprobed" in answer.text


def test_norms_are_a_table_of_their_own(scene: Scene, reader: httpx.Client) -> None:
    text = reader.get("/ui/adapters/sql/v1/norms").text
    norms = scene.world.writer.get("sql@v1").norms
    assert norms is not None
    assert norms.norms is not None
    shown = re.findall(r'<td class="ref">(.*?)</td><td class="number">(.*?)</td>', text)
    assert shown == [(name, f"{norm:.4g}") for name, norm in norms.norms.items()]
    assert len(shown) == 21


def test_map_has_the_norms_of_the_api(scene: Scene, reader: httpx.Client) -> None:
    norms = scene.world.writer.get("sql@v1").norms
    assert norms is not None
    assert norms.norms is not None
    drawn = re.findall(r"<title>([a-z_.]+), layer ([0-9]+): (.*?)</title>", reader.get("/ui/adapters/sql/v1").text)
    shown = {f"model.layers.{layer}.{module}": norm for module, layer, norm in drawn}
    assert shown == {name: f"{norm:.4g}" for name, norm in norms.norms.items()}


def test_strangers_get_the_answer_of_what_is_not_there(scene: Scene) -> None:
    with signed_in(scene.world.url, scene.world.token(Role.ADMIN, namespace="elsewhere")) as stranger:
        for path in ("/ui/adapters/sql/v1", "/ui/adapters/sql/v1/norms", "/ui/version?ref=sql@v1"):
            seen, missing = stranger.get(path), stranger.get(path.replace("sql", "none"))
            assert seen.status_code == missing.status_code == 404
            assert without_csrf(seen.text).replace("sql", "none") == without_csrf(missing.text)


@pytest.mark.parametrize("number", ["0", "2", "99999999999999999999999", "01"])
def test_numbers_that_name_nothing_are_refused_in_words(scene: Scene, reader: httpx.Client, number: str) -> None:
    answer = reader.get(f"/ui/adapters/sql/v{number}")
    assert answer.status_code in {404, 422} or number == "01"
    assert "<h1" in answer.text


def test_ref_leads_to_the_page_of_its_version(scene: Scene, reader: httpx.Client) -> None:
    for ref in ("sql", "sql@production", f"sql@sha256:{scene.first.digest[:12]}"):
        answer = reader.get("/ui/version", params={"ref": ref})
        assert (answer.status_code, answer.headers["Location"]) == (303, "/ui/adapters/sql/v1")


def test_adapter_that_is_called_like_a_version_has_a_page_of_its_own(scene: Scene, reader: httpx.Client) -> None:
    scene.made.pushed("sql/v1", description="it is not a version of sql")
    scene.made.pushed("sql/v77")
    named = reader.get("/ui/adapters", params={"namespace": "sql"}).text
    assert 'href="/ui/adapter/sql/v1"' in named
    assert 'href="/ui/adapters/sql/v1"' not in named
    theirs = reader.get("/ui/adapter/sql/v1").text
    assert '<a class="ref" href="/ui/adapters/sql/v1/v1">' in " ".join(theirs.split())
    assert reader.get("/ui/adapters/sql/v1/v1").status_code == 200
    assert scene.first.digest in reader.get("/ui/adapters/sql/v1").text
    # What nothing else could mean leads there, for those who may see it.
    answer = reader.get("/ui/adapters/sql/v77")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/ui/adapter/sql/v77")
    with signed_in(scene.world.url, scene.world.token(Role.ADMIN, namespace="elsewhere")) as stranger:
        assert stranger.get("/ui/adapters/sql/v77").status_code == 404


def test_pages_that_may_be_long_are_not_written_while_everybody_waits(
    scene: Scene, reader: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    at: list[int] = []

    def write(template: str, **shown: Any) -> str:
        at.append(threading.get_ident())
        return render(template, **shown)

    monkeypatch.setattr(pages, "render", write)
    refs = "&".join(["refs=sql@v1", *(f"refs=sql@sha256:{scene.first.digest[: 12 + n]}" for n in range(10))])
    long = [
        "/ui/compare?refs=sql@v1",
        f"/ui/compare?{refs}",
        "/ui/adapters/sql/v1/norms",
        "/ui/series/table?refs=sql@v1",
    ]
    for path in ("/ui/sign-in", *long):
        assert reader.get(path).status_code == 200, path
    # The first one is short, and written by the thread that answers everybody.
    assert at[0] not in at[1:]
    assert len(at) == 1 + len(long)


def test_archived_version_keeps_its_page(scene: Scene, reader: httpx.Client) -> None:
    view = scene.made.pushed("old")
    scene.world.admin.versions.archive(view.ref)
    text = reader.get("/ui/adapters/old/v1").text
    assert '<span class="state">archived</span>' in text
    assert "found by its number" in html.unescape(text) or "archived" in text


def test_page_takes_a_bounded_number_of_statements(scene: Scene) -> None:
    who, counts = scene.world.principal(Role.READER), []
    shown = scene.world.app.state.by_class[VersionPages]
    # From then on its norms are known.
    shown.show("sql@v1", who=who)
    for _ in range(2):
        with sent(scene.world.services.db) as seen:
            shown.show("sql@v1", who=who)
        counts.append(len(seen))
        scene.made.scored("sql@v1", loss=1.0)
        scene.made.trained("sql", steps=20)
    assert counts[0] == counts[1] <= 28, counts
