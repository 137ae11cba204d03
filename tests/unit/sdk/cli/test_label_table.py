"""Which labels were taken for which, counted and laid out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sdk.cli.support.score_tables import label_lines
from sdk.examining.label_counts import MOST_LABELS, count_labels
from sdk.schemas.evaluation import RowScore


def rows(*groups: tuple[str, str, int, float]) -> list[RowScore]:
    """Rows of (expected, found, how many, confidence)."""
    every = [group for group in groups for _ in range(group[2])]
    return [
        RowScore(
            row=number,
            loss_sum=0.5,
            tokens=1,
            expected=own,
            prediction=found,
            confidence=sure,
            scores={"accuracy": float(own == found)},
        )
        for number, (own, found, _, sure) in enumerate(every)
    ]


#: The example of the documentation.
THREE = rows(
    ("negative", "negative", 40, 0.9712),
    ("negative", "neutral", 2, 0.9712),
    ("neutral", "negative", 3, 0.9712),
    ("neutral", "neutral", 4, 0.5641),
    ("neutral", "neutral", 26, 0.9712),
    ("neutral", "positive", 5, 0.5641),
    ("positive", "neutral", 1, 0.9712),
    ("positive", "positive", 44, 0.9712),
)


def test_rows_are_counted_by_what_they_are_and_what_they_were_taken_for() -> None:
    found = count_labels(THREE)
    assert found.labels == ["negative", "neutral", "positive"]
    assert found.counts == [[40, 2, 0], [3, 30, 5], [0, 1, 44]]
    assert found.note is None
    assert found.calibration_error == pytest.approx((9 * abs(4 / 9 - 0.5641) + 116 * abs(110 / 116 - 0.9712)) / 125)


def test_three_labels_are_a_square() -> None:
    text = "\n".join(label_lines(count_labels(THREE)))
    assert text == (
        "TRUE \\ PREDICTED   1   2   3\n"
        "1 negative        40   2   0\n"
        "2 neutral          3  30   5\n"
        "3 positive         0   1  44\n"
        "\n"
        "PROBABILITY  ROWS    MEAN  ACCURACY\n"
        "0.5 to 0.6      9  0.5641    0.4444\n"
        "0.9 to 1.0    116  0.9712    0.9483\n"
        "\n"
        "expected calibration error 0.02989\n"
    )


@pytest.mark.parametrize("count", [2, 13, 14, 15, 16, 17, MOST_LABELS])
@pytest.mark.parametrize("name", ["label", "ein sehr langer Name\nmit Zeilen und noch mehr ", "等級"])
def test_it_is_at_most_80_columns_wide(count: int, name: str) -> None:
    pairs = [(f"{n}{name * 3}", f"{m}{name * 3}", 1, 0.5) for n in range(count) for m in range(count)]
    found = replace(count_labels(rows(*pairs)), counts=[[1 + n * 7] * count for n in range(count)])
    lines = [line for part in label_lines(found) for line in part.splitlines()]
    assert max(len(line) + sum(ord(sign) > 0x2E80 for sign in line) for line in lines) <= 80
    assert any(line.startswith(("TRUE", "1 0")) for line in lines)


def test_of_many_labels_the_commonest_mistakes_are_listed() -> None:
    pairs = [(f"l{n:02}", f"l{n:02}", 3, 0.5) for n in range(40)]
    pairs += [(f"l{n:02}", f"l{n + 1:02}", n + 1, 0.5) for n in range(30)]
    lines = label_lines(count_labels(rows(*pairs)))[0].splitlines()
    assert lines[0].split() == ["TRUE", "PREDICTED", "ROWS"]
    assert lines[1].split() == ["l29", "l30", "30"]
    assert len(lines) == 21
    assert "and 10 more pairs" in label_lines(count_labels(rows(*pairs)))[1]


def test_too_many_labels_and_none_are_said() -> None:
    many = count_labels(rows(*[(f"l{n}", "l0", 1, 0.5) for n in range(MOST_LABELS + 1)]))
    assert (many.labels, many.counts) == ([], [])
    assert "51 occur" in many.note
    silent = [row.model_copy(update={"expected": None, "prediction": None}) for row in THREE]
    found = count_labels(silent)
    assert "no text was kept" in found.note
    assert found.calibration_error == count_labels(THREE).calibration_error
    old = [row.model_copy(update={"confidence": None}) for row in silent]
    assert count_labels(old).calibration_error is None
    # A row whose loss is not a number was not told apart.
    assert count_labels([*THREE, RowScore(row=999, tokens=1)]) == count_labels(THREE)
