"""What somebody else waits for meanwhile, on the server that is attacked and on one that is idle."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from support.merging_desk import MergingDesk
from support.people import SEEDS
from support.wire import Served

from registry.access.tokens import Tokens
from registry.principal import SYSTEM, Role
from sdk.client import Client

SPACE = "good"


@dataclass
class Waits:
    """How long each request took, in seconds: without the delay that other work on the machine caused, and with it."""

    health_s: list[float] = field(default_factory=list)
    write_s: list[float] = field(default_factory=list)
    clock_health_s: list[float] = field(default_factory=list)
    clock_write_s: list[float] = field(default_factory=list)


@dataclass
class Victim:
    """Somebody who asks whether a server is healthy, and writes a little."""

    served: Served
    ref: str
    http: httpx.Client

    def ask(self, waits: Waits) -> None:
        """Ask and write once."""
        self._time(self.served.healthy_s, waits.health_s, waits.clock_health_s)
        self._time(self._write, waits.write_s, waits.clock_write_s)

    def _time(self, ask: Callable[[], object], waited_s: list[float], clock_s: list[float]) -> None:
        before, began = self.served.delays_s(), time.monotonic()
        ask()
        took_s = time.monotonic() - began
        after = self.served.delays_s()
        # One thread at a time serves this; it may have begun, and others may have ended, meanwhile.
        delay_s = max(delay_s - before.get(thread, 0.0) for thread, delay_s in after.items())
        clock_s.append(took_s)
        waited_s.append(max(0.0, took_s - delay_s))

    def _write(self) -> None:
        body = {"ref": self.ref, "description": f"written {next(SEEDS)}"}
        answer = self.http.patch("/api/v1/version", json=body)
        assert answer.status_code == 200, answer.text


@contextmanager
def victim_of(served: Served, folder: Path) -> Iterator[Victim]:
    """Somebody with a version of their own."""
    folder.mkdir()
    made = Tokens(served.database)
    with ExitStack() as stack:
        secret = made.create(name=SPACE, grants={SPACE: Role.WRITER}, who=SYSTEM).secret
        client = Client(served.url, secret, cache=folder / "cache")
        stack.callback(client.close)
        ref = MergingDesk.open(client, client, SPACE, folder).push()
        # From another address, like another client.
        http = httpx.Client(
            base_url=served.url,
            headers={"Authorization": f"Bearer {secret}"},
            timeout=60,
            transport=httpx.HTTPTransport(local_address="127.0.0.9"),
        )
        yield Victim(served, ref, stack.enter_context(http))


@contextmanager
def waiting(*victims: Victim) -> Iterator[list[Waits]]:
    """Let the victims of several servers ask in turn during the block."""
    waits, ended = [Waits() for _ in victims], threading.Event()

    def ask() -> None:
        while not ended.wait(0.02):
            for victim, one in zip(victims, waits, strict=True):
                victim.ask(one)

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            yield waits
        finally:
            ended.set()
        asking.result()
