"""What the registry last said of a base and of how it was held, in files that only their owner can read: with the registry away, a restart
finds the base's folder, its name and its precision there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from sdk.errors import NotAllowed, NotFound, TimedOut, Unavailable
from sdk.gateway.tables.table_file import read_own
from sdk.schemas.wire import read_json
from sdk.whole_files import write_whole

T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True)
class LastAnswers:
    """Those of one registry."""

    folder: Path
    url: str

    def ask(self, kind: type[T], about: str, get: Callable[[], T | None]) -> T | None:
        """Return what the registry says, or what it last said while it is away; None if it has nothing, or refuses."""
        meant = json.dumps([self.url, kind.__name__, about]).encode()
        path = self.folder / f"{hashlib.sha256(meant).hexdigest()[:32]}.json"
        try:
            answer = get()
        except (Unavailable, TimedOut):
            return _read(kind, path)
        except (NotFound, NotAllowed):
            answer = None
        # On a full disk there is none to go on from, which is no reason not to serve.
        with suppress(OSError):
            if answer is None:
                path.unlink(missing_ok=True)
            else:
                self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                write_whole(path, answer.model_dump_json(), durable=True, mode=0o600)
        return answer


def _read(kind: type[T], path: Path) -> T | None:
    with suppress(OSError, ValidationError):
        if (found := read_own(path)) is not None:
            return read_json(kind, found.content)
    return None
