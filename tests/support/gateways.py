"""A whole gateway over real HTTP, in front of an engine that computes nothing; both run in a thread of the test's process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import uvicorn

from benchmarks.stub_engine import StubEngine, StubServer
from sdk.gateway.door.door import Door
from sdk.gateway.door.hosts import OwnHosts
from sdk.gateway.door.keys import Keys, OwnKey, TokenRights, WrongKeys
from sdk.gateway.door.protocol import ConnectionLimits, OpenConnections
from sdk.gateway.door.renderers import Renderers
from sdk.gateway.door.server import listen, server_of
from sdk.gateway.door.standing import GatewayStanding
from sdk.gateway.door.templates import Templates
from sdk.gateway.moves.moves import Bounds, Moves
from sdk.gateway.moves.versions import Fetched, Proof
from sdk.gateway.tables.served_tables import TableAge
from sdk.schemas.serving import ServedAdapter, TokenStanding
from support.serving_engine import BASE, adapter, digest_of

T = TypeVar("T")
#: The gateway's own key.
KEY = "sk-the-key-of-the-test"


class Files:
    """Versions whose files are folders that a test fills, by digest."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, name: str) -> Path:
        folder = self.root / digest_of(name)
        folder.mkdir(exist_ok=True)
        return folder

    async def begin(self) -> None:
        pass

    async def fetch(self, name: str, digest: str) -> Fetched:
        return Fetched(self.folder(name))

    async def release(self, fetched: Fetched) -> None:
        pass


@dataclass
class Aged:
    """Tables of a given age."""

    age: TableAge = field(default_factory=lambda: TableAge(0.0, None))


@dataclass
class Gateway:
    """It, while it runs."""

    url: str
    port: int
    loop: asyncio.AbstractEventLoop
    moves: Moves
    stub: StubServer
    stub_url: str
    tables: Aged
    files: Files
    lines: list[str]
    server: uvicorn.Server

    def do(self, call: Callable[[], T]) -> T:
        """Call something in its thread."""

        async def calling() -> T:
            return call()

        return asyncio.run_coroutine_threadsafe(calling(), self.loop).result(60)

    def update(self, *adapters: ServedAdapter) -> None:
        """Give it a table, and wait until what it moves has moved."""
        self.do(lambda: self.moves.update(adapters))
        asyncio.run_coroutine_threadsafe(self.moves.settled(), self.loop).result(60)

    def client(self, **headers: str) -> httpx.Client:
        """Return a client with its key."""
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {KEY}", **headers}, timeout=30)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """What the engine got."""
        found: list[dict[str, Any]] = httpx.get(f"{self.stub_url}/seen", timeout=60).json()["bodies"]
        return found

    @property
    def cancelled(self) -> int:
        """How many streams the engine saw end early."""
        return int(httpx.get(f"{self.stub_url}/seen", timeout=60).json()["cancelled"])


@contextmanager
def gateway(
    root: Path,
    *,
    pieces: int = 3,
    every_s: float = 0.0,
    takes: frozenset[str] = frozenset({"echo", "tools", "response_format", "stop_token_ids"}),
    ask: Callable[[str], TokenStanding] | None = None,
    has_key: bool = True,
    limits: ConnectionLimits | None = None,
    wrong: WrongKeys | None = None,
    base: Path | None = None,
    template: str | None = None,
    most_running: int = 256,
    drain_s: float = 5.0,
) -> Iterator[Gateway]:
    """Run one that serves `sql`, with two versions of which `production` is the first, and `team/sql`."""
    ready, made, ended = threading.Event(), [], threading.Event()

    async def prove(*_: object) -> Proof:
        return Proof.PASSED

    async def standing(sha256: str) -> TokenStanding:
        assert ask is not None
        return ask(sha256)

    async def run() -> None:
        stub = StubServer(pieces, every_s)
        stub_socket = listen("127.0.0.1", 0)
        stub_url = f"http://127.0.0.1:{stub_socket.getsockname()[1]}"
        stub_server = server_of(stub.app, drain_s=1)
        serving_stub = asyncio.create_task(stub_server.serve(sockets=[stub_socket]))
        engine, lines, files, aged = StubEngine(stub_url, takes=takes, template=template), [], Files(root), Aged()
        moves = Moves(
            engine,
            refs=["sql", "team/sql"],
            base=BASE,
            folders=files,
            prove=prove,
            say=lines.append,
            bounds=Bounds(wait_s=5.0, watch_s=0.2),
        )
        facts = await moves.start()
        renderers = Renderers(processor_s=0.5)
        door = Door(
            versions=moves,
            templates=Templates(facts, base, renderers),
            standing=GatewayStanding(moves, aged),
            keys=Keys(OwnKey.of(KEY) if has_key else None, None if ask is None else TokenRights(standing), wrong=wrong),
            hosts=OwnHosts.of("127.0.0.1", ["gateway.example.com"]),
            facts=facts,
            base="tiny",
            most_running=most_running,
        )
        listening = listen("127.0.0.1", 0)
        port = listening.getsockname()[1]
        server = server_of(door, drain_s=drain_s, connections=OpenConnections(limits or ConnectionLimits()))
        made.append(
            Gateway(
                f"http://127.0.0.1:{port}",
                port,
                asyncio.get_running_loop(),
                moves,
                stub,
                stub_url,
                aged,
                files,
                lines,
                server,
            )
        )
        ready.set()
        await server.serve(sockets=[listening])
        await asyncio.to_thread(ended.wait)
        renderers.close()
        await moves.close()
        stub_server.should_exit = True
        await serving_stub

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        assert ready.wait(60)
        made[0].update(adapter("sql", 1, 2, production=1), adapter("team/sql", 1))
        yield made[0]
    finally:
        if made:
            made[0].server.should_exit = True
        ended.set()
        thread.join(60)
