"""Reading JSON that was stored, by this release or another one.

What clients send is checked strictly. A row was checked when it was written, so it is read leniently, in one of two
ways: code that acts on it uses `read_stored`, which refuses what this release does not understand, and code that shows
it uses `salvage`, which shows what can be read.

>>> from sdk.schemas.events import Progress
>>> salvage(Progress, {"phase": "train", "step": "many", "of_tomorrow": 1})
(Progress(phase='train', step=None, total=None, unit='steps', loss=None, lr=None, tokens_per_s=None, memory_bytes=None, eta_s=None, message=None), ['step'])
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from sqlalchemy import inspect

from registry.db.types import Model
from registry.errors import Unreadable
from sdk.schemas.codes import explain_validation
from sdk.schemas.wire import read

M = TypeVar("M", bound=BaseModel)

#: How many parts of one record may be left out before it is given up.
_MOST_FAULTS = 32

_log = logging.getLogger(__name__)


def read_stored(kind: type[M], value: Any, *, of: str) -> M:
    """Return a stored record in order to act on it; `of` says what it belongs to. Raises Unreadable."""
    try:
        return read(kind, value)
    except ValidationError as error:
        why, _ = explain_validation(list(error.errors()))
        raise Unreadable(
            f"what is stored of {of} can't be read by this release ({why[:300]}); upgrade the registry, or create it again"
        ) from error


def salvage(kind: type[M], value: Any) -> tuple[M | None, list[str]]:
    """Return what can be read of a stored record, in order to show it, and the paths of what was left out.

    The record is None if nothing is left of it that could be shown.
    """
    left_out: list[str] = []
    try:
        return read(kind, value, open_ended=True), left_out
    except ValidationError as error:
        faults = error
    # Only a copy of what was read from a row is taken apart, never the row's own value.
    rest = copy.copy(value)
    for _ in range(_MOST_FAULTS):
        for fault in faults.errors(include_url=False, include_context=False, include_input=False):
            rest, path = _without(rest, fault["loc"])
            if path and path not in left_out:
                left_out.append(path)
        try:
            return read(kind, rest, open_ended=True), left_out
        except ValidationError as error:
            if [fault["loc"] for fault in error.errors()] == [fault["loc"] for fault in faults.errors()]:
                break
            faults = error
    _log.warning("a stored %s can't be read by this release and is not shown", kind.__name__)
    return None, left_out


def readable(kind: type[M], value: Any) -> M | None:
    """Return what can be read of a stored record, in order to show it, or None."""
    return salvage(kind, value)[0]


def table(value: Any) -> dict[str, Any]:
    """Return a stored object to show, or an empty one if it isn't an object."""
    return value if isinstance(value, dict) else {}


def _without(value: Any, path: Sequence[int | str]) -> tuple[Any, str]:
    """Return a value without what is at a path, or at the longest part of it that exists, and the path of what was
    removed.
    """
    key = path[0] if path else None
    if isinstance(value, dict) and key in value:
        inner, below = _without(value[key], path[1:]) if isinstance(value[key], dict) else (None, "")
        rest = {**value, key: inner} if below else {other: each for other, each in value.items() if other != key}
        return rest, f"{key}.{below}" if below else str(key)
    return value, ""


def fields_of(kind: type[BaseModel], row: Model, **others: Any) -> dict[str, Any]:
    """Return what a view of this kind shows of a row: its columns that have the names of fields, unless they are
    deferred, and `others`, which take precedence.
    """
    return {name: getattr(row, name) for name in _shared(kind, type(row))} | others


def view_of(kind: type[M], row: Model, **others: Any) -> M:
    """Return the view that `fields_of` describes."""
    return kind(**fields_of(kind, row, **others))


@cache
def _shared(kind: type[BaseModel], model: type[Model]) -> tuple[str, ...]:
    columns = inspect(model).column_attrs
    return tuple(each.key for each in columns if each.key in kind.model_fields and not each.deferred)
