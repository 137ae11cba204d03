"""Values that take about as many bytes as wanted, of each shape that made something slow somewhere: nesting, repeats,
ranges, long and many keys, names that end alike, deep lists, and letters that are not what they seem.

Each is a function of the number of bytes of JSON that the value should take; it takes at most a little more.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any, NamedTuple

Make = Callable[[int], Any]


class Raw(NamedTuple):
    """JSON that is nested too deeply for its writer."""

    text: str


def dumped(value: Any) -> str:
    """Return the JSON of a value, in which one part may be raw.

    >>> dumped({"a": [Raw("[[]]")]})
    '{"a": [[[]]]}'
    """
    raws: list[str] = []

    def mark(raw: Any) -> Any:
        if isinstance(raw, Raw):
            raws.append(raw.text)
            return "@raw@"
        if isinstance(raw, dict):
            return {key: mark(inner) for key, inner in raw.items()}
        return [mark(inner) for inner in raw] if isinstance(raw, list) and len(raw) < 100 else raw

    text = json.dumps(mark(value), ensure_ascii=False)
    return text.replace('"@raw@"', raws[0]) if raws else text


def _repeated(piece: str, *, end: str = "") -> Make:
    size = len(piece.encode())
    return lambda size_bytes: piece * max(1, size_bytes // size) + end


def _around(left: str, right: str, *, within: str = "a") -> Make:
    size = len(left) + len(right)
    return lambda size_bytes: left * (depth := max(1, size_bytes // size)) + within + right * depth


def _numbered(form: str) -> Make:
    """Texts that all differ, one after the other."""

    def make(size_bytes: int) -> str:
        found, size = [], 0
        for number in itertools.count():
            found.append(form.format(number))
            size += len(found[-1])
            if size >= size_bytes:
                return "".join(found)
        raise AssertionError

    return make


#: For fields that hold text: names, digests, refs, patterns, lists in one text, filters, times.
TEXTS: dict[str, Make] = {
    "letters": _repeated("a"),
    "digits": _repeated("9"),
    "spaces": _repeated(" ", end="x"),
    "commas": _repeated(","),
    "dots": _repeated("a."),
    "slashes": _repeated("a/"),
    "ats": _repeated("@"),
    "backslashes": _repeated("\\"),
    "line breaks": _repeated("a\n"),
    "quotes": _repeated('"'),
    "wide letters": _repeated("😀"),
    "marks": _repeated("é̂"),
    "sharp letters": _repeated("ß"),
    "list of the same": _repeated("a,", end="a"),
    "list of others": _numbered("m{},"),
    "list of values": _numbered("m{}=1,"),
    "list of ends": lambda size_bytes: ",".join(
        "a." * depth + "q" for depth in range(max(1, int((size_bytes) ** 0.5)))
    ),
    "numbers": _numbered("{},"),
    "wide ranges": _repeated("0-65535,", end="0"),
    "narrow ranges": _repeated("0-999,", end="0"),
    "groups": _around("(", ")"),
    "plain groups": _around("(?:", ")"),
    "repeats of nothing": _around("(?:", "){4000}", within=""),
    "repeats of a letter": _around("(?:", "){9}"),
    "loops of loops": _around("(?:", ")*"),
    "loops of choices": _around("(?:", "|b)*"),
    "choices": _repeated("a|", end="a"),
    "choices of nothing": _repeated("|"),
    "optional letters": _repeated("a?", end="a"),
    "long repeats": _repeated("a{1,900}"),
    "loops": _repeated("a*", end="b"),
    "anything": _repeated(".*", end="b"),
    "sets": _repeated("[a-z]"),
    "large sets": lambda size_bytes: "(?i)[" + "".join(map(chr, range(0x4E00, 0x4E00 + min(size_bytes // 3, 20000)))) + "]",
    "looks ahead": _repeated("(?=.*a)", end="b"),
    "nested looks ahead": _around("(?=.*", ")"),
    "words": _repeated(r"\b\w+"),
    "conditions": lambda size_bytes: " and ".join(["rank = 8"] * max(1, size_bytes // 13)),
    "other conditions": lambda size_bytes: " or ".join(["loss < 1"] * max(1, size_bytes // 12)),
    "not": _repeated("not ", end="rank = 8"),
    "nested conditions": _around("(", ")", within="rank = 8"),
    "nested denials": _around("not (", ")", within="rank = 8"),
    "texts of a condition": lambda size_bytes: f'base = "{"a" * size_bytes}"',
    "percent signs": _repeated("%"),
    "underscores": _repeated("_", end="%"),
    "JSON lists": _around("[", "]", within=""),
    "JSON objects": _around('{"a":', "}", within="1"),
}  # fmt: skip


def _list(item: Callable[[int], Any], size: int) -> Make:
    return lambda size_bytes: [item(number) for number in range(max(1, size_bytes // size))]


def _deep(size_bytes: int) -> Any:
    return Raw("[" * (size_bytes // 2) + "]" * (size_bytes // 2))


#: For fields that hold lists, whatever is in them.
LISTS: dict[str, Make] = {
    "same texts": _list(lambda _: "a", 4),
    "other texts": _list(lambda number: f"m{number}", 8),
    "names that end alike": _list(lambda number: "a." * (number % 50) + f"m{number}", 60),
    "refs": _list(lambda number: f"a{number}@v1", 10),
    "digests": _list(lambda number: f"{number:064x}", 67),
    "same numbers": _list(lambda _: 0, 2),
    "other numbers": _list(lambda number: number, 6),
    "falling numbers": _list(lambda number: -number, 7),
    "lists": _list(lambda _: [], 3),
    "deep lists": _deep,
    "nulls": _list(lambda _: None, 5),
    "objects": _list(lambda number: {"name": f"m{number}", "number": number}, 30),
}


def _object(key: Callable[[int], str], value: Any, size: int) -> Make:
    return lambda size_bytes: {key(number): value for number in range(max(1, size_bytes // size))}


def _ends(size_bytes: int, value: Any) -> dict[str, Any]:
    """Keys of which each is the end of the next one."""
    depth = max(1, int(size_bytes**0.5))
    return {"a." * number + "q": value for number in range(depth)}


def _deep_object(size_bytes: int) -> Any:
    return Raw('{"a":' * (size_bytes // 6) + "1" + "}" * (size_bytes // 6))


#: For fields that hold objects with any keys.
OBJECTS: dict[str, Make] = {
    "keys of texts": _object(lambda number: f"m{number}", "a", 11),
    "keys of numbers": _object(lambda number: f"m{number}", 1, 9),
    "keys of shapes": _object(lambda number: f"m{number}.weight", [1, 1], 20),
    "shapes of layers": _object(lambda number: f"model.layers.{number}.self_attn.q_proj.weight", [1, 1], 48),
    "odd shapes": _object(lambda number: f"a{number}.b{number}.c{number}.weight", [1, 1], 32),
    "ends of numbers": lambda size_bytes: _ends(size_bytes, 1),
    "ends of shapes": lambda size_bytes: _ends(size_bytes, [1, 1]),
    "patterns": _object(lambda number: f"(?:a|b){{{number % 50}}}.*m{number}", 1, 24),
    "long key": lambda size_bytes: {"a" * size_bytes: 1},
    "dotted key": lambda size_bytes: {"a." * (size_bytes // 2) + "weight": [1, 1]},
    "wide keys": _object(lambda number: f"ß{number}", 1, 9),
    "deep objects": _deep_object,
    "lists in it": lambda size_bytes: {"a": [0] * (size_bytes // 2)},
    "text in it": lambda size_bytes: {"a": "a" * size_bytes},
}

#: For fields that hold a number.
NUMBERS: dict[str, Make] = {
    "digits": lambda size_bytes: 10 ** min(size_bytes, 4000),
    "below zero": lambda size_bytes: -(10 ** min(size_bytes, 4000)),
    "a text instead": lambda size_bytes: "9" * size_bytes,
}

#: What a field of each kind is filled with: its own values, and some that do not belong there.
BY_KIND: dict[str, dict[str, Make]] = {
    "text": TEXTS | {"a list instead": LISTS["same texts"]},
    "list": LISTS | {"a text instead": TEXTS["letters"], "an object instead": OBJECTS["keys of numbers"]},
    "object": OBJECTS | {"a list instead": LISTS["deep lists"]},
    "number": NUMBERS,
}
