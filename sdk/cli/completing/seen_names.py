"""The names in what a registry answers to a command, which shells complete afterwards."""

from __future__ import annotations

import json

from sdk.cli.completing.answered_names import Name, names_in
from sdk.cli.completing.names_file import MOST_NAMES, NamesFile
from sdk.config import Config

#: Larger answers are none that a page of a list would be.
_MOST_BYTES = 8_000_000


class SeenNames:
    """The names of one command's answers, of which the first ones are the newest."""

    def __init__(self) -> None:
        self._names: dict[Name, None] = {}

    def hear(self, path: str, body: bytes) -> None:
        """Note the names in an answer."""
        if len(self._names) >= MOST_NAMES or len(body) > _MOST_BYTES:
            return
        try:
            self._names |= dict.fromkeys(names_in(path, json.loads(body or b"null")))
        except (ValueError, RecursionError):
            return

    def keep(self, config: Config) -> None:
        """Write the names where shells find them."""
        NamesFile(config).add(reversed(self._names))
