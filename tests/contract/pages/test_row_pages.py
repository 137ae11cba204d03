"""Pages of rows: what services refuse isn't there, in a bounded number of statements."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from contract.pages.conftest import ONE_DATABASE
from sqlalchemy import update
from support.merging_desk import MergingDesk
from support.page_readers import signed_in
from support.people import SEEDS
from support.registries import World
from support.scored_rows import CONDITIONS, evaluated
from support.statements import sent
from support.trainings import save_jsonl

from registry.artifacts.models import Blob
from registry.principal import Role
from sdk.schemas.evaluation import RowScore
from sdk.schemas.picked_rows import MOST_PAGED_BYTES

pytestmark = ONE_DATABASE

COLUMNS = "prompt=question,completion=answer"


@pytest.fixture
def ident(own_desk: MergingDesk, tmp_path: Path) -> str:
    """Scores of 60 rows of two languages."""
    seed = next(SEEDS)
    rows = [{"question": f"{seed} <b>{n}</b>", "answer": f"a{n}", "lang": "de" if n % 3 else "en"} for n in range(60)]
    scored = [RowScore(row=n, loss_sum=1.0, tokens=1, scores={"rouge_l": n / 60, "scorer.tone": n}) for n in range(60)]
    read = {
        "spec": {"columns": COLUMNS, "scorers": ["tone"]},
        "conditions": CONDITIONS.model_copy(update={"columns": COLUMNS}),
    }
    return evaluated(own_desk, own_desk.push(), save_jsonl(tmp_path / "rows.jsonl", rows), scored, **read)


@pytest.fixture
def reader(people: World, own_desk: MergingDesk) -> Iterator[httpx.Client]:
    with signed_in(people.url, people.token(Role.READER, namespace=own_desk.space)) as client:
        yield client


def test_rows_of_a_slice_and_of_all_are_shown_to_readers_alone(
    people: World, own_desk: MergingDesk, ident: str, reader: httpx.Client
) -> None:
    address = f"/ui/evaluations/{ident}"
    first = reader.get(address)
    assert (first.status_code, first.text.count('<th scope="row"')) == (200, 50)
    assert "&lt;b&gt;0&lt;/b&gt;" in first.text
    assert "<b>" not in first.text
    slices = reader.get(address, params={"by": "lang"}).text
    assert ("value=de" in slices, "value=en" in slices, 'class="picked"' in slices) == (True, True, False)
    english = reader.get(address, params={"by": "lang", "value": "en"}).text
    assert "Rows whose lang is en: 20." in english
    assert english.count("<tr>") == 1 + 2 + 1 + 20
    for params, said in (
        ({"by": "nothing"}, "has no column"),
        ({"metric": "bleu"}, "no row has a score"),
        ({"by": "lang", "value": "fr"}, "no row has the value"),
        ({"show": "all", "page": "9"}, "There are no more rows"),
    ):
        found = reader.get(address, params=params)
        assert (found.status_code, said in found.text) == (200, True)
    assert reader.get(address, params={"show": "none"}).status_code == 422
    known = reader.get(address, params={"metric": "rouge_l"}).text
    assert (">Worst</a>" in known, "alone knows" in known) == (True, False)
    own = reader.get(address, params={"metric": "scorer.tone"}).text
    assert (">Worst</a>" in own, ">Least</a>" in own, "alone knows" in own) == (False, True, True)
    with signed_in(people.url, people.token(Role.ADMIN, namespace=f"{own_desk.space}-x")) as stranger:
        for path in (address, f"{address}?show=all", f"/ui/adapters/{own_desk.space}/a/v1/rows"):
            assert stranger.get(path).status_code == 404
    assert reader.get(f"/ui/adapters/{own_desk.space}/a/v1/rows").status_code == 200

    with sent(people.services.db) as statements:
        reader.get(address)
    assert len(statements) <= 12
    digest = people.services.picks.scores(ident, who=people.principal(Role.READER)).rows_digest
    with people.services.db.write() as session:
        # Of a file that is larger than what is shown by pages: nothing of it is read.
        session.execute(update(Blob).where(Blob.sha256 == digest).values(size_bytes=MOST_PAGED_BYTES + 1))
    large = reader.get(f"{address}?show=all")
    assert (large.status_code, f"adapterctl evals show {ident} --rows" in large.text) == (200, True)
    assert reader.get(address).text.count('<th scope="row"') == 50
    own_desk.writer.datasets.remove(people.services.picks.scores(ident, who=people.principal(Role.READER)).dataset)
    assert "&lt;b&gt;" not in reader.get(address).text + reader.get(f"{address}?show=all").text
