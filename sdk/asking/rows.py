"""Prompts from a file of rows: what comes before each row's answer.

>>> prompt_of_row({"prompt": "1 + 1 ="}).text
'1 + 1 ='
>>> row = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}
>>> prompt_of_row(row).messages
[{'role': 'user', 'content': 'hi'}]
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sdk.asking.prompts import Prompt
from sdk.errors import InvalidData, InvalidInput, NotFound, Unavailable
from sdk.formats.columns import named
from sdk.formats.foreign_rows import alpaca, sharegpt
from sdk.formats.messages import check_messages, check_tools
from sdk.formats.row_bounds import kind_of
from sdk.formats.rows import NAMED_ROWS, RowsError, name_faults
from sdk.rows.data_files import file_values

_KEYS = ("prompt", "messages", "text", "conversations")


class RowPrompt(NamedTuple):
    """The prompt of a row, and how messages refer to the row: "line 7"."""

    where: str
    prompt: Prompt


def prompts_of_file(path: Path) -> list[RowPrompt]:
    """Return the prompt of each row of a file of JSON lines, JSON, CSV or Parquet.

    Raises NotFound, InvalidInput for a folder, InvalidData, which names the first bad rows, Unavailable for Parquet without pyarrow.
    """
    if path.is_dir():
        raise InvalidInput(f"{path} is a folder; give a file of JSON lines, JSON, CSV or Parquet", param="data")
    if not path.is_file():
        raise NotFound(f"there is no file {path}; check the path of the rows", param="data")
    try:
        return list(_checked(file_values(path)))
    except RowsError as error:
        raise InvalidData(str(error), param="data") from error
    except ImportError as error:
        raise Unavailable(
            "reading Parquet needs pyarrow, which this Python lacks; run: pip install 'adapterctl[worker]'"
        ) from error


def _checked(values: Iterator[tuple[str, Any]]) -> Iterator[RowPrompt]:
    rows, bad, faults = 0, 0, list[tuple[str, str]]()
    for where, value in values:
        rows += 1
        try:
            if isinstance(value, ValueError):
                raise value
            prompt = prompt_of_row(value)
        except ValueError as error:
            bad += 1
            if bad <= NAMED_ROWS:
                faults.append((where, str(error)))
            continue
        yield RowPrompt(where, prompt)
    if bad:
        raise RowsError(
            f"{bad} of {rows} rows can't be asked: {name_faults(faults, bad)}; correct or remove them, then try again"
        )
    if not rows:
        raise RowsError("the file has no rows; give it some")


def prompt_of_row(value: Any) -> Prompt:
    """Return what a row asks: its prompt, its messages before the last answer, or its text; other keys are passed over.

    Raises ValueError, with the rest of a sentence about the row.
    """
    if not isinstance(value, dict):
        raise ValueError(f"is not an object but {kind_of(value)}")
    given = {key: content for key, content in value.items() if content is not None}
    tools = check_tools(given["tools"]) if "tools" in given else None
    if "instruction" in given:
        return Prompt(None, alpaca({"output": "-", **given})["prompt"])
    key = next((key for key in _KEYS if key in given), None)
    if key is None:
        raise ValueError(f"has none of {', '.join(_KEYS)}, but {named(given)}")
    if isinstance(given[key], str) and key in ("prompt", "text"):
        if not given[key].strip():
            raise ValueError(f"has an empty `{key}`")
        return Prompt(given[key])
    messages = sharegpt(given)["messages"] if key == "conversations" else check_messages(key, given[key])
    while messages and messages[-1]["role"] == "assistant":
        messages.pop()
    if not messages:
        raise ValueError(f"has nothing in `{key}` before its answer")
    return Prompt(None, messages, tools)
