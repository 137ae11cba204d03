"""A served registry as a process, and connections to it that send any bytes that a test wants."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from registry.access.tokens import Tokens
from registry.db.database import Database
from registry.principal import SYSTEM, Role
from support.migrated import migrated_file
from support.processes import environment, free_port, running, wait_until_healthy


@dataclass
class Answer:
    """What came back on a connection."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The error's stable code."""
        return json.loads(self.body)["error"]["code"]


class Line:
    """One connection, from an address of loopback."""

    def __init__(self, port: int, *, host: str = "127.0.0.1", source: str | None = None, timeout_s: float = 20) -> None:
        self.socket = socket.create_connection((host, port), timeout=timeout_s, source_address=(source or host, 0))
        self._held = b""

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def answer(self) -> Answer | None:
        """Read one answer with a Content-Length; None if the connection ends before it."""
        try:
            while b"\r\n\r\n" not in self._held:
                if not self._more():
                    return None
            head, _, self._held = self._held.partition(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            size = int(headers.get("content-length", 0))
            while len(self._held) < size:
                if not self._more():
                    return None
        except ConnectionError:
            return None
        body, self._held = self._held[:size], self._held[size:]
        return Answer(int(first.split()[1]), headers, body)

    def ends(self) -> bool:
        """Read until the other side closes; say whether it did before the time-out."""
        try:
            while self._more():
                pass
        except TimeoutError:
            return False
        except ConnectionError:
            return True
        return True

    def _more(self) -> bool:
        data = self.socket.recv(65_536)
        self._held += data
        return bool(data)

    def close(self) -> None:
        """Close it."""
        self.socket.close()

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class Served:
    """A registry that `adapter-registry serve` runs."""

    port: int
    pid: int
    token: str
    log: Path
    database: Database
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        """Its URL."""
        return _url(self.host, self.port)

    @property
    def headers(self) -> dict[str, str]:
        """The headers of an admin's requests."""
        return {"Authorization": f"Bearer {self.token}"}

    def line(self, **given: Any) -> Line:
        """Connect."""
        return Line(self.port, host=self.host, **given)

    def healthy_s(self) -> float:
        """How long another client waits for `/healthz`, in seconds."""
        began = time.monotonic()
        # From another address, like another client.
        with self.line(source="127.0.0.9") as line:
            line.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = line.answer()
        assert answer.status == 200
        return time.monotonic() - began

    def resident_bytes(self) -> int:
        """The memory of the server's process."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * 4096

    def forget_peak(self) -> None:
        """Let `peak_bytes` begin anew."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def peak_bytes(self) -> int:
        """The most memory that the server's process took since `forget_peak`."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))

    def processor_s(self) -> float:
        """The processor time that the server's process has taken, in seconds."""
        stat = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")

    def delays_s(self) -> dict[Path, float]:
        """How long each of the server's threads, and the caller, has waited for a processor, in seconds.

        This is the delay that other work on the machine causes.
        """
        waited_s = {}
        for task in (*Path(f"/proc/{self.pid}/task").iterdir(), Path("/proc/thread-self").resolve()):
            with suppress(OSError):
                waited_s[task] = int((task / "schedstat").read_text().split()[1]) / 1e9
        return waited_s

    def delayed_s(self) -> float:
        """How long all of these have waited together, in seconds."""
        return sum(self.delays_s().values())

    def ask(self, method: str, path: str, **given: Any) -> httpx.Response:
        """Send a whole request as an admin."""
        return httpx.request(method, f"{self.url}{path}", headers=self.headers, timeout=30, **given)


@contextmanager
def serving(
    folder: Path,
    *arguments: str,
    host: str = "127.0.0.1",
    bounds: Mapping[str, float] | None = None,
    **settings: str,
) -> Iterator[Served]:
    """Serve a new registry over SQLite and a folder, with these settings (`max_connections="20"`).

    Where `bounds` are given, fields of `ServerLimits` that no setting changes, it is served by `bounded_server.py`.
    """
    with closing(Database(migrated_file(folder / "registry.sqlite3"))) as database:
        token = Tokens(database).create(name="admin", grants={"*": Role.ADMIN}, who=SYSTEM).secret
        env = environment(
            REGISTRY_DATABASE_URL=database.url,
            REGISTRY_STORAGE_URL=(folder / "artifacts").as_uri(),
            **{f"REGISTRY_{name.upper()}": value for name, value in settings.items()},
        )
        port, log = free_port(), folder / "serve.log"
        command = ("adapter-registry", "serve", "--host", host, "--port", str(port), *arguments)
        if bounds is not None:
            assert not arguments
            command = (
                "python",
                str(Path(__file__).with_name("bounded_server.py")),
                json.dumps(bounds),
                host,
                str(port),
            )
        with running(*command, env=env, log=log) as process:
            wait_until_healthy(_url(host, port), log=log)
            yield Served(port, process.pid, token, log, database, host)


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
