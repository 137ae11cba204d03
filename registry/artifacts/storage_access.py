"""Access to the storage: its errors as the registry's, and its locations as sent over the API."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from registry.errors import Unavailable, Verification
from registry.storage import Location
from registry.storage.errors import StorageError, StorageUnavailable
from sdk.schemas.artifacts import Transfer


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


def transfer_of(sha256: str, size_bytes: int, location: Location) -> Transfer:
    """Say where to send bytes of this digest to, or fetch them from."""
    return Transfer(sha256=sha256, size_bytes=size_bytes, url=location.url, headers=dict(location.headers))
