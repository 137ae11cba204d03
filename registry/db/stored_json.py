"""Reading JSON that was stored, by this release, an earlier one or a later one.

What clients send is checked strictly. A row was checked by whoever wrote it, so it is read leniently, in one of two ways:
`read_stored` for whoever acts by it, which refuses what this release does not understand, and `salvage` for whoever shows it,
which shows what can be read.

>>> from sdk.schemas.events import Progress
>>> salvage(Progress, {"phase": "train", "step": "many", "of_tomorrow": 1})
(Progress(phase='train', step=None, total=None, unit='steps', loss=None, lr=None, tokens_per_s=None, memory_bytes=None, eta_s=None, message=None), ['step'])
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from registry.errors import Unreadable
from sdk.schemas.codes import explain_validation
from sdk.schemas.wire import read

M = TypeVar("M", bound=BaseModel)

#: Parts of one record that are left out before it is given up.
_MOST_FAULTS = 32

_log = logging.getLogger(__name__)


def read_stored(kind: type[M], value: Any, *, of: str) -> M:
    """Return a stored record, to act by it; `of` says what it belongs to. Raises Unreadable."""
    try:
        return read(kind, value)
    except ValidationError as error:
        why, _ = explain_validation(list(error.errors()))
        raise Unreadable(
            f"what is stored of {of} can't be read by this release ({why[:300]}); upgrade the registry, or create it again"
        ) from error


def salvage(kind: type[M], value: Any) -> tuple[M | None, list[str]]:
    """Return what can be read of a stored record, to show it, and the paths of what was left out.

    The record is None where nothing is left of it that could be shown.
    """
    left_out: list[str] = []
    try:
        return read(kind, value, open_ended=True), left_out
    except ValidationError as error:
        faults = error
    # Only what was read from a row is taken apart, never the row's own value.
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
    """Return what can be read of a stored record, to show it, or None."""
    return salvage(kind, value)[0]


def table(value: Any) -> dict[str, Any]:
    """Return a stored object to show, or an empty one for what is none."""
    return value if isinstance(value, dict) else {}


def _without(value: Any, path: Sequence[int | str]) -> tuple[Any, str]:
    """Return a value without what lies at a path, or as near to it as there is something, and the path of that."""
    key = path[0] if path else None
    if isinstance(value, dict) and key in value:
        inner, below = _without(value[key], path[1:]) if isinstance(value[key], dict) else (None, "")
        rest = {**value, key: inner} if below else {other: each for other, each in value.items() if other != key}
        return rest, f"{key}.{below}" if below else str(key)
    return value, ""
