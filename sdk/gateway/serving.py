"""A gateway, put together: one registry, one engine, one address, until a signal ends it."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import uvicorn

from sdk.api.serving import MOST_ASKED
from sdk.errors import Conflict, InvalidInput, NotFound, Unavailable
from sdk.formats.hosts import is_loopback, parse_authority, plain_address
from sdk.formats.refs import namespace_of
from sdk.gateway.chosen_engine import ChosenEngine, EngineChoice, choose
from sdk.gateway.door.door import Door
from sdk.gateway.door.entrance import Entrance
from sdk.gateway.door.hosts import OwnHosts
from sdk.gateway.door.keys import SHORTEST_KEY, Keys, OwnKey, TokenRights, make_key
from sdk.gateway.door.renderers import Renderers
from sdk.gateway.door.server import listen, server_of
from sdk.gateway.door.standing import GatewayStanding
from sdk.gateway.door.templates import Templates
from sdk.gateway.engines.engine import EngineRefused
from sdk.gateway.moves.folders import LeasedFolders
from sdk.gateway.moves.moves import Moves
from sdk.gateway.moves.proving import ProbeRecords, Proving
from sdk.gateway.tables.model_names import ModelNames
from sdk.gateway.tables.registry_calls import RegistryCalls
from sdk.gateway.tables.served_tables import ServedTables
from sdk.gateway.tables.table_file import TableFile
from sdk.names import parse_ref
from sdk.schemas.serving import ServedAdapter, ServedVersion

if TYPE_CHECKING:
    from sdk.client import Client

T = TypeVar("T")

#: The folder in the cache with what a restart without the registry needs.
_STORE = "serving"


@dataclass(frozen=True)
class ServeOptions:
    """What `adapterctl serve` was told."""

    refs: tuple[str, ...]
    engine: EngineChoice
    host: str = "127.0.0.1"
    port: int = 8011
    #: The gateway's key; None: one is made.
    key: str | None = None
    #: Whether everybody on this machine may ask.
    has_no_key: bool = False
    unprobed: bool = False
    drain_s: float = 30.0
    allowed_hosts: tuple[str, ...] = ()

    @property
    def lease_owner(self) -> str:
        """Whose the gateway's leases are: those of its address, at which there is no other, also after a restart.

        >>> choice = EngineChoice("local")
        >>> ServeOptions(("sql",), choice).lease_owner, ServeOptions(("sql",), choice, host="10.0.0.5").lease_owner
        ('serve-8011', 'serve-10.0.0.5-8011')
        """
        if self.host in ("127.0.0.1", "localhost"):
            return f"serve-{self.port}"
        return f"serve-{re.sub('[^A-Za-z0-9.:-]', '-', self.host)[:80]}-{self.port}"


def read_key(path: Path) -> str:
    """Return the key in a file: its first line. Raises InvalidInput, which doesn't show it."""
    try:
        key = path.read_text(encoding="utf-8").partition("\n")[0].strip()
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"the key file {path} can't be read; give a text file with one line", param="key-file"
        ) from error
    if len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise InvalidInput(
            f"the key in {path} is shorter than {SHORTEST_KEY} characters, or has others than those of a header; make one with: "
            "openssl rand -hex 32",
            param="key-file",
        )
    return key


def check(options: ServeOptions) -> None:
    """Raise InvalidInput for options that don't go together."""
    host = plain_address(options.host) or (parse_authority(options.host) or ("",))[0]
    if options.has_no_key and not is_loopback(host):
        raise InvalidInput(
            f"without a key only this machine may ask, and {options.host} is for others too; give --key-file, or leave --host out",
            param="no-key",
        )
    for allowed in options.allowed_hosts:
        if plain_address(allowed) is None and parse_authority(allowed) is None:
            raise InvalidInput(f"{allowed[:100]!a} is not a host; give a name or an address", param="allow-host")
    for ref in options.refs:
        if parse_ref(ref).digest_prefix is not None:
            raise InvalidInput(f"{ref} can't be served by its digest; name the version, such as NAME@v3", param="ref")
    for space, names in _by_namespace(options.refs).items():
        if len(names) > MOST_ASKED:
            raise InvalidInput(
                f"{len(names)} adapters of the namespace {space!r} are more than the {MOST_ASKED} that one gateway serves; serve the "
                "others from another gateway, with --port",
                param="ref",
            )


def _by_namespace(refs: Sequence[str]) -> dict[str, list[str]]:
    """Return the adapters that refs name, by namespace."""
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(parse_ref(ref).adapter for ref in refs):
        found.setdefault(namespace_of(name) or "-", []).append(name)
    return found


def serve(
    client: Client, options: ServeOptions, *, say: Callable[[str], None], on_ready: Callable[[str, str | None], None]
) -> None:
    """Serve until SIGTERM or SIGINT. `say` gets each move as a line; `on_ready` the URL, and the key if one was made.

    Raises InvalidInput, NotFound, Conflict, Unavailable.
    """
    check(options)
    asyncio.run(_Serving(client, options, say).run(on_ready))


@dataclass(frozen=True)
class _Prepared:
    """What is known before an engine is started."""

    calls: RegistryCalls
    tables: ServedTables
    engine: ChosenEngine
    #: The fingerprint of the base.
    base: str


class _Serving:
    def __init__(self, client: Client, options: ServeOptions, say: Callable[[str], None]) -> None:
        self._client, self._options, self._say = client, options, say
        self._store = client.cache.root / _STORE
        self._stopped = asyncio.Event()

    async def run(self, on_ready: Callable[[str, str | None], None]) -> None:
        # Before anything is started that takes long.
        listening = listen(self._options.host, self._options.port)
        try:
            prepared = await self._prepared()
        except BaseException:
            listening.close()
            raise
        entrance = Entrance()
        server = server_of(entrance, drain_s=self._options.drain_s)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            while not server.started and not serving.done():
                await asyncio.sleep(0.01)
            # Instead of the server's own handlers, which say nothing and end it alone.
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, self._signalled, server)
            host, port = listening.getsockname()[:2]
            url = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
            await self._serve(prepared, entrance, server, lambda made: on_ready(url, made))
        except EngineRefused as error:
            raise Unavailable(str(error), param="engine") from error
        finally:
            server.should_exit = True
            await serving

    def _signalled(self, server: uvicorn.Server) -> None:
        if self._stopped.is_set():
            # Whoever asks again doesn't want to wait.
            server.force_exit = True
        self._stopped.set()

    async def _prepared(self) -> _Prepared:
        """Look at what is to be served, and which engine can: what is wrong with that is seen before anybody is answered."""
        adapters = _by_namespace(self._options.refs)
        calls = RegistryCalls(self._client.transport, adapters, say=self._say)
        folder, url = self._store / "tables", self._client.config.url
        files = {space: TableFile.of(folder, url, space, names) for space, names in adapters.items()}
        tables = ServedTables(calls, files, say=self._say)
        await tables.start()
        ref, version = self._base_of(tables.adapters)
        engine = await asyncio.to_thread(choose, self._client, self._options.engine, ref, version, self._store)
        return _Prepared(calls, tables, engine, version.base)

    async def _serve(
        self,
        prepared: _Prepared,
        entrance: Entrance,
        server: uvicorn.Server,
        on_ready: Callable[[str | None], None],
    ) -> None:
        options, client = self._options, self._client
        calls, tables, engine = prepared.calls, prepared.tables, prepared.engine
        folders = LeasedFolders(client.puller, client.cache, options.lease_owner)
        records = ProbeRecords(client.transport, self._store / "probes")
        moves = Moves(
            engine.engine,
            refs=options.refs,
            base=prepared.base,
            folders=folders,
            prove=Proving(records.get, unprobed=options.unprobed),
            objection=engine.objection,
            say=self._say,
        )
        renderers = Renderers()
        looking: asyncio.Task[None] | None = None
        try:
            facts = await self._or_stopped(moves.start())
            if facts is None:
                return
            # It may have taken minutes.
            await self._or_stopped(tables.look())
            moves.update(tables.adapters)
            looking = asyncio.create_task(tables.run(moves.update))
            own, made = self._key()
            entrance.door = Door(
                versions=moves,
                templates=Templates(facts, engine.base, renderers),
                standing=GatewayStanding(moves, tables),
                keys=Keys(own, TokenRights(calls.standing) if calls.has_feed and not options.has_no_key else None),
                hosts=OwnHosts.of(options.host, options.allowed_hosts),
                facts=facts,
                base=engine.base_id,
            )
            await self._or_stopped(moves.settled())
            if not self._stopped.is_set():
                on_ready(made)
            stopped = asyncio.create_task(self._stopped.wait())
            await asyncio.wait([stopped, looking], return_when=asyncio.FIRST_COMPLETED)
            if looking.done():
                # It never ends by itself; a gateway that doesn't look any more would serve what was deleted.
                await looking
            self._say(f"ending: no new requests, and those that run have {options.drain_s:g} s")
            await self._drained(server)
        finally:
            if looking is not None:
                looking.cancel()
            renderers.close()
            await moves.close()

    @staticmethod
    async def _drained(server: uvicorn.Server) -> None:
        """Wait until the server has ended; the engine is there meanwhile."""
        server.should_exit = True
        while server.server_state.tasks and not server.force_exit:
            await asyncio.sleep(0.05)

    async def _or_stopped(self, work: Awaitable[T]) -> T | None:
        """Return what comes of it; None if a signal comes first."""
        task, stopped = asyncio.ensure_future(work), asyncio.create_task(self._stopped.wait())
        await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            return None
        return task.result()

    def _base_of(self, adapters: Sequence[ServedAdapter]) -> tuple[str, ServedVersion]:
        """Return a version with the base of all that is served, by its ref. Raises NotFound, Conflict for what can't be served together."""
        names = ModelNames(adapters)
        first: tuple[str, ServedVersion] | None = None
        for ref in self._options.refs:
            found = names.find(ref)
            if found is None:
                # The registry says why, where there is more to say than that it isn't there.
                self._client.get(ref)
                raise NotFound(
                    f"{ref} is not a version that can be served; see: adapterctl list {parse_ref(ref).adapter}",
                    param="ref",
                )
            if first is not None and first[1].base != found.version.base:
                raise Conflict(
                    f"{ref} belongs to another base than {first[0]}; serve it from another gateway, with a port of its own",
                    param="ref",
                )
            first = first or (ref, found.version)
        assert first is not None
        return first

    def _key(self) -> tuple[OwnKey | None, str | None]:
        """Return the key that is asked for, and its text if it was made."""
        if self._options.has_no_key:
            return None, None
        if self._options.key is not None:
            return OwnKey.of(self._options.key), None
        made = make_key()
        return OwnKey.of(made), made
