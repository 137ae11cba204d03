"""What these tests share. The lineage of real publishes, jobs, merges and evaluations: in process over SQLite, and over
HTTP and PostgreSQL.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import calls
from support.adapters import SPEC, digest, save_adapter, use_of
from support.people import SEEDS
from support.registries import World
from support.scored_rows import CONDITIONS

from sdk.client import Client
from sdk.pulling.transfer import hash_file
from sdk.schemas.artifacts import DatasetView
from sdk.schemas.catalog import Parent, Publication, Published
from sdk.schemas.evaluation import EvaluationReport, MergeReport
from sdk.schemas.job_requests import BaseChoice, DataSource, TrainingRequest
from sdk.schemas.jobs import JobSubmission, JobView
from sdk.schemas.lineage import Lineage
from sdk.schemas.manifest import Manifest, ManifestFile
from sdk.schemas.training_report import SourceUse
from sdk.schemas.work import Assignment, EvaluationResult, MergeResult
from sdk.version import VERSION

BASE = f"base:{digest('tiny: base')}"


# What people and workers do, as they do it.


@dataclass
class Maker:
    """Makes things in one registry, below a folder."""

    world: World
    folder: Path

    def rows(self, name: str, namespace: str | None = None) -> DatasetView:
        path = self.folder / name
        path.write_text(f'{{"prompt": "{uuid.uuid4().hex}", "completion": "b"}}\n')
        return self.world.writer.datasets.add(path, namespace=namespace)

    def adapter(self) -> Path:
        return save_adapter(self.folder / uuid.uuid4().hex, next(SEEDS))

    def publication(self, client: Client, name: str, folder: Path, **said: Any) -> Publication:
        return calls.publication(client, folder, name, **said)

    def push(self, name: str, *parents: tuple[str, str, float | None], folder: Path | None = None) -> str:
        edges = [Parent.model_validate({"ref": ref, "relation": how, "weight": by}) for ref, how, by in parents]
        body = self.publication(self.world.writer, name, folder or self.adapter(), parents=edges)
        return self.world.writer.call("POST", "/versions", Published, body=body).version.ref

    def claimed(self, job_id: str) -> Assignment:
        held = calls.hold(self.world.worker, hint=job_id, version=VERSION)
        assert held.job == job_id
        return held

    def complete(self, held: Assignment, **result: Any) -> JobView:
        return calls.complete(self.world.worker, held, **result)

    def train(self, name: str, rows: DatasetView, folder: Path, *others: DatasetView) -> JobView:
        """Train on rows, or with others on several datasets with the weights 1, 2 …"""
        base = BaseChoice(id="tiny", fingerprint=digest("tiny: base"))
        weights = {view.digest: float(weight) for weight, view in enumerate((rows, *others), start=1)}
        request = TrainingRequest(
            adapter=name,
            base=base,
            data=rows.digest,
            sources=[DataSource(data=one, weight=weight) for one, weight in weights.items()] if others else None,
            spec=SPEC,
        )
        job = self.world.writer.call("POST", "/jobs", JobView, body=JobSubmission(request=request))
        use = use_of(rows.digest)
        if others:
            sources = [SourceUse(digest=one, weight=weight, rows=1, epoch_rows=1) for one, weight in weights.items()]
            use = use.model_copy(update={"sources": sources})
        body = self.publication(self.world.worker, name, folder, dataset=use, metrics={"loss": 1.0})
        return self.complete(self.claimed(job.id), version=body)

    def evaluate(self, refs: list[str], heldout: Path, **metrics: float) -> list[str]:
        job = self.world.writer.submit_evaluation(refs, data=heldout, only=True)
        held = self.claimed(job.id)
        report = EvaluationReport(metrics=metrics, precision="float32", conditions=CONDITIONS)
        results = [
            EvaluationResult(
                label=target.label, digest=target.digest, base_fingerprint=digest("tiny: base"), report=report
            )
            for target in held.targets
        ]
        done = self.complete(held, evaluations=results)
        return [f"evaluation:{found}" for found in done.result["evaluations"]]

    def merge(self, ref: str) -> tuple[str, str]:
        job = self.world.writer.submit_merge(ref)
        held = self.claimed(job.id)
        model = self.folder / f"{uuid.uuid4().hex}.safetensors"
        model.write_bytes(ref.encode())
        sha256, size = hash_file(model)
        manifest = Manifest(
            kind="merged",
            base_fingerprint=digest("tiny: base"),
            files=[ManifestFile(path="model.safetensors", size_bytes=size, sha256=sha256)],
        )
        report = MergeReport(onto="original", dtype="float32", metrics={})
        upload = self.world.worker.uploader.upload({sha256: model}, "")
        self.complete(held, merge=MergeResult(manifest=manifest, upload=upload, report=report))
        return job.id, f"merged:{manifest.digest}"


@dataclass
class Story:
    """A version that a job trained, what came of it, and all that was done with it."""

    name: str
    rows: DatasetView
    heldout: Path
    job: str
    again: str
    merge_job: str
    merged: str
    #: Of the first version, and of the bare base.
    scores: list[str]
    mix: str

    @property
    def first(self) -> str:
        return f"{self.name}@v1"

    @property
    def second(self) -> str:
        return f"{self.name}@v2"

    @property
    def data(self) -> str:
        return f"data:{self.rows.digest}"


def tell(world: World, maker: Maker, namespace: str) -> Story:
    name = f"{namespace}story-{uuid.uuid4().hex[:8]}"
    rows = maker.rows(f"rows-{uuid.uuid4().hex}.jsonl", namespace.rstrip("/") or "-")
    trained = maker.adapter()
    job = maker.train(name, rows, trained)
    again = maker.train(name, rows, trained)
    second = maker.push(name, (f"{name}@v1", "continued-from", None))
    mix = maker.push(f"{name}-mix", (f"{name}@v1", "combined-from", 0.25), (second, "combined-from", 0.75))
    world.writer.set_alias(name, "production", 2)
    heldout = maker.folder / f"heldout-{uuid.uuid4().hex}.jsonl"
    heldout.write_text(f'{{"prompt": "{heldout.name}", "completion": "d"}}\n')
    scores = maker.evaluate([f"{name}@v1", "base:tiny"], heldout, loss=1.5, eval_s=9.0, rows=1.0)
    merge_job, merged = maker.merge(f"{name}@v1")
    return Story(name, rows, heldout, job.id, again.id, merge_job, merged, scores, mix)


def keys_of(found: Lineage) -> list[str]:
    return [node.key for node in found.nodes]


def node_of(found: Lineage, key: str) -> dict[str, Any]:
    return next(node for node in found.nodes if node.key == key).model_dump()
