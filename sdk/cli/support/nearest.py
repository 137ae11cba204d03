"""What somebody may have meant by a name that the registry doesn't have: names that it lists for them, and no others.

The lists are asked for only after a name was not found. What the caller may not see is in none of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING

from sdk.errors import AdapterctlError, NotAllowed, NotFound

if TYPE_CHECKING:
    from sdk.client import Client

_ADAPTER = re.compile(r"there is no adapter '([^']+)'")
_BASE = re.compile(r"there is no base '([^']+)'")
_SELECTOR = re.compile(r"there is no (?:alias |version )?'?([^\s'@]+)@([^\s';]+)'?")
#: The registry doesn't know yet what will be made.
_UNNAMED = re.compile(r": name it (?:[^ /]+/)?NAME$")
#: A version is a number after `v`.
_BARE_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


@contextmanager
def names_suggested(client: Client) -> Iterator[None]:
    """Add to what was not found within the block the nearest name that the caller may see, if there is one."""
    try:
        yield
    except (NotFound, NotAllowed) as error:
        if _UNNAMED.search(error.message) and (name := _new_name()) is not None:
            raise type(error)(error.message.removesuffix("NAME") + name, param=error.param) from error
        if not isinstance(error, NotFound):
            raise
        near = _nearest(client, error.message)
        if near is None:
            raise
        missing = error.message.partition(";")[0]
        raise type(error)(f"{missing}; did you mean {near}?", param=error.param) from error


def _new_name() -> str | None:
    """Return what the command calls the adapter that it makes, without a namespace."""
    import click

    name = click.get_current_context().params.get("name")
    return name.rpartition("/")[2] if isinstance(name, str) else None


def _nearest(client: Client, message: str) -> str | None:
    for pattern, find in _FINDERS:
        match = pattern.match(message)
        if match is not None:
            try:
                return find(client, *match.groups())
            except AdapterctlError:
                # The error that led here says more.
                return None
    return None


def _adapter(client: Client, name: str) -> str | None:
    return _close(name, [view.adapter for view in client.adapters()])


def _base(client: Client, name: str) -> str | None:
    return _close(name, [view.id for view in client.bases()])


def _selector(client: Client, adapter: str, selector: str) -> str | None:
    versions = client.versions(adapter)
    names = [name for version in versions for name in (f"v{version.number}", *version.info.aliases)]
    if _BARE_NUMBER.fullmatch(selector):
        return f"{adapter}@v{selector}" if f"v{selector}" in names else None
    near = _close(selector, names)
    return None if near is None else f"{adapter}@{near}"


def _close(name: str, names: list[str]) -> str | None:
    return next(iter(get_close_matches(name, dict.fromkeys(names), n=1, cutoff=0.7)), None)


_FINDERS: tuple[tuple[re.Pattern[str], Callable[..., str | None]], ...] = (
    (_ADAPTER, _adapter),
    (_BASE, _base),
    (_SELECTOR, _selector),
)
