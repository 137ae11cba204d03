"""What a preview's job hands in: as many whole texts as a result has room for, and nothing that no registry stores."""

from __future__ import annotations

import pytest

from sdk.schemas.preview import Preview, PreviewText
from sdk.schemas.recorded import Rendering
from workers.kinds.preview import within


def text(row: int, said: str) -> PreviewText:
    told = {"where": f"line {row}", "tokens": 1, "supervised_tokens": 1, "stop": None, "method": None, "cut_tokens": 0}
    spans = {"supervised": [[0, len(said)]], "supervised_text": said}
    return PreviewText.model_validate({"row": row, "text": said, "cut_text": said, **spans, **told})


def shown(*texts: PreviewText) -> Preview:
    told = {"shape": "text", "loss_on": "all", "max_length": 9, "file_rows": 3, "totals": None}
    return Preview.model_validate({**told, "rendering": Rendering(), "rows": list(texts)})


def size_bytes(preview: Preview) -> int:
    return len(preview.model_dump_json().encode())


def test_what_fits_stays_as_it_is() -> None:
    whole = shown(text(1, "ä"), text(2, "b"))
    assert within(whole) == whole


@pytest.mark.parametrize("room", range(200, 3000, 37))
def test_texts_are_left_out_whole_from_the_end_and_counted(room: int) -> None:
    whole = shown(*(text(row, '🙂"\n' * row * 5) for row in (1, 2, 3)))
    kept = within(whole, room)
    assert kept.rows == whole.rows[: len(kept.rows)]
    assert kept.left_out == 3 - len(kept.rows)
    assert size_bytes(kept) <= max(room, size_bytes(shown()))
    # None is left out for which there was room.
    if kept.left_out:
        assert size_bytes(whole.model_copy(update={"rows": whole.rows[: len(kept.rows) + 1]})) > room - 8


def test_a_nul_is_shown_as_what_can_not_be_shown() -> None:
    (found,) = within(shown(text(1, "a\0b"))).rows
    assert (found.text, found.supervised_text, found.cut_text) == ("a\ufffdb",) * 3
    assert found.supervised == [[0, 3]]
