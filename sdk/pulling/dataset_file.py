"""A dataset's file in the cache: complete, and with the digest that it is stored under."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sdk.pulling.cache import Cache
from sdk.pulling.download import fetch
from sdk.pulling.http import HttpClient
from sdk.schemas.artifacts import Transfer
from sdk.transfer import OnBytes


def dataset_file(
    cache: Cache,
    digest: str,
    *,
    locate: Callable[[str], Transfer],
    http: HttpClient,
    watched: Callable[[str, int], OnBytes],
) -> Path:
    """Return the file of a dataset, by its whole digest; it is fetched if the cache doesn't have it intact.

    Only then is `locate` called, and `watched` with what is being done and how many bytes. Raises NotFound,
    VerificationFailed, Unavailable.
    """
    path = cache.blob(digest)
    with cache.lock(digest):
        if not cache.is_unaltered(path, digest):
            path.unlink(missing_ok=True)
            origin = locate(digest)
            fetch(origin, path, watched("fetching data", origin.size_bytes), http=http)
    cache.used(path)
    return path
