"""What can go wrong between the registry and its bytes, and what callers are told of it.

StorageError
├── StorageUnavailable   no store, no access, no room: the same request may succeed later
│   └── StorageSilent    the store has not answered in time
├── BlobMissing          nothing is stored under this name
└── BlobCorrupt          bytes that are not what their digest or size says
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from registry.deadlines import NoAnswer
from registry.errors import Unavailable, Verification


class StorageError(Exception):
    """The storage cannot do what it was asked."""


class StorageUnavailable(StorageError):  # noqa: N818 - the tree reads as words
    """The store cannot be reached, refuses the registry, or is full."""


class StorageSilent(NoAnswer, StorageUnavailable):
    """The store has not answered in time."""


class BlobMissing(StorageError):  # noqa: N818
    """Nothing is stored under this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"Nothing is stored under sha256 {name[:64]}. Upload the file again with `adapterctl push`.")
        self.name = name


class BlobCorrupt(StorageError):  # noqa: N818
    """The bytes are not those that the digest and the size promise."""


@contextmanager
def storage_explained(*, but: type[StorageError] | tuple[type[StorageError], ...] = ()) -> Iterator[None]:
    """Turn the storage room's errors, and a full disk, into the registry's, except those in `but`, which the caller
    handles.
    """
    try:
        yield
    except but:
        raise
    except StorageUnavailable as error:
        raise Unavailable(str(error)) from error
    except StorageError as error:
        raise Verification(str(error)) from error
    except OSError as error:
        raise Unavailable(
            f"the registry can't use its disk ({error.strerror}: {Path(str(error.filename or '')).name or 'temporary file'}); "
            "free some space, then try again"
        ) from error
