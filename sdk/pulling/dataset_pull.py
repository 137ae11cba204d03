"""A dataset's rows, written to a file of the caller's: complete and with the right digest, or not at all."""

from __future__ import annotations

from pathlib import Path

from sdk.api import datasets
from sdk.api.transport import Transport
from sdk.errors import Conflict, InvalidInput, NotFound, place_explained
from sdk.pulling.download import fetch
from sdk.pulling.filling import OnTransfer, watching
from sdk.pulling.http import HttpClient
from sdk.schemas.artifacts import DatasetView


def pull_dataset(
    transport: Transport,
    name: str,
    output: Path,
    *,
    namespace: str | None,
    overwrite: bool,
    http: HttpClient,
    on_transfer: OnTransfer | None,
) -> DatasetView:
    """Fetch a dataset into a file; see `Client.pull_data`."""
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
    view = datasets.get(transport, name, namespace=namespace)
    if namespace is not None and view.namespace not in (None, namespace):
        # A name that this namespace hasn't given was then looked up in others.
        raise NotFound(
            f"there is no dataset {name[:80]!a} in the namespace {namespace!r}; list them with: adapterctl data list",
            param="data",
        )
    origin = datasets.locate(transport, view.digest)
    fetch(
        origin,
        output,
        watching(on_transfer, "fetching data", origin.size_bytes),
        # A location may expire while it is read from.
        relocate=lambda: datasets.locate(transport, view.digest),
        http=http,
    )
    return view
