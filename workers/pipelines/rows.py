"""Rows of a dataset file: JSONL, CSV or Parquet, told apart by their first bytes, bad ones named by line number."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from workers.pipelines.errors import PipelineError, Reason

Shape = Literal["prompt", "messages", "text"]

ROLES = frozenset({"system", "user", "assistant", "tool", "developer"})
#: Bad rows that an error names before it only counts the rest.
NAMED_ROWS = 5
_SHAPES = "{prompt, completion}, {messages} or {text}"


@dataclass(frozen=True)
class Row:
    """One row. `where` is "line 7" or "row 7", counted from 1; `fields` has the keys of its shape and no others."""

    where: str
    shape: Shape
    fields: dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """Return all rows of a file, which are of one shape.

    Raises PipelineError ("data") that names the first bad rows and what is wrong with each.
    """
    rows: list[Row] = []
    faults: list[str] = []
    for where, value in _values(path):
        try:
            row = _row(where, value)
            if rows and row.shape != rows[0].shape:
                raise ValueError(f"is a {row.shape} row among {rows[0].shape} rows")
            rows.append(row)
        except ValueError as error:
            faults.append(f"{where} {error}")
    if faults:
        more = f"; and {len(faults) - NAMED_ROWS} more" if len(faults) > NAMED_ROWS else ""
        raise PipelineError(
            Reason.DATA,
            f"{len(faults)} of {len(faults) + len(rows)} rows can't be used: {'; '.join(faults[:NAMED_ROWS])}{more};"
            " correct or remove them and submit again.",
        )
    if not rows:
        raise PipelineError(Reason.DATA, f"The dataset has no rows; give rows of {_SHAPES}.")
    return rows


def _values(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (where, value) of each row; a ValueError in place of a value that can't be parsed."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise PipelineError(Reason.DATA, f"The dataset can't be read ({error}); check its path.") from error
    if head[:4] == b"PAR1":
        yield from _parquet(path)
    elif head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"["):
        yield from _jsonl(path)
    else:
        yield from _csv(path)


def _jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield f"line {number}", json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                yield f"line {number}", ValueError(f"is no JSON object ({_first_line(error)})")


def _csv(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            last = reader.line_num
            for row in reader:
                # A quoted field may hold line feeds: a row is named by the line that it starts on.
                start, last = last + 1, reader.line_num
                where = f"line {max(start, 2)}"
                if None in row or None in row.values():
                    yield where, ValueError("has another number of fields than the header")
                else:
                    yield where, dict(row)
    except (csv.Error, UnicodeDecodeError) as error:
        raise PipelineError(
            Reason.DATA, f"The dataset is neither JSONL, CSV in UTF-8 nor Parquet ({_first_line(error)}); convert it."
        ) from error


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    # pyarrow comes with datasets.
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        file = parquet.ParquetFile(path)
        number = 0
        for batch in file.iter_batches(batch_size=1024):
            for value in batch.to_pylist():
                number += 1
                yield f"row {number}", value
    except (pyarrow.ArrowException, OSError) as error:
        raise PipelineError(
            Reason.DATA, f"The Parquet file can't be read ({_first_line(error)}); write it again."
        ) from error


def _row(where: str, value: Any) -> Row:
    """Check one row and give it its shape. Raises ValueError with what is wrong."""
    if isinstance(value, ValueError):
        raise value
    if not isinstance(value, dict):
        raise ValueError(f"is no object but a {type(value).__name__}")
    if "prompt" in value or "completion" in value:
        prompt, completion = value.get("prompt"), value.get("completion")
        if isinstance(prompt, list) and isinstance(completion, list):
            fields = {"prompt": _messages("prompt", prompt), "completion": _messages("completion", completion)}
            return Row(where, "prompt", fields)
        return Row(where, "prompt", {"prompt": _text("prompt", prompt), "completion": _text("completion", completion)})
    if "messages" in value:
        messages = value["messages"]
        if isinstance(messages, str):
            # CSV has no lists, so that one column holds the JSON of it.
            try:
                messages = json.loads(messages)
            except ValueError as error:
                raise ValueError("has `messages` that are no JSON list") from error
        return Row(where, "messages", {"messages": _messages("messages", messages)})
    if "text" in value and "label" in value:
        raise ValueError("has a `label`, and classification is not trained by this job")
    if "text" in value:
        return Row(where, "text", {"text": _text("text", value["text"])})
    raise ValueError(f"has none of the shapes {_SHAPES}")


def _text(name: str, value: Any) -> str:
    if value is None:
        raise ValueError(f"has no `{name}`")
    if not isinstance(value, str):
        raise ValueError(f"has a `{name}` that is no text but a {type(value).__name__}")
    if not value.strip():
        raise ValueError(f"has an empty `{name}`")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"has a `{name}` with half a surrogate pair") from error
    return value


def _messages(name: str, value: Any) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"has `{name}` that are no list of messages, or an empty one")
    messages = []
    for position, message in enumerate(value, start=1):
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise ValueError(f"has a message {position} in `{name}` without a role of {', '.join(sorted(ROLES))}")
        content = message.get("content")
        if not isinstance(content, str):
            raise ValueError(f"has a message {position} in `{name}` without a text as `content`")
        try:
            content.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"has a message {position} in `{name}` with half a surrogate pair") from error
        messages.append({"role": message["role"], "content": content})
    return messages


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
