"""Every stable error code, in one place; what each becomes (HTTP status, exception class, exit code) is said by its readers.

Apart from the models that carry them, so that an error can be raised before pydantic is loaded.
"""

from __future__ import annotations

from enum import StrEnum


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
    #: A job that needs more memory than any worker has that could run it.
    DOES_NOT_FIT = "does_not_fit"
    #: The thing that was named does not exist, or may not be seen.
    NOT_FOUND = "not_found"
    #: Another state than the caller assumed: a lost compare-and-set, foreign files, a name that is taken.
    CONFLICT = "conflict"
    #: A worker's claim that is no longer the current one.
    STALE_ATTEMPT = "stale_attempt"
    #: A stored record that this release of the registry can't read.
    UNREADABLE = "unreadable"
    #: No token, or one that is unknown, expired or revoked.
    UNAUTHENTICATED = "unauthenticated"
    #: The token's role does not allow this.
    FORBIDDEN = "forbidden"
    #: A namespace has all that its quota allows.
    QUOTA_EXCEEDED = "quota_exceeded"
    #: More requests than this token may send.
    RATE_LIMITED = "rate_limited"
    #: The registry takes no changes for now: an admin has made it read-only.
    READ_ONLY = "read_only"
    #: A body that is too long.
    TOO_LARGE = "too_large"
    #: A body that is not called JSON.
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    #: A job ended without a result.
    JOB_FAILED = "job_failed"
    #: A job was cancelled.
    JOB_CANCELLED = "job_cancelled"
    #: Bytes, structure or signature are not what they must be.
    VERIFICATION = "verification"
    #: It took longer than the caller allows, or a request came in more slowly than the server waits for.
    TIMEOUT = "timeout"
    #: A server, a storage, a disk or an installed extra is missing.
    UNAVAILABLE = "unavailable"
    #: Client and server are too far apart in version.
    INCOMPATIBLE = "incompatible"
    #: A fault of this program.
    INTERNAL = "internal"
