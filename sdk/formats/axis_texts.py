"""What an option varies over in a sweep, as one text: values, or a range of them.

>>> parse_axis_text("1,2,4")
('1', '2', '4')
>>> parse_axis_text("1e-4..1e-3:log[5]")
RangeText(low='1e-4', high='1e-3', log=True, count=5)
>>> parse_axis_text("0..0.1")
RangeText(low='0', high='0.1', log=False, count=None)
>>> parse_axis_text("8")
'8'
>>> parse_axis_text("q_proj,v_proj;all-linear", separator=";", ranges=False)
('q_proj,v_proj', 'all-linear')
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: The most values of one option.
MOST_AXIS_VALUES = 1_000

_FORMS = "write it as 1..64, 1..64:log, or with a count as 1..64:log[7]"
_END = re.compile(r"(?P<high>[^:\[\]]*)(?::(?P<scale>[^\[\]]*))?(?:\[(?P<count>[^\[\]]*)\])?")
_COUNT = re.compile(r"[0-9]{1,9}", re.ASCII)


@dataclass(frozen=True)
class RangeText:
    """A range as it is written."""

    low: str
    high: str
    log: bool = False
    count: int | None = None


def parse_axis_text(text: str, *, separator: str = ",", ranges: bool = True) -> str | tuple[str, ...] | RangeText:
    """Return the values between separators, or the parts of a range; a text with neither as it is. Without `ranges`, two
    dots are part of a value.

    Raises ValueError with one sentence that ends with what to do.
    """
    text = text.strip()
    if not text:
        raise ValueError("there is no value; give one, or several as 1,2,4")
    if separator in text:
        return _values(text, separator, ranges)
    return _range(text) if ranges and ".." in text else text


def require_few(count: int) -> None:
    """Raise ValueError for more values than an option has in a sweep, or for none."""
    if count < 1:
        raise ValueError("there is no value; give one, or several")
    if count > MOST_AXIS_VALUES:
        raise ValueError(f"there are {count:,} values; give at most {MOST_AXIS_VALUES:,}")


def require_count(count: int) -> None:
    """Raise ValueError for a number of values that no range is divided into."""
    if count < 2:
        raise ValueError(
            f"a range has both its ends, and its count is {count}; ask for [2] or more, or give one value instead"
        )
    require_few(count)


def _values(text: str, separator: str, ranges: bool) -> tuple[str, ...]:
    require_few(text.count(separator) + 1)
    values = tuple(part.strip() for part in text.split(separator))
    if "" in values:
        raise ValueError(
            f"value {values.index('') + 1} of {len(values)} is empty; give it, or leave out one {separator!r}"
        )
    if ranges and (inner := next((value for value in values if ".." in value), None)):
        raise ValueError(f"{inner[:40]!r} is a range among values; give values, or one range")
    return values


def _range(text: str) -> RangeText:
    low, _, rest = text.partition("..")
    match = _END.fullmatch(rest)
    if match is None or not low.strip() or not match["high"].strip():
        raise ValueError(f"{text[:60]!r} is not a whole range; {_FORMS}")
    if match["scale"] not in (None, "log"):
        raise ValueError(f"{match['scale'][:40]!r} is not a scale of a range; {_FORMS}")
    count = match["count"]
    if count is not None and not _COUNT.fullmatch(count):
        raise ValueError(f"[{count[:40]}] is not how many values a range has; {_FORMS}")
    if count is not None:
        require_count(int(count))
    return RangeText(low.strip(), match["high"].strip(), match["scale"] == "log", None if count is None else int(count))
