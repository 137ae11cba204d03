"""The signatures of a dataset's rows: derived from its bytes when they are first needed, and kept with it.

A million rows take half a minute of one core, so no request waits until more than a few megabytes are read.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.orm import Session

from registry.artifacts.models import Blob
from registry.artifacts.service import Artifacts
from registry.datasets.models import Dataset, DatasetSignatures
from registry.db.database import Database
from registry.db.statements import upsert
from registry.db.types import utc_now
from registry.errors import Verification
from registry.rows.service import RowReading
from sdk.formats.columns import parse_columns
from sdk.rows.data_files import DataFile
from sdk.rows.signature_file import SignatureFile
from sdk.schemas.held_out import HoldOut
from sdk.schemas.wire import digest_of

#: The largest dataset that is read for it: five minutes of one core.
MOST_BYTES = 2 * 1000**3
#: Signing a file takes about this many times as long as fetching its signatures.
_MAKING = 16


class NotSigned(Exception):  # noqa: N818 - it is an answer
    """Why a dataset has no signatures; the message is the rest of a sentence."""


class TooLongForNow(Exception):  # noqa: N818 - it is an answer
    """What is needed takes more time than the caller has."""


@dataclass(frozen=True)
class Reading:
    """Which rows of a dataset are meant, and how they are read."""

    columns: str | None = None
    how: HoldOut | None = None
    #: The digest of the rows that are not held out, as the training recorded it.
    training_digest: str | None = None
    #: Digests of the datasets whose rows follow these, if some rows were held out of all of them together.
    beside: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Distinguishes it from other readings of the same bytes."""
        how = None if self.how is None else [self.how.share, self.how.seed, self.how.by, self.training_digest]
        beside = {"beside": list(self.beside)} if self.beside else {}
        return digest_of({"columns": self.columns, "held_out": how, **beside})


class SignedDatasets:
    """The service over the signatures of datasets; without `reading`, their rows are read in this process."""

    def __init__(self, db: Database, artifacts: Artifacts, reading: RowReading | None = None) -> None:
        self._db = db
        self._artifacts = artifacts
        self._rows = reading or RowReading(apart=False)

    @contextmanager
    def opened(self, digest: str, reading: Reading, *, most: int | None = None) -> Iterator[SignatureFile]:
        """Open the signatures of a dataset; if there are none, they are made first. With `most`, no more bytes than
        that are read.

        Raises NotSigned, TooLongForNow, Unavailable.
        """
        with tempfile.TemporaryDirectory(prefix="signatures-") as folder:
            target = Path(folder) / "signatures"
            kept = self._kept(digest, reading, most)
            if kept is None or not self._fetch(kept, target):
                self._make(digest, reading, target)
            try:
                found = SignatureFile(target)
            except ValueError:
                # From another release.
                self._make(digest, reading, target)
                found = SignatureFile(target)
            yield found

    def _kept(self, digest: str, reading: Reading, most: int | None) -> str | None:
        """The blob of the signatures; None if they still have to be made."""
        with self._db.read() as session:
            row = session.get(DatasetSignatures, (digest, reading.key))
            if row is not None and row.refusal is not None:
                raise NotSigned(row.refusal)
            blob = None if row is None else session.get(Blob, row.blob)
            if row is not None and blob is not None and blob.collected_at is None:
                kept, effort = blob.sha256, row.size_bytes
            else:
                kept, effort = None, self._size(session, digest, reading) * _MAKING
        if most is not None and effort > most:
            raise TooLongForNow
        return kept

    def _fetch(self, sha256: str, target: Path) -> bool:
        try:
            self._artifacts.copy(sha256, target)
        except Verification:
            # A collection has removed it in the meantime.
            return False
        return True

    def _make(self, digest: str, reading: Reading, target: Path) -> None:
        if (why := self._sign(digest, reading, target)) is not None:
            with self._db.write() as session:
                self._note(session, digest, reading, blob=None, size_bytes=0, refusal=why[:500])
            raise NotSigned(why[:500])
        size_bytes = target.stat().st_size
        with target.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        self._artifacts.put(target, sha256, size_bytes)
        with self._db.write() as session:
            self._artifacts.name(session, sha256, size_bytes)
            self._note(session, digest, reading, blob=sha256, size_bytes=size_bytes, refusal=None)

    def _sign(self, digest: str, reading: Reading, target: Path) -> str | None:
        """Write the signatures, or return why there can't be any. Raises NotSigned, Unavailable."""
        with self._db.read() as session:
            size_bytes = self._size(session, digest, reading)
        if size_bytes > MOST_BYTES:
            return f"it has more than {MOST_BYTES // 1000**2} MB, which are not read for this"
        files = [
            DataFile(target.with_name(f"rows-{number}"), one[:12])
            for number, one in enumerate((digest, *reading.beside))
        ]
        try:
            for one, file in zip((digest, *reading.beside), files, strict=True):
                self._artifacts.copy(one, file.path)
        except Verification as error:
            raise NotSigned("its rows can't be read any more") from error
        try:
            return self._rows.sign(
                files,
                target,
                columns=None if reading.columns is None else parse_columns(reading.columns),
                how=reading.how,
                training_digest=reading.training_digest,
            )
        finally:
            for file in files:
                file.path.unlink()

    @staticmethod
    def _size(session: Session, digest: str, reading: Reading) -> int:
        return sum(session.get_one(Dataset, one).size_bytes for one in (digest, *reading.beside))

    def _note(self, session: Session, digest: str, reading: Reading, **values: object) -> None:
        upsert(
            session,
            DatasetSignatures,
            {"digest": digest, "reading": reading.key},
            {**values, "created_at": utc_now()},
        )
