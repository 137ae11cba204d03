"""Rows of a dataset file: JSONL, one JSON list, CSV or Parquet, recognised by their first bytes; bad rows are named by line.

Client and job read rows by the same rules, so the job can use everything that the client accepts.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from json import JSONDecodeError
from pathlib import Path
from typing import Any, Literal

from sdk.formats.columns import KEYS, advice, named, picked
from sdk.formats.foreign_rows import (
    ALPACA,
    CHOICES,
    REFERENCES,
    SHAREGPT,
    alpaca,
    choices,
    foreign,
    references,
    sharegpt,
)
from sdk.formats.labels import label_name
from sdk.formats.messages import check_messages, check_tools, parse_json
from sdk.formats.row_bounds import LONG_ROW, EmptyField, bounded_lines, kind_of, within
from sdk.formats.row_files import csv_rows, json_list

Format = Literal["jsonl", "json", "csv", "parquet"]
Shape = Literal[
    "prompt", "messages", "text", "text-label", "preference", "unpaired-preference", "choices", "references"
]

PREFERENCE = ("prompt", "chosen", "rejected")
UNPAIRED = ("prompt", "completion", "label")
_TRUTHS = {"true": True, "false": False}
#: Bad rows that an error names before it only counts the rest.
NAMED_ROWS = 5
_TEXT_KEYS = ("prompt", "completion", "chosen", "rejected", "text", "messages", "label")
_JSONL_SUFFIXES = (".jsonl", ".ndjson")
_BY_FIRST: dict[bytes, Format] = {b"{": "jsonl", b"[": "json"}
#: The shapes of rows, for errors.
SHAPES = (
    "{prompt, completion}, {messages}, {text}, {text, label}, {prompt, chosen, rejected}, {prompt, completion, label}, "
    "{prompt, choices, answer}, {prompt, references}, {instruction, input, output} or {conversations}"
)


class RowsError(ValueError):
    """A dataset that can't be used; the message names the rows and ends with what to do."""


@dataclass(frozen=True)
class Row:
    """One row. `where` is "line 7" or "row 7", counted from 1; `fields` has the keys of its shape and no others."""

    where: str
    shape: Shape
    fields: dict[str, Any]
    #: Its value in the column of groups, if one was named.
    group: str | None = None

    @property
    def label(self) -> str | None:
        """The name of its label; None for a shape without labels."""
        label = self.fields["label"] if self.shape in ("text-label", "unpaired-preference") else None
        return str(label).lower() if isinstance(label, bool) else label


@dataclass(frozen=True)
class BadRow:
    """A row that can't be used, and why: `fault` is the rest of a sentence that begins with `where`."""

    where: str
    fault: str
    #: Whether a key that it needs is missing or empty.
    empty: bool


def judge_rows(
    values: Iterable[tuple[str, Any]],
    *,
    columns: Mapping[str, str] | None = None,
    known_labels: Collection[str] | None = None,
    group_by: str | None = None,
) -> Iterator[Row | BadRow]:
    """Yield a row, or what is wrong with it, for each of (where, value) pairs; a ValueError stands for a value that can't
    be parsed.

    Good rows all have one shape. With `columns`, a column for each key, only these columns of a value are used. With
    `known_labels`, each label must be one of them. With `group_by`, each row must have a value in that column, which
    need not be a key of a row.
    """
    shape: Shape | None = None
    for where, value in values:
        try:
            row = _grouped(where, value, columns, group_by)
            shape = shape or row.shape
            if row.shape != shape:
                raise ValueError(f"is a {row.shape} row among {shape} rows")
            if known_labels is not None and shape == "text-label" and row.fields["label"] not in known_labels:
                raise ValueError(f"has the label {row.fields['label']!r}, which no training row has")
        except ValueError as error:
            yield BadRow(where, str(error), isinstance(error, EmptyField))
            continue
        yield row


def check_rows(
    values: Iterable[tuple[str, Any]],
    *,
    columns: Mapping[str, str] | None = None,
    known_labels: Collection[str] | None = None,
    group_by: str | None = None,
) -> Iterator[Row]:
    """Yield the rows that `judge_rows` finds good.

    Raises RowsError at the end, naming the first bad rows and what is wrong with each.
    """
    good, bad = 0, 0
    faults: list[tuple[str, str]] = []
    for row in judge_rows(values, columns=columns, known_labels=known_labels, group_by=group_by):
        if isinstance(row, BadRow):
            bad += 1
            if bad <= NAMED_ROWS:
                faults.append((row.where, row.fault))
            continue
        good += 1
        yield row
    if bad:
        raise RowsError(
            f"{bad} of {bad + good} rows can't be used: {name_faults(faults, bad)}; correct or remove them, then try again"
        )
    if not good:
        raise RowsError(f"the dataset has no rows; give rows of {SHAPES}")


def name_faults(faults: Iterable[tuple[str, str]], bad: int) -> str:
    """Name the first bad rows, given as (where, fault), out of this many in total, and each fault once.

    >>> name_faults([("line 1", "has no `b`"), ("line 2", "has no `a`"), ("line 3", "has no `b`")], 7)
    'line 1 has no `b` (line 3 likewise); line 2 has no `a`; and 4 more'
    """
    named = list(faults)[:NAMED_ROWS]
    rows: dict[str, list[str]] = {}
    for where, fault in named:
        rows.setdefault(fault, []).append(where)
    said = [
        f"{first} {fault}" + (f" ({', '.join(others)} likewise)" if others else "")
        for fault, (first, *others) in rows.items()
    ]
    return "; ".join([*said, *([f"and {bad - len(named)} more"] if bad > len(named) else [])])


def detect_format(path: Path) -> Format:
    """Tell a file's format from its first bytes, or from the name `.jsonl`. Raises RowsError if it can't be read.

    A file with that name but another content is refused at its first line, so from then on the bytes alone decide.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise RowsError(f"the dataset can't be read ({error.strerror}); check its path") from error
    if (said := foreign(head)) is not None:
        raise RowsError(f"the dataset {said}")
    if head[:4] == b"PAR1":
        return "parquet"
    if path.suffix.lower() in _JSONL_SUFFIXES:
        return "jsonl"
    return _BY_FIRST.get(head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1], "csv")


def text_values(path: Path, columns: Mapping[str, str] | None = None) -> Iterator[tuple[str, Any]]:
    """Yield (where, value) of each row of a JSONL, JSON or CSV file, for `check_rows`."""
    match detect_format(path):
        case "jsonl":
            return _jsonl(path)
        case "json":
            return _json(path)
        case _:
            named_as = columns or {key: key for key in _TEXT_KEYS}
            return _with_truths(_csv(path, tuple(named_as.values())), [named_as.get(key, "") for key in UNPAIRED])


def _json(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        for number, value in enumerate(json_list(path), start=1):
            yield f"row {number}", value
    except ValueError as error:
        raise RowsError(f"the dataset is not a JSON list of rows ({first_line(error)}); correct it") from error


def _jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(bounded_lines(file), start=1):
            if line is None:
                yield f"line {number}", ValueError(LONG_ROW)
            elif line.strip():
                yield f"line {number}", _value(line)


def _value(line: bytes) -> Any:
    """Return the value of a line; a ValueError stands for one that can't be used."""
    try:
        value = parse_json(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return ValueError(f"is not a JSON object ({_why(line, error)})")
    try:
        return within(value, size_bytes=len(line))
    except ValueError as error:
        return error


def _why(line: bytes, error: Exception) -> str:
    """Say what is wrong with a line; if it only begins a value, the file has values over several lines."""
    if line.strip() in (b"{", b"["):
        return f"only its beginning, {line.strip().decode()}: write each row in one line, or all in one list as a .json file"
    if isinstance(error, JSONDecodeError):
        return f"{error.msg} at character {error.pos + 1}"
    return f"byte {error.start + 1} is not UTF-8" if isinstance(error, UnicodeDecodeError) else first_line(error)


def _csv(path: Path, text_keys: Collection[str]) -> Iterator[tuple[str, Any]]:
    try:
        for line, value in csv_rows(path, text_keys):
            yield f"line {line}", value
    except (csv.Error, UnicodeDecodeError) as error:
        why = "some bytes are not UTF-8" if isinstance(error, UnicodeDecodeError) else first_line(error)
        raise RowsError(f"the dataset is neither JSONL, CSV in UTF-8 nor Parquet ({why}); convert it") from error
    except ValueError as error:
        raise RowsError(str(error)) from error


def _with_truths(values: Iterable[tuple[str, Any]], columns: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield rows of a CSV file, which has only texts, with the label of an answer as a truth value."""
    label = columns[-1]
    for where, value in values:
        if isinstance(value, dict) and value.keys() >= set(columns):
            value = {**value, label: _TRUTHS.get(value[label], value[label])}
        yield where, value


def _grouped(where: str, value: Any, columns: Mapping[str, str] | None, group_by: str | None) -> Row:
    """Return a row with its group, if there are groups. Raises ValueError with what is wrong."""
    if group_by is None or not isinstance(value, dict):
        return _row(where, value, columns)
    group = group_of(value, group_by)
    if columns is None and group_by not in KEYS:
        value = {key: content for key, content in value.items() if key != group_by}
    return replace(_row(where, value, columns), group=group)


def group_of(value: Mapping[str, Any], column: str) -> str:
    """Return the group of a row by a column. Raises ValueError, with the rest of a sentence, for a row without one.

    >>> group_of({"repo": 7}, "repo"), group_of({"merged": True}, "merged")
    ('7', 'true')
    """
    group = value.get(column)
    if group is None or group == "":
        raise ValueError(f"has nothing in the column `{column[:80]}` that rows are grouped by, but {named(value)}")
    if not isinstance(group, (str, int)):
        raise ValueError(
            f"has a `{column[:80]}` that rows are grouped by, and that is neither a text, a whole number, nor true or false"
        )
    return str(group).lower() if isinstance(group, bool) else str(group)


def _row(where: str, value: Any, columns: Mapping[str, str] | None = None) -> Row:
    """Check one row and give it its shape. Raises ValueError with what is wrong."""
    if isinstance(value, ValueError):
        raise value
    if not isinstance(value, dict):
        raise ValueError(f"is not an object but {kind_of(value)}")
    if columns is not None:
        value = picked(value, columns)
    if "label" in value and value["label"] is None:
        # Without this, the text would be learnt as by a language model.
        raise ValueError("has a `label` that is null; give each row one, or remove the column")
    given = {key: content for key, content in value.items() if content is not None}
    if "chosen" in given or "rejected" in given:
        return _preference(where, given)
    if "choices" in given:
        _only(given, *CHOICES)
        return Row(where, "choices", choices(given, _text))
    if "references" in given:
        _only(given, *REFERENCES)
        return Row(where, "references", references(given, _text))
    if "prompt" in given or "completion" in given:
        return _pair(where, given)
    if "messages" in given:
        tools = {"tools": check_tools(given["tools"])} if "tools" in given else {}
        _only(given, "messages", "tools")
        return Row(where, "messages", {"messages": check_messages("messages", given["messages"]), **tools})
    if "instruction" in given or "output" in given:
        _only(given, *ALPACA)
        return Row(where, "prompt", alpaca(given))
    if "conversations" in given:
        _only(given, *SHAREGPT)
        return Row(where, "messages", sharegpt(given))
    if "label" in given:
        _only(given, "text", "label")
        return Row(where, "text-label", {"text": _text("text", given.get("text")), "label": label_name(given["label"])})
    if "text" in given:
        _only(given, "text")
        return Row(where, "text", {"text": _text("text", given["text"])})
    fault = ValueError if given else EmptyField
    raise fault(f"has none of the shapes {SHAPES}, but {named(given)}; {advice(given)}")


def _pair(where: str, given: dict[str, Any]) -> Row:
    prompt, completion = given.get("prompt"), given.get("completion")
    if given.keys() >= set(UNPAIRED):
        return _unpaired(where, given)
    further = [key for key in given if key not in ("prompt", "completion", "tools")]
    if further:
        for key in ("prompt", "completion"):
            if key not in given:
                raise ValueError(
                    f"has no `{key}`, but {named(given)}; say which it is, as with {_mapped(given, key, further)}"
                )
    if not isinstance(prompt, list) or not isinstance(completion, list):
        fields = {"prompt": _text("prompt", prompt), "completion": _text("completion", completion)}
        _only(given, "prompt", "completion")
        return Row(where, "prompt", fields)
    tools = {"tools": check_tools(given["tools"])} if "tools" in given else {}
    _only(given, "prompt", "completion", "tools")
    answers = _answers("completion", completion)
    return Row(
        where, "prompt", {"prompt": check_messages("prompt", prompt, weights=False), "completion": answers, **tools}
    )


def _unpaired(where: str, given: dict[str, Any]) -> Row:
    """Return a prompt with an answer that is desirable or not. Raises ValueError with what is wrong."""
    _only(given, *UNPAIRED, "tools")
    label = given.pop("label")
    if not isinstance(label, bool):
        raise ValueError(
            f"has a `label` that is neither true nor false but {kind_of(label)}, next to `prompt` and `completion`; say with true or "
            "false whether the completion is desirable, or leave it out with --columns prompt=prompt,completion=completion"
        )
    row = _pair(where, given)
    if isinstance(row.fields["completion"], list) and any("weight" in message for message in row.fields["completion"]):
        raise ValueError("has a `weight` in an answer, of which a preference is learnt whole; leave it out")
    return Row(where, "unpaired-preference", {**row.fields, "label": label})


def _answers(key: str, value: Any) -> list[dict[str, Any]]:
    answers = check_messages(key, value)
    if answers[0]["role"] != "assistant":
        raise ValueError(f"has a `{key}` that does not begin with an assistant message")
    return answers


def _preference(where: str, given: dict[str, Any]) -> Row:
    """Return a prompt with the preferred answer and the other one. Raises ValueError with what is wrong."""
    if missing := next((key for key in PREFERENCE if key not in given), None):
        further = next((key for key in given if key not in (*PREFERENCE, "tools")), "COLUMN")
        columns = ",".join(f"{key}={further[:80] if key == missing else key}" for key in PREFERENCE)
        raise ValueError(f"has no `{missing}`, but {named(given)}; say which it is, as with --columns {columns}")
    texts = [key for key in PREFERENCE if isinstance(given[key], str)]
    lists = [key for key in PREFERENCE if isinstance(given[key], list)]
    if texts and lists:
        raise ValueError(
            f"has a `{texts[0]}` that is a text and a `{lists[0]}` that is a list of messages; write `prompt`, `chosen` and `rejected` "
            "in the same form"
        )
    fields: dict[str, Any]
    if lists:
        _only(given, *PREFERENCE, "tools")
        fields = {"prompt": check_messages("prompt", given["prompt"], weights=False)}
        fields |= {key: _answers(key, given[key]) for key in ("chosen", "rejected")}
        fields |= {"tools": check_tools(given["tools"])} if "tools" in given else {}
        if any("weight" in message for key in ("chosen", "rejected") for message in fields[key]):
            raise ValueError("has a `weight` in an answer, of which a preference is learnt whole; leave it out")
    else:
        _only(given, *PREFERENCE)
        fields = {key: _text(key, given[key]) for key in PREFERENCE}
    if fields["chosen"] == fields["rejected"]:
        raise ValueError("has a `chosen` equal to its `rejected`, so nothing is preferred; remove the row")
    return Row(where, "preference", fields)


def _only(given: dict[str, Any], *known: str) -> None:
    """Refuse other keys, which wouldn't be used. Raises ValueError."""
    further = [key for key in given if key not in known]
    if further:
        names = ", ".join(f"`{str(key)[:80]}`" for key in further[:NAMED_ROWS])
        kept = ",".join(f"{key}={key}" for key in known if key in given)
        raise ValueError(
            f"has keys besides {' and '.join(f'`{key}`' for key in known)} that would be lost: {names}; leave them out with "
            f"--columns {kept}"
        )


def _mapped(given: dict[str, Any], missing: str, further: list[str]) -> str:
    there = "prompt" if missing == "completion" else "completion"
    columns = {there: there if there in given else "COLUMN", missing: further[0][:80]}
    return "--columns " + ",".join(f"{key}={columns[key]}" for key in ("prompt", "completion"))


def _text(name: str, value: Any) -> str:
    if value is None:
        raise EmptyField(f"has no `{name}`")
    if name == "completion" and isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        raise ValueError("has a `completion` that is a list of texts; several right answers are called `references`")
    if not isinstance(value, str):
        raise ValueError(f"has a `{name}` that is not text but {kind_of(value)}")
    if not value.strip():
        raise EmptyField(f"has an empty `{name}`")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"has a `{name}` with half a surrogate pair") from error
    return value


def first_line(error: BaseException) -> str:
    """The first line of an error, cut to fit into a sentence."""
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
