"""One tree of errors: a code a class, an exit code a kind, nothing missing."""

from __future__ import annotations

import errno
import json
import re

import pytest

import sdk
from sdk import errors
from sdk.errors import CLASS_OF, AdapterctlError, NotAllowed, Unavailable, disk_explained, raise_for
from sdk.schemas.codes import ErrorCode

#: The table of the public contract.
EXIT_OF = {
    ErrorCode.INTERNAL: 1,
    ErrorCode.INVALID: 2,
    ErrorCode.INVALID_NAME: 2,
    ErrorCode.INVALID_REF: 2,
    ErrorCode.INVALID_DATA: 2,
    ErrorCode.INVALID_TARGETS: 2,
    ErrorCode.INVALID_BASE: 2,
    ErrorCode.NOT_FOUND: 3,
    ErrorCode.CONFLICT: 4,
    ErrorCode.PROMOTION_REFUSED: 4,
    ErrorCode.STALE_ATTEMPT: 4,
    ErrorCode.UNREADABLE: 4,
    ErrorCode.FORBIDDEN: 5,
    ErrorCode.UNAUTHENTICATED: 5,
    ErrorCode.QUOTA_EXCEEDED: 5,
    ErrorCode.RATE_LIMITED: 9,
    ErrorCode.READ_ONLY: 9,
    ErrorCode.DOES_NOT_FIT: 2,
    ErrorCode.TOO_LARGE: 2,
    ErrorCode.MISDIRECTED: 2,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: 2,
    ErrorCode.JOB_FAILED: 6,
    ErrorCode.JOB_CANCELLED: 6,
    ErrorCode.VERIFICATION: 7,
    ErrorCode.TIMEOUT: 8,
    ErrorCode.UNAVAILABLE: 9,
    ErrorCode.INCOMPATIBLE: 9,
}


def every_class() -> list[type[AdapterctlError]]:
    found = [AdapterctlError]
    for cls in found:
        found.extend(cls.__subclasses__())
    return [cls for cls in found if cls.__module__ == "sdk.errors"]


def test_every_code_has_one_class_and_its_exit_code() -> None:
    assert set(CLASS_OF) == set(ErrorCode) == set(EXIT_OF)
    assert len(every_class()) == len(CLASS_OF)
    assert {code: cls.exit_code for code, cls in CLASS_OF.items()} == EXIT_OF
    assert all("code" in vars(cls) for cls in every_class()), "a class shares its parent's code"


def test_the_tree_of_the_docstring_is_the_tree() -> None:
    path: list[str] = []
    drawn: dict[str, tuple[str, int]] = {}
    exit_code = 1
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^ {4}([│ ├└─]*)([A-Z]\w+)(?: +exit (\d+))?", line)
        if match is None:
            continue
        depth = len(match[1]) // 4
        exit_code = int(match[3] or exit_code)
        path = [*path[:depth], match[2]]
        drawn[match[2]] = (path[depth - 1] if depth else "Exception", exit_code)
    real = {cls.__name__: (cls.__bases__[0].__name__, cls.exit_code) for cls in every_class()}
    assert drawn == real


@pytest.mark.parametrize("code", list(ErrorCode))
def test_a_code_from_the_registry_becomes_its_class(code: ErrorCode) -> None:
    with pytest.raises(CLASS_OF[code]) as caught:
        raise_for(code.value, "what happened; what to do", "rank")
    assert type(caught.value) is CLASS_OF[code]
    assert json.loads(caught.value.as_json()) == {
        "error": {"code": code.value, "message": "what happened; what to do", "param": "rank"}
    }


def test_a_code_of_a_newer_registry_is_still_an_error_of_ours() -> None:
    with pytest.raises(AdapterctlError) as caught:
        raise_for("invented_later", "message")
    assert caught.value.exit_code == 1


def test_a_message_that_is_no_utf8_is_still_one_json_document() -> None:
    said = json.loads(errors.NotFound("there is no file \udcff.jsonl").as_json())
    assert said["error"]["message"] == "there is no file \\udcff.jsonl"


@pytest.mark.parametrize(
    ("number", "cls"),
    [
        (errno.ENOSPC, Unavailable),
        (errno.EDQUOT, Unavailable),
        (errno.EFBIG, Unavailable),
        (errno.EACCES, NotAllowed),
        (errno.EROFS, NotAllowed),
        (errno.EIO, OSError),
    ],
)
def test_what_the_disk_refuses_is_explained(number: int, cls: type[Exception]) -> None:
    with pytest.raises(cls) as caught, disk_explained("writing x"):
        raise OSError(number, "refused", "/x")
    assert cls is OSError or "while writing x" in str(caught.value)


def test_every_public_name_can_be_had() -> None:
    assert len(set(sdk.__all__)) == len(sdk.__all__)
    assert all(callable(getattr(sdk, name)) for name in sdk.__all__)
    assert {cls.__name__ for cls in every_class()} <= set(sdk.__all__)
    assert dir(sdk) == sorted(sdk.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = sdk.no_such_name
