"""The tree of a filter: plain data, and its one canonical text.

>>> rank = Comparison(Field("rank"), ">=", (8,))
>>> str(And((rank, Not(Comparison(Field("tag", "language"), "=", ("python 3",))))))
'rank >= 8 and not tag[language] = "python 3"'
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from registry.search.fields import FIELDS, KEYWORDS, FieldRule, Value, write_value


@dataclass(frozen=True)
class Field:
    """What is compared: a word, and for a tag its key, for an evaluation its dataset and metric."""

    word: str
    key: str = ""
    metric: str = ""

    @property
    def rule(self) -> FieldRule:
        """Which operators and values it takes."""
        return FIELDS[self.word]

    def __str__(self) -> str:
        key = f"[{write_value(self.key)}]" if self.key else ""
        metric = f".{_write_metric(self.metric)}" if self.metric else ""
        return f"{self.word}{key}{metric}"


@dataclass(frozen=True)
class Comparison:
    """A field compared with a value; with several by the operator `in`."""

    field: Field
    operator: str
    values: tuple[Value, ...]

    def __str__(self) -> str:
        written = ", ".join(write_value(value, pattern=self.operator == "~") for value in self.values)
        return f"{self.field} {self.operator} {f'({written})' if self.operator == 'in' else written}"


@dataclass(frozen=True)
class Not:
    """True if its part is false."""

    part: Node

    def __str__(self) -> str:
        return f"not {_in_brackets(self.part, And, Or)}"


@dataclass(frozen=True)
class And:
    """True if all of its parts are. Without parts it is the empty filter, which is true for everything."""

    parts: tuple[Node, ...]

    def __str__(self) -> str:
        return " and ".join(_in_brackets(part, Or) for part in self.parts)


@dataclass(frozen=True)
class Or:
    """True if one of its parts is."""

    parts: tuple[Node, ...]

    def __str__(self) -> str:
        return " or ".join(str(part) for part in self.parts)


Node = Comparison | Not | And | Or


def comparisons(tree: Node) -> Iterator[Comparison]:
    """Yield every comparison of a tree, from left to right."""
    if isinstance(tree, Comparison):
        yield tree
    else:
        for part in (tree.part,) if isinstance(tree, Not) else tree.parts:
            yield from comparisons(part)


def _in_brackets(part: Node, *kinds: type[Node]) -> str:
    return f"({part})" if isinstance(part, kinds) else str(part)


def _write_metric(metric: str) -> str:
    # After the dot even `and` is not a word of the grammar.
    return metric if metric.lower() in KEYWORDS else write_value(metric)
