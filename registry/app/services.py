"""The composition root: every service of a registry, joined once.

A server joins all of them when it starts. In a registry of a folder each is joined, and its room imported, when somebody
first asks for it: a command that asks for a list ends before all others would have been imported.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from registry.app.stores import storage_of
from registry.catalog.aliases.protecting import protect_also
from registry.catalog.versions.numbering import follow_versions
from registry.db.database import Database
from registry.principal import LOCAL, Principal
from registry.queue import Queue, open_queue
from registry.queue.local import LocalQueue
from registry.settings import Settings
from registry.storage import Storage
from registry.usage.charging import NamespaceLimits, limit_by_default

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from registry.access.audit.service import Audit
    from registry.access.read_only.service import ReadOnlySwitch
    from registry.access.tokens import Tokens
    from registry.app.readiness import Readiness
    from registry.artifacts.service import Artifacts
    from registry.artifacts.uploads import Uploads
    from registry.catalog.aliases.service import Aliases
    from registry.catalog.bases.service import Bases
    from registry.catalog.publishing.copying import Copies
    from registry.catalog.publishing.publisher import Publisher
    from registry.catalog.versions.claims import ClaimedVersions
    from registry.catalog.versions.resolve import Resolver
    from registry.catalog.versions.served_probes import ServedProbes
    from registry.catalog.versions.service import Catalog
    from registry.catalog.versions.version_states import VersionStates
    from registry.datasets.service import Datasets
    from registry.datasets.signatures import SignedDatasets
    from registry.evaluations.comparing.service import Comparisons
    from registry.evaluations.contamination.service import ContaminationChecks
    from registry.evaluations.models import Evaluation
    from registry.evaluations.picking import RowPicks
    from registry.evaluations.rows import EvaluationRows
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
    from registry.lineage.about import VersionAbouts
    from registry.lineage.service import Lineages
    from registry.monitoring.processes import ServerProcesses
    from registry.monitoring.service import Metrics
    from registry.promotion.approvals import Approvals
    from registry.promotion.automatic.service import Automatic
    from registry.promotion.decisions import Decisions
    from registry.promotion.gate import Gate
    from registry.promotion.policies.service import Policies
    from registry.promotion.probes import ProbeReplays
    from registry.promotion.statements import Statements
    from registry.quotas.service import Quotas
    from registry.removal.expiry import Expiry
    from registry.removal.service import Removal
    from registry.rows.service import RowReading
    from registry.search.service import Search
    from registry.series.curves import Curves
    from registry.series.reading import SeriesReading
    from registry.series.storing import StoredSeries
    from registry.serving.standing import Standings
    from registry.serving.tables import Tables
    from registry.signatures.service import Signatures, Trust
    from registry.sweeps.driving import Driver
    from registry.sweeps.ending import SweepEnding
    from registry.sweeps.rungs import Rungs
    from registry.sweeps.service import Sweeps
    from registry.web.comparing.service import FoundSides
    from registry.web.reports.about import Documents
    from registry.web.reports.service import ReportWriter
    from registry.web.sessions.service import Sessions
    from sdk.formats.refs import MemberRef
    from sdk.schemas.catalog import VersionView


class Services:
    """What the views call; each asks for its service by class."""

    def __init__(self, settings: Settings, *, storage: Storage | None = None, queue: Queue | None = None) -> None:
        """Build the services as `settings` say; tests may pass in a storage or a queue of their own."""
        self.settings = settings
        self.db = Database(settings.database_url, settings.timeouts)
        home = settings.embedded_home
        self.is_embedded = home is not None
        # A registry in somebody's own folder is shared with nobody.
        defaults = NamespaceLimits(
            settings.default_max_adapters,
            settings.default_max_bytes,
            settings.default_max_jobs,
            settings.default_max_record_bytes,
        )
        limit_by_default(self.db, defaults if home is None else NamespaceLimits())
        protect_also(self.db, _protected)
        follow_versions(self.db, _follow)
        self.storage = storage or storage_of(settings)
        if queue is None:
            broker = (settings.broker_url, settings.broker_timeout_s)
            queue = open_queue(*broker) if home is None else LocalQueue(Path(home))
        self.queue = queue
        if not self.is_embedded:
            # Read now: a server that can't check what is required of versions must not begin to accept them.
            self.join_all()

    def join_all(self) -> None:
        """Join every service now."""
        for name in kinds_of(Services).values():
            getattr(self, name)

    def may_write(self) -> bool:
        """Whether nobody has made the registry read-only."""
        return self.read_only.reason() is None

    def acting(self, owner: str) -> Principal:
        """As whom what somebody has asked for is continued."""
        return self.tokens.holder(owner) if self.settings.auth == "token" else LOCAL

    def by_class(self) -> ByClass:
        """Each service under its class, as views ask for it."""
        return ByClass(self)

    @cached_property
    def trust(self) -> Trust:
        from registry.signatures.service import Trust

        return Trust.of(self.settings.signing_keys)

    @cached_property
    def time_limits(self) -> TimeLimits:
        from registry.jobs.attempts import TimeLimits

        return TimeLimits(self.settings.job_timeout_default_s, self.settings.job_timeout_max_s)

    @cached_property
    def followers(self) -> Followers:
        from registry.jobs.followers import Followers

        followers = Followers()
        # Sweeps and policies use jobs, which use these: so they are joined when there is something to tell them.
        followers.follow(_Later(lambda: self.driver))
        followers.ask_too(_Later(lambda: self.automatic))
        return followers

    @cached_property
    def reconciler(self) -> Reconciler:
        from registry.jobs.reconcile import Reconciler

        return Reconciler(
            self.db,
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

    @cached_property
    def tokens(self) -> Tokens:
        from registry.access.tokens import Tokens
        from registry.promotion.generations import raise_generations

        return Tokens(self.db, on_ended=raise_generations)

    @cached_property
    def audit(self) -> Audit:
        from registry.access.audit.service import Audit

        return Audit(self.db)

    @cached_property
    def read_only(self) -> ReadOnlySwitch:
        from registry.access.read_only.service import ReadOnlySwitch

        return ReadOnlySwitch(self.db, forced=self.settings.read_only)

    @cached_property
    def quotas(self) -> Quotas:
        from registry.quotas.service import Quotas

        return Quotas(self.db)

    @cached_property
    def sessions(self) -> Sessions:
        from registry.web.sessions.service import Sessions

        return Sessions(
            self.db,
            self.tokens,
            wants_token=self.settings.auth == "token",
            wants_code=self.is_embedded,
            may_write=self.may_write,
        )

    @cached_property
    def uploads(self) -> Uploads:
        from registry.artifacts.uploads import Uploads
        from registry.datasets.finding import readable_rows

        return Uploads(self.db, self.storage, readable=[readable_rows])

    @cached_property
    def artifacts(self) -> Artifacts:
        from registry.artifacts.service import Artifacts
        from registry.datasets.finding import readable_rows

        return Artifacts(self.db, self.storage, self.uploads, readable=[readable_rows])

    @cached_property
    def signatures(self) -> Signatures:
        from registry.signatures.service import Signatures

        return Signatures(self.db, self.trust)

    @cached_property
    def publisher(self) -> Publisher:
        from registry.catalog.publishing.publisher import Publisher
        from registry.promotion import tries

        return Publisher(
            self.db,
            self.artifacts,
            trust=self.trust,
            quarantine=self.settings.gate == "quarantine",
            on_version=tries.note_version,
        )

    @cached_property
    def copies(self) -> Copies:
        from registry.catalog.publishing.copying import Copies

        return Copies(self.db, self.publisher, self.signatures, self.trust)

    @cached_property
    def processes(self) -> ServerProcesses:
        from registry.monitoring.processes import ServerProcesses

        return ServerProcesses(self.db)

    @cached_property
    def reading(self) -> RowReading:
        from registry.rows.service import RowReading

        return RowReading(apart=not self.is_embedded)

    @cached_property
    def datasets(self) -> Datasets:
        from registry.datasets.service import Datasets

        return Datasets(self.db, self.artifacts)

    @cached_property
    def signed_datasets(self) -> SignedDatasets:
        from registry.datasets.signatures import SignedDatasets

        return SignedDatasets(self.db, self.artifacts, self.reading)

    @cached_property
    def bases(self) -> Bases:
        from registry.catalog.bases.service import Bases
        from registry.evaluations.rows import give_up_of_base

        return Bases(self.db, self.artifacts, on_removed=give_up_of_base)

    @cached_property
    def catalog(self) -> Catalog:
        from registry.catalog.versions.service import Catalog

        return Catalog(self.db, _LaterMembers(lambda: self.members))

    @cached_property
    def members(self) -> ShownMembers:
        from registry.jobs.member_views import ShownMembers

        return ShownMembers(self.db)

    @cached_property
    def resolver(self) -> Resolver:
        from registry.catalog.versions.resolve import Resolver

        return Resolver(self.db, self.catalog)

    @cached_property
    def version_states(self) -> VersionStates:
        from registry.catalog.versions.version_states import VersionStates
        from registry.removal.retention import give_up

        return VersionStates(self.db, on_deleted=give_up)

    @cached_property
    def aliases(self) -> Aliases:
        from registry.catalog.aliases.service import Aliases

        return Aliases(self.db)

    @cached_property
    def served_probes(self) -> ServedProbes:
        from registry.catalog.versions.served_probes import ServedProbes

        return ServedProbes(self.db)

    @cached_property
    def claimed_versions(self) -> ClaimedVersions:
        from registry.catalog.versions.claims import ClaimedVersions

        return ClaimedVersions(self.db)

    @cached_property
    def version_abouts(self) -> VersionAbouts:
        from registry.lineage.about import VersionAbouts

        return VersionAbouts(
            self.db,
            catalog=self.catalog,
            evaluations=self.evaluations,
            signatures=self.signatures,
            claimed=self.claimed_versions,
        )

    @cached_property
    def search(self) -> Search:
        from registry.search.service import Search

        return Search(self.db)

    @cached_property
    def lineages(self) -> Lineages:
        from registry.lineage.service import Lineages

        return Lineages(self.db)

    @cached_property
    def removal(self) -> Removal:
        from registry.removal.service import Removal

        return Removal(self.db, self.artifacts, statement_s=self.settings.gc_statement_s)

    @cached_property
    def expiry(self) -> Expiry:
        from registry.removal.expiry import Expiry

        return Expiry(
            self.db,
            self.settings.lifetimes,
            statement_s=self.settings.gc_statement_s,
            also={"sessions": lambda: self.sessions.forget()},
        )

    @cached_property
    def policies(self) -> Policies:
        from registry.promotion.known_tries import known_tries
        from registry.promotion.policies.columns import PolicyColumns
        from registry.promotion.policies.service import Policies

        return Policies(
            self.db,
            embedded=self.is_embedded,
            counts_tokens=self.settings.auth == "token",
            tries_of=known_tries,
            columns=PolicyColumns(self.artifacts, self.reading),
        )

    @cached_property
    def approvals(self) -> Approvals:
        from registry.promotion.approvals import Approvals

        return Approvals(self.db)

    @cached_property
    def probes(self) -> ProbeReplays:
        from registry.promotion.probes import ProbeReplays

        return ProbeReplays(self.db)

    @cached_property
    def statements(self) -> Statements:
        from registry.promotion.statements import Statements

        return Statements(self.db)

    @cached_property
    def gate(self) -> Gate:
        from registry.promotion.gate import Gate
        from registry.promotion.question import Bench

        return Gate(self.db, Bench(self.db, self.artifacts, self.evaluation_rows, self.reading, self.signed_datasets))

    @cached_property
    def decisions(self) -> Decisions:
        from registry.promotion.decisions import Decisions

        return Decisions(self.db)

    @cached_property
    def automatic(self) -> Automatic:
        from registry.promotion.automatic.scoring import Scoring
        from registry.promotion.automatic.service import Automatic
        from registry.promotion.shared_rows import RowSharing

        return Automatic(
            self.db,
            self.gate,
            Scoring(self.db, self.jobs, RowSharing(self.db, self.signed_datasets, self.reading)),
            may_write=self.may_write,
        )

    @cached_property
    def evaluations(self) -> Evaluations:
        from registry.evaluations.service import Evaluations

        return Evaluations(self.db, on_kept=_note_scores)

    @cached_property
    def evaluation_rows(self) -> EvaluationRows:
        from registry.evaluations.rows import EvaluationRows

        return EvaluationRows(self.db, self.artifacts)

    @cached_property
    def contamination(self) -> ContaminationChecks:
        from registry.evaluations.contamination.service import ContaminationChecks
        from registry.promotion import tries

        return ContaminationChecks(
            self.db,
            self.signed_datasets,
            self.reading,
            in_background=not self.is_embedded,
            on_checked=tries.note_checked,
        )

    @cached_property
    def comparisons(self) -> Comparisons:
        from registry.evaluations.comparing.service import Comparisons

        return Comparisons(
            self.db,
            self.artifacts,
            self.catalog,
            self.bases,
            self.evaluations,
            self.evaluation_rows,
            self.signed_datasets,
            self.reading,
        )

    @cached_property
    def sides(self) -> FoundSides:
        from registry.web.comparing.service import FoundSides

        return FoundSides(self.db, self.catalog, self.bases, self.evaluations)

    @cached_property
    def slicing(self) -> Slicing:
        from registry.evaluations.slicing import Slicing

        return Slicing(self.db, self.artifacts, self.evaluations, self.evaluation_rows, self.reading)

    @cached_property
    def picks(self) -> RowPicks:
        from registry.evaluations.picking import RowPicks

        return RowPicks(
            self.db, self.artifacts, self.evaluations, self.evaluation_rows, self.reading, may_write=self.may_write
        )

    @cached_property
    def jobs(self) -> Jobs:
        from registry.jobs.service import Jobs

        return Jobs(self.db, self.queue, embedded=self.is_embedded, limits=self.time_limits, followers=self.followers)

    @cached_property
    def claims(self) -> Claims:
        from registry.jobs.claims import Claims

        return Claims(
            self.db,
            self.queue,
            self.completing,
            lease_s=self.settings.lease_s,
            max_attempts=self.settings.max_attempts,
            limits=self.time_limits,
            followers=self.followers,
            asks_when_idle=self.is_embedded,
        )

    @cached_property
    def completing(self) -> CompletionServices:
        from registry.jobs.kinds.rules import CompletionServices
        from registry.promotion import tries
        from registry.series.version_series import keep_series

        return CompletionServices(
            db=self.db,
            artifacts=self.artifacts,
            publisher=self.publisher,
            keep_scores=self.evaluations.keep,
            keep_series=keep_series,
            keep_member=tries.keep_member,
            look_for_training_rows=self.contamination.look,
        )

    @cached_property
    def checkpoints(self) -> StoredCheckpoints:
        from registry.evaluations.rows import give_up as give_up_scores
        from registry.jobs.checkpoints import StoredCheckpoints
        from registry.series.version_series import keep_series
        from registry.sweeps.ending import wanting

        return StoredCheckpoints(
            self.db,
            self.artifacts,
            self.publisher,
            keep_series=keep_series,
            kept_hours=self.settings.checkpoint_hours,
            wanting=wanting,
            give_up_scores=give_up_scores,
        )

    @cached_property
    def trained_on(self) -> TrainedOnRows:
        from registry.jobs.seen_rows import TrainedOnRows

        return TrainedOnRows(self.db)

    @cached_property
    def workers(self) -> Workers:
        from registry.jobs.workers import Workers

        return Workers(self.db)

    @cached_property
    def watchers(self) -> Watchers:
        from registry.jobs.event_feed import Watchers

        return Watchers(most=self.settings.max_streams, most_of_token=self.settings.max_streams_per_token)

    @cached_property
    def series(self) -> StoredSeries:
        from registry.series.storing import StoredSeries

        return StoredSeries(self.db)

    @cached_property
    def series_reading(self) -> SeriesReading:
        from registry.series.reading import SeriesReading

        return SeriesReading(self.db)

    @cached_property
    def curves(self) -> Curves:
        from registry.series.curves import Curves

        return Curves(self.db)

    @cached_property
    def sweeps(self) -> Sweeps:
        from registry.sweeps.service import Sweeps

        return Sweeps(self.db, self.jobs, self.driver)

    @cached_property
    def driver(self) -> Driver:
        from registry.sweeps.driving import Driver

        return Driver(self.db, self.jobs, self.sweep_ending, acting=self.acting)

    @cached_property
    def sweep_ending(self) -> SweepEnding:
        from registry.series.version_series import keep_series
        from registry.sweeps.ending import SweepEnding
        from registry.sweeps.row_scores import EvaluatedMembers

        return SweepEnding(
            self.db,
            self.publisher,
            EvaluatedMembers(self.db, self.evaluation_rows, self.reading),
            keep_series=keep_series,
        )

    @cached_property
    def rungs(self) -> Rungs:
        from registry.sweeps.rungs import Rungs

        return Rungs(self.db)

    @cached_property
    def tables(self) -> Tables:
        from registry.serving.tables import Tables

        return Tables(self.db)

    @cached_property
    def standings(self) -> Standings:
        from registry.serving.standing import Standings

        return Standings(self.db)

    @cached_property
    def documents(self) -> Documents:
        from registry.web.reports.about import Documents

        return Documents(
            self.db,
            self.catalog,
            self.aliases,
            self.evaluations,
            self.comparisons,
            self.sides,
            self.curves,
            self.sweeps,
            self.decisions,
        )

    @cached_property
    def reports(self) -> ReportWriter:
        from registry.web.reports.service import ReportWriter

        return ReportWriter(self.db, self.documents, self.read_only)

    @cached_property
    def metrics(self) -> Metrics:
        from registry.monitoring.service import Metrics

        return Metrics(self.db, self.workers)

    @cached_property
    def readiness(self) -> Readiness:
        from registry.app.readiness import Readiness, looks_at

        return Readiness(looks_at(self.db, self.storage))


class ByClass(dict[type[Any], Any]):
    """Services by their classes; one that wasn't asked for before is joined."""

    def __init__(self, services: Services) -> None:
        super().__init__({Settings: services.settings, Database: services.db})
        self._joining: dict[str, tuple[object, str]] = {}
        self.join_from(services)

    def join_from(self, services: object) -> None:
        """Find those of an object as well: each is a cached property, annotated with its class."""
        self._joining |= {kind: (services, name) for kind, name in kinds_of(type(services)).items()}

    def __missing__(self, kind: type[Any]) -> Any:
        """Join the service of a class."""
        services, name = self._joining[kind.__name__]
        self[kind] = getattr(services, name)
        return self[kind]


def kinds_of(services: type[object]) -> dict[str, str]:
    """Return the name of each service's class, and that of the service."""
    return {
        each.func.__annotations__["return"]: name
        for name, each in vars(services).items()
        if isinstance(each, cached_property)
    }


class _Later:
    """Who follows jobs, joined when there is something to tell."""

    def __init__(self, join: Callable[[], Any]) -> None:
        self._join = join

    def ended(self, sweep: str) -> None:
        self._join().ended(sweep)

    def go_on(self) -> int:
        went: int = self._join().go_on()
        return went

    def is_left(self) -> bool:
        left: bool = self._join().is_left()
        return left


class _LaterMembers:
    """Shows members of sweeps; the room of jobs is imported for the first one."""

    def __init__(self, join: Callable[[], ShownMembers]) -> None:
        self._join = join

    def resolve(self, ref: MemberRef, *, who: Principal) -> VersionView:
        return self._join().resolve(ref, who=who)


def _note_scores(session: Session, kept: Sequence[Evaluation]) -> None:
    # Whoever reads scores imports nothing of promotion.
    from registry.promotion import tries

    tries.note_scores(session, kept)


def _protected(session: Session, adapter: str, namespace: str) -> set[str]:
    from registry.promotion.policies.finding import protected_aliases

    return protected_aliases(session, adapter, namespace)


def _follow(session: Session, adapter_pk: int, namespace: str) -> None:
    from registry.evaluations.last_scores import follow

    follow(session, adapter_pk, namespace)
