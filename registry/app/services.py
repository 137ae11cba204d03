"""The composition root: every service of a registry, joined once."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from registry.access.audit.service import Audit
from registry.access.read_only.service import ReadOnlySwitch
from registry.access.tokens import Tokens
from registry.artifacts.service import Artifacts
from registry.artifacts.uploads import Uploads
from registry.catalog.aliases.protecting import protect_also
from registry.catalog.aliases.service import Aliases
from registry.catalog.bases.service import Bases
from registry.catalog.publishing.copying import Copies
from registry.catalog.publishing.publisher import Publisher
from registry.catalog.versions.numbering import follow_versions
from registry.catalog.versions.resolve import Resolver
from registry.catalog.versions.served_probes import ServedProbes
from registry.catalog.versions.service import Catalog
from registry.catalog.versions.version_states import VersionStates
from registry.datasets.finding import readable_rows
from registry.datasets.service import Datasets
from registry.datasets.signatures import SignedDatasets
from registry.db.database import Database
from registry.errors import Invalid
from registry.evaluations.comparing.service import Comparisons
from registry.evaluations.contamination.service import ContaminationChecks
from registry.evaluations.last_scores import follow
from registry.evaluations.picking import RowPicks
from registry.evaluations.rows import EvaluationRows, give_up_of_base
from registry.evaluations.rows import give_up as give_up_scores
from registry.evaluations.service import Evaluations
from registry.evaluations.slicing import Slicing
from registry.jobs.attempts import TimeLimits
from registry.jobs.checkpoints import StoredCheckpoints
from registry.jobs.claims import Claims
from registry.jobs.event_feed import Watchers
from registry.jobs.followers import Followers
from registry.jobs.kinds.rules import CompletionServices
from registry.jobs.member_views import ShownMembers
from registry.jobs.reconcile import Reconciler
from registry.jobs.seen_rows import TrainedOnRows
from registry.jobs.service import Jobs
from registry.jobs.workers import Workers
from registry.lineage.service import Lineages
from registry.monitoring.processes import ServerProcesses
from registry.monitoring.service import Metrics
from registry.principal import LOCAL
from registry.promotion import tries
from registry.promotion.approvals import Approvals
from registry.promotion.automatic.scoring import Scoring
from registry.promotion.automatic.service import Automatic
from registry.promotion.decisions import Decisions
from registry.promotion.gate import Gate
from registry.promotion.generations import raise_generations
from registry.promotion.known_tries import known_tries
from registry.promotion.policies.columns import PolicyColumns
from registry.promotion.policies.finding import protected_aliases
from registry.promotion.policies.service import Policies
from registry.promotion.probes import ProbeReplays
from registry.promotion.question import Bench
from registry.promotion.shared_rows import RowSharing
from registry.promotion.statements import Statements
from registry.queue import Queue, open_queue
from registry.queue.local import LocalQueue
from registry.quotas.service import Quotas
from registry.removal.expiry import Expiry
from registry.removal.retention import give_up
from registry.removal.service import Removal
from registry.rows.service import RowReading
from registry.search.service import Search
from registry.series.curves import Curves
from registry.series.reading import SeriesReading
from registry.series.storing import StoredSeries
from registry.series.version_series import keep_series
from registry.serving.standing import Standings
from registry.serving.tables import Tables
from registry.settings import Settings
from registry.signatures.service import Signatures, Trust
from registry.storage import DEFAULT_EXPIRY_S, S3Options, Storage, StorageError, open_storage
from registry.storage.errors import storage_explained
from registry.storage.signing import kept_key
from registry.sweeps.driving import Driver
from registry.sweeps.ending import SweepEnding, wanting
from registry.sweeps.row_scores import EvaluatedMembers
from registry.sweeps.rungs import Rungs
from registry.sweeps.service import Sweeps
from registry.usage.charging import NamespaceLimits, limit_by_default
from registry.web.comparing.service import FoundSides
from registry.web.reports.about import Documents
from registry.web.reports.service import ReportWriter
from registry.web.sessions.service import Sessions


class Services:
    """What the views call; each asks for its service by class."""

    def __init__(self, settings: Settings, *, storage: Storage | None = None, queue: Queue | None = None) -> None:
        """Build the services as `settings` say; tests may pass in a storage or a queue of their own."""
        self.settings = settings
        self.db = db = Database(settings.database_url, settings.timeouts)
        home = settings.embedded_home
        # A registry in somebody's own folder is shared with nobody.
        defaults = NamespaceLimits(
            settings.default_max_adapters,
            settings.default_max_bytes,
            settings.default_max_jobs,
            settings.default_max_record_bytes,
        )
        limit_by_default(db, defaults if home is None else NamespaceLimits())
        storage = storage or storage_of(settings)
        if queue is None:
            broker = (settings.broker_url, settings.broker_timeout_s)
            queue = open_queue(*broker) if home is None else LocalQueue(Path(home))
        self.tokens, self.audit, self.quotas = Tokens(db, on_ended=raise_generations), Audit(db), Quotas(db)
        self.read_only = ReadOnlySwitch(db, forced=settings.read_only)
        self.sessions = Sessions(
            db,
            self.tokens,
            wants_token=settings.auth == "token",
            wants_code=home is not None,
            may_write=lambda: self.read_only.reason() is None,
        )
        self.uploads = Uploads(db, storage, readable=[readable_rows])
        self.artifacts = artifacts = Artifacts(db, storage, self.uploads, readable=[readable_rows])
        # Read now: a server that can't check what is required of versions must not begin to accept them.
        trust = Trust.of(settings.signing_keys)
        self.signatures = Signatures(db, trust)
        self.publisher = Publisher(
            db, artifacts, trust=trust, quarantine=settings.gate == "quarantine", on_version=tries.note_version
        )
        # Its owner's own files are read in their own process: to start another would take longer.
        self.reading = RowReading(apart=home is None)
        self.copies = Copies(db, self.publisher, self.signatures, trust)
        self.datasets, signed = Datasets(db, artifacts), SignedDatasets(db, artifacts, self.reading)
        self.catalog, self.bases = Catalog(db, ShownMembers(db)), Bases(db, artifacts, on_removed=give_up_of_base)
        self.resolver, self.served_probes = Resolver(db, self.catalog), ServedProbes(db)
        self.policies = Policies(
            db,
            embedded=home is not None,
            counts_tokens=settings.auth == "token",
            tries_of=known_tries,
            columns=PolicyColumns(artifacts, self.reading),
        )
        self.approvals, self.probes = Approvals(db), ProbeReplays(db)
        protect_also(db, protected_aliases)
        follow_versions(db, follow)
        self.aliases, self.version_states = Aliases(db), VersionStates(db, on_deleted=give_up)
        self.evaluations, self.evaluation_rows = (
            Evaluations(db, on_kept=tries.note_scores),
            EvaluationRows(db, artifacts),
        )
        self.statements = Statements(db)
        self.contamination = ContaminationChecks(
            db, signed, self.reading, in_background=home is None, on_checked=tries.note_checked
        )
        completing = CompletionServices(
            db=db,
            artifacts=artifacts,
            publisher=self.publisher,
            keep_scores=self.evaluations.keep,
            keep_series=keep_series,
            keep_member=tries.keep_member,
            look_for_training_rows=self.contamination.look,
        )
        limits = TimeLimits(settings.job_timeout_default_s, settings.job_timeout_max_s)
        self.followers = followers = Followers()
        self.jobs = Jobs(db, queue, embedded=home is not None, limits=limits, followers=followers)
        self.claims = Claims(
            db,
            queue,
            completing,
            lease_s=settings.lease_s,
            max_attempts=settings.max_attempts,
            limits=limits,
            followers=followers,
            asks_when_idle=home is not None,
        )
        acting = self.tokens.holder if settings.auth == "token" else lambda owner: LOCAL
        scored_rows = EvaluatedMembers(db, self.evaluation_rows, self.reading)
        ending = SweepEnding(db, self.publisher, scored_rows, keep_series=keep_series)
        self.driver = Driver(db, self.jobs, ending, acting=acting)
        followers.follow(self.driver)
        self.sweeps, self.rungs = Sweeps(db, self.jobs, self.driver), Rungs(db)
        self.checkpoints = StoredCheckpoints(
            db,
            artifacts,
            self.publisher,
            keep_series=keep_series,
            kept_hours=settings.checkpoint_hours,
            wanting=wanting,
            give_up_scores=give_up_scores,
        )
        self.trained_on = TrainedOnRows(db)
        self.series, self.series_reading, self.curves = StoredSeries(db), SeriesReading(db), Curves(db)
        self.workers = Workers(db)
        self.watchers = Watchers(most=settings.max_streams, most_of_token=settings.max_streams_per_token)
        self.comparisons = Comparisons(
            db, artifacts, self.catalog, self.bases, self.evaluations, self.evaluation_rows, signed, self.reading
        )
        self.sides = FoundSides(db, self.catalog, self.bases, self.evaluations)
        self.slicing = Slicing(db, artifacts, self.evaluations, self.evaluation_rows, self.reading)
        self.picks = RowPicks(
            db,
            artifacts,
            self.evaluations,
            self.evaluation_rows,
            self.reading,
            may_write=lambda: self.read_only.reason() is None,
        )
        bench = Bench(db, artifacts, self.evaluation_rows, self.reading, signed)
        self.gate, self.decisions = Gate(db, bench), Decisions(db)
        scoring = Scoring(db, self.jobs, RowSharing(db, signed, self.reading))
        self.automatic = Automatic(db, self.gate, scoring, may_write=lambda: self.read_only.reason() is None)
        followers.ask_too(self.automatic)
        self.tables, self.standings = Tables(db), Standings(db)
        self.search, self.lineages = Search(db), Lineages(db)
        self.metrics, self.processes = Metrics(db, self.workers), ServerProcesses(db)
        documents = Documents(
            db,
            self.catalog,
            self.aliases,
            self.evaluations,
            self.comparisons,
            self.sides,
            self.curves,
            self.sweeps,
            self.decisions,
        )
        self.reports = ReportWriter(db, documents, self.read_only)
        self.removal = Removal(db, artifacts, statement_s=settings.gc_statement_s)
        self.expiry = Expiry(
            db, settings.lifetimes, statement_s=settings.gc_statement_s, also={"sessions": self.sessions.forget}
        )
        self.reconciler = Reconciler(
            db,
            self.read_only,
            # The name under which each step is reported, and what it does.
            {
                "requeued": self.claims.requeue_expired,
                "sweeps_advanced": self.driver.go_on,
                "promotions_begun": self.automatic.sweep,
                "announced": self.jobs.remind,
                "expired_checkpoints": self.checkpoints.expire,
                "forgotten_workers": self.workers.forget,
                "expired_rows": self.expiry.sweep,
                "checks_begun": self.contamination.sweep,
                "picks_begun": self.picks.sweep,
            },
        )

    def by_class(self) -> dict[type[Any], Any]:
        """Each service under its class, as views ask for it."""
        return {type(service): service for service in vars(self).values()}


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
