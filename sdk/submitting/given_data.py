"""The rows that a job is given: those of a file, or a registered dataset by name or digest; a training may have several."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sdk.api.datasets import DatasetRoutes
from sdk.api.transport import Transport
from sdk.config import user_path
from sdk.errors import InvalidInput, NotFound
from sdk.formats.objectives import Objective, objective_of
from sdk.formats.refs import digest_digits, is_folder, looks_like_digest
from sdk.formats.rows import Row, RowsError, detect_format, judge_rows, text_values
from sdk.pulling.transfer import hash_file
from sdk.schemas.artifacts import DatasetView
from sdk.schemas.held_out import HoldOut
from sdk.schemas.job_requests import MOST_SOURCES
from sdk.validation import CheckedData, check_columns, check_data

#: The longest name, with the number of a version.
_MOST_NAME_CHARACTERS = 200 + len("@v123456789")


@dataclass(frozen=True)
class RegisteredData:
    """A dataset that is already in the registry. All that is known of its rows was recorded when it was added."""

    view: DatasetView
    #: Which columns are which keys: as requested, or else as recorded when it was added.
    columns: str | None = None
    #: Not known here: only a job reads the rows.
    labels: frozenset[str] = frozenset()

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"the dataset {self.view.exact_name or self.view.digest[:12]}"

    @property
    def shape(self) -> str | None:
        """The shape of its rows; None if only a job can tell."""
        return self.view.shape if self.columns == self.view.columns else None


GivenData = CheckedData | RegisteredData


def find_data(
    transport: Transport,
    given: str | Path,
    namespace: str | None,
    *,
    columns: str | None = None,
    param: str = "data",
    known_labels: Collection[str] | None = None,
    hold_out: HoldOut | None = None,
    alone: bool = True,
) -> GivenData:
    """Return the rows that `given` means: a digest or 12 digits of one, else a file that is there, else a name.

    A `Path`, and a text with a `/`, is always a file, whose rows are checked. A name is first looked up in `namespace`.
    `columns` says which columns are which keys of a row; None: as recorded for a registered dataset. With `hold_out`,
    it is also checked that some of a file's rows can be held out of the others, if the file is `alone`. Raises
    NotFound, InvalidData with the bad lines, InvalidInput for what fits several datasets, or is not text.
    """
    if not isinstance(given, (str, Path)) or not str(given):
        raise InvalidInput(
            f"{str(given)[:80]!a} is not a dataset; give a file, a name or a digest (in YAML, put a digest in quotes)",
            param=param,
        )
    if isinstance(given, Path) or means_file(given):
        return check_data(
            given, columns=columns, param=param, known_labels=known_labels, hold_out=hold_out, alone=alone
        )
    if looks_like_digest(given):
        return _registered(_by_digest(transport, given, namespace, param), columns)
    try:
        return _registered(DatasetRoutes(transport).get(given, namespace=namespace), columns)
    except NotFound:
        if os.path.isdir(user_path(given)):  # noqa: PTH112
            # Raises an error that says that this is a folder.
            return check_data(given, param=param)
        raise NotFound(
            f"there is no file and no dataset {given[:200]!a}; check the path of the dataset, or see what is registered with: "
            "adapterctl data list",
            param=param,
        ) from None
    except InvalidInput as error:
        raise InvalidInput(error.message, param=param) from None


def means_file(given: str | Path) -> bool:
    """Whether what is given means a file, rather than the name or digest of a dataset."""
    if isinstance(given, Path) or "/" in given or is_folder(given) or not _can_be_name(given):
        return True
    return not looks_like_digest(given) and _is_file(given)


def _is_file(given: str) -> bool:
    return os.path.isfile(user_path(given))  # noqa: PTH113 - False for a text that can't be a path


def _can_be_name(given: str) -> bool:
    """Whether a text can be sent as a name: the name of a file that is not UTF-8 can't."""
    try:
        given.encode()
    except UnicodeEncodeError:
        return False
    return 0 < len(given) <= _MOST_NAME_CHARACTERS and given.isprintable()


def _registered(view: DatasetView, columns: str | None) -> RegisteredData:
    return RegisteredData(view, view.columns if columns is None else check_columns(columns)[0])


def _by_digest(transport: Transport, given: str, namespace: str | None, param: str) -> DatasetView:
    if digest_digits(given) is None:
        raise InvalidInput(
            f"{given[:80]!a} is not a digest: give 12 to 64 lower-case hexadecimal digits, or ./{given[:80]} for a file",
            param=param,
        )
    try:
        return DatasetRoutes(transport).get(given, namespace=namespace)
    except (NotFound, InvalidInput) as error:
        meant = f"; for the file of that name, write ./{given}" if _is_file(given) else ""
        raise type(error)(f"{error.message}{meant}", param=param) from None


#: A file, a digest or a name; several of them; or each with its weight.
TrainingData = str | Path | Iterable[str | Path] | Mapping[str | Path, float] | Mapping[str, float]


class GivenSource(NamedTuple):
    """One of the datasets, as it is given."""

    given: str | Path
    #: Its share of the rows, relative to the shares of the others; None: each of its rows comes once.
    weight: float | None = None


def sources_of(data: TrainingData) -> list[GivenSource]:
    """Return the datasets that are given. Raises InvalidInput for none, too many, one twice, and for weights that are
    not numbers above 0.

    >>> sources_of({"a.jsonl": 3, "reviews@v2": 1})
    [GivenSource(given='a.jsonl', weight=3.0), GivenSource(given='reviews@v2', weight=1.0)]
    """
    if isinstance(data, (str, Path)) or not isinstance(data, Iterable):
        return [GivenSource(data)]
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
    return [GivenSource(one, None if weight is None else _weight(weight, one)) for one, weight in pairs]


def objective_of_files(data: TrainingData, columns: str | None) -> Objective | None:
    """Return what the first row of the first file that is given is for; None if only the registry, or a job, can tell."""
    for source in sources_of(data):
        if means_file(source.given):
            keys = check_columns(columns)[1]
            with suppress(RowsError, OSError):
                path = user_path(source.given)
                if detect_format(path) != "parquet":
                    rows = (row for row in judge_rows(text_values(path, keys), columns=keys) if isinstance(row, Row))
                    return next((objective_of(row.shape) for row in rows), None)
    return None


def check_different(rows: Sequence[GivenData], given: Sequence[GivenSource]) -> None:
    """Raise InvalidInput if two datasets have the same bytes. Files are read for this if there are several datasets."""
    if len(rows) == 1:
        return
    by_digest: dict[str, GivenSource] = {}
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
