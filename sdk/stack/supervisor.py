"""The process that keeps a stack's parts running: `python -m sdk.stack.supervisor HOME`, one for each home.

`adapterctl up` starts it, detached. On SIGTERM it ends its parts and then itself. If it is killed, its parts stay
running, and the next supervisor adopts them.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from sdk.file_locks import locked
from sdk.stack.home import Stack
from sdk.stack.keeper import Keeper
from sdk.stack.local_process import LocalProcess, write_private
from sdk.stack.programs import inherited_environment
from sdk.version import VERSION

_STATE = "state.json"
_LOCK = "supervisor.lock"
_LOOK_EVERY_S = 0.1
#: How long all of its parts together may take to end, and some time to spare.
_LONGEST_END_S = 120.0

_log = logging.getLogger(__name__)


class SupervisorProcess(LocalProcess):
    """The supervisor of a home, as seen by those who start and end it."""

    name = "supervisor"
    stop_signals: ClassVar = ((signal.SIGTERM, _LONGEST_END_S),)

    @property
    def said(self) -> dict[str, Any]:
        """What the running supervisor last said: `{pid, version, workers, parts[…]}`; empty if none runs, or it has not
        said anything yet.
        """
        try:
            said: dict[str, Any] = json.loads((self.directory / _STATE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return said if said["pid"] == self.pid else {}

    def _command(self) -> list[str]:
        return [sys.executable, "-P", "-m", "sdk.stack.supervisor", str(self.directory)]

    def _healthy(self) -> bool:
        return bool(self.said)

    def _environment(self) -> dict[str, str]:
        # Workers inherit it from the supervisor: proxies, caches, a hub's token.
        cache = os.environ.get("ADAPTERCTL_CACHE")
        return inherited_environment() | ({"ADAPTERCTL_CACHE": cache} if cache else {})


class Supervisor:
    """Keepers for the parts of one stack, with as many workers as its settings say."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._postgres = Keeper(stack.postgres, then=stack.registry.prepare_database)
        self._valkey = Keeper(stack.valkey)
        self._seaweed = Keeper(stack.seaweed, then=stack.registry.prepare_bucket)
        self._registry = Keeper(
            stack.registry, needs=[self._postgres, self._valkey, self._seaweed], then=stack.registry.renew_tokens
        )
        #: With what it serves.
        self._gateway: tuple[tuple[str, ...], Keeper] | None = None
        self._workers: dict[int, Keeper] = {}
        self._leaving: dict[int, Keeper] = {}
        self._written = ""
        self._is_published = False

    def run(self, is_over: Callable[[], bool], pause: Callable[[float], object]) -> None:
        """Keep the parts running until `is_over` returns true; then end them, each before those that it needs."""
        for keeper in (self._postgres, self._valkey, self._seaweed, self._registry):
            keeper.start()
        for worker in self._stack.known_workers:
            # An earlier supervisor may have left any of them running, wanted or not.
            self._keep_worker(worker.number)
        while not is_over():
            try:
                self._follow_settings()
                self._publish()
                self._write_state()
            except OSError as error:
                # A full disk, for example. The parts go on running, and this is tried again.
                _log.warning("%s: %s", type(error).__name__, error)
            pause(_LOOK_EVERY_S)
        for group in (
            [*self._workers.values(), *self._leaving.values(), *self._gateways()],
            [self._registry],
            [self._valkey],
            [self._seaweed],
            [self._postgres],
        ):
            _end(group)

    def _follow_settings(self) -> None:
        self._follow_gateway()
        wanted = range(1, self._stack.workers + 1)
        self._leaving = {number: keeper for number, keeper in self._leaving.items() if keeper.is_alive()}
        for number in set(self._workers) - set(wanted):
            self._leaving[number] = self._workers.pop(number)
            self._leaving[number].end()
        for number in set(wanted) - set(self._workers) - set(self._leaving):
            self._keep_worker(number)

    def _follow_gateway(self) -> None:
        refs = self._stack.served
        if self._gateway is not None and (self._gateway[0] != refs or not self._gateway[1].is_alive()):
            # Two gateways would want the same port.
            _end([self._gateway[1]])
            self._gateway, self._is_published = None, False
        if refs and self._gateway is None:
            self._gateway = refs, Keeper(self._stack.gateway, needs=[self._registry])
            self._gateway[1].start()

    def _gateways(self) -> list[Keeper]:
        return [] if self._gateway is None else [self._gateway[1]]

    def _keep_worker(self, number: int) -> None:
        self._workers[number] = Keeper(self._stack.worker(number), needs=[self._registry])
        self._workers[number].start()

    def _publish(self) -> None:
        if self._registry.is_ready and not self._is_published:
            self._stack.publish()
            self._is_published = True

    def _write_state(self) -> None:
        workers = [self._workers[number] for number in sorted(self._workers)]
        keepers = [self._postgres, self._valkey, self._seaweed, self._registry, *self._gateways(), *workers]
        said = {
            "pid": os.getpid(),
            "version": VERSION,
            "workers": len(workers),
            "serve": [] if self._gateway is None else [*self._gateway[0]],
            "parts": [asdict(keeper.report) for keeper in keepers],
        }
        text = json.dumps(said, indent=2) + "\n"
        if text != self._written:
            write_private(self._stack.home / _STATE, text, durable=False)
            self._written = text


def _end(keepers: Sequence[Keeper]) -> None:
    for keeper in keepers:
        keeper.end()
    for keeper in keepers:
        keeper.join()


def main() -> None:
    """Keep the parts of the given home running, unless another supervisor does so."""
    stack = Stack(Path(sys.argv[1]))
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    lock = stack.home / _LOCK
    try:
        with locked(lock, timeout_s=2.0):
            _log.info("looks after %s", stack.home)
            # If the home is removed, its parts are ended too, or they would hold their ports for ever.
            Supervisor(stack).run(lambda: asked.is_set() or not lock.exists(), asked.wait)
            _log.info("stopped, with every part")
    except BlockingIOError:
        _log.error("another supervisor is running %s, but supervisor.pid doesn't name it", stack.home)
        sys.exit(1)


if __name__ == "__main__":
    main()
