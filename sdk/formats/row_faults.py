"""Faults of a row that are distinguished from others."""

from __future__ import annotations


class EmptyField(ValueError):  # noqa: N818 - a fault of a row, as the other ValueErrors of rows are
    """A row has nothing under a key that it needs; the message is the rest of a sentence about the row."""


_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a decimal number",
    str: "a text",
    list: "a list",
    dict: "an object",
}


def kind_of(value: object) -> str:
    """Return what a value of a row is, in words.

    >>> kind_of(7), kind_of(None)
    ('a whole number', 'null')
    """
    return "null" if value is None else _KINDS.get(type(value), "something else")
