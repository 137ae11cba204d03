"""What a worker hands in, checked against what its job asked for.

Values in the request are recorded as requested, and a worker that reports different ones is refused. What the request
left open, and what only the worker can know, is taken from the worker and marked as reported.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from registry.errors import Verification


class Difference(NamedTuple):
    """One thing that is not as asked for."""

    #: The field, as the job's request or the record names it.
    field: str
    asked: Any
    handed_in: Any


def require_none(differences: Iterable[Difference]) -> None:
    """Raise Verification if a result is not what was asked for; the first difference is named."""
    found = next(iter(differences), None)
    if found is not None:
        raise Verification(
            f"the result is not what the job asked for: {found.field} is {_shown(found.handed_in)}, not "
            f"{_shown(found.asked)}; run the job as it was submitted, with a worker of this release",
            param=found.field,
        )


def _shown(value: Any) -> str:
    shown = ascii(value) if not isinstance(value, str) else ascii(value)[1:-1]
    return shown if len(shown) <= 80 else f"{shown[:79]}…"
