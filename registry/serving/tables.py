"""The table of a namespace: which version each of its names means now, for gateways that serve them.

A gateway asks every few seconds, so what the table is called until it changes, its edition, is worked out without the versions:
from when each adapter's versions last changed, and from what its aliases name. The table itself is one statement, and is written
as text row by row. The last ones are kept, so that many gateways of one namespace cost one of them.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

from sqlalchemy import ColumnElement, Connection, and_, case, or_, select

from registry.catalog.models import Adapter, Alias, BaseModelRow, Version
from registry.catalog.versions.lifecycle import PULLABLE
from registry.db.database import Database
from registry.db.statements import connection_of
from registry.errors import Conflict, InvalidName
from registry.http.lanes import Lane
from registry.pools import Pool
from registry.principal import Principal, require_namespace
from sdk.formats.refs import BadNameError, namespace_of

#: How many adapters and aliases a namespace may have for a table to be made of it, and how many versions a table has beside
#: those that have a name: the newest ones.
MOST_NAMES, MOST_VERSIONS = 20_000, 20_000
#: How many adapters may be asked for by name.
MOST_ASKED = 50
#: What is kept of tables, all together.
KEPT_BYTES, _KEPT_TABLES = 8 * 1024 * 1024, 64
#: What making the longest one takes, as measured with 20,000 versions.
_MAKING_BYTES = 16 * 1024 * 1024

#: Making a long one takes the interpreter for a quarter of a second, from everybody.
LANE = Lane(
    Pool(
        "tables for gateways",
        waits="gateways that ask for a table that has changed",
        at_once="1",
        item=f"one statement; {MOST_NAMES:,} names and {MOST_VERSIONS:,} versions",
        share="one turn after each of the others",
        most_bytes=KEPT_BYTES + _MAKING_BYTES,
    ),
    at_once=1,
    waiting=1000,
)

_ADAPTERS = (
    select(Adapter.pk, Adapter.updated_at, Adapter.latest_number).where(Adapter.last_number > 0).order_by(Adapter.pk)
)
_ALIASES = (
    select(Alias.adapter_pk, Alias.name, Alias.version_pk)
    .join(Adapter, Adapter.pk == Alias.adapter_pk)
    .order_by(Alias.adapter_pk, Alias.name)
)
_HAS_NAME = or_(Version.pk.is_(None), Alias.name.is_not(None), Version.number == Adapter.latest_number)
_ENTRIES = (
    select(
        Adapter.name.label("adapter"),
        Adapter.latest_number,
        Version.number,
        Version.digest,
        Version.state,
        BaseModelRow.fingerprint,
        Alias.name.label("alias"),
    )
    .outerjoin(
        Version,
        and_(
            Version.adapter_pk == Adapter.pk,
            Version.kind == "adapter",
            Version.state.in_(PULLABLE),
            Version.number.is_not(None),
        ),
    )
    .outerjoin(BaseModelRow, BaseModelRow.pk == Version.base_pk)
    .outerjoin(Alias, Alias.version_pk == Version.pk)
    .where(Adapter.last_number > 0)
    # What has a name comes first, and then what is newest: the rest is cut.
    .order_by(case((_HAS_NAME, 0), else_=1), Version.pk.desc())
)


class Tables:
    """The service that makes tables."""

    def __init__(
        self,
        db: Database,
        *,
        most_names: int = MOST_NAMES,
        most_versions: int = MOST_VERSIONS,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self._db = db
        self._most_names, self._most_versions, self._kept_bytes = most_names, most_versions, kept_bytes
        self._lock = Lock()
        #: By namespace and adapters, the edition and the table in JSON; the one that was used last is the last.
        self._kept: OrderedDict[tuple[str, tuple[str, ...]], tuple[str, bytes]] = OrderedDict()

    def edition(self, namespace: str, adapters: Sequence[str] = (), *, who: Principal) -> str:
        """Return what the table of some adapters of a namespace, none: of all, is called until it changes.

        Raises InvalidName, NotFound if there is no such namespace that the caller may see, Conflict for too many names.
        """
        require_namespace(namespace, "or '-' for names without a namespace", also=("-",), param="namespace")
        who.require("read", namespace, param="namespace")
        _require_within(adapters, namespace)
        with self._db.read() as session:
            return self._edition(connection_of(session), namespace, _sorted(adapters))

    def kept(self, namespace: str, edition: str, adapters: Sequence[str] = ()) -> bytes | None:
        """Return a table of which this is the edition, if it was made before."""
        asked = (namespace, _sorted(adapters))
        with self._lock:
            found = self._kept.get(asked)
            if found is None or found[0] != edition:
                return None
            self._kept.move_to_end(asked)
            return found[1]

    def make(self, namespace: str, edition: str, adapters: Sequence[str] = ()) -> tuple[str, bytes]:
        """Return the present edition of a table and the table, a `ServingTable` in JSON, for somebody who may read it.

        It is made unless it is kept; those who waited for their turn meanwhile all get the same one. Raises Conflict.
        """
        if (kept := self.kept(namespace, edition, adapters)) is not None:
            return edition, kept
        asked = _sorted(adapters)
        with self._db.read() as session:
            connection = connection_of(session)
            edition = self._edition(connection, namespace, asked)
            if (kept := self.kept(namespace, edition, asked)) is None:
                kept = self._written(connection, namespace, edition, asked)
        self._keep((namespace, asked), edition, kept)
        return edition, kept

    def _keep(self, asked: tuple[str, tuple[str, ...]], edition: str, body: bytes) -> None:
        with self._lock:
            self._kept.pop(asked, None)
            self._kept[asked] = (edition, body)
            while len(self._kept) > _KEPT_TABLES or sum(len(one) for _, one in self._kept.values()) > self._kept_bytes:
                self._kept.popitem(last=False)

    def _edition(self, connection: Connection, namespace: str, asked: tuple[str, ...]) -> str:
        """Everything that a table shows changes with one of these: an adapter's row, which a version's state changes, or an alias."""
        within, most = _within(namespace, asked), self._most_names
        adapters = connection.execute(_ADAPTERS.where(within).limit(most + 1)).all()
        aliases = connection.execute(_ALIASES.where(within).limit(most + 1)).all()
        if len(adapters) + len(aliases) > most:
            have = "the adapters asked for have" if asked else f"the namespace {namespace!r} has"
            raise Conflict(
                f"{have} more than {most} adapters and aliases, too many for a gateway's table; "
                "remove aliases with: adapterctl alias rm, or ask for fewer adapters by their names",
                param="adapter" if asked else "namespace",
            )
        changed = [f"{pk} {updated_at.isoformat()} {latest}" for pk, updated_at, latest in adapters]
        texts = [namespace, *asked, *changed, *map(repr, aliases)]
        return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:32]

    def _written(self, connection: Connection, namespace: str, edition: str, asked: tuple[str, ...]) -> bytes:
        most = self._most_names + self._most_versions
        chosen = _ENTRIES.where(_within(namespace, asked)).limit(most + 1).subquery()
        rows = connection.execute(select(chosen).order_by(chosen.c.adapter, chosen.c.number, chosen.c.alias))
        count = 0
        heads: dict[str, tuple[int | None, dict[str, int], list[str]]] = {}
        last = None
        for name, latest, number, digest, state, base, alias in rows:
            count += 1
            if name not in heads:
                heads[name] = (latest, {}, [])
                last = None
            _, aliases, versions = heads[name]
            if alias is not None:
                aliases[alias] = number
            # A version has a row for each of its aliases.
            if number != last:
                last = number
                # Digits and words of our own, in which nothing has to be escaped.
                versions.append(f'{{"number":{number},"digest":"{digest}","state":"{state}","base":"{base}"}}')
        adapters = []
        for name, (latest, aliases, versions) in sorted(heads.items()):
            # A name whose latest version isn't here is that of merged models.
            if versions or latest is None:
                head = json.dumps({"name": name, "latest": latest, "aliases": aliases}, separators=(",", ":"))
                adapters.append(f'{head[:-1]},"versions":[{",".join(versions)}]}}')
        head = json.dumps({"namespace": namespace, "edition": edition, "left_out": count > most}, separators=(",", ":"))
        return f'{head[:-1]},"adapters":[{",".join(adapters)}]}}'.encode()


def _within(namespace: str, asked: tuple[str, ...]) -> ColumnElement[bool]:
    within = Adapter.namespace == namespace
    return and_(within, Adapter.name.in_(asked)) if asked else within


def _sorted(adapters: Sequence[str]) -> tuple[str, ...]:
    """The same adapters in another order are the same table."""
    return tuple(sorted(set(adapters)))


def _require_within(adapters: Sequence[str], namespace: str) -> None:
    """Raise InvalidName unless all of them are names of adapters of a namespace."""
    for name in adapters:
        try:
            space = namespace_of(name)
        except BadNameError as error:
            raise InvalidName(str(error), param="adapter") from None
        if (space or "-") != namespace:
            raise InvalidName(
                f"{name} is not an adapter of the namespace {namespace!r}; ask for each namespace by itself",
                param="adapter",
            )
