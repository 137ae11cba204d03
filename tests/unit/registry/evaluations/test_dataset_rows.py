"""What a dataset says of the rows that were scored: their groups, and what was asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.errors import Invalid
from registry.evaluations.comparing.dataset_rows import groups_of

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(*rows: Any) -> Path:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


class TestGroups:
    def test_rows_with_the_same_text_or_number_are_one(self, write: Write) -> None:
        path = write({"repo": "a"}, {"repo": 7}, {"repo": "b"}, {"repo": "7"}, {"repo": "a"})
        assert groups_of(path, "repo", np.array([0, 1, 3, 4])).tolist() == [0, 1, 1, 0]

    @pytest.mark.parametrize(
        "nothing", [{}, {"repo": None}, {"repo": ""}, {"repo": ["a"]}, {"repo": 1.5}, {"repo": True}]
    )
    def test_rows_without_one_are_no_group(self, write: Write, nothing: dict[str, Any]) -> None:
        path = write({"repo": "a"}, nothing, {"repo": ""})
        with pytest.raises(
            Invalid, match=r"line 2 has .*`repo`.* that rows are grouped by.*; compare by another column"
        ) as caught:
            groups_of(path, "repo", np.array([0, 1]))
        assert caught.value.param == "by"
        assert groups_of(path, "repo", np.array([0])).tolist() == [0]
