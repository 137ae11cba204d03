"""Stop texts: the answer ends where the first one begins, however the text is cut into pieces."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.serving.texts.stops import StopTexts

SHORT = st.text("ab", max_size=12)


def by_characters(text: str, stops: list[str]) -> tuple[str, bool]:
    """What is left of a text of which each beginning is looked at."""
    for end in range(len(text) + 1):
        lengths = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if lengths:
            return text[: end - max(lengths)], True
    return text, False


@given(SHORT, st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.lists(st.integers(0, 12), max_size=5))
def test_any_pieces_give_what_is_before_the_first_stop_text(text: str, stops: list[str], cuts: list[int]) -> None:
    borders = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    found, shown = StopTexts(stops), ""
    for begin, end in itertools.pairwise(borders):
        shown += found.add(text[begin:end])
        # Nothing is shown that a stop text could still take back.
        assert by_characters(text, stops)[0].startswith(shown)
    if not found.stopped:
        shown += found.end()
    assert (shown, found.stopped) == by_characters(text, stops)


@pytest.mark.parametrize(
    "pieces", [["one STOP two"], ["one ST", "OP two"], ["one S", "T", "O", "P", " two"], list("one STOP two")]
)
def test_text_after_a_stop_text_is_never_shown(pieces: list[str]) -> None:
    stops = StopTexts(["STOP"])
    assert "".join(map(stops.add, pieces)) + stops.end() == "one "
    assert stops.stopped


def test_beginning_of_a_stop_text_is_held_back_until_it_is_none() -> None:
    stops = StopTexts(["\n\nQ:"])
    assert [stops.add(piece) for piece in ("a\n", "\n", "Q", " b")] == ["a", "", "", "\n\nQ b"]


def test_a_long_answer_takes_time_linear_in_its_length() -> None:
    stops = StopTexts(["a" * 255 + "b"] * 16)
    steps = 0
    following = stops._next

    def counted(*given: object) -> int:
        nonlocal steps
        steps += 1
        return following(*given)

    stops._next = counted
    assert len("".join(stops.add("a" * 10) for _ in range(200))) == 2000 - 255
    assert steps == 2000 * 16
