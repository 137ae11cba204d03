"""Does a registry slow down as it fills? The same four requests on 1,000 and on 1,000,000 versions, on PostgreSQL.

    python benchmarks/growth.py [VERSIONS ADAPTERS]

Two databases of one PostgreSQL, a server of ours over each, asked in turn over one connection; medians count. Then
every statement that these requests run on the large one is explained, and none may scan a table that grows.
"""

from __future__ import annotations

import base64
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from adapters import seed, store
from fleet import postgres_server
from load import drive, get, one, post
from seeding import BASES, NAMESPACES, RANKS, seed_rows
from servers import RegistryServer, registry_server
from sqlalchemy import event
from startup import Row

from registry.app.services import Services
from registry.principal import SYSTEM
from registry.queue import NoQueue
from registry.settings import Settings
from sdk.client import Client
from sdk.schemas.catalog import Publication
from sdk.stack.postgres import PostgresServer

SMALL = (1_000, 20)
LARGE = (1_000_000, 20_000)
#: Rows of a page: as many as there are of each kind on the small one.
PAGE = 10
#: Calls of each request on each database.
CALLS = 300
#: Tables that grow with the number of versions.
GROWING = (
    "adapters",
    "alias_moves",
    "aliases",
    "audit_entries",
    "manifest_access",
    "manifest_blobs",
    "manifests",
    "version_documents",
    "version_origins",
    "version_tags",
    "version_targets",
    "versions",
)

Request = Callable[[], bytes]


@dataclass
class _Filled:
    """A server over a database that was filled, and what is still to be published there."""

    server: RegistryServer
    database_url: str
    adapters: int
    publications: list[dict[str, Any]]
    published: int = 0

    def __post_init__(self) -> None:
        names = sorted(f"ns{number % NAMESPACES}/adapter-{number}" for number in range(1, self.adapters + 1))
        # A page after any of these is full, also where there are only a few adapters.
        self._early = names[: len(names) - PAGE]

    def name(self) -> str:
        """Any seeded adapter's name."""
        number = random.randint(1, self.adapters)  # noqa: S311 - which one is no secret
        return f"ns{number % NAMESPACES}/adapter-{number}"

    def requests(self) -> dict[str, Request]:
        """What is measured, by name; each call names other rows."""
        reader, writer = self.server.tokens["reader"], self.server.tokens["writer"]

        def search() -> bytes:
            wanted = f"base = base-{random.randint(1, BASES)} and rank = {random.choice(RANKS)}"  # noqa: S311
            return get(f"/api/v1/search?limit={PAGE}&filter={quote(wanted)}", token=reader)

        def page() -> bytes:
            seen = random.choice(self._early)  # noqa: S311
            cursor = base64.urlsafe_b64encode(json.dumps([seen]).encode()).decode().rstrip("=")
            return get(f"/api/v1/adapters?limit={PAGE}&cursor={cursor}", token=reader)

        def publish() -> bytes:
            round_, number = divmod(self.published, len(self.publications))
            self.published += 1
            body = {**self.publications[number], "adapter": f"bench-{round_}", "upload": None}
            return post("/api/v1/versions", body, token=writer)

        return {
            "resolve by alias": lambda: get(f"/api/v1/resolve?ref={self.name()}@production", token=reader),
            f"list a page of {PAGE} adapters": page,
            f"filter by base and rank, {PAGE} versions": search,
            "publish a version": publish,
        }


def run(large: tuple[int, int] = LARGE, *, calls: int = CALLS) -> list[Row]:
    """Fill both databases, measure, explain. Raises RuntimeError where a statement scans a table that grows."""
    with ExitStack() as stack:
        postgres = stack.enter_context(
            postgres_server(shared_buffers="2GB", synchronous_commit="off", max_wal_size="8GB")
        )
        filled = [_fill(stack, postgres, *size) for size in (SMALL, large)]
        asked = [one.requests() for one in filled]
        times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in asked[0]}
        for call in range(calls + 20):
            for name, (few, many) in times.items():
                for which, into in ((0, few), (1, many)):
                    took = drive(filled[which].server.port, iter([one(asked[which][name]())]), connections=1)
                    if call >= 20:
                        into.append(took.valid().p50_ms)
        scanned = _scans(filled[1])
        if scanned:
            raise RuntimeError("these scan a table that grows:\n" + "\n".join(scanned))
        note = (
            f"PostgreSQL, {large[0]:,} versions of {large[1]:,} adapters (ours) beside {SMALL[0]:,} of {SMALL[1]} (peer); "
            f"median of {calls} interleaved over HTTP; no statement scans a table that grows"
        )
        return [
            _row(name, statistics.median(many), statistics.median(few), note) for name, (few, many) in times.items()
        ]


def _row(name: str, many: float, few: float, note: str) -> Row:
    growth = f"grows {many / few:.2f}× (target at most 1.3×)"
    return {
        "what": f"{name}, ms",
        "ours": round(many, 2),
        "peer": round(few, 2),
        "ratio": round(few / many, 2),
        "note": f"{growth}; {note}",
    }


def _fill(stack: ExitStack, postgres: PostgresServer, versions: int, adapters: int) -> _Filled:
    url = postgres.create_database(f"of_{versions}")
    server = stack.enter_context(registry_server(database_url=url))
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    client = Client(server.url, server.tokens["admin"], cache=scratch / "cache")
    seed(client, scratch)
    publications = store(client, "stored", 100, scratch)
    client.close()
    seed_rows(url, versions, adapters)
    return _Filled(server, url, adapters, publications)


def _scans(filled: _Filled) -> list[str]:
    """Explain every statement that the four requests run; return those that read a growing table from end to end."""
    settings = Settings(
        database_url=filled.database_url,
        storage_url=(filled.server.folder / "artifacts").as_uri(),
        public_url=filled.server.url,
    )
    services = Services(settings, queue=NoQueue())
    seen: list[tuple[str, Any]] = []

    def remember(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_more: Any) -> None:
        if statement.startswith(("SELECT", "UPDATE")):
            seen.append((statement, parameters))

    event.listen(services.db.engine, "before_cursor_execute", remember)
    _work(services, filled)
    event.remove(services.db.engine, "before_cursor_execute", remember)
    found = []
    with services.db.engine.connect() as connection:
        for statement, parameters in seen:
            plan = "\n".join(row[0] for row in connection.exec_driver_sql(f"EXPLAIN {statement}", parameters))
            found += [f"{line.strip()}\n    {statement}" for line in plan.splitlines() if _is_scan(line)]
            connection.rollback()
    services.db.close()
    return found


def _is_scan(line: str) -> bool:
    return any(f"Seq Scan on {table} " in line for table in GROWING)


def _work(services: Services, filled: _Filled) -> None:
    services.catalog.resolve(f"{filled.name()}@production", who=SYSTEM)
    services.catalog.adapters(namespace=None, prefix="", cursor=None, limit=50, who=SYSTEM)
    services.search.search(wanted="base = base-3 and rank = 8", sort="-created", cursor=None, limit=50, who=SYSTEM)
    body = {**filled.publications[0], "adapter": "explained", "upload": None}
    services.publisher.publish(publication=Publication.model_validate_json(json.dumps(body)), who=SYSTEM)


if __name__ == "__main__":
    size = (int(sys.argv[1]), int(sys.argv[2])) if len(sys.argv) == 3 else LARGE
    for row in run(size):
        print(row)
