"""A server process over one folder, whose ports and secrets are chosen once and kept there."""

from __future__ import annotations

import json
import time
from abc import abstractmethod
from collections.abc import Collection
from pathlib import Path
from typing import Any

from sdk.stack.errors import ServerError
from sdk.stack.local_process import LocalProcess, write_private
from sdk.stack.loopback import is_taken


class LocalServer(LocalProcess):
    """One server on 127.0.0.1. A second object over the same folder finds the same ports, password and data."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._kept: dict[str, Any] | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients find the server, password included."""

    @property
    def ports(self) -> list[int]:
        """Every port on which the server listens for clients."""
        return [self.kept["port"]]

    @abstractmethod
    def _choose(self) -> dict[str, Any]:
        """Return the ports and secrets of a new folder, as JSON values; the folder keeps them for good."""

    @property
    def kept(self) -> dict[str, Any]:
        """The ports and secrets of this folder, chosen at the first start."""
        if self._kept is None:
            path = self.directory / f"{self.name}.json"
            try:
                self._kept = dict(json.loads(path.read_text(encoding="utf-8")))
            except FileNotFoundError:
                self._make_directory()
                self._kept = self._choose()
                write_private(path, json.dumps(self._kept, indent=2) + "\n")
        return self._kept

    def choose_beside(self, taken: Collection[int]) -> None:
        """Choose ports and secrets, unless that was done before, and none of the ports in `taken`: other servers have
        chosen these, but may not listen yet.
        """
        path = self.directory / f"{self.name}.json"
        was_chosen = path.exists()
        while not was_chosen and not set(self.ports).isdisjoint(taken):
            path.unlink()
            self._kept = None

    def _launch(self) -> None:
        self._require_ports()
        super()._launch()

    def _require_ports(self) -> None:
        """Raise ServerError if another program listens on a kept port: its answers would pass for ours."""
        deadline_s = time.monotonic() + 2.0
        for port in self.ports:
            while is_taken(port):
                # The last connections of a server that was killed may take a moment to disappear.
                if time.monotonic() > deadline_s:
                    raise ServerError(
                        f"another program listens on port {port} of 127.0.0.1, which {self.name} uses; "
                        f"stop it, or remove {self.directory / f'{self.name}.json'} to let new ports be chosen"
                    )
                time.sleep(0.05)
