"""What the registry refuses, as one tree.

::

    RegistryError
    ├── Invalid             a value that no rule accepts
    │   ├── InvalidName     a name outside the grammar
    │   ├── InvalidRef      a ref outside the grammar
    │   ├── InvalidBase     a base without usable weights
    │   ├── InvalidData     a dataset that can't be trained or scored on
    │   ├── InvalidTargets  modules that a base lacks, or that rows of text don't train
    │   ├── DoesNotFit      a job that needs more memory than any worker has
    │   ├── TooLarge        a body that is longer than any that is read
    │   ├── Misdirected     a request for a host that is not the server's
    │   └── WrongMediaType  a body that is not called JSON
    ├── NotFound            nothing of that name, or nothing that the caller may see
    ├── Conflict            another state than the caller assumed
    │   ├── PromotionRefused  an alias that a policy does not let move there
    │   ├── StaleAttempt    a worker that no longer holds its job
    │   └── Unreadable      a stored record that this release can't read
    ├── Unauthenticated     no valid token
    ├── Forbidden           a token whose role does not allow it
    │   └── QuotaExceeded   a namespace that has all that it may have
    ├── Verification        bytes or structure that are not what they must be
    ├── TooSlow             a request that did not come in in time
    └── Unavailable         storage, database or broker can't be reached, or a disk is full
        ├── RateLimited     more requests than this token may send
        └── ReadOnly        a change while the registry takes none

Each class has one code, and the HTTP status of the class above it unless it has its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from sdk.schemas.codes import ErrorBody, ErrorCode, ErrorReply


class RegistryError(Exception):
    """The root; `message` is one sentence that ends with what to do next."""

    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL
    #: The HTTP status that it becomes.
    status: ClassVar[int] = 500

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the answer."""
        return {}

    def reply(self) -> ErrorReply:
        """The body that it becomes."""
        return ErrorReply(error=ErrorBody(code=self.code.value, message=self.message, param=self.param))


class Invalid(RegistryError):  # noqa: N818 - the tree reads as words
    """A value that no rule accepts."""

    code = ErrorCode.INVALID
    status = 422


class InvalidName(Invalid):
    """A name outside the grammar."""

    code = ErrorCode.INVALID_NAME


class InvalidRef(Invalid):
    """A ref outside the grammar."""

    code = ErrorCode.INVALID_REF


class InvalidBase(Invalid):
    """A base that can't be used here."""

    code = ErrorCode.INVALID_BASE


class InvalidData(Invalid):
    """A dataset that can't be used."""

    code = ErrorCode.INVALID_DATA


class InvalidTargets(Invalid):
    """Target modules that match nothing in the base, or what can't be trained."""

    code = ErrorCode.INVALID_TARGETS


class DoesNotFit(Invalid):
    """A job that needs more memory than any worker has that could run it."""

    code = ErrorCode.DOES_NOT_FIT


class TooLarge(Invalid):
    """A body that is too long."""

    code = ErrorCode.TOO_LARGE
    status = 413


class Misdirected(Invalid):
    """A request for a host for which the server does not answer."""

    code = ErrorCode.MISDIRECTED
    status = 421


class WrongMediaType(Invalid):
    """A body whose content type is not JSON."""

    code = ErrorCode.UNSUPPORTED_MEDIA_TYPE
    status = 415


class NotFound(RegistryError):  # noqa: N818
    """Nothing of that name."""

    code = ErrorCode.NOT_FOUND
    status = 404


class Conflict(RegistryError):  # noqa: N818
    """Another state than the caller assumed."""

    code = ErrorCode.CONFLICT
    status = 409


class PromotionRefused(Conflict):
    """An alias that a policy does not let move there."""

    code = ErrorCode.PROMOTION_REFUSED


class StaleAttempt(Conflict):
    """A worker that no longer holds its job."""

    code = ErrorCode.STALE_ATTEMPT


class Unreadable(Conflict):
    """A stored record that this release can't read."""

    code = ErrorCode.UNREADABLE


class Unauthenticated(RegistryError):  # noqa: N818
    """No valid token."""

    code = ErrorCode.UNAUTHENTICATED
    status = 401

    @property
    def headers(self) -> dict[str, str]:
        """How to show one."""
        return {"WWW-Authenticate": "Bearer"}


class Forbidden(RegistryError):  # noqa: N818
    """A role that does not allow it."""

    code = ErrorCode.FORBIDDEN
    status = 403


class QuotaExceeded(Forbidden):
    """A namespace that has all that its quota allows."""

    code = ErrorCode.QUOTA_EXCEEDED


class Verification(RegistryError):  # noqa: N818
    """Bytes or structure that are not what they must be."""

    code = ErrorCode.VERIFICATION
    status = 422


class TooSlow(RegistryError):  # noqa: N818
    """A request that did not arrive in time."""

    code = ErrorCode.TIMEOUT
    status = 408


class Unavailable(RegistryError):  # noqa: N818
    """Storage, database or broker can't be reached, or a disk is full."""

    code = ErrorCode.UNAVAILABLE
    status = 503
    #: After how long it is worth trying again, in seconds; of a class, or of one error.
    retry_after_s: int = 1

    @property
    def headers(self) -> dict[str, str]:
        """Clients that know the header wait that long by themselves."""
        return {"Retry-After": str(self.retry_after_s)}


class RateLimited(Unavailable):
    """More requests than this token may send."""

    code = ErrorCode.RATE_LIMITED
    status = 429


class ReadOnly(Unavailable):
    """A change while the registry takes none."""

    code = ErrorCode.READ_ONLY
    #: An emergency lasts longer than a moment.
    retry_after_s = 30


def _tree(of: type[RegistryError]) -> Iterator[type[RegistryError]]:
    yield of
    for below in of.__subclasses__():
        yield from _tree(below)


#: HTTP status of each code that the registry sends.
STATUS = {error.code: error.status for error in _tree(RegistryError)}
