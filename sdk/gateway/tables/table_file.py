"""The last table of a namespace, in a file that only its owner can read: with the registry away, a restart goes on from it.

>>> import tempfile
>>> file = TableFile.of(Path(tempfile.mkdtemp()), "https://registry.example.com", "team", ["team/a"])
>>> file.read() is None
True
>>> file.write(ServingTable(namespace="team", edition="1", left_out=False, adapters=[]))
>>> file.read().table.namespace
'team'
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from sdk.schemas.serving import ServingTable
from sdk.schemas.wire import read_json
from sdk.whole_files import write_whole

#: Ten thousand adapters with some versions each.
_MOST_BYTES = 64 * 1024 * 1024


class OwnContent(NamedTuple):
    """What is in a file of ours, and when it was written, in seconds since 1970."""

    content: bytes
    written_at: float


def read_own(path: Path) -> OwnContent | None:
    """Return what is in a file; None if somebody else could have written it. Raises OSError."""
    # Whatever has the name instead of a file is not waited for.
    with open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
        status = os.fstat(file.fileno())
        is_ours = status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if not stat.S_ISREG(status.st_mode) or not is_ours:
            return None
        return OwnContent(file.read(_MOST_BYTES), status.st_mtime)


@dataclass(frozen=True)
class LastTable:
    """A table, and when the registry last said that it is still so, in seconds since 1970."""

    table: ServingTable
    looked_at: float


@dataclass(frozen=True)
class TableFile:
    """The file of one registry, and of what is served of a namespace. Its own time is that of the last look."""

    path: Path

    @classmethod
    def of(cls, folder: Path, url: str, namespace: str, adapters: Iterable[str]) -> TableFile:
        """Return that of a registry, a namespace and some of its adapters."""
        meant = json.dumps([url, namespace, sorted(adapters)]).encode()
        return cls(folder / f"{hashlib.sha256(meant).hexdigest()[:32]}.json")

    def read(self) -> LastTable | None:
        """Return what is in it; None if there is none, what another release wrote can't be read, or somebody else could have
        written it: what is served is what it says.
        """
        try:
            if (found := read_own(self.path)) is None:
                return None
            table = read_json(ServingTable, found.content)
        except (OSError, ValidationError):
            return None
        # A clock that was wrong makes no table of the future.
        return LastTable(table, min(found.written_at, time.time()))

    def write(self, table: ServingTable) -> None:
        """Write a table. Raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(self.path, table.model_dump_json(), durable=True, mode=0o600)

    def touch(self) -> None:
        """Note that it is still so. Raises OSError."""
        os.utime(self.path)
