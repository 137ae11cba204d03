"""The columns of lists: each header has one meaning everywhere, and says how its values are drawn.

>>> size = ListColumn("size", "size_bytes")
>>> drawn(size, 12_345_678), written(12_345_678)
('12.3 MB', '12345678')
>>> written("two\\tcells\\n\\x1b[2J"), written(["a", "b"]), written(None), written(True)
('two\\\\tcells\\\\n\\\\x1b[2J', 'a,b', '', 'true')
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any
from unicodedata import category

from sdk.cli.support.output import brief, cell, human_bytes, human_duration, local_time, moment_of, relative_time


class CellForm(Enum):
    """How the values of a column are drawn for people. What is written into a pipe is always the whole value."""

    #: A ref, an id, a kind: it is shown whole, or its column is left out.
    NAME = "name"
    #: Several names: one, and how many more there are.
    NAMES = "names"
    #: A sentence: the only values that may be cut.
    PROSE = "prose"
    #: Anything that is counted or measured; on the right.
    NUMBER = "number"
    #: A number of bytes, as "12.3 MB".
    SIZE = "size"
    #: Seconds, as "12 min".
    DURATION = "duration"
    #: A moment: local with its zone where there is room, or how long ago it was.
    TIME = "time"
    #: SHA-256 in hexadecimal: the 12 digits that refs take.
    DIGEST = "digest"


#: Every header of every list, by how its values are drawn. A new list takes its headers from here.
_WORDS = {
    CellForm.NAME: """
        ref | id | adapter | alias | aliases | base | dataset | job | kind | name | namespace | scope | state | latest |
        action | by | owner | host | made | method | metric | condition | module | outcome | precision | scores of | seen |
        alike | architecture | shape | queue | queues | device | worker | version | winner | grants | role | facts | part |
        from | to | protected | moved | revoked | counts | cached | rules | members | used by | not scored | better |
        setting | score | of | token | decision | revision | location | log | columns | value |
        rule | fits | release | day | held out | verdict
    """,
    CellForm.NAMES: "subject",
    CellForm.PROSE: """
        asks | change | description | expected | folder | message | note | path | prediction | reason | refs | varies |
        what | before | after | read in | example | detail
    """,
    CellForm.NUMBER: """
        rank | rows | row | tokens | versions | step | steps | tries | failures | loss | eval loss | queued | running |
        workers | idle | unfit | pid | port | restarts | attempt | priority | recorded
    """,
    CellForm.SIZE: "size | memory | free",
    CellForm.DURATION: "oldest | uptime | took",
    CellForm.TIME: "created | updated | time | expires | started | heard from | used | since",
    CellForm.DIGEST: "digest | fingerprint",
}
HEADERS: Mapping[str, CellForm] = {
    word: form for form, words in _WORDS.items() for word in " ".join(words.split()).split(" | ")
}

#: The importance of a column without one: those of less go first.
MOST = 9


@dataclass(frozen=True)
class ListColumn:
    """A column of a list.

    `value` is the path of an attribute or key, by default the header's, or a function of a row. On a terminal that is too
    narrow, the columns of the least `importance` are left out first; those of 0 are only for pipes. One whose values are all empty, or all `usual`, isn't
    drawn either; what is written into a pipe always has all columns.
    """

    header: str
    value: str | Callable[[Any], Any] | None = None
    importance: int = MOST
    usual: Any = None
    #: Given for a column whose header is the name of something measured, or of a user's: it is in no vocabulary.
    form: CellForm | None = None
    #: What is drawn instead of an empty value.
    none: str = "-"
    #: Whether it is drawn even if it is empty in each row.
    always: bool = False

    def __post_init__(self) -> None:
        if self.form is None and self.header not in HEADERS:
            raise ValueError(f"no list has a header {self.header!r}; take one of HEADERS, or add it there")

    @property
    def drawn_as(self) -> CellForm:
        """How its values are drawn."""
        return self.form or HEADERS[self.header]

    @property
    def field(self) -> str:
        """Its name in a pipe."""
        return written(self.header).replace(" ", "_")

    def of(self, row: Any) -> Any:
        """Its value in a row."""
        if callable(self.value):
            return self.value(row)
        for part in (self.value or self.header.replace(" ", "_")).split("."):
            row = row.get(part) if isinstance(row, Mapping) else getattr(row, part)
            if row is None:
                return None
        return row.value if isinstance(row, Enum) else row


def measured(name: str, value: Callable[[Any], Any] | None = None, importance: int = MOST) -> ListColumn:
    """A column of numbers under the name of a score or a series."""
    return ListColumn(name, value or (lambda row: row.get(name)), importance, form=CellForm.NUMBER)


def drawn(column: ListColumn, value: Any, *, exact: bool = True) -> str:
    """Return a value as it is drawn for people, on one line; `exact`: a moment in full."""
    if value is None or value == "" or value == []:
        return column.none
    match column.drawn_as:
        case CellForm.SIZE:
            return human_bytes(value)
        case CellForm.DURATION:
            return human_duration(value)
        case CellForm.TIME:
            moment = moment_of(value)
            return str(value) if moment is None else local_time(moment) if exact else relative_time(moment)
        case CellForm.DIGEST:
            return cell(value)[:12]
        case CellForm.PROSE if isinstance(value, str):
            return cell(" ".join(value.split()))
        case CellForm.NAMES if isinstance(value, list) and len(value) > 1:
            return f"{cell(brief(value[0]))} +{len(value) - 1}"
    # What is named by its bytes is long: the subject of an audit.
    return cell(brief(value))


def written(value: Any) -> str:
    """Return a value as it is written into a pipe: whole, on one line, without a tab and without controls."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat().replace("+00:00", "Z")
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, Mapping):
        value = json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, (list, tuple, set, frozenset)):
        value = ",".join(map(str, value))
    text = str(value)
    return text if text.isprintable() and "\\" not in text else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    named = {"\\": "\\\\", "\t": "\\t", "\n": "\\n"}.get(character)
    if named is not None or character.isprintable() or category(character) == "Zs":
        return named or character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
