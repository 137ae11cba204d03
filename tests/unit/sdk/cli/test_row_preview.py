"""Rows as a training would learn them, as they are printed."""

from __future__ import annotations

import pytest

from sdk.cli.support.data_pages import print_preview
from sdk.schemas.preview import Preview, PreviewText
from sdk.schemas.recorded import Rendering


def text(row: int, said: str) -> PreviewText:
    return PreviewText(
        row=row,
        where=f"line {row}",
        text=said,
        tokens=3,
        supervised_tokens=1,
        supervised=[[0, 1]],
        supervised_text=said[0],
        stop=None,
        cut_tokens=0,
        cut_text="",
        method=None,
    )


@pytest.mark.parametrize(
    ("shape", "expected"), [("preference", ["chosen", "rejected", "chosen", "rejected", "chosen"]), ("prompt", [])]
)
def test_of_a_preference_it_is_said_which_answer_is_chosen(
    shape: str, expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [text(1, "good"), text(1, "bad"), text(2, "better"), text(2, "worse"), text(3, "cut")]
    found = Preview.model_validate(
        {
            "shape": shape,
            "loss_on": "completion",
            "max_length": 9,
            "file_rows": 3,
            "totals": None,
            "rendering": Rendering(),
            "rows": rows,
        }
    )
    print_preview(found)
    heads = [line for line in capsys.readouterr().out.splitlines() if line.startswith("row ")]
    assert [word for line in heads for word in line.split(" · ") if word in ("chosen", "rejected")] == expected
