"""Markdown, as GitHub shows it. Text from models, datasets and people is always shown as plain text.

>>> print(quoted("a *b*\\n<c> https://d www.e @f g@v1"))
a \\*b\\* \\<c\\> https\\://d www\\.e @<!-- -->f g@v1
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

#: Characters that mean something in Markdown, or begin a tag.
_MEANING = re.compile(r"([\\`*_{}\[\]()#+!|<>&~]|:(?=//)|(?<=www)\.|^-(?=\s))")
#: What would begin a numbered list.
_NUMBERED = re.compile(r"^(\d{1,9})\.(?=\s|$)")
#: What GitHub would tell somebody of: a name behind an "@" that follows no letter.
_MENTION = re.compile(r"(?<![\w.+-])@(?=\w)")


def quoted(text: str) -> str:
    """Return one line of text that is no more than text: nothing in it is a mark, a tag, a link or a mention."""
    plain = _MEANING.sub(r"\\\1", " ".join(shown(text).split()))
    return _MENTION.sub("@<!-- -->", _NUMBERED.sub(r"\1\\.", plain))


def fenced(text: str) -> str:
    """Return text as it is, between fences that are longer than any in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{shown(text)}\n{fence}"


def table_lines(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    """Yield the lines of a table."""
    yield f"| {' | '.join(map(quoted, headers))} |"
    yield f"|{'---|' * len(headers)}"
    for row in rows:
        yield f"| {' | '.join(quoted(cell(value)) for value in row)} |"


def cell(value: object) -> str:
    """Return what stands in a table for a value."""
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def shown(text: str) -> str:
    """Return text without characters that change how the text around them is displayed: control and direction characters
    become '?'.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)
