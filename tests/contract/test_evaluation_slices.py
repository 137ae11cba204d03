"""Scores by the value that rows have in a column: summed up from the rows that were recorded, each token counted once."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.merging_desk import MergingDesk
from support.people import SEEDS
from support.registries import World
from support.scored_rows import CONDITIONS, evaluated
from support.trainings import save_jsonl

from registry.principal import Role
from sdk.client import Client
from sdk.errors import InvalidInput, NotFound
from sdk.schemas.evaluation import RowScore

COLUMNS = "prompt=question,completion=answer"


def write(path: Path, values: list[Any]) -> Path:
    """Write a row for each value of the column `lang`, which no other test has."""
    seed = next(SEEDS)
    rows = [{"question": f"q{seed}-{n}", "answer": "a", "lang": value} for n, value in enumerate(values)]
    return save_jsonl(path, rows)


def score(desk: MergingDesk, data: Path, rows: list[RowScore]) -> str:
    taken = CONDITIONS.model_copy(update={"columns": COLUMNS})
    return evaluated(desk, desk.push(), data, rows, spec={"columns": COLUMNS}, conditions=taken)


ROWS = [
    RowScore(row=0, loss_sum=6.0, tokens=2, scores={"rouge_l": 0.5, "bleu": 9.0}),
    RowScore(row=1, loss_sum=1.0, tokens=1, scores={"rouge_l": 0.25}),
    RowScore(row=2, tokens=7, scores={"rouge_l": 1.0}),
    # Row 3 of the dataset could not be used.
    RowScore(row=4, loss_sum=2.0, tokens=8),
    RowScore(row=5, loss_sum=5.0, tokens=5),
]


class TestSlices:
    def test_by_hand(self, desk: MergingDesk, tmp_path: Path) -> None:
        ident = score(desk, write(tmp_path / "rows.jsonl", ["de", "en", "de", "fr", "de", "en"]), ROWS)
        found = desk.writer.evaluations.slices(ident, by="lang")
        assert (found.evaluation, found.by) == (ident, "lang")
        german, english = found.slices
        assert (german.value, german.rows, german.failed_rows, german.tokens) == ("de", 2, 1, 10)
        # Each token counts once: (6 + 2) / (2 + 8), and not the mean of 3 and 0.25.
        assert german.metrics == {"loss": 0.8, "rouge_l": 0.75}
        assert german.scored == {"rouge_l": 2}
        assert (english.value, english.rows, english.metrics) == ("en", 2, {"loss": 1.0, "rouge_l": 0.25})

    def test_together_they_are_the_score(self, desk: MergingDesk, tmp_path: Path) -> None:
        ident = score(desk, write(tmp_path / "rows.jsonl", ["de", "en", "de", "fr", "de", "en"]), ROWS)
        slices = desk.writer.evaluations.slices(ident, by="lang").slices
        loss = sum(one.metrics["loss"] * one.tokens for one in slices) / sum(one.tokens for one in slices)
        assert loss == pytest.approx(desk.writer.evaluations.get(ident).metrics["loss"], rel=1e-12)
        (whole,) = desk.writer.evaluations.slices(ident, by="answer").slices
        assert whole.metrics["loss"] == pytest.approx(loss, rel=1e-12)

    def test_values_of_any_kind_and_that_look_alike(self, desk: MergingDesk, tmp_path: Path) -> None:
        ident = score(
            desk, write(tmp_path / "rows.jsonl", [1, "1", None, {"b": 2, "a": 1}, "über\nall", "x" * 999]), ROWS
        )
        values = {one.value for one in desk.writer.evaluations.slices(ident, by="lang").slices}
        assert values == {"1", '"1"', "null", "über\nall", "x" * 199 + "…"}

    def test_values_that_begin_the_same_are_told_apart_and_letters_are_letters(
        self, desk: MergingDesk, tmp_path: Path
    ) -> None:
        values = ["x" * 300, "x" * 300 + "y", "é" * 250, ["é"], {"a": ["ж"]}, "x" * 200]
        ident = score(
            desk, write(tmp_path / "rows.jsonl", values), [RowScore(row=n, loss_sum=1.0, tokens=1) for n in range(6)]
        )
        found = [one.value for one in desk.writer.evaluations.slices(ident, by="lang").slices]
        assert len(set(found)) == 6
        assert max(map(len, found)) == 200
        assert {'["é"]', '{"a": ["ж"]}', "x" * 200, "é" * 199 + "…"} < set(found)
        assert found == [one.value for one in desk.writer.evaluations.slices(ident, by="lang").slices]

    def test_of_csv(self, desk: MergingDesk, tmp_path: Path) -> None:
        path = tmp_path / "rows.csv"
        seed = next(SEEDS)
        path.write_text("question,answer,lang\n" + "".join(f"q{seed}{n},a,{'de' if n else 'en'}\n" for n in range(6)))
        ident = score(desk, path, ROWS)
        assert [(one.value, one.rows) for one in desk.writer.evaluations.slices(ident, by="lang").slices] == [
            ("de", 3),
            ("en", 1),
        ]


class TestRefused:
    def test_more_values_than_are_shown(self, desk: MergingDesk, tmp_path: Path) -> None:
        many = [RowScore(row=n, loss_sum=1.0, tokens=1) for n in range(51)]
        ident = score(desk, write(tmp_path / "rows.jsonl", list(range(51))), many)
        with pytest.raises(InvalidInput, match="more than 50 values in 'lang'; name a column that has fewer") as caught:
            desk.writer.evaluations.slices(ident, by="lang")
        assert caught.value.param == "by"
        fifty = score(desk, write(tmp_path / "rows.jsonl", [*range(50), 0]), many)
        assert len(desk.writer.evaluations.slices(fifty, by="lang").slices) == 50

    def test_a_column_that_rows_have_not(self, desk: MergingDesk, tmp_path: Path) -> None:
        ident = score(desk, write(tmp_path / "rows.jsonl", ["de"] * 6), ROWS)
        with pytest.raises(
            InvalidInput, match="line 1 has no column 'team', but the keys `question`, `answer`, `lang`"
        ):
            desk.writer.evaluations.slices(ident, by="team")

    def test_what_is_not_there_any_more_or_is_nobody_s(
        self, people: World, desk: MergingDesk, tmp_path: Path, acting: Callable[..., Client], space: str
    ) -> None:
        data = write(tmp_path / "rows.jsonl", ["de"] * 6)
        ident = score(desk, data, ROWS)
        assert len(acting(**{space: Role.READER}).evaluations.slices(ident, by="lang").slices) == 1
        with pytest.raises(NotFound, match="there are no scores"):
            acting(**{f"{space}-x": Role.ADMIN}).evaluations.slices(ident, by="lang")
        desk.writer.datasets.remove(desk.writer.evaluations.get(ident).dataset)
        with pytest.raises(
            InvalidInput, match=r"can't be grouped by 'lang': the dataset .* was removed.*evals show ID --rows"
        ):
            desk.writer.evaluations.slices(ident, by="lang")


class TestLargeFiles:
    def test_rows_of_a_large_file_are_read_apart_from_the_server(
        self, people: World, desk: MergingDesk, tmp_path: Path
    ) -> None:
        data = write(tmp_path / "rows.jsonl", ["de", "en", "de", "fr", "de", "x" * 1_100_000])
        found = desk.writer.evaluations.slices(score(desk, data, ROWS), by="lang").slices
        assert [one.value for one in found[:2]] == ["de", "en"]
        assert {one.value for one in found[2:]} == {"x" * 199 + "…"}
        assert people.services.reading.pid is not None

    def test_line_that_takes_much_memory_takes_none_of_the_server(self, desk: MergingDesk, tmp_path: Path) -> None:
        data = write(tmp_path / "rows.jsonl", ["de", "en", "de", "fr", "de", "en"])
        lines = data.read_text().splitlines()
        # 4 MB that are 64 MB as objects.
        lines[1] = lines[1][:-1] + ', "more": [' + "[], " * 1_000_000 + "[]]}"
        data.write_text("\n".join(lines) + "\n")
        ident = score(desk, data, ROWS)
        tracemalloc.start()
        try:
            found = desk.writer.evaluations.slices(ident, by="lang").slices
            assert tracemalloc.get_traced_memory()[1] < 16 << 20
        finally:
            tracemalloc.stop()
        assert [(one.value, one.rows) for one in found] == [("de", 2), ("en", 2)]
