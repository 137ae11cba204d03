"""Every stable error code, in one place; what each becomes (HTTP status, exception class, exit code) is said by its readers."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sdk.schemas.wire import Wire


class ErrorCode(StrEnum):
    """Stable names of what can go wrong. A code is never reused for another meaning."""

    #: A value that no rule accepts: a bad field, option, file content.
    INVALID = "invalid"
    #: A name outside the grammar of names.
    INVALID_NAME = "invalid_name"
    #: A ref outside the grammar of refs.
    INVALID_REF = "invalid_ref"
    #: A dataset that is empty, of unknown shape, or has bad rows.
    INVALID_DATA = "invalid_data"
    #: Target modules that match nothing in the base.
    INVALID_TARGETS = "invalid_targets"
    #: A base that has no weights, or weights of a kind that is not read.
    INVALID_BASE = "invalid_base"
    #: The thing that was named does not exist, or may not be seen.
    NOT_FOUND = "not_found"
    #: Another state than the caller assumed: a lost compare-and-set, foreign files, a name that is taken.
    CONFLICT = "conflict"
    #: A worker's claim that is no longer the current one.
    STALE_ATTEMPT = "stale_attempt"
    #: No token, or one that is unknown, expired or revoked.
    UNAUTHENTICATED = "unauthenticated"
    #: The token's role does not allow this.
    FORBIDDEN = "forbidden"
    #: A namespace has all that its quota allows.
    QUOTA_EXCEEDED = "quota_exceeded"
    #: More requests than this token may send.
    RATE_LIMITED = "rate_limited"
    #: A body that is longer than any that is read.
    TOO_LARGE = "too_large"
    #: A job ended without a result.
    JOB_FAILED = "job_failed"
    #: A job was cancelled.
    JOB_CANCELLED = "job_cancelled"
    #: Bytes, structure or signature are not what they must be.
    VERIFICATION = "verification"
    #: It took longer than the caller allows.
    TIMEOUT = "timeout"
    #: A server, a storage, a disk or an installed extra is missing.
    UNAVAILABLE = "unavailable"
    #: Client and server are too far apart in version.
    INCOMPATIBLE = "incompatible"
    #: A fault of this program.
    INTERNAL = "internal"


class ErrorBody(Wire):
    """What went wrong, in one sentence that ends with what to do next."""

    code: str
    message: str
    #: The field, option or file that it is about.
    param: str | None = None


class ErrorReply(Wire):
    """The body of every reply that is not a success, and of errors on stderr with `--format json`."""

    error: ErrorBody


def explain_validation(errors: list[Any]) -> tuple[str, str | None]:
    """Turn pydantic's list of errors into one sentence and the dotted name of the first field."""
    parts = []
    first: str | None = None
    for error in errors[:5]:
        where = ".".join(str(piece) for piece in error["loc"] if piece not in ("body", "query"))
        if first is None and where:
            first = where
        message = error["msg"].removeprefix("Value error, ")
        if error["type"] == "extra_forbidden":
            message = "there is no such field"
        parts.append(f"{where}: {message}" if where else message)
    if len(errors) > 5:
        parts.append(f"and {len(errors) - 5} more")
    return "; ".join(parts), first
