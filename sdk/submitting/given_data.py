"""The rows that a job is given: those of a file, or a registered dataset by name or digest."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from sdk.api import datasets
from sdk.api.transport import Transport
from sdk.config import user_path
from sdk.errors import InvalidData, InvalidInput, NotFound
from sdk.formats.refs import digest_digits, is_folder, looks_like_digest
from sdk.schemas.artifacts import DatasetView
from sdk.validation import CheckedData, check_data


@dataclass(frozen=True)
class RegisteredData:
    """A dataset that is in the registry already. What is said of its rows is what was said when it was added."""

    view: DatasetView
    #: Only a job looks into them.
    labels: frozenset[str] = frozenset()

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"the dataset {self.view.exact_name or self.view.digest[:12]}"

    @property
    def shape(self) -> str | None:
        """The shape of its rows; None where only a job sees that."""
        return self.view.shape


GivenData = CheckedData | RegisteredData


def find_data(
    transport: Transport,
    given: str | Path,
    namespace: str | None,
    *,
    param: str = "data",
    known_labels: Collection[str] | None = None,
) -> GivenData:
    """Return the rows that `given` means: a digest or 12 digits of one, else a file that is there, else a name.

    A `Path`, and a text with a `/`, is always a file; its rows are checked. A name is first looked up in `namespace`.
    Raises NotFound, InvalidData with the bad lines, InvalidInput for what fits several datasets.
    """
    if isinstance(given, Path):
        return check_data(given, param=param, known_labels=known_labels)
    if "://" in given:
        raise InvalidData(
            f"{given[:200]!a} is a URL, and only files are read; fetch it first, as with: curl -L -o rows.jsonl URL",
            param=param,
        )
    if looks_like_digest(given):
        return RegisteredData(_by_digest(transport, given, namespace, param))
    if "/" in given or is_folder(given) or user_path(given).is_file():
        return check_data(given, param=param, known_labels=known_labels)
    try:
        return RegisteredData(datasets.get(transport, given, namespace=namespace))
    except NotFound:
        folder = user_path(given).is_dir()
        raise NotFound(
            f"there is no {'dataset' if folder else 'file and no dataset'} {given[:200]!a}"
            f"{', only a folder' if folder else ''}; check the path, or see the names with: adapterctl data list",
            param=param,
        ) from None
    except InvalidInput as error:
        raise InvalidInput(error.message, param=param) from None


def _by_digest(transport: Transport, given: str, namespace: str | None, param: str) -> DatasetView:
    if digest_digits(given) is None:
        raise InvalidInput(
            f"{given[:80]!a} is not a digest: give 12 to 64 lower-case hexadecimal digits, or ./{given[:80]} for a file",
            param=param,
        )
    try:
        return datasets.get(transport, given, namespace=namespace)
    except (NotFound, InvalidInput) as error:
        raise type(error)(error.message, param=param) from None
