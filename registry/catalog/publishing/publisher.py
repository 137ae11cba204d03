"""Publication: bytes, then name. pending → verified → ready with a number, in the caller's last transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy.orm import Session

from registry.artifacts.service import Artifacts
from registry.catalog.bases.finding import KnownBases
from registry.catalog.publishing.new_version import Making, require_files
from registry.catalog.versions.finding import space_of
from registry.db.database import Database
from registry.errors import RegistryError, Verification
from registry.principal import Principal
from registry.signatures.trust import Trust
from sdk.schemas.catalog import JobRef, Publication, Published


class Publisher:
    """Makes versions. Inline here: the caller waits until its version is ready or refused."""

    def __init__(
        self, db: Database, artifacts: Artifacts, *, trust: Trust | None = None, quarantine: bool = False
    ) -> None:
        self._db = db
        self._artifacts = artifacts
        self._bases = KnownBases()
        self._trust = trust or Trust()
        #: Whether whole bytes that are no adapter of this base, or change nothing, are kept for an admin to look at.
        self._quarantine = quarantine

    def publish(
        self,
        *,
        publication: Publication,
        who: Principal,
        job: JobRef | None = None,
        reported: Sequence[str] | None = None,
        action: str = "write",
        finish: Callable[[Session, Published], None] | None = None,
    ) -> Published:
        """Verify the uploaded bytes and make them a version, or find the version that they are already.

        `reported` is what of the record is a worker's word; None: all that the publication says is the caller's. `action` is what the caller must be allowed to do in the adapter's namespace: "write", or "work" for a worker. `finish` runs in the transaction that gives the number, so that a job and its version succeed together or
        not at all. Raises Invalid, NotFound (base, parent, upload, or a namespace that the caller may not see),
        Forbidden, QuotaExceeded, Verification, Conflict.
        """
        who.require(
            action,
            space_of(publication.adapter),
            missing=f"there is no adapter {publication.adapter!r} that this token may see; choose another name",
            param="adapter",
        )
        self._trust.require(publication.manifest, publication.signature)
        require_files(publication.manifest)
        making = Making(publication, who, self._bases, job, finish, reported)
        with self._db.write() as session:
            ground = making.begin(session)
            facts = self._artifacts.known(session, **making.bytes)
            if facts is not None and (warnings := making.passes(facts, ground)) is not None:
                # No byte need be read, so one transaction is enough.
                return making.make_ready(session, ground, warnings)
            making.announce(session, ground)
        try:
            facts = self._artifacts.verify(**making.bytes)
            try:
                warnings = making.judge(facts, ground)
            except Verification as error:
                if not self._quarantine:
                    raise
                with self._db.write() as session:
                    kept = making.put_away(session, ground, error)
                raise kept from error
            with self._db.write() as session:
                return making.make_ready(session, ground, warnings)
        except RegistryError as error:
            with self._db.write() as session:
                making.refuse(session, error)
            raise
