"""The names that somebody has seen of a registry, in a file of the cache that only its owner can read.

There is one file for each registry and token, so that what one token has listed is never offered to another.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from sdk.cli.completing.answered_names import Name, is_plain
from sdk.config import Config, cache_path
from sdk.file_locks import locked
from sdk.whole_files import write_whole

#: Those that were not seen for the longest time make room for others.
MOST_NAMES = 5000
#: What 5,000 names take is far less.
_MOST_BYTES = 4_000_000
_WAIT_S = 1.0


class NamesFile:
    """The names of one registry that one token has seen, the last seen last. What fails, fails without a word."""

    def __init__(self, config: Config) -> None:
        of = str(config.home or config.url)
        # A token is 256 random bits, which nobody finds by their digest.
        token = hashlib.sha256((config.token or "").encode()).hexdigest()
        key = hashlib.sha256(f"{of}\n{token}".encode(errors="surrogatepass")).hexdigest()
        self.path: Path = cache_path() / "names" / f"{key[:32]}.json"

    def read(self) -> list[Name]:
        """Return all names; none if there is no file, or if it can't be read."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                found = json.loads(file.read(_MOST_BYTES))
            return [(sort, name) for sort, name in found if isinstance(sort, str) and is_plain(name)]
        except (OSError, ValueError, TypeError, RecursionError):
            return []

    def add(self, names: Iterable[Name]) -> None:
        """Note that names were seen just now."""
        seen = dict.fromkeys(names)
        if not seen:
            return
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with locked(self.path.with_suffix(".lock"), timeout_s=_WAIT_S):
                names = [*(name for name in self.read() if name not in seen), *seen][-MOST_NAMES:]
                write_whole(self.path, json.dumps(names), durable=False, mode=0o600)

    def forget(self) -> None:
        """Remove the file."""
        for path in (self.path, self.path.with_suffix(".lock")):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
