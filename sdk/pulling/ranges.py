"""What a storage answers to a GET of a range, as one stream of a download reads it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Protocol

from sdk.errors import NotFound, Unavailable
from sdk.pulling.http import Answer, BrokenLink

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15}|\*)")


class Location(Protocol):
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
        """What is to be sent with a GET."""


#: Asks the registry for a fresh location, where the one at hand has expired.
Relocate = Callable[[], Location]


class ReplacedError(Exception):
    """The object in the storage is not the one that the fetch began with, or has another size."""


class ExpiredError(Exception):
    """The location is not valid any more."""


class Reading:
    """The answer that a stream reads, and where it is."""

    def __init__(self) -> None:
        self.answer: Answer | None = None
        #: The position in the blob of the next byte, None without an answer.
        self.at: int | None = None
        #: Where the answer begins and ends; a server that knows no ranges begins at 0.
        self.begin = self.end = 0
        #: Bytes of it that were written.
        self.passed = 0

    def open(self, answer: Answer, position: int) -> None:
        """Begin with an answer that is to give the bytes from `position` on."""
        self.answer, self.at, self.begin, self.end, self.passed = answer, position, position, position, 0

    def read(self, most_bytes: int) -> bytes:
        """Return what has come; b"" at the end. Raises BrokenLink."""
        if self.answer is None or self.at is None:
            raise BrokenLink("closed")
        data = self.answer.read(most_bytes)
        self.at += len(data)
        return data

    def judge(self, origin: Location, name: str) -> str | None:
        """Look at the status and the headers; return the ETag.

        Raises BrokenLink where it is worth another try, ExpiredError, ReplacedError; NotFound, Unavailable.
        """
        if self.answer is None:
            raise BrokenLink("closed")
        status, size = self.answer.status, origin.size_bytes
        if status in (400, 401, 403):
            raise ExpiredError(f"HTTP {status}")
        if status in (404, 410):
            raise NotFound(f"the bytes of {origin.sha256[:12]} are gone from the registry's storage; tell an admin")
        if status in (412, 416):
            raise ReplacedError(f"HTTP {status}")
        if status == 429 or status >= 500:
            raise BrokenLink(f"HTTP {status}")
        if status == 206:
            found = _CONTENT_RANGE.fullmatch(self.answer.header("Content-Range") or "")
            if found is None or int(found[1]) != self.begin:
                raise BrokenLink("another range than was asked for")
            self.end, length = int(found[2]) + 1, None if found[3] == "*" else found[3]
        elif status == 200:
            self.begin, self.end, length = 0, size, self.answer.header("Content-Length")
        else:
            raise Unavailable(f"the storage answered HTTP {status} for {name}; try again")
        if length is not None and length != str(size):
            raise ReplacedError(f"it has {length[:20]} bytes, not {size}")
        return self.answer.header("ETag")

    def clear(self) -> None:
        """Forget the answer."""
        self.answer, self.at = None, None
