"""One run over manifests, blobs and storage. Anything that it removes is checked again while nobody can name it.

A blob is removed in two steps, so that a kill at any moment leaves no row that promises missing bytes: first its row
says that they are given up, then the bytes are removed, without a lock. What was left between the two steps is removed
by the next run. The same bytes sent in the meantime get another name, so it does not matter when the store removes the
old ones.

>>> rows = [BlobRow("b", "b.1", 2, given_up=False, garbage=True), BlobRow("c", "c", 3, given_up=False, garbage=False)]
>>> [(name, stored, row and row.size_bytes) for name, stored, row in side_by_side(iter(["a", "b.1", "b.2"]), iter(rows))]
[('a', True, None), ('b.1', True, 2), ('b.2', True, None), ('c', False, 3)]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from registry.artifacts.models import Blob, ManifestAccess, ManifestBlob, ManifestRow
from registry.artifacts.stored_blobs import hold_blobs
from registry.artifacts.uploads import leave_places
from registry.catalog.models import Version
from registry.catalog.versions.finding import exact_ref
from registry.catalog.versions.lifecycle import LIVE
from registry.db.database import Database
from registry.db.types import utc_now
from registry.removal.garbage import Rules
from registry.storage import Storage
from registry.storage.errors import storage_explained
from registry.usage.charging import charge
from sdk.schemas.removal import MissingBlobs, StrayBlobs

#: How much is removed in one transaction, so that publishers wait no longer than that.
_BATCH = 100
#: How many rows are read at once.
_PAGE = 1000
#: How many digests and refs a report lists.
_SHOWN = 100


class BlobRow(NamedTuple):
    """A blob as the database has it."""

    sha256: str
    #: Its name in storage.
    stored_as: str
    size_bytes: int
    #: Whether the row says already that its bytes are given up.
    given_up: bool
    garbage: bool


@dataclass
class Tally:
    """What a run has removed so far."""

    manifests: int = 0
    blobs: int = 0
    freed_bytes: int = 0
    strays: int = 0
    stray_bytes: int = 0
    stray_digests: list[str] = field(default_factory=list)
    missing: int = 0
    missing_digests: list[str] = field(default_factory=list)


def side_by_side(stored: Iterator[str], rows: Iterator[BlobRow]) -> Iterator[tuple[str, bool, BlobRow | None]]:
    """Merge two ascending series: yield each name in storage once, whether it is stored, and its row."""
    name, row = next(stored, None), next(rows, None)
    while name is not None or row is not None:
        if row is None or (name is not None and name < row.stored_as):
            assert name is not None
            yield name, True, None
            name = next(stored, None)
        elif name is None or row.stored_as < name:
            yield row.stored_as, False, row
            row = next(rows, None)
        else:
            yield name, True, row
            name, row = next(stored, None), next(rows, None)


class Collection:
    """One run. Memory stays constant however many blobs there are."""

    def __init__(self, db: Database, storage: Storage, rules: Rules) -> None:
        self._db = db
        self._storage = storage
        self._rules = rules
        self._dialect = db.engine.dialect.name
        self.tally = Tally()

    def _reading(self) -> AbstractContextManager[Session]:
        return self._db.read(within_s=self._rules.statement_s)

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        """Hold the blobs exclusively until the block ends. The storage must not be asked in it, because that could take
        for ever.
        """
        with self._db.write(within_s=self._rules.statement_s) as session:
            hold_blobs(session, alone=True)
            yield session

    def run(self) -> Tally:
        """Retire manifests, then remove blobs and strays; a dry run only counts. Raises Unavailable."""
        self.retire_manifests()
        with storage_explained():
            self._walk()
        return self.tally

    def retire_manifests(self) -> None:
        """Give up the manifests that nothing names, and the permission to fetch their files."""
        after, size = "", _PAGE if self._rules.dry_run else _BATCH
        while True:
            wanted = self._rules.retirable(self._dialect)
            query = select(ManifestRow.digest).where(ManifestRow.digest > after, wanted)
            with self._reading() as session:
                found = session.scalars(query.order_by(ManifestRow.digest).limit(size)).all()
            if not found:
                return
            after = found[-1]
            self.tally.manifests += len(found) if self._rules.dry_run else self._retire(found)

    def _retire(self, digests: Sequence[str]) -> int:
        wanted = self._rules.retirable(self._dialect)
        with self._writing() as session:
            retired = session.scalars(select(ManifestRow.digest).where(ManifestRow.digest.in_(digests), wanted)).all()
            session.execute(update(ManifestRow).where(ManifestRow.digest.in_(retired)).values(collected_at=utc_now()))
            closed = delete(ManifestAccess).where(ManifestAccess.manifest_digest.in_(retired))
            left = session.execute(closed.returning(ManifestAccess.manifest_digest, ManifestAccess.namespace)).all()
            # Everything else that is retired stopped counting when it was given up.
            merged = (ManifestRow.digest.in_(retired), ManifestRow.kind == "merged")
            rows = session.execute(select(ManifestRow.digest, ManifestRow.size_bytes).where(*merged)).all()
            sizes = {row.digest: row.size_bytes for row in rows}
            for digest, namespace in left:
                charge(session, namespace, merged=-sizes.get(digest, 0))
            return len(retired)

    def _walk(self) -> None:
        """Compare what is stored with the table, both in ascending order, and remove on the way."""
        garbage: dict[str, tuple[BlobRow, bool]] = {}
        strays: list[str] = []
        missing: list[str] = []

        def settle(least: int) -> None:
            if len(garbage) >= least:
                self._remove(garbage)
                garbage.clear()
            if len(strays) >= least:
                self._remove_strays(strays)
                strays.clear()
            if len(missing) >= least:
                self._note_missing(missing)
                missing.clear()

        for name, stored, row in side_by_side(self._storage.list(), self._rows()):
            if row is None:
                strays.append(name)
            elif row.garbage and (stored or not row.given_up):
                garbage[row.sha256] = (row, stored)
            elif not stored and not row.given_up:
                missing.append(name)
            settle(_BATCH)
        settle(0)

    def _rows(self) -> Iterator[BlobRow]:
        """Yield the table in the order of its key; no transaction stays open in between."""
        columns = (Blob.sha256, Blob.stored_as, Blob.size_bytes, Blob.collected_at.is_not(None))
        query = select(*columns, self._rules.garbage(self._dialect)).order_by(Blob.sha256).limit(_PAGE)
        after = ""
        while True:
            with self._reading() as session:
                page = [
                    BlobRow(sha256, stored_as, size_bytes, bool(given_up), bool(garbage))
                    for sha256, stored_as, size_bytes, given_up, garbage in session.execute(
                        query.where(Blob.sha256 > after)
                    )
                ]
            if not page:
                return
            yield from page
            after = page[-1].sha256

    def _remove(self, garbage: dict[str, tuple[BlobRow, bool]]) -> None:
        given_up, taken = set(garbage), set(garbage)
        if garbage and not self._rules.dry_run:
            fresh = [digest for digest, (row, _) in garbage.items() if not row.given_up]
            given_up = set(self.give_up(fresh))
            taken = set(self.take_away([digest for digest, (_, stored) in garbage.items() if stored]))
        for digest, (row, stored) in garbage.items():
            gone = stored and digest in taken
            self.tally.blobs += gone or digest in given_up
            self.tally.freed_bytes += row.size_bytes if gone else 0

    def give_up(self, digests: Sequence[str]) -> Sequence[str]:
        """The first step: mark the bytes as gone in the rows, so that anybody who needs them sends them again."""
        with self._writing() as session:
            garbage = (Blob.sha256.in_(digests), Blob.collected_at.is_(None), self._rules.garbage(self._dialect))
            given_up = session.execute(select(Blob.sha256, Blob.stored_as).where(*garbage)).all()
            digests = [row.sha256 for row in given_up]
            session.execute(update(Blob).where(Blob.sha256.in_(digests)).values(collected_at=utc_now()))
            leave_places(session, [row.stored_as for row in given_up])
        return digests

    def take_away(self, digests: Sequence[str]) -> Sequence[str]:
        """The second step: remove the bytes, except those that were announced, and perhaps sent, since the first.

        Nobody has to wait for this, however long the store takes: the names belong to nobody any more.
        """
        with self._writing() as session:
            garbage = (Blob.sha256.in_(digests), Blob.collected_at.is_not(None), self._rules.garbage(self._dialect))
            gone = session.execute(select(Blob.sha256, Blob.stored_as).where(*garbage)).all()
            leave_places(session, [row.stored_as for row in gone])
        with storage_explained():
            for row in gone:
                self._storage.delete(row.stored_as)
        return [row.sha256 for row in gone]

    def _remove_strays(self, names: Sequence[str]) -> None:
        """Remove bytes that no row names, unless they are young or somebody may be sending them."""
        if not names:
            return
        with self._reading() as session:
            unknown = self._unknown(session, names)
        stats = {name: self._storage.stat(name) for name in unknown}
        old = {
            name: stat
            for name, stat in stats.items()
            if stat is not None and stat.modified_at <= self._rules.given_up_before
        }
        if old and not self._rules.dry_run:
            with self._writing() as session:
                # One of them may have been verified since.
                old = {name: old[name] for name in self._unknown(session, list(old))}
                leave_places(session, old)
        for name, stat in old.items():
            if not self._rules.dry_run:
                self._storage.delete(name)
            self.tally.strays += 1
            self.tally.stray_bytes += stat.size_bytes
            self.tally.freed_bytes += stat.size_bytes
            _show(self.tally.stray_digests, name[:64])

    def _unknown(self, session: Session, names: Sequence[str]) -> list[str]:
        """Those of these names that neither a row nor a session has."""
        digests = {name[:64] for name in names}
        known = set(session.scalars(select(Blob.stored_as).where(Blob.sha256.in_(digests))))
        known |= set(session.scalars(self._rules.announced(digests)))
        return [name for name in names if name not in known]

    def _note_missing(self, names: Sequence[str]) -> None:
        """Note missing bytes; those that were stored after the listing had passed them do exist."""
        for name in names:
            if self._storage.stat(name) is None:
                self.tally.missing += 1
                _show(self.tally.missing_digests, name[:64])

    def strays(self) -> StrayBlobs:
        """The removed bytes that no row named."""
        tally = self.tally
        return StrayBlobs(count=tally.strays, size_bytes=tally.stray_bytes, digests=tally.stray_digests)

    def missing(self) -> MissingBlobs:
        """The missing bytes, and what they belong to."""
        shown = self.tally.missing_digests
        holders = (
            select(Version)
            .where(
                Version.digest.in_(select(ManifestBlob.manifest_digest).where(ManifestBlob.sha256.in_(shown))),
                Version.state.in_(LIVE),
                Version.manifest_digest.is_not(None),
                ~self._rules.is_doomed(self._dialect),
            )
            .order_by(Version.pk)
            .limit(_SHOWN)
        )
        with self._reading() as session:
            versions = [exact_ref(version) for version in session.scalars(holders)]
        return MissingBlobs(count=self.tally.missing, digests=shown, versions=versions)


def _show(digests: list[str], sha256: str) -> None:
    if len(digests) < _SHOWN:
        digests.append(sha256)
