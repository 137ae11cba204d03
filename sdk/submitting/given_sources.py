"""The datasets that a training is given, and the checks over all of them together."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sdk.errors import InvalidInput
from sdk.pulling.transfer import hash_file
from sdk.schemas.job_requests import MOST_SOURCES
from sdk.submitting.given_data import GivenData, RegisteredData

#: A file, a digest or a name; several of them; or each with its weight.
TrainingData = str | Path | Iterable[str | Path] | Mapping[str | Path, float] | Mapping[str, float]


class Source(NamedTuple):
    """One of the datasets, as it is given."""

    given: str | Path
    #: Its share of the rows, relative to the shares of the others; None: each of its rows comes once.
    weight: float | None = None


def sources_of(data: TrainingData) -> list[Source]:
    """Return the datasets that are given. Raises InvalidInput for none, too many, one twice, and for weights that are
    not numbers above 0.

    >>> sources_of({"a.jsonl": 3, "reviews@v2": 1})
    [Source(given='a.jsonl', weight=3.0), Source(given='reviews@v2', weight=1.0)]
    """
    if isinstance(data, (str, Path)) or not isinstance(data, Iterable):
        return [Source(data)]
    pairs: list[tuple[Any, Any]]
    pairs = list(data.items()) if isinstance(data, Mapping) else [(one, None) for one in data]
    if not 0 < len(pairs) <= MOST_SOURCES:
        raise InvalidInput(
            f"a training has 1 to {MOST_SOURCES} datasets, not {len(pairs)}; give that many", param="data"
        )
    by_path: dict[str, Any] = {}
    for one, _ in pairs:
        # The same path or the same name, however it is written.
        if (path := os.path.normpath(str(one))) in by_path:
            raise _the_same(by_path[path], one)
        by_path[path] = one
    if len(pairs) == 1 and pairs[0][1] is not None:
        raise InvalidInput(
            "a weight is relative to those of other datasets, and there is only one dataset; leave it out", param="data"
        )
    return [Source(one, None if weight is None else _weight(weight, one)) for one, weight in pairs]


def check_different(rows: Sequence[GivenData], given: Sequence[Source]) -> None:
    """Raise InvalidInput if two datasets have the same bytes. Files are read for this if there are several datasets."""
    if len(rows) == 1:
        return
    by_digest: dict[str, Source] = {}
    for one, source in zip(rows, given, strict=True):
        digest = one.view.digest if isinstance(one, RegisteredData) else hash_file(one.path)[0]
        if (other := by_digest.setdefault(digest, source)) is not source:
            raise _the_same(other.given, source.given)


def _the_same(one: Any, other: Any) -> InvalidInput:
    return InvalidInput(
        f"{str(one)[:200]} and {str(other)[:200]} are the same rows; give them once, with a weight where they are to come more often",
        param="data",
    )


def _weight(weight: Any, one: Any) -> float:
    number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    if number and math.isfinite(weight) and 0 < weight <= 1e6:
        return float(weight)
    raise InvalidInput(
        f"the weight of {str(one)[:80]} is {str(weight)[:40]!a}; give a number above 0, up to 1000000, such as 0.5",
        param="data",
    )


def check_alike(rows: Iterable[GivenData]) -> None:
    """Raise InvalidInput for datasets that can't be trained on together, because their shapes or columns differ."""
    first, *others = rows
    for other in others:
        if other.columns != first.columns:
            raise InvalidInput(
                f"the columns of {other.label} are {other.columns}, and those of {first.label} {first.columns}; name those to use "
                "with --columns, or give datasets with the same columns",
                param="columns",
            )
        if None not in (first.shape, other.shape) and other.shape != first.shape:
            raise InvalidInput(
                f"{other.label} has {other.shape} rows, and {first.label} {first.shape} rows; give rows of one shape",
                param="data",
            )
