"""Names, refs and ids as callers write them, checked against their grammar before anything is sent. Light to import.

>>> check_name("team/code-review")
'team/code-review'
>>> check_number("v3"), check_number(0)
(3, 0)
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from sdk.errors import InvalidName, InvalidRef, NotFound
from sdk.formats import refs
from sdk.formats.refs import (
    SWEEP,
    BadNameError,
    BadRefError,
    MemberRef,
    Ref,
    is_folder,
    parse_alias,
    parse_name,
    parse_number,
)

P = TypeVar("P")

#: What the beginning of a job's id may be.
_JOB_BEGINNING = re.compile(r"[0-9a-f]{6,11}")
_JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def parse_ref(ref: str) -> Ref:
    """Parse a version's ref. Raises InvalidName, or InvalidRef, also for a sweep's member."""
    return _parsed(Ref.parse, ref)


def parse_ref_or_member(ref: str) -> Ref | MemberRef:
    """Parse what may be a version's ref or that of a sweep's member. Raises InvalidName or InvalidRef."""
    return _parsed(refs.parse_ref_or_member, ref)


def _parsed(parse: Callable[[str], P], ref: str) -> P:
    try:
        return parse(ref)
    except BadRefError as error:
        raise InvalidRef(str(error), param="ref") from None
    except BadNameError as error:
        raise InvalidName(str(error), param="ref") from None


def means_folder(target: str | Path) -> bool:
    """Whether a text that may be a ref or a folder is a folder: it begins like one, or can't be a ref.

    In the second case, it must have a `/`, and there must be such a folder. A text that can be a ref is one, even if
    there is a folder of that name.

    >>> [means_folder(text) for text in ("./x", "../x", "/x", "~/x", ".", "x", "team/x", "team/x@v3", "no/such/folder")]
    [True, True, True, True, True, False, False, False, False]
    """
    if isinstance(target, Path) or is_folder(target):
        return True
    try:
        refs.parse_ref_or_member(target)
    except (BadNameError, BadRefError):
        return "/" in target and os.path.isdir(target)  # noqa: PTH112 - False for a text that can't be a path
    return False


@contextmanager
def or_folder(target: str) -> Iterator[None]:
    """Add to the refusal of a ref how to write the folder of that name, if there is one."""
    try:
        yield
    except (InvalidName, InvalidRef, NotFound) as error:
        if not os.path.isdir(target):  # noqa: PTH112
            raise
        raise type(error)(f"{error.message}; if you mean the folder, write ./{target}", param=error.param) from error


def check_name(name: str) -> str:
    """Return the name of an adapter. Raises InvalidName."""
    return _checked(parse_name, name, "name")


def check_alias(alias: str) -> str:
    """Return the name of an alias. Raises InvalidName."""
    return _checked(parse_alias, alias, "alias")


def _checked(parse: Callable[[str], str], text: str, param: str) -> str:
    try:
        return parse(text)
    except BadNameError as error:
        raise InvalidName(str(error), param=param) from None


def check_number(version: str | int) -> int:
    """Return 3 for "v3" or 3, and 0, which means none, for "0" or 0. Raises InvalidRef."""
    if isinstance(version, int) and not isinstance(version, bool):
        if 0 <= version < 10**9:
            return version
    elif version == "0":
        return 0
    try:
        return parse_number(str(version))
    except BadRefError as error:
        raise InvalidRef(str(error), param="version") from None


def check_job_id(job_id: str) -> str:
    """Return the id of a job if it can be one. Raises NotFound."""
    if not _JOB_ID.fullmatch(job_id):
        raise NotFound(f"there is no job {job_id[:80]!a}; see: adapterctl jobs list", param="job")
    return job_id


def is_job_beginning(job_id: str) -> bool:
    """Whether a text may be the beginning of a job's id, which only the registry can complete."""
    return _JOB_BEGINNING.fullmatch(job_id) is not None


def check_sweep_id(sweep_id: str) -> str:
    """Return the id of a sweep if it can be one; `sweep:ID` is it too. Raises NotFound, which says how members are shown."""
    found = sweep_id.removeprefix(SWEEP)
    if _JOB_ID.fullmatch(found):
        return found
    sweep, _, number = found.partition("/")
    if _JOB_ID.fullmatch(sweep) and number.isdecimal():
        raise NotFound(
            f"{sweep_id[:80]!a} is a member of a sweep, and no sweep; see: adapterctl show {SWEEP}{sweep}/{number[:20]}",
            param="sweep",
        )
    raise NotFound(f"there is no sweep {sweep_id[:80]!a}; see: adapterctl sweep list", param="sweep")


def segment(text: str) -> str:
    """Return `text` as one segment of a URL's path; it can't be `.` or `..`, nor empty."""
    return quote(text, safe="").replace(".", "%2E") if text.strip(".") == "" and text else quote(text, safe="") or "-"
