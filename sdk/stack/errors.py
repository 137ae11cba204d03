"""What goes wrong with a part of the stack, and how it is reported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sdk.errors import Unavailable


class ServerError(RuntimeError):
    """A server did not start, did not answer or did not end; the message may continue with the tail of its log."""

    @property
    def line(self) -> str:
        """The message without the log's tail."""
        return str(self).partition("\n")[0]


@contextmanager
def explained() -> Iterator[None]:
    """Turn a server's error into Unavailable, with a message of one line."""
    try:
        yield
    except ServerError as error:
        raise Unavailable(error.line) from error
