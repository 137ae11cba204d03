"""What the gateway itself takes of the time to a first token: in front of an engine that computes nothing, against that alone.

`python benchmarks/gateway.py` prints both, and what requests at the same time do to it. Machine, versions and figures are in
RESULTS.md.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
from stub_engine import BASE, StubEngine, running_stub

from sdk.gateway.door.completions import CHAT
from sdk.gateway.door.door import Door
from sdk.gateway.door.hosts import OwnHosts
from sdk.gateway.door.keys import Keys, OwnKey
from sdk.gateway.door.renderers import Renderers
from sdk.gateway.door.server import listen, server_of
from sdk.gateway.door.standing import GatewayStanding
from sdk.gateway.door.templates import Templates
from sdk.gateway.moves.moves import Moves
from sdk.gateway.moves.versions import Fetched, Proof
from sdk.gateway.tables.served_tables import TableAge
from sdk.schemas.serving import ServedAdapter, ServedVersion
from sdk.stack.loopback import free_ports

#: Requests that are measured one after the other, of each of the two; those at the same time, and how many of them.
ROUNDS, AT_ONCE, OF_EACH = 400, 16, 25
KEY = "sk-benchmark-of-the-gateway"
_MESSAGES = [{"role": "user", "content": "word " * 30}]


class _Folders:
    """Versions without files."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def begin(self) -> None:
        pass

    async def fetch(self, name: str, digest: str) -> Fetched:
        return Fetched(self._root)

    async def release(self, fetched: Fetched) -> None:
        pass


class _Now:
    age = TableAge(0.0, None)


async def serve(port: int, engine_url: str) -> None:
    """Serve two versions of one adapter in front of a stub, as `adapterctl serve` does with a real engine."""

    async def prove(*_: object) -> Proof:
        return Proof.PASSED

    versions = [ServedVersion(number=n, digest=f"{n}" * 64, state="ready", base="b" * 64) for n in (1, 2)]
    with tempfile.TemporaryDirectory() as root:
        moves = Moves(StubEngine(engine_url), refs=["sql"], base=None, folders=_Folders(Path(root)), prove=prove)
        facts = await moves.start()
        moves.update([ServedAdapter(name="sql", latest=2, aliases={"production": 1}, versions=versions)])
        door = Door(
            versions=moves,
            templates=Templates(facts, None, Renderers()),
            standing=GatewayStanding(moves, _Now()),
            keys=Keys(OwnKey.of(KEY), None),
            hosts=OwnHosts.of("127.0.0.1", []),
            facts=facts,
            base="stub",
        )
        await server_of(door, drain_s=1).serve(sockets=[listen("127.0.0.1", port)])


def first_token_ms(connection: http.client.HTTPConnection, model: str) -> float:
    """Return the time from the request to the first line of the answer that has something of it, in milliseconds."""
    body = json.dumps({"model": model, "messages": _MESSAGES, "stream": True})
    begun = time.perf_counter()
    connection.request("POST", CHAT, body, {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"})
    response = connection.getresponse()
    line = response.readline()
    taken = time.perf_counter() - begun
    if response.status != 200 or not line.startswith(b"data: {"):
        raise RuntimeError(f"{response.status}: {line + response.read()!r}")
    response.read()
    return taken * 1000


def measured(port: int, model: str, rounds: int) -> list[float]:
    """Return the times of requests one after the other, on one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    try:
        return [first_token_ms(connection, model) for _ in range(rounds)]
    finally:
        connection.close()


def together(port: int, model: str) -> list[float]:
    """Return the times of requests of several callers at the same time."""
    found: list[float] = []
    callers = [threading.Thread(target=lambda: found.extend(measured(port, model, OF_EACH))) for _ in range(AT_ONCE)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return found


@contextmanager
def running_gateway(engine_url: str) -> Iterator[int]:
    """Serve it in a process of its own."""
    (port,) = free_ports(1)
    process = subprocess.Popen([sys.executable, __file__, str(port), engine_url])
    try:
        for _ in range(200):
            try:
                if httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(20)


def shown(times: Sequence[float]) -> str:
    """Return the median and the 99th percentile."""
    return f"p50 {statistics.median(times):6.2f} ms   p99 {statistics.quantiles(times, n=100)[98]:6.2f} ms"


def main() -> None:
    """Measure and print."""
    (stub_port,) = free_ports(1)
    with running_stub(stub_port) as url, running_gateway(url) as port:
        for warm_port, model in ((stub_port, BASE), (port, "sql@production")):
            measured(warm_port, model, 50)
        # By turns, so that what else the machine does comes to both.
        direct: list[float] = []
        through: list[float] = []
        for _ in range(10):
            direct += measured(stub_port, BASE, ROUNDS // 10)
            through += measured(port, "sql@production", ROUNDS // 10)
        own = sorted(each - statistics.median(direct) for each in through)
        print(f"engine alone            {shown(direct)}")
        print(f"through the gateway     {shown(through)}")
        print(f"the gateway's own       {shown(own)}")
        print(f"engine alone, {AT_ONCE} at once        {shown(together(stub_port, BASE))}")
        print(f"through the gateway, {AT_ONCE} at once {shown(together(port, 'sql@production'))}")


if __name__ == "__main__":
    if sys.argv[1:]:
        asyncio.run(serve(int(sys.argv[1]), sys.argv[2]))
    else:
        main()
