"""The scores of an evaluation by row, fetched and read."""

from __future__ import annotations

from sdk.api import evaluations
from sdk.api.transport import Transport
from sdk.errors import VerificationFailed
from sdk.pulling.cache import Cache
from sdk.pulling.cached_file import cached_file
from sdk.pulling.filling import OnTransfer, watching
from sdk.pulling.http import HttpClient
from sdk.schemas.evaluation import RowScore
from sdk.schemas.row_file import RowFileError, read_rows


def fetch_rows(
    transport: Transport, cache: Cache, ident: str, *, http: HttpClient, on_transfer: OnTransfer | None
) -> list[RowScore]:
    """Return the scores of each row; see `Client.evaluation_rows`."""
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
