"""What rows ask, and what they expect."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from registry.rows.numbered import numbered
from sdk.formats.rows import Row, judge_rows

#: How many characters of a text are shown.
_SHOWN = 2000


def texts_of(path: Path, columns: Mapping[str, str] | None, rows: Collection[int]) -> dict[int, tuple[str, str]]:
    """Return what was asked and expected in those of these rows that can be used, by number. Raises InvalidData."""
    wanted = sorted(rows)
    values = ((str(wanted[place]), value) for place, _, value in numbered(path, wanted, columns))
    return {int(row.where): _asked(row) for row in judge_rows(values, columns=columns) if isinstance(row, Row)}


def _asked(row: Row) -> tuple[str, str]:
    """What a row asks, and what it expects: in a conversation, the last answer that counts and the message before
    it.
    """
    fields = row.fields
    match row.shape:
        case "messages":
            return _last_answer(fields["messages"])
        case "text" | "text-label":
            return _shown(fields["text"]), _shown(str(fields.get("label", "")))
        case "choices":
            return _shown(fields["prompt"]), _shown(fields["choices"][fields["answer"]])
        case "references":
            asked, first = fields["prompt"], fields["references"][0]
            return _shown(asked) if isinstance(asked, str) else _content(asked[-1]), _shown(first)
    prompt, answer = fields["prompt"], fields["chosen" if row.shape == "preference" else "completion"]
    if isinstance(prompt, list):
        return _last_answer([*prompt, *answer])
    return _shown(prompt), _shown(answer)


def _last_answer(messages: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """The last message of an assistant that has a weight, after the message before it."""
    for place in reversed(range(len(messages))):
        if messages[place]["role"] == "assistant" and messages[place].get("weight", 1) != 0:
            return _content(messages[place - 1]) if place else "", _content(messages[place])
    return "", ""


def _content(message: Mapping[str, Any]) -> str:
    # A message that calls tools has no content.
    return _shown(message.get("content", ""))


def _shown(text: str) -> str:
    # Half of a surrogate pair can't be sent as a character.
    text = text.encode(errors="replace").decode()
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
