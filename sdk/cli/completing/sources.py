"""Where names for a shell come from: sources are asked in order, and the first that has any is believed.

None of them raises, none prints, and together they take less than a third of a second.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from sdk.cli.completing.answered_names import Name, names_in
from sdk.cli.completing.names_file import NamesFile
from sdk.config import Config
from sdk.version import API, VERSION

#: What a server has to answer.
_SERVER_S = 0.25
#: How long after the start of the process it has to, where that is known.
_ALL_S = 0.28
_AT_LEAST_S = 0.05
_MOST_BYTES = 1_000_000
_UNAUTHENTICATED = 401


@dataclass(frozen=True)
class WantedNames:
    """Names of a sort that begin with a text, and the request that a registry would answer with them."""

    sort: str
    prefix: str
    path: str
    params: Mapping[str, str | int]

    def among(self, names: list[Name]) -> list[str]:
        """Return those of some names that are wanted, the last one first."""
        return [name for sort, name in reversed(names) if sort == self.sort and name.startswith(self.prefix)]


def find(wanted: WantedNames, config: Config) -> list[str]:
    """Return what is wanted from the first source that has any."""
    for source in SOURCES:
        found = wanted.among(source(wanted, config))
        if found:
            return found
    return []


def _seen(_wanted: WantedNames, config: Config) -> list[Name]:
    return NamesFile(config).read()


def _of_server(wanted: WantedNames, config: Config) -> list[Name]:
    return [] if config.home is not None else _answered(_get, wanted, config)


def _of_helper(wanted: WantedNames, config: Config) -> list[Name]:
    return [] if config.home is None else _answered(_get_of_helper, wanted, config)


def _answered(
    get: Callable[[WantedNames, Config, list[tuple[int, bytes]]], None], wanted: WantedNames, config: Config
) -> list[Name]:
    got: list[tuple[int, bytes]] = []
    # Looking up a server's address can't be given a time, but waiting for a thread can.
    thread = threading.Thread(target=get, args=(wanted, config, got), daemon=True)
    thread.start()
    thread.join(max(_AT_LEAST_S, min(_SERVER_S, _ALL_S - _running_s())))
    if not got:
        return []
    status, body = got[0]
    file = NamesFile(config)
    if status == _UNAUTHENTICATED:
        file.forget()
    names = names_in(wanted.path, _document(body)) if status == 200 else []
    # A list begins with what its reader most likely wants.
    names.reverse()
    file.add(names)
    return names


def _running_s() -> float:
    """For how long this process has been running; where only the time of the processor is known, that."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return time.process_time()


def _get(wanted: WantedNames, config: Config, got: list[tuple[int, bytes]]) -> None:
    try:
        from sdk.pulling.http import HttpClient, proxied

        # Through a proxy it would take longer to import what speaks to it than there is time.
        if proxied():
            return
        headers = {"User-Agent": f"adapterctl/{VERSION}"}
        if config.token:
            headers["Authorization"] = f"Bearer {config.token}"
        query = urlencode(wanted.params)
        response = HttpClient(config.reach).get(f"{config.url}{API}{wanted.path}?{query}", headers, read_s=_SERVER_S)
        body = b""
        while len(body) < _MOST_BYTES and (piece := response.read(_MOST_BYTES)):
            body += piece
        got.append((response.status, body))
    except Exception:  # noqa: BLE001 - whatever it is, there is nobody to tell
        return


def _get_of_helper(wanted: WantedNames, config: Config, got: list[tuple[int, bytes]]) -> None:
    try:
        from sdk.cli.completing import by_helper

        target = f"{API}{wanted.path}?{urlencode(wanted.params)}"
        answer = by_helper.get(config, target, within_s=_SERVER_S, most_bytes=_MOST_BYTES)
        if answer is not None:
            got.append(answer)
    except Exception:  # noqa: BLE001 - whatever it is, there is nobody to tell
        return


def _document(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


#: In the order in which they are asked. Whoever has the registry of a folder ready knows more than what was seen of it.
SOURCES: tuple[Callable[[WantedNames, Config], list[Name]], ...] = (_of_helper, _seen, _of_server)
