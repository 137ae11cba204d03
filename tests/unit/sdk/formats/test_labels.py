"""Labels: each of two looks the same only if it is the same; one order, whatever order the rows have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.trainings import save_jsonl

from sdk.errors import InvalidData, InvalidInput
from sdk.formats.labels import classes_of, label_name, ordered
from sdk.formats.rows import check_rows
from sdk.validation import check_data, check_objective


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("spam", "spam"),
        (0, "0"),
        (-7, "-7"),
        ("0", "0"),
        ("не спам", "не спам"),
        ("迷惑メール", "迷惑メール"),
        ("😀", "😀"),
        # One spelling of an accent.
        ("cafe\u0301", "café"),
    ],
)
def test_a_label_is_a_name(value: Any, name: str) -> None:
    assert label_name(value) == name


def test_a_long_label_is_refused_before_its_form_is_made() -> None:
    # As a whole its marks would be sorted for minutes.
    with pytest.raises(ValueError, match="more than 100 characters"):
        label_name("a" + "\u0301" * 200_000 + "\u0316" * 200_000)
    # The longest spelling of 100 characters.
    assert label_name("\u03b1\u0313\u0300\u0345" * 100) == "\u1f82" * 100
    with pytest.raises(ValueError, match="more than 100 characters"):
        label_name("\u1f82" * 101)


def test_numbers_are_ordered_by_size_and_names_by_characters() -> None:
    assert ordered(["10", "9", "-1", "0"]) == ["-1", "0", "9", "10"]
    # 01 is a name.
    assert ordered(["10", "9", "01"]) == ["01", "10", "9"]
    assert ordered(["b", "Ж", "a", "Z"]) == ["Z", "a", "b", "Ж"]


@given(st.lists(st.one_of(st.integers(), st.text(min_size=1, max_size=8)), min_size=2))
def test_the_order_does_not_depend_on_the_rows(values: list[Any]) -> None:
    names = []
    for value in values:
        try:
            names.append(label_name(value))
        except ValueError:
            continue
    assert ordered(names) == ordered(names[::-1])
    assert set(ordered(names)) == set(names)
    assert [label_name(name) for name in names] == names


def test_one_label_and_too_many_are_refused() -> None:
    assert classes_of({"a", "b"}) == ["a", "b"]
    with pytest.raises(
        ValueError, match="all rows have the label 'a', which teaches nothing; add rows with another label"
    ):
        classes_of({"a"})
    assert len(classes_of({str(n) for n in range(1000)})) == 1000
    with pytest.raises(ValueError, match="1001 different labels, and at most 1000"):
        classes_of({str(n) for n in range(1001)})


def test_a_label_that_the_training_lacks_is_named_with_its_row() -> None:
    rows = [("line 1", {"text": "t", "label": "a"}), ("line 2", {"text": "t", "label": "c"})]
    with pytest.raises(ValueError, match="line 2 has the label 'c', which no training row has"):
        list(check_rows(rows, known_labels={"a", "b"}))
    assert len(list(check_rows(rows, known_labels={"a", "c"}))) == 2


class TestFiles:
    def rows(self, path: Path, *rows: dict[str, Any]) -> Path:
        return save_jsonl(path, rows)

    def test_csv_and_jsonl_say_the_same(self, tmp_path: Path) -> None:
        table = tmp_path / "t.csv"
        table.write_text("text,label\na,1\n b ,2\n", encoding="utf-8")
        found = check_data(table)
        assert (found.shape, found.rows, found.labels) == ("text-label", 2, {"1", "2"})
        lines = self.rows(tmp_path / "t.jsonl", {"text": "a", "label": 1}, {"text": " b ", "label": "2"})
        assert check_data(lines).labels == found.labels
        table.write_text("text,label\na,1\nb,\n", encoding="utf-8")
        with pytest.raises(InvalidData, match="line 3 has an empty `label`"):
            check_data(table)

    def test_the_objective_follows_from_the_rows_and_agrees_with_them(self, tmp_path: Path) -> None:
        labelled = check_data(self.rows(tmp_path / "l", {"text": "a", "label": 1}, {"text": "b", "label": 2}))
        texts = check_data(self.rows(tmp_path / "t", {"text": "a"}))
        assert check_objective(None, [labelled]) == check_objective("classify", [labelled], labelled) == "classify"
        assert check_objective(None, [texts]) == check_objective("sft", [texts]) == "sft"
        for asked, rows, held_out in (("sft", labelled, None), ("classify", texts, None), (None, labelled, texts)):
            with pytest.raises(InvalidInput, match="needs rows of") as caught:
                check_objective(asked, [rows], held_out)  # type: ignore[arg-type]
            assert caught.value.param == "objective"
        alone = check_data(self.rows(tmp_path / "o", {"text": "a", "label": 1}))
        with pytest.raises(InvalidData, match="all rows have the label '1'"):
            check_objective(None, [alone])


@pytest.mark.parametrize("label", ["می‌خواهم", "👨‍👩‍👧"])
def test_a_joiner_is_part_of_a_name(label: str) -> None:
    assert label_name(label) == label
