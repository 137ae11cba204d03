"""What a storage answers to a GET of a range, as one stream of a download reads it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Protocol

from sdk.errors import NotFound, Unavailable
from sdk.pulling.http import BrokenConnection, Response

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15}|\*)")


class BlobLocation(Protocol):
    """Where a blob lies. The URL may be a credential: it is in no error and no log."""

    @property
    def sha256(self) -> str:
        """Of the whole blob."""

    @property
    def size_bytes(self) -> int:
        """Of the whole blob."""

    @property
    def url(self) -> str:
        """`file:`, `http:` or `https:`."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers to send with a GET."""


#: Asks the registry for a fresh location when the present one has expired.
Relocate = Callable[[], BlobLocation]


class ReplacedError(Exception):
    """The object in the storage is not the one that the fetch began with, or has another size."""


class ExpiredError(Exception):
    """The location is no longer valid."""


class OpenResponse:
    """The response that a stream reads, and the position that it has reached."""

    def __init__(self) -> None:
        self.response: Response | None = None
        #: The position in the blob of the next byte, None without a response.
        self.at: int | None = None
        #: Where the response begins and ends; a server without ranges begins at 0.
        self.begin = self.end = 0
        #: Bytes of it that were written to the file.
        self.passed = 0

    def open(self, response: Response, position: int) -> None:
        """Begin with a response that should have the bytes from `position` on."""
        self.response, self.at, self.begin, self.end, self.passed = response, position, position, position, 0

    def read(self, most_bytes: int) -> bytes:
        """Return what has arrived; b"" at the end. Raises BrokenConnection."""
        if self.response is None or self.at is None:
            raise BrokenConnection("closed")
        data = self.response.read(most_bytes)
        self.at += len(data)
        return data

    def judge(self, origin: BlobLocation, name: str) -> str | None:
        """Check the status and the headers; return the ETag.

        Raises BrokenConnection if another try is worth it, ExpiredError, ReplacedError, NotFound, Unavailable.
        """
        if self.response is None:
            raise BrokenConnection("closed")
        status, size = self.response.status, origin.size_bytes
        if status in (400, 401, 403):
            raise ExpiredError(f"HTTP {status}")
        if status in (404, 410):
            raise NotFound(
                f"the file with the digest {origin.sha256[:12]} is missing from the registry's storage; tell an admin"
            )
        if status in (412, 416):
            raise ReplacedError(f"HTTP {status}")
        if status == 429 or status >= 500:
            raise BrokenConnection(f"HTTP {status}")
        if status == 206:
            found = _CONTENT_RANGE.fullmatch(self.response.header("Content-Range") or "")
            if found is None or int(found[1]) != self.begin:
                raise BrokenConnection("a different range than was asked for")
            self.end, length = int(found[2]) + 1, None if found[3] == "*" else found[3]
        elif status == 200:
            self.begin, self.end, length = 0, size, self.response.header("Content-Length")
        else:
            raise Unavailable(f"the storage answered HTTP {status} for {name}; try again")
        if length is not None and length != str(size):
            raise ReplacedError(f"it has {length[:20]} bytes, not {size}")
        return self.response.header("ETag")

    def clear(self) -> None:
        """Forget the response."""
        self.response, self.at = None, None
