"""What a filter may ask for: each field, its operators, and how its values are read and written; and the tree of a filter,
plain data with one canonical text.

>>> FIELDS["rank"].read("8"), FIELDS["created"].read("2026-03-01")
(8, datetime.date(2026, 3, 1))
>>> write_value("team/code-review"), write_value("held out")
('team/code-review', '"held out"')
>>> rank = FieldComparison(Field("rank"), ">=", (8,))
>>> str(And((rank, Not(FieldComparison(Field("tag", "language"), "=", ("python 3",))))))
'rank >= 8 and not tag[language] = "python 3"'
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from registry.catalog.versions.lifecycle import VersionState
from sdk.formats.refs import digest_digits

#: What a field is compared with. A date is a whole day, in UTC.
Value = str | int | float | date | datetime

#: Words of the grammar, in any case; as values they need quotes.
KEYWORDS = frozenset({"and", "or", "not", "in"})

#: Equal to one value, or to one of several.
EXACT = ("=", "!=", "in")
#: Also matching a pattern in which `*` is any text.
TEXT = ("=", "!=", "~", "in")
#: Also less or greater, before or after.
ORDERED = ("=", "!=", "<", "<=", ">", ">=", "in")

_BARE = re.compile(r"[A-Za-z0-9._/:@+-]+")
_BARE_PATTERN = re.compile(r"[A-Za-z0-9._/:@+*-]+")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MOMENT = re.compile(
    rf"{_DAY.pattern}T[0-9]{{2}}:[0-9]{{2}}(:[0-9]{{2}}(\.[0-9]{{1,6}})?)?(Z|[+-][0-9]{{2}}:[0-9]{{2}})?"
)
#: What fits into the database's integers.
_LARGEST = 2**31 - 1


@dataclass(frozen=True)
class FieldRule:
    """A field: how it is written, which operators it takes, what its values are."""

    #: How the documentation writes it: "rank", "tag[KEY]".
    shown: str
    operators: tuple[str, ...]
    #: What a value is, in words.
    takes: str
    #: An example of a correct comparison.
    example: str
    #: Return the value that a text means; raise ValueError if it doesn't mean one.
    read: Callable[[str], Value]


def _text(text: str) -> Value:
    return text


def _whole(text: str) -> Value:
    if not re.fullmatch("[0-9]{1,10}", text) or int(text) > _LARGEST:
        raise ValueError(text)
    return int(text)


def _number(text: str) -> Value:
    if not _NUMBER.fullmatch(text) or not math.isfinite(value := float(text)):
        raise ValueError(text)
    return value


def _moment(text: str) -> Value:
    try:
        if _DAY.fullmatch(text):
            day = date.fromisoformat(text)
            day_bounds(day)
            return day
        if not _MOMENT.fullmatch(text):
            raise ValueError(text)
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        # A day before the first or after the last of the calendar.
        raise ValueError(text) from None


def _digest(text: str) -> Value:
    digits = digest_digits(text)
    if digits is None:
        raise ValueError(text)
    return digits


def _one_of(*choices: str) -> Callable[[str], Value]:
    def read(text: str) -> Value:
        if text not in choices:
            raise ValueError(text)
        return text

    return read


def day_bounds(day: date) -> tuple[datetime, datetime]:
    """Return the first moment of a day and that of the next, in UTC. Raises OverflowError for the calendar's last."""
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return start, start + timedelta(days=1)


def write_value(value: Value, *, pattern: bool = False) -> str:
    """Return the canonical text of a value in a filter; a `pattern` may have `*` outside quotes."""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, int):
        return str(value)
    bare = _BARE_PATTERN if pattern else _BARE
    if bare.fullmatch(value) and value.lower() not in KEYWORDS:
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


_WHOLE = f"a whole number from 0 to {_LARGEST}"
_HEX_DIGITS = "12 to 64 lower-case hexadecimal digits"
_STATES = (VersionState.READY.value, VersionState.ARCHIVED.value, VersionState.QUARANTINED.value)
_METHODS = ("qlora", "lora", "unknown")
_KINDS = ("adapter", "merged", "base")

_RULES = (
    FieldRule("name", TEXT, "an adapter's whole name", "name ~ team/*", _text),
    FieldRule("namespace", TEXT, "a namespace, or - for none", "namespace = team", _text),
    FieldRule("base", TEXT, "a base's id", "base = SmolLM2-135M-Instruct", _text),
    FieldRule("base.fingerprint", EXACT, _HEX_DIGITS, "base.fingerprint = 3f1c0a9b2d4e", _digest),
    FieldRule("rank", ORDERED, _WHOLE, "rank >= 8", _whole),
    FieldRule("alpha", ORDERED, "a number", "alpha > 16", _number),
    FieldRule("number", ORDERED, _WHOLE, "number <= 3", _whole),
    FieldRule("method", EXACT, f"one of {', '.join(_METHODS)}", "method = qlora", _one_of(*_METHODS)),
    FieldRule("target", TEXT, "a target module's name", "target = q_proj", _text),
    FieldRule("state", EXACT, f"one of {', '.join(_STATES)}", "state in (ready, archived)", _one_of(*_STATES)),
    FieldRule("alias", TEXT, "an alias", "alias = production", _text),
    FieldRule("author", TEXT, "the name of who published it", "author = ci", _text),
    FieldRule(
        "created", ORDERED, "a day or moment such as 2026-03-01 or 2026-03-01T12:30Z", "created >= 2026-03-01", _moment
    ),
    FieldRule("digest", EXACT, _HEX_DIGITS, "digest = 3f1c0a9b2d4e", _digest),
    FieldRule("dataset", TEXT, "a dataset's name, or 12 digits of its digest", "dataset = train.jsonl", _text),
    FieldRule("kind", EXACT, f"one of {', '.join(_KINDS)}", "kind = adapter", _one_of(*_KINDS)),
    FieldRule("tag[KEY]", TEXT, "a tag's text", "tag[language] = python", _text),
    FieldRule("eval[DATASET].METRIC", ORDERED, "a number", "eval[heldout.jsonl].loss < 1.5", _number),
)
#: By the word that begins the field.
FIELDS = {rule.shown.partition("[")[0]: rule for rule in _RULES}


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
class FieldComparison:
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


Node = FieldComparison | Not | And | Or


def comparisons(tree: Node) -> Iterator[FieldComparison]:
    """Yield every comparison of a tree, from left to right."""
    if isinstance(tree, FieldComparison):
        yield tree
    else:
        for part in (tree.part,) if isinstance(tree, Not) else tree.parts:
            yield from comparisons(part)


def _in_brackets(part: Node, *kinds: type[Node]) -> str:
    return f"({part})" if isinstance(part, kinds) else str(part)


def _write_metric(metric: str) -> str:
    # After the dot even `and` is not a word of the grammar.
    return metric if metric.lower() in KEYWORDS else write_value(metric)
