"""Publication in three steps: inspect the bytes, record the version, and let the caller finish in the same transaction.

A version is pending while its bytes are read, then ready with a number; or failed, or in quarantine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

from sqlalchemy.orm import Session

from registry.artifacts.admission.inspection import WeightFacts
from registry.artifacts.admission.rules import require_few_names
from registry.artifacts.facts import Facts
from registry.artifacts.long_facts import holding_facts
from registry.artifacts.manifests import blobs_of, record_manifest
from registry.artifacts.service import Artifacts
from registry.artifacts.uploads import finish_upload
from registry.catalog.bases.finding import KnownBase, KnownBases
from registry.catalog.publishing.claiming import copy_claims, is_known_here, read_claims, with_claims
from registry.catalog.publishing.inspecting import (
    bytes_of,
    find_ancestry,
    judge_files,
    over_its_base,
    require_files,
    require_rendering,
    sent_for,
    weights_of,
)
from registry.catalog.publishing.merged_models import MergedFrom, inspect_model, require_model_files
from registry.catalog.publishing.new_version import Ancestry, NewVersion, Past, claims_of
from registry.catalog.publishing.pasts import copy_answers, find_past, with_past
from registry.catalog.publishing.recording import record_failed, record_pending, record_quarantined, record_ready
from registry.catalog.versions.finding import space_to_change
from registry.db.database import Database
from registry.errors import RegistryError, Verification
from registry.principal import Principal
from registry.signatures.service import Trust
from sdk.schemas.catalog import JobRef, Publication, Published

#: What is to be kept of inspected files, and the warnings about what is admitted.
_Inspected = tuple[dict[str, Facts], list[str]]


class _Judged(NamedTuple):
    """What was found about known bytes, over a base as it was then."""

    base: KnownBase
    warnings: list[str]


#: Hears of a version first in the transaction that records it, before anything is locked; returns whether its bytes have
#: scores already.
OnVersion = Callable[[Session, Publication], bool]


class Publisher:
    """Makes versions. It works inline: the caller waits until the version is ready or refused."""

    def __init__(
        self,
        db: Database,
        artifacts: Artifacts,
        *,
        trust: Trust | None = None,
        quarantine: bool = False,
        on_version: OnVersion = lambda session, publication: False,
    ) -> None:
        self._db = db
        self._on_version = on_version
        self._artifacts = artifacts
        self._bases = KnownBases()
        self._trust = trust or Trust()
        #: Whether intact bytes that don't fit this base, or change nothing, are kept for an admin to look at.
        self._quarantine = quarantine

    def publish(
        self,
        *,
        publication: Publication,
        who: Principal,
        job: JobRef | None = None,
        reported: Sequence[str] | None = None,
        notes: Sequence[str] = (),
        past: Past | None = None,
    ) -> Published:
        """Verify the uploaded bytes and make them a version, or find the version that has them already. With a `past`, it is a
        copy of that.

        Raises what `publishing` raises.
        """
        given = self.publishing(publication=publication, who=who, job=job, reported=reported, notes=notes, past=past)
        with given as (_, published):
            return published

    @contextmanager
    def publishing(
        self,
        *,
        publication: Publication,
        who: Principal,
        job: JobRef | None = None,
        reported: Sequence[str] | None = None,
        action: str = "write",
        notes: Sequence[str] = (),
        require: Callable[[WeightFacts], None] | None = None,
        past: Past | None = None,
    ) -> Iterator[tuple[Session, Published]]:
        """The transaction that gives a version its number: the block finishes what belongs to it, or nothing is done.

        `reported` are the parts of the record that a worker stated; None: the caller stated everything. `action` is
        what the caller must be allowed to do in the adapter's namespace: "write", or "work" for a worker. `notes` go
        before admission's warnings. `require` raises Verification for weights that admission accepts and that aren't
        the caller's; it must be short, because a transaction that writes may wait for it. Without a `past`, that of the same bytes
        is looked up. Raises Invalid, NotFound
        (base, parent, upload, or a namespace that the caller may not see), Forbidden, QuotaExceeded, Verification,
        Conflict, Unavailable.
        """
        self._require_may(publication, who, action)
        require_files(publication.manifest)
        require_rendering(publication)
        require_few_names(publication.lora)
        claims = None if job is not None else read_claims(publication, self._trust)
        new = NewVersion(publication, who, job, claims_of(publication) if reported is None else list(reported))
        if past is None:
            with self._db.read() as session:
                past = find_past(session, new)
                if claims is not None and (past is not None or is_known_here(session, new, claims.file)):
                    claims = None
        if past is not None:
            new = replace(new, publication=with_past(publication, past), reported=past.reported, past=past)
        if claims is not None:
            new = with_claims(new, claims)
            # A signed record must be of these files too.
            require_rendering(new.publication)
        with holding_facts():
            yield from self._publishing(new, require, notes)

    def _publishing(
        self, new: NewVersion, require: Callable[[WeightFacts], None] | None, notes: Sequence[str]
    ) -> Iterator[tuple[Session, Published]]:
        judged = self._judged_before(new, require)
        with self._db.write() as session:
            ancestry = find_ancestry(session, new, self._bases)
            new = over_its_base(new, ancestry)
            if judged is not None and judged.base == ancestry.base and self._artifacts.has(session, **sent_for(new)):
                # No bytes have to be read, so one transaction is enough.
                scored = self._on_version(session, new.publication)
                yield session, self._ready(session, new, ancestry, [*notes, *judged.warnings], scored=scored)
                return
            record_pending(session, new, ancestry)
        with self._finishing(new, ancestry, notes, lambda: self._inspect(new, ancestry, require)) as published:
            yield published

    @contextmanager
    def keeping(
        self, *, publication: Publication, who: Principal, job: JobRef, action: str
    ) -> Iterator[tuple[Session, list[str]]]:
        """The transaction that records the files of what may become a version later, and is not a version now: the block
        finishes what belongs to them. Yields admission's warnings, too.

        Raises what `publishing` raises; nothing is put into quarantine.
        """
        self._require_may(publication, who, action)
        require_files(publication.manifest)
        require_rendering(publication)
        require_few_names(publication.lora)
        new = NewVersion(publication, who, job, [])
        with holding_facts():
            with self._db.read() as session:
                ancestry = find_ancestry(session, new, self._bases)
            new = over_its_base(new, ancestry)
            verified = self._artifacts.verify(**bytes_of(new))
            warnings = judge_files(new, verified.facts, ancestry)
            with self._db.write() as session:
                self._artifacts.keep(session, verified.unkept)
                record_manifest(session, publication.manifest, namespace=new.namespace)
                finish_upload(session, publication.upload)
                yield session, warnings

    @contextmanager
    def publishing_merged(
        self,
        *,
        publication: Publication,
        made: MergedFrom,
        who: Principal,
        job: JobRef,
        reported: Sequence[str],
        notes: Sequence[str] = (),
    ) -> Iterator[tuple[Session, Published]]:
        """Like `publishing`, for a merged model, which only the job that merged it publishes: the job says what its
        parent is.

        Raises what `publishing` raises.
        """
        self._require_may(publication, who, "work")
        require_model_files(publication.manifest)
        new = NewVersion(publication, who, job, list(reported))
        with self._db.write() as session:
            ancestry = find_ancestry(session, new, self._bases)
            record_pending(session, new, ancestry)
        with self._finishing(new, ancestry, notes, lambda: self._inspect_merged(new, ancestry, made)) as published:
            yield published

    def _require_may(self, publication: Publication, who: Principal, action: str) -> None:
        """Raise NotFound, Forbidden, or Verification if the registry accepts only signed versions."""
        space_to_change(publication.adapter, who, action)
        self._trust.require(publication.manifest, publication.signature)

    @contextmanager
    def _finishing(
        self, new: NewVersion, ancestry: Ancestry, notes: Sequence[str], inspect: Callable[[], _Inspected]
    ) -> Iterator[tuple[Session, Published]]:
        """Inspect the bytes outside of any transaction, then give a pending version its number; or record that it
        failed.
        """
        try:
            facts, warnings = inspect()
            with self._db.write() as session:
                scored = self._on_version(session, new.publication)
                self._artifacts.keep(session, facts)
                yield session, self._ready(session, new, ancestry, [*notes, *warnings], scored=scored)
        except RegistryError as error:
            with self._db.write() as session:
                record_failed(session, new, error)
            raise

    @staticmethod
    def _ready(
        session: Session, new: NewVersion, ancestry: Ancestry, warnings: list[str], *, scored: bool
    ) -> Published:
        """Make it ready; a copy has the answers of what it is a copy of."""
        published = record_ready(session, new, ancestry, warnings, scored=scored)
        if new.past is not None and not published.existing:
            copy_answers(session, new.past, adapter=new.publication.adapter, digest=new.digest)
            copy_claims(session, new.past, adapter=new.publication.adapter, digest=new.digest)
        return published

    def _judged_before(self, new: NewVersion, require: Callable[[WeightFacts], None] | None) -> _Judged | None:
        """Judge bytes whose content is known, outside of any transaction; None for any others, and for bytes that are
        not admitted.
        """
        with self._db.read() as session:
            ancestry = find_ancestry(session, new, self._bases)
        facts = self._artifacts.known(**bytes_of(new))
        if facts is None:
            return None
        try:
            warnings = judge_files(new, facts, ancestry)
            if require is not None:
                require(weights_of(new, facts))
        except Verification:
            return None
        return _Judged(ancestry.base, warnings)

    def _inspect(
        self, new: NewVersion, ancestry: Ancestry, require: Callable[[WeightFacts], None] | None
    ) -> _Inspected:
        """Read the bytes that are new; return what is in them, and the warnings about what is admitted. Raises
        Verification.
        """
        verified = self._artifacts.verify(**bytes_of(new))
        with self._quarantining(new, ancestry):
            warnings = judge_files(new, verified.facts, ancestry)
        if require is not None:
            require(weights_of(new, verified.facts))
        return verified.unkept, warnings

    def _inspect_merged(self, new: NewVersion, ancestry: Ancestry, made: MergedFrom) -> _Inspected:
        """Like `_inspect`, for a merged model: only the headers of its weights are inspected."""
        publication = new.publication
        self._artifacts.verify(upload=publication.upload, blobs=blobs_of(publication.manifest), who=new.who)
        with self._quarantining(new, ancestry):
            return {}, inspect_model(self._artifacts, publication.manifest, ancestry.base, made)

    @contextmanager
    def _quarantining(self, new: NewVersion, ancestry: Ancestry) -> Iterator[None]:
        """Keep intact bytes that the block refuses in quarantine, if the registry has one."""
        try:
            yield
        except Verification as error:
            if not self._quarantine:
                raise
            with self._db.write() as session:
                # An admin may make it a version later.
                self._on_version(session, new.publication)
                kept = record_quarantined(session, new, ancestry, error)
            raise kept from error
