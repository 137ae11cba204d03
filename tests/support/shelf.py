"""Versions written straight into the tables: many of them, of every kind, without a file behind them."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.artifacts.models import Blob, ManifestRow
from registry.catalog.models import (
    Adapter,
    Alias,
    BaseModelRow,
    NamedBase,
    Origin,
    Version,
    VersionTag,
    VersionTarget,
)
from registry.catalog.versions.finding import space_of
from registry.datasets.models import Dataset, DatasetAccess, DatasetNumber
from registry.db.database import Database
from registry.db.types import Model
from registry.evaluations.models import Evaluation, EvaluationMetric
from registry.jobs.models import Job

DAWN = datetime(2026, 3, 1, tzinfo=UTC)


def digest_of(text: str) -> str:
    """Return a SHA-256 that stands for something."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Score:
    """One evaluation of a version."""

    dataset: str
    namespace: str
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Made:
    """A version as it will be written; its ref follows from that."""

    adapter: str
    number: int | None
    base: str = "tiny"
    rank: int = 8
    alpha: float = 16.0
    state: str = "ready"
    method: str = "qlora"
    targets: Sequence[str] = ("q_proj", "v_proj")
    tags: Mapping[str, str] = field(default_factory=dict)
    aliases: Sequence[str] = ()
    author: str = "ci"
    #: Hours after `DAWN`.
    hours: float = 0
    #: Digests of datasets that it was trained on.
    datasets: Sequence[str] = ()
    #: What was measured when it was first made.
    metrics: Mapping[str, float] = field(default_factory=dict)
    scores: Sequence[Score] = ()

    @property
    def digest(self) -> str:
        """The digest that stands for its bytes."""
        return digest_of(f"{self.adapter} {self.number} {self.state}")

    @property
    def ref(self) -> str:
        """Its ref."""
        return f"{self.adapter}@{f'sha256:{self.digest}' if self.number is None else f'v{self.number}'}"

    @property
    def namespace(self) -> str:
        """Whose it is."""
        return space_of(self.adapter)

    @property
    def created_at(self) -> datetime:
        """When it was made."""
        return DAWN + timedelta(hours=self.hours)


class Shelf:
    """Writes rows into one database."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._ids = itertools.count()

    def dataset(self, name: str, *namespaces: str) -> str:
        """Write a dataset that readers of some namespaces may use; return its digest."""
        digest = digest_of(f"{name} {namespaces}")
        with self._db.write() as session:
            session.add(Blob(sha256=digest, size_bytes=1))
            session.flush()
            session.add(Dataset(digest=digest, size_bytes=1, format="jsonl", created_by="ci"))
            session.flush()
            said = {"name": name, "format": "jsonl", "created_by": "ci"}
            for namespace in namespaces:
                key = {"namespace": namespace, "name": name}
                earlier = session.query(DatasetNumber).filter_by(**key).count()
                session.add(DatasetAccess(digest=digest, namespace=namespace, **said))
                session.add(DatasetNumber(**key, number=earlier + 1, digest=digest))
        return digest

    def add(self, versions: Sequence[Made]) -> None:
        """Write versions, in this order."""
        with self._db.write() as session:
            adapters, bases = _adapters(session, versions), _bases(session, {made.base for made in versions})
            rows = [_version(made, adapters[made.adapter].pk, bases[made.base]) for made in versions]
            # Their keys are given out in this order, in which they are made.
            session.add_all(rows)
            session.flush()
            session.add_all([child for made, row in zip(versions, rows, strict=True) for child in _parts(made, row)])
            for made in versions:
                if made.scores:
                    session.add(ManifestRow(digest=made.digest, kind="adapter", body="{}", size_bytes=1))
                    session.flush()
                for score in made.scores:
                    self._score(session, made, score)

    def _score(self, session: Session, made: Made, score: Score) -> None:
        job = digest_of(f"job {score.namespace} {made.ref} {next(self._ids)}")[:12]
        session.add(
            Job(
                id=job,
                namespace=score.namespace,
                kind="evaluation",
                state="succeeded",
                subject=made.ref,
                request={},
                request_digest=job,
                created_by="ci",
            )
        )
        session.flush()
        session.add(
            Evaluation(
                id=job,
                namespace=score.namespace,
                label=made.ref,
                digest=made.digest,
                base_fingerprint=digest_of(made.base),
                dataset_digest=score.dataset,
                grader="loss",
                precision="bfloat16",
                spec={},
                metrics=dict(score.metrics),
                samples=[],
                libraries={},
                job_id=job,
                attempt=1,
            )
        )
        session.flush()
        for name, value in score.metrics.items():
            session.add(
                EvaluationMetric(
                    evaluation_id=job,
                    name=name,
                    value=value,
                    dataset_digest=score.dataset,
                    digest=made.digest,
                    namespace=score.namespace,
                )
            )


def _version(made: Made, adapter_pk: int, base: BaseModelRow) -> Version:
    return Version(
        adapter_pk=adapter_pk,
        number=made.number,
        digest=made.digest,
        state=made.state,
        kind="adapter",
        base_pk=base.pk,
        base_id=base.id,
        base_revision=base.revision,
        base_weights_digest=base.weights_digest,
        base_architecture=base.architecture,
        lora={"rank": made.rank, "alpha": made.alpha, "target_modules": list(made.targets)},
        rank=made.rank,
        method=made.method,
        tags=dict(made.tags),
        created_by=made.author,
        created_at=made.created_at,
    )


def _parts(made: Made, row: Version) -> list[Model]:
    """What belongs to a version, except for its scores."""
    key = {"version_pk": row.pk}
    return [
        *(VersionTag(**key, key=name, value=value) for name, value in made.tags.items()),
        *(VersionTarget(**key, module=module) for module in made.targets),
        *(
            Origin(
                **key,
                dataset_digest=digest,
                metrics={"loss": 9.0} if again else dict(made.metrics),
                libraries={},
                created_by=made.author,
            )
            for again, digest in enumerate(made.datasets or [None])
        ),
        *(Alias(**key, adapter_pk=row.adapter_pk, name=name, moved_by="ci") for name in made.aliases),
    ]


def _bases(session: Session, names: set[str]) -> dict[str, BaseModelRow]:
    bases = {row.id: row for row in session.scalars(select(BaseModelRow).where(BaseModelRow.id.in_(names)))}
    for name in sorted(names - bases.keys()):
        bases[name] = BaseModelRow(
            id=name,
            revision="0" * 40,
            fingerprint=digest_of(name),
            weights_digest=digest_of(f"weights of {name}"),
            architecture="LlamaForCausalLM",
            config={},
            tensors={},
            size_bytes=1,
            created_by="ci",
        )
    new = names - {name.id for name in session.scalars(select(NamedBase).where(NamedBase.id.in_(names)))}
    session.add_all(bases.values())
    session.flush()
    session.add_all(named(bases[name]) for name in sorted(new))
    session.flush()
    return bases


def named(base: BaseModelRow, **said: Any) -> NamedBase:
    """The name that all namespaces have for a base, as in its own row."""
    same = (
        "id",
        "revision",
        "location",
        "weights_digest",
        "architecture",
        "config",
        "tensors",
        "size_bytes",
        "created_by",
    )
    values = {name: getattr(base, name) for name in same}
    return NamedBase(**{"namespace": "*", "base_pk": base.pk, "facts": "claimed", **values, **said})


def _adapters(session: Session, versions: Sequence[Made]) -> dict[str, Adapter]:
    names = {made.adapter for made in versions}
    adapters = {row.name: row for row in session.scalars(select(Adapter).where(Adapter.name.in_(names)))}
    for name in sorted(names - adapters.keys()):
        adapters[name] = Adapter(name=name, namespace=space_of(name), last_number=0, ready_versions=0, created_by="ci")
    for made in versions:
        row = adapters[made.adapter]
        row.last_number = max(row.last_number, made.number or 0)
        if made.state == "ready":
            row.latest_number = max(row.latest_number or 0, made.number or 0)
            row.ready_versions += 1
    session.add_all(adapters.values())
    session.flush()
    return adapters
