"""A file of rows, of a dataset or of scores, in the cache or written to a file of the caller's: complete and with the right
digest, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sdk.api import evaluations
from sdk.api.datasets import DatasetRoutes
from sdk.api.transport import Transport
from sdk.errors import Conflict, InvalidInput, NotFound, VerificationFailed, place_explained
from sdk.pulling.cache import Cache
from sdk.pulling.download import fetch
from sdk.pulling.filling import OnTransfer, watching
from sdk.pulling.http import HttpClient
from sdk.pulling.transfer import OnBytes
from sdk.schemas.artifacts import DatasetView, Transfer
from sdk.schemas.evaluation import RowScore
from sdk.schemas.row_file import RowFileError, read_rows


def cached_file(
    cache: Cache,
    digest: str,
    *,
    doing: str = "fetching data",
    locate: Callable[[str], Transfer],
    http: HttpClient,
    watched: Callable[[str, int], OnBytes],
) -> Path:
    """Return a file by its whole digest; it is fetched if the cache doesn't have it intact.

    Only then are `locate` and `watched` called, the latter with what is being done (`doing`) and the number of bytes.
    Raises NotFound, VerificationFailed, Unavailable.
    """
    path = cache.blob(digest)
    with cache.lock(digest):
        if not cache.is_unaltered(path, digest):
            path.unlink(missing_ok=True)
            origin = locate(digest)
            fetch(origin, path, watched(doing, origin.size_bytes), http=http)
    cache.used(path)
    return path


def pull_dataset(
    datasets: DatasetRoutes,
    name: str,
    output: Path,
    *,
    namespace: str | None,
    overwrite: bool,
    http: HttpClient,
    on_transfer: OnTransfer | None,
) -> DatasetView:
    """Fetch a dataset into a file; see `DatasetsAPI.pull`."""
    with place_explained(output):
        is_folder, is_there = output.is_dir(), output.exists() or output.is_symlink()
    if is_folder:
        raise InvalidInput(
            f"{output} is a folder; name a file with -o, such as {output / 'rows.jsonl'}", param="output"
        )
    if not overwrite and is_there:
        raise Conflict(
            f"{output} already exists; name another file with -o, or give --overwrite to replace it", param="output"
        )
    view = datasets.get(name, namespace=namespace)
    if namespace is not None and view.namespace not in (None, namespace):
        # A name that this namespace hasn't given was then looked up in others.
        raise NotFound(
            f"there is no dataset {name[:80]!a} in the namespace {namespace!r}; list them with: adapterctl data list",
            param="data",
        )
    origin = datasets.locate(view.digest)
    fetch(
        origin,
        output,
        watching(on_transfer, "fetching data", origin.size_bytes),
        # A location may expire while it is read from.
        relocate=lambda: datasets.locate(view.digest),
        http=http,
    )
    return view


def fetch_rows(
    transport: Transport, cache: Cache, ident: str, *, http: HttpClient, on_transfer: OnTransfer | None
) -> list[RowScore]:
    """Return the scores of each row; see `EvaluationsAPI.rows`."""
    # The registry is asked each time, since it decides whether they may be read.
    origin = evaluations.locate_rows(transport, ident)
    path = cached_file(
        cache,
        origin.sha256,
        doing="fetching scores",
        locate=lambda _: origin,
        http=http,
        watched=lambda doing, size_bytes: watching(on_transfer, doing, size_bytes),
    )
    with path.open("rb") as file:
        try:
            return list(read_rows(file))
        except RowFileError as error:
            raise VerificationFailed(
                f"the rows of the scores {ident} can't be read: {error}; upgrade with: pip install -U adapterctl"
            ) from error
