"""What can go wrong, as one tree. Every error has a stable `code` and a message that ends with what to do next.

::

    AdapterctlError                 exit 1
    ├── InvalidInput                exit 2   a bad value, name, ref, file content, target
    │   ├── InvalidName
    │   ├── InvalidRef
    │   ├── InvalidData                      a dataset that is empty, of unknown shape, or has bad rows
    │   ├── InvalidTargets
    │   ├── InvalidBase
    │   ├── DoesNotFit                       a job that needs more memory than any worker has
    │   ├── TooLarge                         a request that is too long to be read
    │   ├── Misdirected                      a server that does not answer for the host in the URL
    │   └── UnsupportedMediaType             a request whose body is not declared as JSON
    ├── NotFound                    exit 3
    ├── Conflict                    exit 4   foreign files, a lost compare-and-set
    │   ├── PromotionRefused                 an alias that a policy does not let move there
    │   ├── StaleAttempt
    │   └── Unreadable                       what another release stored, and this one can't read
    ├── NotAllowed                  exit 5
    │   ├── Unauthenticated
    │   └── QuotaExceeded                    a namespace that has used up its quota
    ├── JobFailed                   exit 6
    │   └── JobCancelled
    ├── VerificationFailed          exit 7   digest, structure, signature
    ├── TimedOut                    exit 8   a TimeoutError too
    └── Unavailable                 exit 9   no server, no storage, full disk, missing extra
        ├── Incompatible                     client and server too far apart
        ├── RateLimited                      more requests than this token may send
        └── ReadOnly                         a change while the registry accepts none

>>> raise_for("not_found", "there is no adapter 'x'")
Traceback (most recent call last):
sdk.errors.NotFound: there is no adapter 'x'
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, NoReturn

from sdk.formats.error_codes import ErrorCode

#: An option in a message, and its value unless that reads as a word of the sentence; without those that no function takes.
_OPTION = re.compile(
    r"(?<![\w'\"/-])--(?P<no>no-)?(?P<name>(?!(?:port|unprobed|wait)\b)[a-z][a-z-]*)(?![\w-])(?: (?P<value>[\w./,=+@-]*[\d_/=@][\w./,=+@-]*(?<![.,])|[A-Z]{3,}|q?lora|native|dequantized)(?![\w-]))?"
)
#: What makes a clause a command to be typed, whose options stay as they are.
_COMMAND = re.compile(r"\b(?:adapterctl|adapter-registry|adapter-worker|pip|python|pg_dump|llama\.cpp)\b")


def with_keywords(message: str) -> str:
    """Return a message for somebody who calls functions: options outside of commands are called as their keywords.

    >>> with_keywords("it is too wide; merge with --dtype float32, or leave --no-measure out")
    'it is too wide; merge with dtype=float32, or leave measure=False out'
    >>> with_keywords("none is kept; make one with: adapterctl verify REF --probe --record")
    'none is kept; make one with: adapterctl verify REF --probe --record'
    """
    clauses = re.split(r"(;|,(?= (?:or|and) ))", message)
    ends = [len(clause) if (command := _COMMAND.search(clause)) is None else command.start() for clause in clauses]
    return "".join(
        _OPTION.sub(_keyword, clause[:end]) + clause[end:] for clause, end in zip(clauses, ends, strict=True)
    )


def _keyword(option: re.Match[str]) -> str:
    name = option["name"].replace("-", "_")
    return f"{name}=False" if option["no"] else f"{name}={option['value'] or ''}"


class AdapterctlError(Exception):
    """The root of every error that this package raises.

    `message` is what a terminal shows, with options as they are typed there. As a string it is the same with the keywords of
    the SDK's functions in their place.
    """

    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        #: The field, option or file that it is about.
        self.param = param

    def __str__(self) -> str:
        return with_keywords(self.message)

    def as_json(self) -> str:
        """Return it as the JSON document that goes to stderr."""
        # A file's name may hold bytes that are not UTF-8, which Python keeps as lone surrogates.
        message = self.message.encode("utf-8", "backslashreplace").decode()
        body = {"code": self.code.value, "message": message, "param": self.param}
        return json.dumps({"error": body}, ensure_ascii=False, separators=(",", ":"))


class InvalidInput(AdapterctlError):  # noqa: N818 - the tree reads as words
    """A bad value, name, ref, file content or target."""

    code = ErrorCode.INVALID
    exit_code = 2


class InvalidName(InvalidInput):
    """A name outside the grammar of names."""

    code = ErrorCode.INVALID_NAME


class InvalidRef(InvalidInput):
    """A ref outside the grammar of refs."""

    code = ErrorCode.INVALID_REF


class InvalidData(InvalidInput):
    """A dataset that is empty, of unknown shape, or has bad rows."""

    code = ErrorCode.INVALID_DATA


class InvalidTargets(InvalidInput):
    """Target modules that match nothing in the base."""

    code = ErrorCode.INVALID_TARGETS


class InvalidBase(InvalidInput):
    """A base without usable weights."""

    code = ErrorCode.INVALID_BASE


class DoesNotFit(InvalidInput):
    """A job that needs more memory than any worker that could run it has."""

    code = ErrorCode.DOES_NOT_FIT


class TooLarge(InvalidInput):
    """A request that is too long to be read."""

    code = ErrorCode.TOO_LARGE


class Misdirected(InvalidInput):
    """A server that does not answer for the host in the URL."""

    code = ErrorCode.MISDIRECTED


class UnsupportedMediaType(InvalidInput):
    """A request whose body is not declared as JSON."""

    code = ErrorCode.UNSUPPORTED_MEDIA_TYPE


class NotFound(AdapterctlError):  # noqa: N818
    """A file, base, adapter, version or job that does not exist."""

    code = ErrorCode.NOT_FOUND
    exit_code = 3


class Conflict(AdapterctlError):  # noqa: N818
    """The state is not the one that the caller assumed."""

    code = ErrorCode.CONFLICT
    exit_code = 4


class PromotionRefused(Conflict):
    """An alias that a policy does not let move there; the decision says why."""

    code = ErrorCode.PROMOTION_REFUSED


class StaleAttempt(Conflict):
    """A worker that no longer holds its job."""

    code = ErrorCode.STALE_ATTEMPT


class Unreadable(Conflict):
    """A stored record that the registry's release can't read."""

    code = ErrorCode.UNREADABLE


class NotAllowed(AdapterctlError):  # noqa: N818
    """A token whose role does not allow the request, or a file that may not be read or written."""

    code = ErrorCode.FORBIDDEN
    exit_code = 5


class Unauthenticated(NotAllowed):
    """No valid token."""

    code = ErrorCode.UNAUTHENTICATED


class QuotaExceeded(NotAllowed):
    """A namespace that has used up its quota."""

    code = ErrorCode.QUOTA_EXCEEDED


class JobFailed(AdapterctlError):  # noqa: N818
    """A job ended without a result; `reason` says why in one word."""

    code = ErrorCode.JOB_FAILED
    exit_code = 6

    def __init__(self, message: str, *, param: str | None = None, reason: str | None = None) -> None:
        super().__init__(message, param=param)
        self.reason = reason


class JobCancelled(JobFailed):
    """A job was cancelled."""

    code = ErrorCode.JOB_CANCELLED


class VerificationFailed(AdapterctlError):  # noqa: N818
    """Bytes, structure or signature are not what they must be."""

    code = ErrorCode.VERIFICATION
    exit_code = 7


class TimedOut(AdapterctlError, TimeoutError):  # noqa: N818
    """It took longer than the caller allows.

    As a TimeoutError it is an OSError too: where a file's errors are caught, it is let through first.
    """

    code = ErrorCode.TIMEOUT
    exit_code = 8


class Unavailable(AdapterctlError):  # noqa: N818
    """A server, a storage, a disk or an installed extra is missing."""

    code = ErrorCode.UNAVAILABLE
    exit_code = 9


class Incompatible(Unavailable):
    """Client and server are too far apart in version."""

    code = ErrorCode.INCOMPATIBLE


class RateLimited(Unavailable):
    """More requests than this token may send."""

    code = ErrorCode.RATE_LIMITED


class ReadOnly(Unavailable):
    """A change while the registry accepts none: an admin has made it read-only."""

    code = ErrorCode.READ_ONLY


def _all(root: type[AdapterctlError]) -> list[type[AdapterctlError]]:
    return [root, *(found for child in root.__subclasses__() for found in _all(child))]


#: The class of each code; a test checks that it is complete.
CLASS_OF: dict[ErrorCode, type[AdapterctlError]] = {cls.code: cls for cls in _all(AdapterctlError)}


def raise_for(code: str, message: str, param: str | None = None) -> NoReturn:
    """Raise the error that `code` stands for; an unknown code, from a newer server, becomes an AdapterctlError."""
    try:
        cls = CLASS_OF[ErrorCode(code)]
    except ValueError:
        cls = AdapterctlError
    raise cls(message, param=param)


#: What a full disk says: no space, no quota, or a file-size limit.
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def disk_explained(doing: str) -> Iterator[None]:
    """Turn the operating system's refusals into errors that say what was being done and what to do."""
    try:
        yield
    except AdapterctlError:
        raise
    except OSError as error:
        if error.errno in FULL_DISK:
            raise Unavailable(
                f"the disk is full while {doing}; free some space, then run the same command again"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            where = f" ({error.filename})" if error.filename else ""
            raise NotAllowed(f"no permission while {doing}{where}; check the folder's owner and mode") from error
        raise


@contextmanager
def place_explained(target: Path) -> Iterator[None]:
    """Turn the system's errors about a file's name or place into InvalidInput; those of `disk_explained` pass."""
    try:
        yield
    except AdapterctlError:
        raise
    except OSError as error:
        if error.errno in (*FULL_DISK, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        why = error.strerror if not isinstance(error, FileExistsError) else "its path leads through a file"
        raise InvalidInput(f"{target} can't be written ({why}); give another name with -o", param="output") from error
