"""The composition root: every service of a registry, joined once."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from registry.access.audit.service import Audit
from registry.access.read_only.service import ReadOnlySwitch
from registry.access.tokens import Tokens
from registry.artifacts.service import Artifacts
from registry.artifacts.uploads import Uploads
from registry.catalog.aliases.service import Aliases
from registry.catalog.bases.service import Bases
from registry.catalog.publishing.publisher import Publisher
from registry.catalog.versions.resolve import Resolver
from registry.catalog.versions.service import Catalog
from registry.catalog.versions.version_states import VersionStates
from registry.datasets.finding import readable_rows
from registry.datasets.service import Datasets
from registry.datasets.signatures import SignedDatasets
from registry.db.database import Database
from registry.errors import Invalid
from registry.evaluations.comparing.service import Comparisons
from registry.evaluations.contamination.service import ContaminationChecks
from registry.evaluations.rows import EvaluationRows, give_up, give_up_of_base
from registry.evaluations.service import Evaluations
from registry.evaluations.slicing import Slicing
from registry.jobs.attempts import TimeLimits
from registry.jobs.checkpoints import Checkpoints
from registry.jobs.claims import Claims
from registry.jobs.event_feed import Watchers
from registry.jobs.kinds.rules import CompletionServices
from registry.jobs.reconcile import Reconciler
from registry.jobs.service import Jobs
from registry.jobs.workers import Workers
from registry.lineage.service import Lineages
from registry.monitoring.service import Metrics
from registry.queue import Queue, open_queue
from registry.queue.local import LocalQueue
from registry.quotas.service import Quotas
from registry.removal.expiry import Expiry
from registry.removal.service import Removal
from registry.rows.service import RowReading
from registry.search.service import Search
from registry.settings import Settings
from registry.signatures.service import Signatures
from registry.signatures.trust import Trust
from registry.storage import DEFAULT_EXPIRY_S, S3Options, Storage, StorageError, open_storage
from registry.storage.errors import storage_explained
from registry.storage.signing import kept_key
from registry.usage.limits import Limits, limit_by_default


@dataclass(frozen=True)
class Services:
    """What the views call; each asks for its service by class."""

    settings: Settings
    db: Database
    tokens: Tokens
    audit: Audit
    quotas: Quotas
    uploads: Uploads
    artifacts: Artifacts
    datasets: Datasets
    bases: Bases
    catalog: Catalog
    resolver: Resolver
    aliases: Aliases
    version_states: VersionStates
    publisher: Publisher
    jobs: Jobs
    claims: Claims
    checkpoints: Checkpoints
    workers: Workers
    watchers: Watchers
    read_only: ReadOnlySwitch
    reconciler: Reconciler
    metrics: Metrics
    reading: RowReading
    evaluations: Evaluations
    evaluation_rows: EvaluationRows
    contamination: ContaminationChecks
    comparisons: Comparisons
    slicing: Slicing
    search: Search
    lineages: Lineages
    removal: Removal
    expiry: Expiry
    signatures: Signatures

    def by_class(self) -> dict[type[Any], Any]:
        """Each service under its class, as views ask for it."""
        services = [getattr(self, field.name) for field in fields(self)]
        return {type(service): service for service in services}


def build(settings: Settings, *, storage: Storage | None = None, queue: Queue | None = None) -> Services:
    """Build the services as `settings` say; tests may pass in a storage or a queue of their own."""
    db = Database(settings.database_url, settings.timeouts)
    # A registry in somebody's own folder is shared with nobody.
    defaults = Limits(
        settings.default_max_adapters,
        settings.default_max_bytes,
        settings.default_max_jobs,
        settings.default_max_record_bytes,
    )
    limit_by_default(db, defaults if settings.embedded_home is None else Limits())
    storage = storage or storage_of(settings)
    if queue is None:
        home = settings.embedded_home
        broker = (settings.broker_url, settings.broker_timeout_s)
        queue = open_queue(*broker) if home is None else LocalQueue(Path(home))
    uploads = Uploads(db, storage, readable=[readable_rows])
    artifacts = Artifacts(db, storage, uploads, readable=[readable_rows])
    # Read now: a server that can't check what is required of versions must not begin to accept them.
    trust = Trust.of(settings.signing_keys)
    publisher = Publisher(db, artifacts, trust=trust, quarantine=settings.gate == "quarantine")
    evaluations = Evaluations(db)
    embedded = settings.embedded_home is not None
    # Its owner's own files are read in their own process: to start another would take longer.
    reading = RowReading(apart=not embedded)
    signed = SignedDatasets(db, artifacts, reading)
    contamination = ContaminationChecks(db, signed, reading, in_background=not embedded)
    completing = CompletionServices(
        db=db,
        artifacts=artifacts,
        publisher=publisher,
        keep_scores=evaluations.keep,
        look_for_training_rows=contamination.look,
    )
    limits = TimeLimits(settings.job_timeout_default_s, settings.job_timeout_max_s)
    jobs = Jobs(db, queue, embedded=settings.embedded_home is not None, limits=limits)
    claims = Claims(db, queue, completing, lease_s=settings.lease_s, max_attempts=settings.max_attempts, limits=limits)
    workers = Workers(db)
    catalog, bases = Catalog(db), Bases(db, artifacts, on_removed=give_up_of_base)
    evaluation_rows = EvaluationRows(db, artifacts)
    read_only = ReadOnlySwitch(db, forced=settings.read_only)
    checkpoints = Checkpoints(db, artifacts, publisher, kept_hours=settings.checkpoint_hours)
    expiry = Expiry(db, settings.lifetimes, statement_s=settings.gc_statement_s)
    return Services(
        settings=settings,
        db=db,
        tokens=Tokens(db),
        audit=Audit(db),
        quotas=Quotas(db),
        uploads=uploads,
        artifacts=artifacts,
        datasets=Datasets(db, artifacts),
        bases=bases,
        catalog=catalog,
        resolver=Resolver(db, catalog, inline=settings.embedded_home is not None),
        aliases=Aliases(db),
        version_states=VersionStates(db, on_deleted=give_up),
        publisher=publisher,
        jobs=jobs,
        claims=claims,
        checkpoints=checkpoints,
        workers=workers,
        watchers=Watchers(most=settings.max_streams, most_of_token=settings.max_streams_per_token),
        read_only=read_only,
        reconciler=Reconciler(
            db,
            claims,
            jobs,
            checkpoints,
            workers,
            read_only,
            expire_rows=expiry.sweep,
            check_scores=contamination.sweep,
        ),
        metrics=Metrics(db, workers),
        reading=reading,
        evaluations=evaluations,
        evaluation_rows=evaluation_rows,
        contamination=contamination,
        comparisons=Comparisons(db, artifacts, catalog, bases, evaluations, evaluation_rows, signed, reading),
        slicing=Slicing(db, artifacts, evaluations, evaluation_rows, reading),
        search=Search(db),
        lineages=Lineages(db),
        removal=Removal(db, artifacts, statement_s=settings.gc_statement_s),
        expiry=expiry,
        signatures=Signatures(db, trust),
    )


def storage_of(settings: Settings, *, expires_in_s: int = DEFAULT_EXPIRY_S) -> Storage:
    """Open the storage that the settings name, with locations that are valid for this many seconds. Raises Invalid,
    Unavailable.
    """
    embedded = settings.embedded_home is not None
    signing_key = None
    if not embedded and settings.public_url is not None and settings.storage_url.startswith("file:"):
        # Server processes that share the folder sign and check the same URLs, with no further secret to hand out.
        root = Path(unquote(urlsplit(settings.storage_url).path))
        with storage_explained():
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
            signing_key = kept_key(root / "signing.key")
    try:
        return open_storage(
            settings.storage_url,
            s3=_s3_options(settings),
            public_url=None if embedded else settings.public_url,
            signing_key=signing_key,
            expires_in_s=expires_in_s,
            part_bytes=settings.part_bytes,
        )
    except StorageError as error:
        raise Invalid(str(error), param="REGISTRY_STORAGE_URL") from error


def _s3_options(settings: Settings) -> S3Options:
    return S3Options(
        endpoint_url=settings.s3_endpoint_url,
        public_endpoint_url=settings.s3_public_endpoint_url,
        region=settings.s3_region,
        addressing_style=settings.s3_addressing_style,
        checksum_mode=settings.s3_checksum_mode,
        encryption=settings.s3_encryption,
        kms_key_id=settings.s3_kms_key_id,
        bucket_owner=settings.s3_bucket_owner,
        deadline_s=settings.storage_deadline_s,
        stall_s=settings.storage_stall_s,
        at_once=settings.storage_calls,
    )
