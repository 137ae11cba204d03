"""Rows that are held out: never a text of the training, groups whole, and the same ones in whatever order they come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.held_out_rows import held_out
from support.trainings import save_jsonl

from sdk.errors import InvalidData, InvalidInput
from sdk.formats.rows import Row, check_rows
from sdk.rows.holdout import HoldoutError, split_unit
from sdk.rows.splitting import rows_digest
from sdk.rows.texts import normalised_row
from sdk.schemas.held_out import HoldOut
from sdk.schemas.training import TrainingSpec
from sdk.validation import build, check_data

#: Few texts and few groups, so that they meet.
WORDS = st.sampled_from(["a", "A ", "b", "\uff42", "c", "d", "straße", "STRASSE", "e f", "e  F"])
ROWS = st.lists(st.tuples(WORDS, WORDS, st.sampled_from("xyzuvw")), min_size=2, max_size=30)
SHARES = st.floats(0.01, 0.99)


def rows_of(values: list[Any], *, group_by: str | None = None) -> list[Row]:
    """Rows as a file would give them."""
    return list(check_rows(((f"line {n}", value) for n, value in enumerate(values, start=1)), group_by=group_by))


def split(rows: list[Row], how: HoldOut) -> tuple[list[Row], list[Row]] | None:
    """Both sides, or None where there can't be two."""
    try:
        out = held_out([split_unit(row) for row in rows], how)
    except HoldoutError:
        return None
    return [row for row, is_out in zip(rows, out, strict=True) if not is_out], [
        row for row, is_out in zip(rows, out, strict=True) if is_out
    ]


@settings(max_examples=300, deadline=None)
@given(ROWS, SHARES, st.integers(0, 2**32 - 1), st.booleans(), st.randoms(use_true_random=False))
def test_no_text_and_no_group_is_on_both_sides(
    values: list[tuple[str, str, str]], share: float, seed: int, grouped: bool, shuffle: Any
) -> None:
    by = "group" if grouped else None
    rows = rows_of(
        [{"prompt": p, "completion": c, **({"group": g} if grouped else {})} for p, c, g in values], group_by=by
    )
    how = HoldOut(share, seed, by)
    sides = split(rows, how)
    if sides is None:
        assert grouped or len({normalised_row(row) for row in rows}) == 1
        return
    training, held = sides
    assert training
    assert held
    assert len(training) + len(held) == len(rows)
    assert {normalised_row(row) for row in training}.isdisjoint(normalised_row(row) for row in held)
    if grouped:
        assert {row.group for row in training}.isdisjoint(row.group for row in held)
    order = list(rows)
    shuffle.shuffle(order)
    again = split(order, how)
    assert [rows_digest(side) for side in again] == [rows_digest(side) for side in sides]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(WORDS, st.sampled_from("pq")), min_size=2, max_size=20), SHARES)
def test_a_labelled_text_is_on_one_side_whatever_its_labels(values: list[tuple[str, str]], share: float) -> None:
    sides = split(rows_of([{"text": text, "label": label} for text, label in values]), HoldOut(share))
    if sides is not None:
        texts = [{row.fields["text"].strip().casefold() for row in side} for side in sides]
        assert texts[0].isdisjoint(texts[1])


def test_the_share_is_kept_and_the_seed_chooses() -> None:
    rows = rows_of([{"text": f"row {number}"} for number in range(200)])
    chosen = []
    for seed in range(3):
        sides = split(rows, HoldOut(0.1, seed))
        assert len(sides[1]) == 20
        chosen.append(frozenset(row.where for row in sides[1]))
    assert len(set(chosen)) == 3
    # These rows are held out on any machine and in any release: a training that is made again has the same.
    (_, held) = split(rows, HoldOut(0.1)) or ([], [])
    assert rows_digest(held) == "8cae8ba350945a787c5d5cdfb0f6256d11d5c7915ddcf9ddac21d135c08b596a"


def test_groups_keep_their_side_when_they_grow() -> None:
    def sides(rows_a_group: int) -> list[set[str | None]]:
        values = [{"text": f"{group} {n}", "group": str(group)} for group in range(200) for n in range(rows_a_group)]
        found = split(rows_of(values, group_by="group"), HoldOut(0.1, by="group"))
        return [{row.group for row in side} for side in found]

    assert sides(5) == sides(6)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from("aaaabbc"), min_size=2, max_size=30), SHARES, st.integers(0, 2**32 - 1))
def test_the_training_has_every_label(labels: list[str], share: float, seed: int) -> None:
    rows = rows_of([{"text": f"row {n}", "label": label} for n, label in enumerate(labels)])
    sides = split(rows, HoldOut(share, seed))
    if sides is None:
        assert len(set(labels)) == len(labels)
        return
    assert {row.fields["label"] for row in sides[0]} == set(labels)
    assert sides[1]


def test_a_group_larger_than_the_share_is_held_out_only_where_all_are() -> None:
    values = [{"text": f"{group} {number}", "group": group} for group in "abc" for number in range(ord(group) - 90)]
    sides = split(rows_of(values, group_by="group"), HoldOut(0.1, by="group"))
    assert {row.group for row in sides[1]} == {"a"}


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"text": "a"}], {}, "all rows are the same text"),
        ([{"text": "a"}, {"text": "A"}], {}, "all rows are the same text"),
        ([{"text": "a", "g": 1}, {"text": "b", "g": 1}], {"holdout_by": "g"}, "in one group of 'g'"),
        ([{"text": "a", "g": 1}, {"text": "b"}], {"holdout_by": "g"}, "line 2 has nothing in the column `g`"),
        ([{"text": "a", "g": 1}, {"text": "b", "g": ""}], {"holdout_by": "g"}, "line 2 has nothing in the column `g`"),
        ([{"text": "a", "g": [1]}, {"text": "b", "g": 2}], {"holdout_by": "g"}, "neither a text, a whole number"),
        ([{"text": "a", "g": 1, "id": 7}], {"holdout_by": "g"}, "would be lost: `id`"),
    ],
)
def test_rows_that_can_not_be_split_are_refused_before_they_are_sent(
    rows: list[Any], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = save_jsonl(tmp_path / "rows.jsonl", rows)
    spec = build(TrainingSpec, holdout=0.5, **options)
    with pytest.raises(InvalidData, match=message):
        check_data(path, hold_out=spec.hold_out)


def test_what_is_asked_of_preferences_is_on_one_side(tmp_path: Path) -> None:
    rows = rows_of([{"prompt": f"{'p ' * (n % 4)}p", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(12)])
    for seed in range(9):
        sides = split(rows, HoldOut(0.3, seed))
        training, held = ({row.fields["prompt"] for row in side} for side in sides)
        assert training
        assert held
        assert not training & held


def test_the_column_of_groups_may_be_one_that_rows_are_made_of(tmp_path: Path) -> None:
    path = tmp_path / "faq.csv"
    path.write_text("topic,question,answer\nx,q,a\nx,r,b\ny,s,c\n")
    columns = "prompt=question,completion=answer"
    found = check_data(path, columns=columns, hold_out=HoldOut(0.4, by="topic"))
    assert (found.rows, found.shape) == (3, "prompt-completion")
    assert [row.group for row in rows_of([{"text": "a", "label": 1}], group_by="label")] == ["1"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"holdout": 0}, "use a number above 0 and below 1"),
        ({"holdout": 1}, "use a number above 0 and below 1"),
        ({"holdout": True}, "use a number above 0 and below 1"),
        ({"holdout_by": "g"}, "give holdout, such as 0.1"),
        ({"holdout_seed": 3}, "give holdout, such as 0.1"),
        ({"holdout": 0.1, "holdout_by": ""}, "holdout_by can't be empty"),
        ({"holdout": 0.1, "holdout_seed": -1}, "use a whole number from 0 to 4294967295"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        build(TrainingSpec, **options)
