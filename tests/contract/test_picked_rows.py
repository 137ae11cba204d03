"""Rows of evaluations for their readers: the lowest, highest and most changed ones, and all of them page by page."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from support.merging_desk import MergingDesk
from support.people import SEEDS
from support.registries import World
from support.scored_rows import CONDITIONS, evaluated
from support.trainings import save_jsonl
from support.usage import differing, mismeasured

from registry.errors import Invalid, NotFound, Verification
from registry.evaluations.models import EvaluationPicks
from registry.evaluations.picking import PickQuestion, RowPicks, first_metric, metrics_of
from registry.principal import LOCAL, Principal, Role
from registry.rows.service import RowReading
from sdk.client import Client
from sdk.schemas.evaluation import RowScore
from sdk.schemas.picked_rows import PAGE_ROWS, PickedRows
from sdk.schemas.row_file import MOST_LINE_BYTES

ROWS = 130
COLUMNS = "prompt=question,completion=answer"
READ: dict[str, Any] = {"spec": {"columns": COLUMNS}, "conditions": CONDITIONS.model_copy(update={"columns": COLUMNS})}


def scored(change: float = 0.0) -> list[RowScore]:
    """Rows whose score falls with their number; every tenth one differs by a change."""
    return [
        RowScore(
            row=n,
            loss_sum=1.0,
            tokens=2,
            prediction=f"answer {n} <script>🙂",
            scores={"rouge_l": (ROWS - n) / 1000 + (0 if n % 10 else change * n / 1000)},
        )
        for n in range(ROWS)
        if n != 7
    ]


def write(folder: Path, rows: int = ROWS) -> Path:
    seed = next(SEEDS)
    values = [
        {"question": f"ask {seed} {n} 日本", "answer": f"expect {n}", "lang": "de" if n % 2 else "en"}
        for n in range(rows)
    ]
    return save_jsonl(folder / f"data-{seed}.jsonl", values)


class Place:
    """An evaluation of a version and one of its bare base, on the same rows."""

    def __init__(self, people: World, desk: MergingDesk, data: Path) -> None:
        self.world, self.desk, self.data = people, desk, data
        self.picks: RowPicks = people.services.picks
        self.base = evaluated(desk, f"base:{desk.base.fingerprint}", data, scored(1.0), **READ)
        self.ident = evaluated(desk, desk.push(), data, scored(), **READ)

    def asked(self, who: Principal = LOCAL, **given: Any) -> PickQuestion:
        scores = self.picks.scores(self.ident, who=who)
        others = self.picks.others(scores, metric="rouge_l", who=who)
        assert [(one.scores.id, one.relation) for one in others] == [(self.base, "base")]
        return PickQuestion(scores, **{"metric": "rouge_l", "other": others[0].scores, **given})

    def pick(self, **given: Any) -> PickedRows:
        return self.picks.pick(self.asked(**given), who=LOCAL)

    def digest(self) -> str:
        return self.picks.scores(self.ident, who=LOCAL).dataset


@pytest.fixture
def place(people: World, own_desk: MergingDesk, tmp_path: Path) -> Place:
    return Place(people, own_desk, write(tmp_path))


def numbers(rows: list[Any]) -> list[int]:
    return [row.row for row in rows]


def test_rows_are_the_lowest_the_highest_and_the_most_changed(place: Place) -> None:
    found = place.pick()
    there = [n for n in range(ROWS) if n != 7]
    assert (found.metric, found.rows, found.without_texts) == ("rouge_l", ROWS - 1, None)
    assert numbers(found.low) == there[::-1][:50]
    assert numbers(found.high) == there[:50]
    assert numbers(found.changed) == [120, 110, 100, 90, 80, 70, 60, 50, 40, 30, 20, 10]
    first = found.changed[0]
    assert (first.score, first.other) == (0.01, pytest.approx(0.13))
    assert (first.prompt or "").endswith("120 日本")
    assert (first.reference, first.prediction) == ("expect 120", "answer 120 <script>🙂")
    # With a reading of a column, those of one value alone.
    german = place.pick(by="lang", value="de")
    assert numbers(german.low) == [n for n in there[::-1] if n % 2][:50]
    assert german.changed == []
    assert place.picks.kept(place.asked(by="lang", value="de"), who=LOCAL) is None
    with pytest.raises(NotFound, match="no row has the value 'fr'"):
        place.pick(by="lang", value="fr")
    with pytest.raises(Invalid, match="choose one of: loss, rouge_l"):
        place.pick(metric="bleu")


def test_metrics_are_those_that_rows_have(place: Place) -> None:
    scores = place.asked().scores
    assert (first_metric(scores), metrics_of(scores)) == ("rouge_l", ["loss", "rouge_l"])
    assert numbers(place.pick(metric="loss").low) == [n for n in range(51) if n != 7]


def test_what_was_picked_is_kept_counted_and_removed_with_the_dataset(place: Place) -> None:
    asked = place.asked()
    assert place.picks.kept(asked, who=LOCAL) is None
    found = place.picks.pick(asked, who=LOCAL)
    place.picks.pick(asked, who=LOCAL)
    assert place.picks.kept(asked, who=LOCAL) == found
    assert mismeasured(place.world.services, place.desk.space) == []
    assert place.desk.space not in differing(place.world)
    place.desk.writer.datasets.remove(place.digest())
    shown = place.picks.kept(asked, who=LOCAL)
    assert shown is not None
    assert {row.prompt for row in shown.low} | {row.reference for row in shown.changed} == {None}
    assert numbers(shown.low) == numbers(found.low)
    assert shown.without_texts == "the dataset was removed, or is another namespace's"
    place.picks.pick(asked, who=LOCAL)
    place.desk.writer.datasets.add(place.data, namespace=place.desk.space, columns=COLUMNS)
    assert place.picks.kept(asked, who=LOCAL) is None
    assert place.picks.pick(asked, who=LOCAL) == found == place.picks.kept(asked, who=LOCAL)
    assert mismeasured(place.world.services, place.desk.space) == []
    place.desk.writer.datasets.remove(place.digest())
    assert place.world.services.expiry.run()["evaluation_picks"] >= 1
    assert place.picks.kept(asked, who=LOCAL) is None
    assert place.desk.space not in differing(place.world)
    assert {row.prompt for row in place.picks.pick(asked, who=LOCAL).low} == {None}


def test_rows_are_picked_in_the_background_once(place: Place) -> None:
    services = place.world.services
    assert {place.ident, place.base} <= set(place.picks.unpicked(1000))
    assert services.picks.sweep() == 1
    services.picks.wait()
    assert not {place.ident, place.base} & set(place.picks.unpicked(1000))
    asked = place.picks.first_asked(place.picks.scores(place.ident, who=LOCAL), who=LOCAL)
    kept = place.picks.kept(asked, who=LOCAL)
    assert kept is not None
    assert len(kept.changed) == 12
    with services.db.read() as session:
        of = EvaluationPicks.evaluation_id == place.ident
        assert session.scalar(select(func.count()).select_from(EvaluationPicks).where(of)) == 1


def test_rows_are_shown_to_nobody_else(place: Place, acting: Callable[..., Client]) -> None:
    asked = place.asked()
    place.picks.pick(asked, who=LOCAL)
    stranger = Principal("stranger", {f"{place.desk.space}-x": Role.ADMIN})
    for ask in (
        lambda: place.picks.scores(place.ident, who=stranger),
        lambda: place.picks.kept(asked, who=stranger),
        lambda: place.picks.pick(asked, who=stranger),
        lambda: place.picks.page(place.ident, 1, who=stranger),
    ):
        with pytest.raises(NotFound, match="there are no scores"):
            ask()


def test_texts_of_another_namespaces_dataset_are_not_shown(
    people: World, desk: MergingDesk, acting: Callable[..., Client], tmp_path: Path
) -> None:
    other = f"{desk.space}-other"
    both = acting(**{desk.space: Role.WRITER, other: Role.WRITER})
    data = both.datasets.add(write(tmp_path), namespace=other, columns=COLUMNS).digest
    ref, desk.writer = desk.push(), both
    rows = [row.model_copy(update={"prediction": None}) for row in scored()]
    ident = evaluated(desk, ref, data, rows, **READ)
    scores = people.services.picks.scores(ident, who=LOCAL)
    assert (scores.namespace, scores.dataset) == (desk.space, data)
    found = people.services.picks.pick(PickQuestion(scores, "rouge_l"), who=LOCAL)
    shown = [*found.low, *people.services.picks.page(ident, 1, who=LOCAL).rows]
    assert len(shown) == 100
    assert {(row.prompt, row.reference) for row in shown} == {(None, None)}
    assert found.without_texts == "the dataset was removed, or is another namespace's"
    with pytest.raises(Invalid, match="another namespace's; leave it out"):
        people.services.picks.pick(PickQuestion(scores, "rouge_l", by="lang", value="de"), who=LOCAL)


def test_rows_go_with_the_version(place: Place, acting: Callable[..., Client]) -> None:
    asked = place.asked()
    place.picks.pick(asked, who=LOCAL)
    acting(**{place.desk.space: Role.ADMIN}).versions.delete(asked.scores.ref)
    for ask in (lambda: place.picks.kept(asked, who=LOCAL), lambda: place.picks.page(place.ident, 1, who=LOCAL)):
        with pytest.raises(NotFound, match="were removed, as they are with the version"):
            ask()
    place.world.services.expiry.run()
    assert place.desk.space not in differing(place.world)


def test_pages_have_all_rows_in_their_order(place: Place) -> None:
    pages = [place.picks.page(place.ident, number, who=LOCAL) for number in (1, 2, 3, 4)]
    assert [row.scored.row for page in pages for row in page.rows] == [n for n in range(ROWS) if n != 7]
    assert [(page.first, len(page.rows), page.more) for page in pages] == [
        (0, PAGE_ROWS, True), (50, PAGE_ROWS, True), (100, ROWS - 101, False), (150, 0, False),
    ]  # fmt: skip
    assert [row.reference for row in pages[2].rows] == [f"expect {row.scored.row}" for row in pages[2].rows]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"not gzip", "it is not gzip"),
        (gzip.compress(b"{}" + b" " * MOST_LINE_BYTES, mtime=0), "unpacks to more"),
        (gzip.compress(b'{"row": 0}\n' * 3, mtime=0)[:-9], "not gzip"),
        (gzip.compress(b'{"row": "a"}\n', mtime=0), "not a row"),
        (gzip.compress(b'{"row": 0, "prediction": "\xff\xfe"}\n', mtime=0), "not a row"),
        (gzip.compress(b"row,loss\n0,1.5\n", mtime=0), "not a row"),
        (gzip.compress(b'{"row": 0, "scores": ' + b"[" * 3_000 + b"}\n", mtime=0), "not a row"),
        (gzip.compress(b'{"row": 0, "prediction": "' + b"a" * 10_000_000 + b'"}\n', mtime=0), "unpacks to more"),
    ],
)
@pytest.mark.parametrize("apart", [False, True])
def test_file_that_is_not_one_of_scores_is_refused(tmp_path: Path, content: bytes, match: str, apart: bool) -> None:
    path = tmp_path / "scores"
    path.write_bytes(content)
    reading = RowReading(apart=apart, inline_bytes=1 if apart else 10**6)
    try:
        with pytest.raises(Verification, match=match):
            reading.page(("ab12", path), first=0, most=3)
        with pytest.raises(Verification):
            reading.picks(("ab12", path), None, metric="loss")
    finally:
        reading.close()


def test_bomb_is_read_within_limits(tmp_path: Path) -> None:
    line = b'{"row": 0, "tokens": 1, "prediction": "' + b"a" * 16_000 + b'"}\n'
    path = tmp_path / "scores"
    with gzip.open(path, "wb", compresslevel=9) as file:
        for _ in range(25_000):
            file.write(line)
    assert path.stat().st_size < 3_000_000
    reading = RowReading(apart=True)
    try:
        rows, more = reading.page(("ab12", path), first=100, most=2)
        assert ([len(row.prediction or "") for row in rows], more) == ([2000, 2000], True)
    finally:
        reading.close()
