"""Two answers in two columns."""

from __future__ import annotations

import io
import random
import re

import pytest

from sdk.cli.support.layout import columns_of
from sdk.cli.support.side_by_side import SideBySide

TEXTS = (
    "def add(a, b):\n    return a + b\n\n\n# a line that is much longer than a column has room for, with a/very/long/path/in/it",
    "東京は日本の首都です。" * 6 + "\nred\x1b[31m and \ttab",
)


def _shown(texts: tuple[str, str], *, seed: int, is_terminal: bool, width: int = 80) -> str:
    """Show texts in random pieces."""
    random_ = random.Random(seed)
    out = io.StringIO()
    both = SideBySide(out, width=width, is_terminal=is_terminal)
    both.head("left@v1", "right@v1")
    left = [list(text) for text in texts]
    while any(left):
        side = random_.choice([number for number in (0, 1) if left[number]])
        count = random_.randint(1, 9)
        piece, left[side] = left[side][:count], left[side][count:]
        both.add(side, "".join(piece))
        if not left[side]:
            both.end(side)
    return out.getvalue()


def _on_screen(shown: str) -> str:
    """What a terminal shows in the end: a return goes to the first column, and a line is cleared at its end."""
    lines = []
    for line in re.sub(r"\x1b\[[0-9;]*m", "", shown).split("\n"):
        painted = [part for part in line.split("\r") if part]
        lines.append(painted[-1].replace("\x1b[K", "") if painted else "")
    return "\n".join(lines)


@pytest.mark.parametrize("seed", range(20))
def test_pieces_make_no_difference_to_what_is_shown(seed: int) -> None:
    shown = _shown(TEXTS, seed=seed, is_terminal=False)
    assert shown == _shown(TEXTS, seed=seed + 100, is_terminal=False)
    assert _on_screen(_shown(TEXTS, seed=seed, is_terminal=True)) == shown
    lines = shown.splitlines()
    assert max(map(columns_of, lines)) < 80
    assert {columns_of(line.partition(" │")[0]) for line in lines} == {38}
    assert "\x1b" not in shown
    assert "red?[31m and" in shown
    assert "    return a + b" in shown


def test_nothing_of_a_text_is_lost() -> None:
    words = [f"word{number}" for number in range(200)]
    shown = _shown((" ".join(words), "x"), seed=1, is_terminal=False, width=60)
    left = [line.partition(" │")[0] for line in shown.splitlines()[1:]]
    assert " ".join(left).split() == words
