"""A file of rows, of a dataset or of scores, in the cache: complete and with the right digest, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sdk.pulling.cache import Cache
from sdk.pulling.download import fetch
from sdk.pulling.filling import OnTransfer, watching
from sdk.pulling.http import HttpClient
from sdk.schemas.artifacts import Transfer


def cached_file(
    cache: Cache,
    digest: str,
    *,
    doing: str = "fetching data",
    locate: Callable[[str], Transfer],
    http: HttpClient,
    on_transfer: OnTransfer | None,
) -> Path:
    """Return a file by its whole digest; it is fetched if the cache doesn't have it intact.

    Only then are `locate` and `on_transfer` called. Raises NotFound, VerificationFailed, Unavailable.
    """
    path = cache.blob(digest)
    with cache.lock(digest):
        if not cache.is_unaltered(path, digest):
            path.unlink(missing_ok=True)
            origin = locate(digest)
            fetch(origin, path, watching(on_transfer, doing, origin.size_bytes), http=http)
    cache.used(path)
    return path
