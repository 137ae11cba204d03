"""One blob from storage into a file: in ranges, hashed while it streams, and complete or absent.

What has arrived survives an interruption, even a kill, and the next fetch continues at the byte where it broke.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sdk.errors import NotFound, VerificationFailed, disk_explained
from sdk.pulling.http import HttpClient
from sdk.pulling.partial_file import Partial, open_partial
from sdk.pulling.ranges import BlobLocation, Relocate, ReplacedError
from sdk.pulling.streams import Streams
from sdk.pulling.transfer import OnBytes, copy_checked

#: A fetch is given up when the object in the storage has been replaced this often meanwhile.
_ANEW = 3


def fetch(
    origin: BlobLocation,
    target: Path,
    on_bytes: OnBytes = lambda _count: None,
    *,
    name: str | None = None,
    relocate: Relocate | None = None,
    http: HttpClient | None = None,
    mode: int | None = None,
    once: bool = False,
) -> None:
    """Fetch a blob into `target`; a wrong byte leaves nothing there, an interruption leaves `.partial` beside it.

    `name` is its name in errors, `mode` its permissions. With `once`, nothing is fetched if another process has just
    done so. `on_bytes` is called in this thread; its count is negative if bytes were thrown away. Raises
    VerificationFailed for wrong bytes and for a location that the registry may not give, NotFound for bytes that are
    gone, Unavailable.
    """
    name = name or target.name
    with disk_explained(f"writing {name}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        own = http or HttpClient()
        try:
            if origin.url.startswith("file:"):
                own.reach.require(origin.url)
                _copy(origin, Path(unquote(urlsplit(origin.url).path)), target, on_bytes, name, mode)
                return
            with open_partial(target, origin.sha256, origin.size_bytes) as partial:
                if once and target.exists():
                    return
                _fetch_checked(
                    lambda: Streams(origin, partial, on_bytes, name, relocate, own), partial, origin.sha256, name
                )
                partial.finish(mode)
        finally:
            if http is None:
                own.close()


def _copy(origin: BlobLocation, source: Path, target: Path, on_bytes: OnBytes, name: str, mode: int | None) -> None:
    if not source.is_file():
        raise NotFound(
            f"the file with the digest {origin.sha256[:12]} is missing from the registry's storage; restore it from a backup"
        )
    copy_checked(source, target, origin.sha256, on_bytes, name)
    if mode is not None:
        target.chmod(mode)


def _fetch_checked(begin: Callable[[], Streams], partial: Partial, sha256: str, name: str) -> None:
    replaced = 0
    while True:
        resumed = bool(partial.ranges)
        streams = begin()
        try:
            found = streams.run()
        except ReplacedError as error:
            replaced += 1
            streams.forget()
            if replaced >= _ANEW:
                raise VerificationFailed(
                    f"{name} was replaced in the storage several times while it was being fetched ({error}); "
                    f"its SHA-256 must be {sha256}, so nothing was kept. Try again, then tell an admin"
                ) from None
            continue
        if found == sha256:
            return
        streams.forget()
        if not (resumed or streams.interrupted) or replaced:
            raise VerificationFailed(
                f"{name} has the SHA-256 {found}, not {sha256}, so nothing was kept. Try again, then tell an admin"
            )
        # Part of it may be older, or left by a crash, so it is fetched again once.
        replaced = _ANEW - 1
