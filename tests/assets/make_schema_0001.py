"""Make `schema_0001.sqlite3`: a tiny registry as the release with schema 0001 leaves it, with a row of everything.

    python tests/assets/make_schema_0001.py

It runs the services of that release, so it can be made again only from a checkout whose newest migration is 0001. What
is in it is said by `tests/integration/test_migrations.py`. Blobs are announced in the database and are in no storage.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]

from support.adapters import base_registration, digest, save_adapter  # noqa: E402

from registry.access.tokens import Role  # noqa: E402
from registry.app.services import Services, build  # noqa: E402
from registry.db.schema_version import head_revision  # noqa: E402
from registry.queue import NoQueue  # noqa: E402
from registry.settings import Settings  # noqa: E402
from sdk.pushing.pack import pack_adapter  # noqa: E402
from sdk.schemas.aliases import AliasMove  # noqa: E402
from sdk.schemas.artifacts import BlobSpec, DatasetRegistration  # noqa: E402
from sdk.schemas.catalog import JobRef, Publication  # noqa: E402
from sdk.schemas.evaluation import EvaluationReport  # noqa: E402
from sdk.schemas.events import NewEvent, Progress  # noqa: E402
from sdk.schemas.job_requests import BaseChoice, EvaluationRequest, EvaluationTarget, TrainingRequest  # noqa: E402
from sdk.schemas.jobs import JobSubmission  # noqa: E402
from sdk.schemas.lora_config import QuantizationRecipe  # noqa: E402
from sdk.schemas.training_report import DatasetUse  # noqa: E402
from sdk.schemas.work import ClaimRequest, Completion, EvaluationResult, Heartbeat, WorkerInfo  # noqa: E402

TARGET = HERE / "schema_0001.sqlite3"
ROWS = b'{"prompt": "a", "completion": "b"}\n'
WORKER = WorkerInfo(name="node-1", device="cpu", memory_bytes=2**34, free_memory_bytes=2**33, version="0.1.0")


def main() -> None:
    """Write the database."""
    if head_revision() != "0001":
        raise SystemExit(f"this checkout is at {head_revision()}; check out the release with schema 0001")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        settings = Settings(
            database_url=f"sqlite:///{folder / 'registry.sqlite3'}",
            storage_url=(folder / "artifacts").as_uri(),
            auth="none",
            embedded_home=scratch,
        )
        services = build(settings, queue=NoQueue())
        services.db.upgrade()
        fill(services, folder)
        services.db.engine.dispose()
        TARGET.unlink(missing_ok=True)
        with sqlite3.connect(folder / "registry.sqlite3") as connection:
            connection.execute("PRAGMA journal_mode=DELETE")
            connection.execute("VACUUM")
        connection.close()
        TARGET.write_bytes((folder / "registry.sqlite3").read_bytes())


def fill(services: Services, folder: Path) -> None:
    """A base, a dataset, two versions of an adapter, an alias with history, jobs in three states, an evaluation."""
    services.tokens.create(name="ci", role=Role.WRITER)
    services.bases.register(base=base_registration(), by="ci")
    data = put(services, ROWS)
    services.datasets.register(
        dataset=DatasetRegistration(
            digest=data.sha256,
            size_bytes=data.size_bytes,
            format="jsonl",
            rows=1,
            name="rows",
            upload=upload(services, data),
        ),
        by="ci",
    )
    base = BaseChoice(id="tiny", fingerprint=digest("tiny: base"))
    training = JobSubmission(request=TrainingRequest(adapter="team/code-review", base=base, data=data.sha256))
    services.jobs.submit(submission=training, by="ci", idempotency_key="first")
    held = services.claims.claim(claim=ClaimRequest(worker=WORKER))
    assert held is not None
    progress = NewEvent(kind="progress", progress=Progress(phase="train", step=1, total=2, loss=2.5))
    services.claims.heartbeat(job_id=held.job, beat=Heartbeat(attempt=1, events=[progress]))
    first = publication(services, folder, 1, data.sha256)
    services.claims.complete(job_id=held.job, completion=Completion(attempt=1, version=first), by="ci")
    second = publication(services, folder, 2, data.sha256)
    services.publisher.publish(publication=second, by="ci", job=JobRef(id="elsewhere", attempt=1))
    for number, expect in ((1, 0), (2, 1)):
        move = AliasMove(
            adapter="team/code-review", alias="production", number=number, expect=expect, reason=f"to v{number}"
        )
        services.catalog.move_alias(move=move, by="ci")
    evaluation = EvaluationRequest(targets=[EvaluationTarget(ref="team/code-review@production")], data=data.sha256)
    services.jobs.submit(submission=JobSubmission(request=evaluation), by="ci")
    given = services.claims.claim(claim=ClaimRequest(worker=WORKER))
    assert given is not None
    result = EvaluationResult(
        label="team/code-review@v2",
        digest=second.manifest.digest,
        base_fingerprint=digest("tiny: base"),
        report=EvaluationReport(metrics={"loss": 1.5}, precision="float32"),
    )
    services.claims.complete(job_id=given.job, completion=Completion(attempt=1, evaluations=[result]), by="ci")
    cancelled = services.jobs.submit(submission=training, by="ci")
    services.jobs.cancel(cancelled.id)
    services.jobs.submit(submission=training, by="ci")


def publication(services: Services, folder: Path, seed: int, data: str) -> Publication:
    """Upload an adapter and say what a training says of it."""
    adapter = save_adapter(folder / f"adapter-{seed}", seed)
    staging = folder / f"staging-{seed}"
    staging.mkdir()
    package = pack_adapter(
        adapter, base_id="tiny", base_revision=None, base_fingerprint=digest("tiny: base"), staging=staging
    )
    blobs = [put(services, path.read_bytes()) for path in package.sources.values()]
    return Publication(
        adapter="team/code-review",
        upload=upload(services, *blobs),
        manifest=package.manifest,
        lora=package.lora,
        quantization=QuantizationRecipe(),
        dataset=DatasetUse(digest=data, rows=1, supervised_tokens=1),
        training={"lr": 0.0002, "max_steps": seed},
        metrics={"loss": 2.5 - seed},
        libraries={"peft": "0.21.0"},
        tags={"team": "a"},
        description=f"number {seed}",
    )


def put(services: Services, body: bytes) -> BlobSpec:
    """Store bytes."""
    import hashlib

    blob = BlobSpec(sha256=hashlib.sha256(body).hexdigest(), size_bytes=len(body))
    services.artifacts.storage.put(blob.sha256, blob.size_bytes, iter([body]))
    return blob


def upload(services: Services, *blobs: BlobSpec) -> str:
    """Announce blobs."""
    return services.artifacts.begin_upload(blobs=list(blobs), by="ci").id


if __name__ == "__main__":
    main()
