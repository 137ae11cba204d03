"""Every stable error code, in one place; its users define what it becomes (HTTP status, exception class, exit code).

They are apart from the models that contain them, so that an error can be raised before pydantic is loaded.
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
    #: A base without weights, or with weights of an unsupported kind.
    INVALID_BASE = "invalid_base"
    #: A job that needs more memory than any worker that could run it has.
    DOES_NOT_FIT = "does_not_fit"
    #: The named thing does not exist, or the caller may not see it.
    NOT_FOUND = "not_found"
    #: The state differs from what the caller assumed: a lost compare-and-set, foreign files, a name that is taken.
    CONFLICT = "conflict"
    #: A policy does not let an alias move there.
    PROMOTION_REFUSED = "promotion_refused"
    #: A worker's claim that is no longer the current one.
    STALE_ATTEMPT = "stale_attempt"
    #: A stored record that this release of the registry can't read.
    UNREADABLE = "unreadable"
    #: No token, or an unknown, expired or revoked one.
    UNAUTHENTICATED = "unauthenticated"
    #: The token's role does not allow this.
    FORBIDDEN = "forbidden"
    #: A namespace has used up its quota.
    QUOTA_EXCEEDED = "quota_exceeded"
    #: This token has sent too many requests.
    RATE_LIMITED = "rate_limited"
    #: The registry takes no changes for now: an admin has made it read-only.
    READ_ONLY = "read_only"
    #: A body that is too long.
    TOO_LARGE = "too_large"
    #: A request for a host for which the server does not answer.
    MISDIRECTED = "misdirected"
    #: A body whose content type is not JSON.
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    #: A job ended without a result.
    JOB_FAILED = "job_failed"
    #: A job was cancelled.
    JOB_CANCELLED = "job_cancelled"
    #: Bytes, structure or signature are wrong.
    VERIFICATION = "verification"
    #: It took longer than the caller allows, or a request came in more slowly than the server waits for.
    TIMEOUT = "timeout"
    #: A server, a storage, a disk or an installed extra is missing.
    UNAVAILABLE = "unavailable"
    #: Client and server are too far apart in version.
    INCOMPATIBLE = "incompatible"
    #: A fault of this program.
    INTERNAL = "internal"
