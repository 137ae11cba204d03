"""JSON with only one meaning, which both databases can store.

>>> parse_strictly(b'{"rank": 8}')
{'rank': 8}
>>> parse_strictly(b'{"rank": NaN}')
Traceback (most recent call last):
registry.errors.Invalid: the body has NaN or an infinity, which JSON can't express; leave the value out

The time to parse a document is linear in its length, whatever is in it.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from registry.errors import Invalid, TooLarge
from registry.http.bodies import MAX_VALUES

#: How deep lists and objects may be nested.
MAX_DEPTH = 64
#: What fits into a 64-bit column.
_MAX_INTEGER = 2**63 - 1

_SURROGATE = re.compile("[\ud800-\udfff]")
#: Patterns in a document in which each digit was replaced by 0 and each E by e: without any of them, no number has more
#: than 18 digits in a row, or an exponent of more than one digit. This takes a tenth of the time of a regular
#: expression.
_DIGITS = bytes.maketrans(b"123456789E", b"000000000e")
_LONG_NUMBER = b"0" * 19
_LONG_EXPONENTS = (b"e00", b"e+00", b"e-00")
#: Only escapes can be NUL or half a surrogate pair.
_ODD_ESCAPE = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
#: A text, or the beginning of one that does not end. It always matches, so that no byte is looked at twice.
_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)


def parse_strictly(body: bytes, *, max_values: int = MAX_VALUES) -> Any:
    """Return the value of a JSON document.

    Raises Invalid for encodings other than UTF-8, NaN and infinities, numbers out of range, a repeated key, NUL and
    halves of surrogate pairs in texts, and nesting below `MAX_DEPTH`; TooLarge for more than `max_values`.
    """
    if most_values(body) > max_values and most_values(_TEXT.sub(b"", body)) > max_values:
        raise TooLarge(f"the body has more than {max_values} values; send fewer at once")
    digits = body.translate(_DIGITS)
    long = _LONG_NUMBER in digits
    overflows = long or any(exponent in digits for exponent in _LONG_EXPONENTS)
    try:
        value = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            # Each number is only checked if one may be too large: in most documents none is.
            parse_float=_float if overflows else None,
            parse_int=_integer if long else None,
        )
    except UnicodeDecodeError as error:
        raise Invalid("the body is not UTF-8; send JSON in UTF-8") from error
    except RecursionError as error:
        raise _too_deep() from error
    except ValueError as error:
        raise Invalid(f"the body is not JSON ({error}); send one JSON document") from error
    if _ODD_ESCAPE.search(body) or _may_be_deep(body):
        _check(value)
    return value


def most_values(body: bytes) -> int:
    """The most values that a document of these bytes can have: one for each comma and each opening bracket."""
    return 1 + body.count(b",") + body.count(b"[") + body.count(b"{")


def _may_be_deep(body: bytes) -> bool:
    """Whether it may be nested too deep; with brackets inside texts this may be a false alarm."""
    brackets = body.translate(None, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        if not brackets:
            return False
        # The innermost ones are removed first, all at once.
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    return bool(brackets)


def check_text(text: str) -> None:
    """Raise Invalid for a text that a database can't keep or UTF-8 can't write."""
    if "\0" in text or _SURROGATE.search(text):
        raise Invalid(f"the text {text[:40]!a} contains NUL or half a surrogate pair; send plain Unicode text")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise Invalid(f"the body has the key {key[:80]!a} twice in one object; send it once")
            seen.add(key)
    return found


def _refuse_constant(_word: str) -> Any:
    raise Invalid("the body has NaN or an infinity, which JSON can't express; leave the value out")


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise Invalid(f"the body has the number {text[:40]}, which is out of range; send a smaller one")
    return number


def _integer(text: str) -> int:
    # Checked before it is converted, which takes time with the square of the digits.
    if len(text) > 20 or abs(int(text)) > _MAX_INTEGER:
        raise Invalid(f"the body has the number {text[:40]}, which is out of range; send a smaller one")
    return int(text)


def _check(value: Any) -> None:
    """Check every text and the depth, without recursion."""
    waiting: list[tuple[Any, int]] = [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        if isinstance(item, str):
            check_text(item)
        elif isinstance(item, (dict, list)):
            if depth >= MAX_DEPTH:
                raise _too_deep()
            if isinstance(item, dict):
                waiting.extend((key, depth) for key in item)
            waiting.extend((child, depth + 1) for child in (item.values() if isinstance(item, dict) else item))


def _too_deep() -> Invalid:
    return Invalid(f"the body is nested more than {MAX_DEPTH} deep; send a flatter one")
