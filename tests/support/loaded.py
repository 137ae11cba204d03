"""Which rows are loaded from a database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event


@contextmanager
def loaded(model: type[Any]) -> Iterator[list[Any]]:
    """The rows of a table that are loaded from the database during the block."""
    seen: list[Any] = []

    def note(row: Any, _context: Any) -> None:
        seen.append(row)

    event.listen(model, "load", note)
    try:
        yield seen
    finally:
        event.remove(model, "load", note)
