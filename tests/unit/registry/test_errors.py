"""The tree of errors, the codes and the HTTP statuses hold together."""

from __future__ import annotations

import re

import registry.errors
import sdk.errors
from registry.errors import STATUS, RegistryError
from sdk.schemas.codes import ErrorCode, ErrorReply


def tree(root: type[RegistryError]) -> list[type[RegistryError]]:
    return [root, *(found for child in root.__subclasses__() for found in tree(child))]


def test_every_class_has_a_code_of_its_own() -> None:
    classes = tree(RegistryError)
    codes = [cls.code for cls in classes]
    assert sorted(codes) == sorted(set(codes))
    for cls in classes:
        assert "code" in vars(cls), f"{cls.__name__} borrows its parent's code"


def test_statuses_are_those_of_errors() -> None:
    assert all(400 <= status < 600 for status in STATUS.values())
    faults = {ErrorCode.INTERNAL, ErrorCode.UNAVAILABLE, ErrorCode.READ_ONLY}
    assert {code for code, status in STATUS.items() if status >= 500} == faults


def test_every_code_becomes_a_class_of_the_sdk() -> None:
    for code in STATUS:
        assert sdk.errors.CLASS_OF[code].code == code


def test_a_subclass_here_is_a_subclass_there() -> None:
    """Whoever catches the parent in the SDK catches what the registry raised as the child."""
    for cls in tree(RegistryError):
        for parent in cls.__mro__[1:]:
            if issubclass(parent, RegistryError) and parent is not RegistryError:
                assert issubclass(sdk.errors.CLASS_OF[cls.code], sdk.errors.CLASS_OF[parent.code])


def test_the_drawing_shows_every_class() -> None:
    drawn = set(re.findall(r"[├└]── (\w+)", registry.errors.__doc__ or ""))
    assert drawn == {cls.__name__ for cls in tree(RegistryError)} - {"RegistryError"}


def test_a_reply_is_what_the_client_parses() -> None:
    error = registry.errors.StaleAttempt("drop it", param="attempt")
    reply = ErrorReply.model_validate(error.reply().model_dump())
    assert (reply.error.code, reply.error.message, reply.error.param) == ("stale_attempt", "drop it", "attempt")
