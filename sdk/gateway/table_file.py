"""The last table of a namespace, in a file that only its owner can read: with the registry away, a restart goes on from it.

>>> import tempfile
>>> file = TableFile.of(Path(tempfile.mkdtemp()), "https://registry.example.com", "team")
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
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from sdk.schemas.serving import ServingTable
from sdk.schemas.wire import read_json
from sdk.whole_files import write_whole

#: Ten thousand adapters with some versions each.
_MOST_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class LastTable:
    """A table, and when the registry last said that it is still so, in seconds since 1970."""

    table: ServingTable
    looked_at: float


@dataclass(frozen=True)
class TableFile:
    """The file of one registry and namespace. Its own time is that of the last look."""

    path: Path

    @classmethod
    def of(cls, folder: Path, url: str, namespace: str) -> TableFile:
        """Return that of a registry and a namespace."""
        return cls(folder / f"{hashlib.sha256(json.dumps([url, namespace]).encode()).hexdigest()[:32]}.json")

    def read(self) -> LastTable | None:
        """Return what is in it; None if there is none, or what another release wrote can't be read."""
        try:
            with self.path.open("rb") as file:
                return LastTable(read_json(ServingTable, file.read(_MOST_BYTES)), os.fstat(file.fileno()).st_mtime)
        except (OSError, ValidationError):
            return None

    def write(self, table: ServingTable) -> None:
        """Write a table. Raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(self.path, table.model_dump_json(), durable=True, mode=0o600)

    def touch(self) -> None:
        """Note that it is still so. Raises OSError."""
        os.utime(self.path)
