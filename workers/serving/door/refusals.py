"""What the engine program refuses, as its clients are told: in the form of OpenAI's errors."""

from __future__ import annotations

import sys
import traceback
from typing import Any

#: OpenAI's kinds of errors by HTTP status.
_TYPES = {404: "not_found_error", 429: "rate_limit_error", 503: "service_unavailable_error"}


class RequestRefused(Exception):  # noqa: N818 - it reads as what happened
    """A request is refused; the message is one sentence that ends with what to do."""

    def __init__(self, status: int, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param = status, code, message, param

    def body(self) -> dict[str, Any]:
        """Return what a client gets."""
        return {"error": error_object(self.status, self.code, self.message, self.param)}


def error_object(status: int, code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """Return an error as OpenAI's clients read it."""
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"message": message, "type": kind, "param": param, "code": code}


def broken() -> RequestRefused:
    """Return what a client is told if the program itself fails."""
    return RequestRefused(500, "internal", "the engine program failed at this request; its log says where")


def note_error(error: BaseException) -> None:
    """Log where an error came from, and not what it says, which may quote a prompt."""
    frames = traceback.extract_tb(error.__traceback__)
    places = ", ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in reversed(frames[-6:]))
    sys.stderr.write(f"{type(error).__name__} at {places}\n")
    sys.stderr.flush()
