"""Bodies as views get them: how long they may be, the value that was parsed, and threads for what takes as long as they are."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from fastapi.exceptions import RequestValidationError

from registry.errors import RegistryError
from registry.http.lanes import WAIT_S, Lane
from registry.pools import Pool
from sdk.version import API

_MIB = 1024 * 1024
#: The longest body in bytes, and how many numbers, texts, lists and objects it may have; except for routes that need
#: more.
MAX_BODY_BYTES, MAX_VALUES = _MIB, 100_000


class Limit(NamedTuple):
    """How large one body may be."""

    size_bytes: int
    values: int


_USUAL = Limit(MAX_BODY_BYTES, MAX_VALUES)
#: Routes that need more: the shapes of a base's tensors, the 10,000 files of a manifest, the log lines of a heartbeat,
#: the samples of an evaluation.
LARGER: tuple[tuple[re.Pattern[str], Limit], ...] = (
    (re.compile(rf"{API}/bases"), Limit(4 * _MIB, 2 * MAX_VALUES)),
    (
        re.compile(rf"{API}/(uploads|versions|jobs/[^/]+/(checkpoints|complete|heartbeat))"),
        Limit(4 * _MIB, MAX_VALUES),
    ),
)
#: The longest body that any route reads, in bytes.
LONGEST_BODY_BYTES = max(_USUAL.size_bytes, *(limit.size_bytes for _, limit in LARGER))
#: Larger ones are worked on in threads, and have room of their own.
APART_BYTES = 64 * 1024
#: Bodies that are not small are parsed in threads, at most this many at a time.
PARSED_AT_ONCE = 1
_parsing = Lane(
    Pool(
        "parsing",
        waits=f"bodies of more than {APART_BYTES // 1024} KiB: they are parsed, then checked against their schema; {WAIT_S:g} s",
        at_once=str(PARSED_AT_ONCE),
        item=f"{LARGER[0][1].size_bytes // _MIB} MiB of JSON, of {LARGER[0][1].values:,} values at most",
        share="by turns: one after one of every other",
    ),
    at_once=PARSED_AT_ONCE,
)

#: In the scope: the value of the body, if there is one.
PARSED = "registry.parsed"

T = TypeVar("T")


class Parsed(NamedTuple):
    """The value of a body, and how many bytes the body had."""

    value: Any
    size_bytes: int


def limit_of(path: str) -> Limit:
    """How large a body may be that is sent to this path."""
    return next((limit for pattern, limit in LARGER if pattern.fullmatch(path)), _USUAL)


async def sized(size_bytes: int, call: Callable[..., T], *given: Any, **named: Any) -> T:
    """Call a function that takes time proportional to a body: directly if the body is small, in a thread otherwise.

    A refusal comes without its traceback, which would keep all that was parsed alive until the next collection of
    cycles.
    """

    def run() -> T | RegistryError | RequestValidationError:
        try:
            return call(*given, **named)
        except (RegistryError, RequestValidationError) as error:
            error.__traceback__ = error.__context__ = error.__cause__ = None
            return error

    if size_bytes <= APART_BYTES:
        found = run()
    else:
        found = await _parsing.run(run)
    if isinstance(found, (RegistryError, RequestValidationError)):
        raise found
    return found
