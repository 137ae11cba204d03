"""Steps up and down from many versions at once: a fixed number of queries per step, each over an index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Row, Select, and_, case, false, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session, contains_eager, load_only, raiseload

from registry.catalog.models import (
    Adapter,
    BaseModelRow,
    NamedBase,
    Origin,
    Version,
    VersionDataset,
    VersionParent,
)
from registry.catalog.versions.finding import aliases_of, exact_ref
from registry.datasets.finding import spoken_for
from registry.datasets.models import DatasetAccess
from registry.db.stored_json import readable, table
from registry.evaluations.models import Evaluation
from registry.evaluations.standing import of_any_base, of_versions
from registry.jobs.kinds.known import MODEL_MAKING
from registry.jobs.models import Job
from registry.lineage.graph import MAX_EDGES, MAX_NODES, Graph
from registry.principal import EVERYWHERE, Principal
from sdk.formats.refs import MemberRef
from sdk.schemas.evaluation import is_score
from sdk.schemas.jobs import JobState
from sdk.schemas.lineage import BaseNode, DatasetNode, EvaluationNode, JobNode, MergedNode, SweepNode

if TYPE_CHECKING:
    _AnyRow = Row[*tuple[Any, ...]]

#: Only the columns that a version's node shows: configurations, and bases with all of their tensors, are large.
_BRIEF = (
    contains_eager(Version.adapter).load_only(Adapter.name, Adapter.namespace),
    raiseload(Version.base),
    load_only(
        Version.number,
        Version.digest,
        Version.state,
        Version.kind,
        Version.rank,
        Version.method,
        Version.base_pk,
        Version.base_id,
        Version.base_revision,
    ),
)


class Walk:
    """A walk for one reader, and the graph that it finds; nothing is seen through what the reader may not see."""

    def __init__(self, session: Session, who: Principal) -> None:
        self._session = session
        self._who = who
        self.graph = Graph()

    # Bases and datasets, at which a walk may begin.

    def below_base(self, base: BaseModelRow) -> list[Version]:
        """Add the versions over a base, and its own scores; return the versions."""
        key = f"base:{base.fingerprint}"
        found = self._add_versions(Version.base_pk == base.pk, Version.number.is_not(None))
        for version in found:
            self.graph.link(exact_ref(version), key, "trained-over")
        # Whoever made them, as the versions: a base has no namespace, and each of the nodes says whose it is.
        for row in self._add_evaluations(of_any_base(base.fingerprint)):
            self.graph.link(f"evaluation:{row.id}", key, "scored")
        return found

    def below_dataset(self, digest: str) -> list[Version]:
        """Add the versions that were trained on a dataset, and the scores on it; return the versions."""
        trained = select(Origin.version_pk).where(Origin.dataset_digest == digest)
        among = select(VersionDataset.version_pk).where(VersionDataset.digest == digest)
        found = self._add_versions(Version.pk.in_(trained.union(among)), Version.number.is_not(None))
        self._link_sources({version.pk: exact_ref(version) for version in found}, VersionDataset.digest == digest)
        for version in found:
            self.graph.link(exact_ref(version), f"data:{digest}", "trained-on")
        scores = self._add_evaluations(Evaluation.dataset_digest == digest)
        # A score says little without the target that has it; the walk goes no further from there.
        scored = self._add_scored(scores)
        self.add_bases(BaseModelRow.fingerprint.in_({row.base_fingerprint for row in scores if row.digest is None}))
        self._link_scores(scores, scored)
        for row in scores:
            if row.digest is None:
                self.graph.link(f"evaluation:{row.id}", f"base:{row.base_fingerprint}", "scored")
        return found

    # Steps.

    def above(self, versions: Sequence[Version]) -> list[Version]:
        """Add what versions were made from; return those that are versions."""
        called = {version.base_pk: (version.base_id, version.base_revision) for version in versions if version.base_id}
        bases = self.add_bases(BaseModelRow.pk.in_({version.base_pk for version in versions}), called)
        for version in versions:
            self.graph.link(exact_ref(version), bases[version.base_pk], "trained-over")
        self._add_makings(versions)
        return self._add_relatives(versions, VersionParent.version_pk, VersionParent.parent_pk)

    def below(self, versions: Sequence[Version]) -> list[Version]:
        """Add what was made from versions; return those that are versions."""
        # A quarantined version is only shown to those who name it.
        shown = Version.number.is_not(None)
        found = self._add_relatives(versions, VersionParent.parent_pk, VersionParent.version_pk, shown)
        self._add_merged(versions)
        scores = self._add_evaluations(
            of_versions(((version.digest, version.adapter.namespace) for version in versions), self._who)
        )
        self._link_scores(scores, versions)
        return found

    def aliases(self) -> dict[int, list[str]]:
        """The aliases of the versions that were found, by key."""
        return aliases_of(self._session, self.graph.versions)

    # What a step is made of.

    def add_bases(
        self, condition: ColumnElement[bool], called: Mapping[int, tuple[str, str | None]] | None = None
    ) -> dict[int, str]:
        """Add bases, by the names that the reader has for them, or else by those that versions `called` them by."""
        rows = self._rows(select(BaseModelRow.pk, BaseModelRow.fingerprint).where(condition))
        keys = {row.pk: f"base:{row.fingerprint}" for row in rows}
        columns = (NamedBase.base_pk, NamedBase.id, NamedBase.revision)
        named = select(*columns).where(NamedBase.base_pk.in_(keys), self._who.within(NamedBase.namespace))
        names = dict(called or {})
        # The name that is published for all comes first here, and is replaced by a namespace's own.
        for name in self._rows(
            named.order_by(case((NamedBase.namespace == EVERYWHERE, 0), else_=1), NamedBase.pk.desc())
        ):
            names[name.base_pk] = (name.id, name.revision)
        for row in rows:
            base_id, revision = names.get(row.pk, (row.fingerprint[:12], None))
            self.graph.add(BaseNode(key=keys[row.pk], id=base_id, revision=revision, fingerprint=row.fingerprint))
        return keys

    def _add_versions(self, *conditions: ColumnElement[bool]) -> list[Version]:
        query = select(Version).join(Version.adapter).options(*_BRIEF)
        query = query.where(*conditions, self._who.within(Adapter.namespace)).order_by(Version.pk.desc())
        return [row.Version for row in self._rows(query) if self.graph.add_version(row.Version)]

    def _add_relatives(
        self,
        versions: Sequence[Version],
        near: InstrumentedAttribute[int],
        far: InstrumentedAttribute[int],
        *conditions: ColumnElement[bool],
    ) -> list[Version]:
        refs = {version.pk: exact_ref(version) for version in versions}
        query = select(near.label("near"), VersionParent.relation, VersionParent.weight, Version)
        query = query.select_from(VersionParent).join(Version, Version.pk == far).join(Version.adapter).options(*_BRIEF)
        query = query.where(near.in_(refs), *conditions, self._who.within(Adapter.namespace))
        found = []
        for row in self._rows(query.order_by(Version.pk.desc(), near), most=MAX_EDGES):
            if self.graph.add_version(row.Version):
                found.append(row.Version)
            ends = (refs[row.near], exact_ref(row.Version))
            child, parent = ends if near is VersionParent.version_pk else ends[::-1]
            self.graph.link(child, parent, row.relation, weight=row.weight)
        return found

    def _add_makings(self, versions: Sequence[Version]) -> None:
        """Add the jobs and datasets of every origin: a job that made the same bytes again is one, too."""
        refs = {version.pk: exact_ref(version) for version in versions}
        columns = (Origin.version_pk, Origin.job, Origin.attempt, Origin.dataset_digest)
        query = select(*columns).where(Origin.version_pk.in_(refs)).order_by(Origin.pk.desc())
        makings = self._rows(query, most=MAX_EDGES)
        self._add_jobs({row.job for row in makings if row.job is not None})
        digests = {row.dataset_digest for row in makings if row.dataset_digest is not None}
        among = select(VersionDataset.digest).where(VersionDataset.version_pk.in_(refs))
        self.add_datasets(DatasetAccess.digest.in_(digests) | DatasetAccess.digest.in_(among))
        self._link_sources(refs)
        for row in makings:
            self.graph.link(refs[row.version_pk], f"data:{row.dataset_digest}", "trained-on")
            self.graph.link(refs[row.version_pk], f"job:{row.job}", "made-by", attempt=row.attempt)

    def _add_jobs(self, ids: set[str]) -> None:
        """Add jobs, each with the sweep that it is a member of, which names the others."""
        jobs = select(Job.id, Job.kind, Job.sweep, Job.sweep_number).where(Job.id.in_(ids))
        rows = self._rows(jobs.where(self._who.within(Job.namespace)))
        of = {row.id: MemberRef(row.sweep, row.sweep_number) for row in rows if row.sweep_number is not None}
        for row in rows:
            member = None if row.id not in of else str(of[row.id])
            self.graph.add(JobNode(key=f"job:{row.id}", id=row.id, job_kind=row.kind, member=member))
        members: dict[str, list[str]] = {one.sweep: [] for one in of.values()}
        trained = select(Job.sweep, Job.sweep_number).where(Job.sweep.in_(members), Job.sweep_number.is_not(None))
        trained = trained.where(self._who.within(Job.namespace)).order_by(Job.sweep, Job.sweep_number)
        for row in self._rows(trained, most=MAX_EDGES) if members else ():
            members[row.sweep].append(str(MemberRef(row.sweep, row.sweep_number)))
        for sweep, refs in members.items():
            self.graph.add(SweepNode(key=f"sweep:{sweep}", id=sweep, members=refs))
        for job, one in of.items():
            self.graph.link(f"job:{job}", f"sweep:{one.sweep}", "member-of")

    def _link_sources(self, refs: Mapping[int, str], *conditions: ColumnElement[bool]) -> None:
        """Link versions, by key and ref, with each of several datasets that they were trained on, with its weight."""
        query = select(VersionDataset).where(VersionDataset.version_pk.in_(refs), *conditions)
        for (row,) in self._rows(query.order_by(VersionDataset.version_pk, VersionDataset.digest)):
            self.graph.link(refs[row.version_pk], f"data:{row.digest}", "trained-on", weight=row.weight)

    def _add_merged(self, versions: Sequence[Version]) -> None:
        # A version that was quarantined when it was merged was named by its digest.
        subjects = {exact_ref(version): exact_ref(version) for version in versions}
        subjects |= {f"{version.adapter.name}@sha256:{version.digest}": exact_ref(version) for version in versions}
        digest, onto = Job.result["digest"].as_string(), Job.result[("report", "onto")].as_string()
        query = select(Job.id, Job.subject, digest.label("digest"), onto.label("onto")).where(
            Job.subject.in_(subjects), Job.kind.in_(MODEL_MAKING), Job.state == JobState.SUCCEEDED
        )
        # Merged models that became versions are found as versions.
        query = query.where(Job.result["version"].as_string().is_(None))
        query = query.where(self._who.within(Job.namespace)).order_by(Job.created_at.desc(), Job.id)
        for row in self._rows(query):
            if row.digest is None:
                continue
            node = MergedNode(key=f"merged:{row.digest}", digest=row.digest, onto=row.onto, job=row.id)
            self.graph.add(node)
            self.graph.link(node.key, subjects[row.subject], "merged-from")

    def add_datasets(self, condition: ColumnElement[bool]) -> None:
        """Add datasets that one of the reader's namespaces has, or had, as that namespace describes them."""
        columns = (DatasetAccess.digest, DatasetAccess.name, DatasetAccess.rows, DatasetAccess.removed_at)
        for row in self._rows(select(*columns).where(condition, spoken_for(self._who))):
            removed = row.removed_at is not None
            node = DatasetNode(
                key=f"data:{row.digest}", digest=row.digest, name=row.name, rows=row.rows, removed=removed
            )
            self.graph.add(node)

    def _add_evaluations(self, condition: ColumnElement[bool]) -> list[_AnyRow]:
        query = select(
            Evaluation.id,
            Evaluation.namespace,
            Evaluation.digest,
            Evaluation.base_fingerprint,
            Evaluation.dataset_digest,
            Evaluation.grader,
            Evaluation.precision,
            Evaluation.metrics,
            Evaluation.job_id,
        ).where(condition, self._who.within(Evaluation.namespace))
        rows = self._rows(query.order_by(Evaluation.created_at.desc(), Evaluation.id))
        spaces = {row.namespace for row in rows}
        is_spoken = spoken_for(self._who)
        named = select(DatasetAccess.digest, DatasetAccess.namespace, DatasetAccess.name, is_spoken.label("is_spoken"))
        named = named.where(DatasetAccess.digest.in_({row.dataset_digest for row in rows}))
        found = self._rows(named.where(or_(is_spoken, DatasetAccess.namespace.in_(spaces)))) if rows else ()
        spoken = {row.digest: row.name for row in found if row.is_spoken}
        # The scores' own namespace comes first, whatever others call the same rows.
        names = {(row.digest, row.namespace): row.name for row in found if row.namespace in spaces}
        called = [names.get((row.dataset_digest, row.namespace)) or spoken.get(row.dataset_digest, "") for row in rows]
        nodes = [(row, _evaluation(row, name)) for row, name in zip(rows, called, strict=True)]
        return [row for row, node in nodes if node is not None and self.graph.add(node)]

    def _add_scored(self, scores: Sequence[_AnyRow]) -> list[Version]:
        """Add the versions that scores count for: those with the scored bytes in the scores' own namespace."""
        digests: dict[str, set[str]] = {}
        for row in scores:
            if row.digest is not None:
                digests.setdefault(row.namespace, set()).add(row.digest)
        those = (and_(Adapter.namespace == space, Version.digest.in_(found)) for space, found in digests.items())
        # Whatever the namespaces are, the index of digests answers it.
        every = Version.digest.in_(set().union(*digests.values()))
        return self._add_versions(every, or_(false(), *those), Version.number.is_not(None))

    def _link_scores(self, scores: Sequence[_AnyRow], versions: Sequence[Version]) -> None:
        refs: dict[tuple[str, str], list[str]] = {}
        for version in versions:
            refs.setdefault((version.adapter.namespace, version.digest), []).append(exact_ref(version))
        for row in scores:
            for ref in refs.get((row.namespace, row.digest), []):
                self.graph.link(f"evaluation:{row.id}", ref, "scored")

    def _rows(self, query: Select[*tuple[Any, ...]], *, most: int = MAX_NODES) -> Sequence[_AnyRow]:
        """The rows of a query, of which no more are read than fit into an answer."""
        rows = self._session.execute(query.limit(most + 1)).all()
        self.graph.truncated |= len(rows) > most
        return rows[:most]


def _evaluation(row: _AnyRow, dataset_name: str) -> EvaluationNode | None:
    return readable(
        EvaluationNode,
        {
            "key": f"evaluation:{row.id}",
            "id": row.id,
            "namespace": row.namespace,
            "dataset": row.dataset_digest,
            "dataset_name": dataset_name,
            "grader": row.grader,
            "precision": row.precision,
            "metrics": {name: value for name, value in table(row.metrics).items() if is_score(name)},
            "job": row.job_id,
        },
    )
