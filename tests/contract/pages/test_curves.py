"""Curves for pages, over both databases: of whom, for whom, and with how many statements."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from contract.pages.conftest import ONE_DATABASE
from support.page_readers import signed_in, without_csrf
from support.people import submit, training
from support.registries import World, named_anew
from support.seeded_curves import copied, measured, sent
from support.statements import sent as statements

from registry.principal import LOCAL, Role


@pytest.fixture(scope="module")
def jobs(people: World, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n')
    data = people.writer.datasets.add(file).digest
    first = sent(people, data, "first", measured(300))
    return [first, *copied(people, "others", first, 99)]


@pytest.fixture
def reader(people: World) -> Iterator[httpx.Client]:
    with signed_in(people.url, people.token(Role.READER)) as client:
        yield client


def test_curves_are_answered_in_the_order_asked_for(reader: httpx.Client, jobs: list[str]) -> None:
    answer = reader.get("/ui/series", params={"jobs": f"{jobs[1]},nothing,{jobs[0]}"})
    assert answer.headers["Cache-Control"] == "no-store"
    found = answer.json()
    assert [curve["job"] for curve in found["curves"]] == [jobs[1], jobs[0]]
    assert found["left_out"] == ["nothing"]
    assert [panel["key"] for panel in found["panels"]] == ["loss", "lr", "grad_norm"]
    only = reader.get("/ui/series", params={"jobs": jobs[0], "keys": "lr"}).json()
    assert [panel["key"] for panel in only["panels"]] == ["lr"]
    timed = reader.get("/ui/series", params={"jobs": jobs[0], "by": "seconds"}).json()
    assert 200 < timed["at"][-1] < 400


def test_many_curves_take_a_bounded_number_of_statements(people: World, reader: httpx.Client, jobs: list[str]) -> None:
    reader.get("/ui/series", params={"jobs": jobs[0]})
    counts = []
    for some in (jobs[:1], jobs):
        with statements(people.services.db) as seen:
            answer = reader.get("/ui/series", params={"jobs": ",".join(some)})
        assert len(answer.json()["curves"]) == len(some)
        # The gate may look at the session again.
        counts.append(len(seen))
    assert counts[1] <= counts[0] + 8, counts


#: Lengths of trainings whose steps are drawn one by one, and of those of which several are drawn at one place.
FEW, MANY = (1, 2, 37, 160), (401, 2_500)


@pytest.fixture(scope="module")
def mixed(people: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, int]]:
    """Trainings of three namespaces by id, each with how many steps it has."""
    file = tmp_path_factory.mktemp("mixed") / "rows.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n')
    data = people.writer.datasets.add(file).digest
    found: dict[str, dict[str, int]] = {"-": {}, "one": {}, "two": {}}
    for seed, steps in enumerate((*FEW, *MANY)):
        job = sent(people, data, f"mixed-{seed}", measured(steps, seed=seed, looks=min(steps, 5)))
        for space, ids in found.items():
            ids[job if space == "-" else copied(people, f"{space}/mixed", job, 1)[0]] = steps
    return found


@pytest.mark.parametrize("spaces", [("one",), ("two", "-"), ("one", "two", "-"), ("elsewhere",)], ids="+".join)
@ONE_DATABASE
def test_curves_have_the_numbers_that_the_api_gives_the_same_token(
    people: World, mixed: dict[str, dict[str, int]], spaces: tuple[str, ...]
) -> None:
    every = {job: steps for ids in mixed.values() for job, steps in ids.items()}
    grants = dict.fromkeys(spaces, Role.READER)
    token = named_anew(people.services.tokens, f"reader of {spaces}", grants, who=LOCAL).secret
    api = httpx.Client(base_url=f"{people.url}/api/v1", headers={"Authorization": f"Bearer {token}"}, timeout=30)
    with api, signed_in(people.url, token) as reader:
        listed = api.get("/series", params={"jobs": ",".join(every), "buckets": 10}).json()
        assert [each["job"] for each in listed] == [job for job in every if job in _of(mixed, spaces)]
        together = reader.get("/ui/series", params={"jobs": ",".join(every)}).json()
        assert [curve["job"] for curve in together["curves"]] == [each["job"] for each in listed]
        assert set(together.get("left_out", ())) == set(every) - set(_of(mixed, spaces))
        for job in every:
            answer = api.get(f"/jobs/{job}/series")
            drawn = reader.get("/ui/series", params={"jobs": job}).json()
            assert (answer.status_code == 200) == bool(drawn["curves"])
            if answer.status_code == 200:
                _hold_numbers(drawn, answer.json()["series"], one_by_one=every[job] in FEW)


def _of(mixed: dict[str, dict[str, int]], spaces: tuple[str, ...]) -> list[str]:
    return [job for space, ids in mixed.items() if space in spaces for job in ids]


def _hold_numbers(drawn: dict[str, Any], stored: dict[str, Any], *, one_by_one: bool) -> None:
    """Hold what is drawn of one training against its series."""
    for panel in drawn["panels"]:
        for looks in panel.get("looks", ()):
            of = stored["eval_loss" if panel["key"] == "loss" else panel["key"]]
            assert looks["step"] == looks["at"] == of["step"]
            assert looks["value"] == pytest.approx(of["mean"], rel=1e-4)
        for line in panel.get("lines", ()):
            of = stored[panel["key"]]
            assert sum(of["count"]) == max(of["step"]), "a step is missing, or counted twice"
            at = [drawn["at"][column] for column in line.get("columns") or range(len(drawn["at"]))]
            if one_by_one and line.get("steps_a_mean", 1) == 1:
                assert (at, line["mean"]) == (of["step"], pytest.approx(of["mean"], rel=1e-4))
                continue
            shares = [count / sum(of["count"]) for count in of["count"]]
            mean = sum(share * value for share, value in zip(shares, of["mean"], strict=True))
            assert sum(line["mean"]) / len(line["mean"]) == pytest.approx(mean, rel=0.05)
            if "low" in line:
                assert min(line["low"]) == pytest.approx(min(of["min"]), rel=1e-4)
                assert max(line["high"]) == pytest.approx(max(of["max"]), rel=1e-4)
            assert min(of["min"]) <= min(line["mean"]) * 1.0001
            assert max(line["mean"]) <= max(of["max"]) * 1.0001


@pytest.mark.parametrize("path", ["/ui/series", "/ui/series.svg", "/ui/series/table"])
@ONE_DATABASE
def test_strangers_see_nothing_and_learn_nothing(people: World, jobs: list[str], path: str) -> None:
    with signed_in(people.url, people.token(Role.ADMIN, namespace="elsewhere")) as stranger:
        asked, invented = (stranger.get(path, params={"jobs": job}) for job in (jobs[0], "0123456789ab"))
        assert asked.status_code == invented.status_code == 200
        assert without_csrf(asked.text).replace(jobs[0], "") == without_csrf(invented.text).replace("0123456789ab", "")
        refs = stranger.get("/ui/series", params={"refs": "first@v1,first,first@production"})
        assert "curves" not in refs.json() or refs.json()["curves"] == []
    assert httpx.get(people.url + path, params={"jobs": jobs[0]}).status_code == 303


@pytest.mark.parametrize(
    "query",
    ["jobs=" + ",".join(f"j{n}" for n in range(101)), "", "refs=NO", "refs=a@v1&by=hours", "refs=" + "a" * 30_000],
)
@ONE_DATABASE
def test_wrong_requests_are_refused_in_words(reader: httpx.Client, query: str) -> None:
    answer = reader.get(f"/ui/series?{query}")
    assert answer.status_code in {400, 422}
    assert "Not possible" in answer.text


@ONE_DATABASE
def test_picture_and_tables_have_what_scripts_draw(people: World, reader: httpx.Client, jobs: list[str]) -> None:
    picture = reader.get("/ui/series.svg", params={"jobs": ",".join(jobs[:20])})
    assert picture.headers["Content-Type"].startswith("image/svg+xml")
    assert picture.headers["X-Content-Type-Options"] == "nosniff"
    assert "and 4 more curves" in picture.text
    table = reader.get("/ui/series/table", params={"jobs": jobs[0]}).text
    assert "learning rate" in table
    assert ">100</td>" in table


def test_training_without_points_is_left_out(people: World, reader: httpx.Client, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n')
    job = submit(people.writer, training("waiting", people.writer.datasets.add(file).digest)).id
    found = reader.get("/ui/series", params={"jobs": job})
    assert json.loads(found.text) == {"by": "step", "at": [], "curves": [], "panels": [], "left_out": [job]}
    assert "There is nothing to show" in reader.get("/ui/series/table", params={"jobs": job}).text
    assert reader.get("/ui/series.svg", params={"jobs": job}).text.startswith("<svg")
