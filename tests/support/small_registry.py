"""A tiny registry with a row of everything, made by the services of this checkout: what a release leaves to the next one."""

from __future__ import annotations

import hashlib
import sqlite3
import tempfile
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from registry.access.keys import KeyedRequest
from registry.app.services import Services
from registry.artifacts.models import UploadBlob, UploadPart
from registry.catalog.versions.lifecycle import VersionState
from registry.principal import SYSTEM, Principal, Role
from registry.queue import NoQueue
from registry.settings import Settings
from registry.signatures.models import Signature
from sdk.pushing.pack import pack_adapter
from sdk.schemas.access import QuotaLimits
from sdk.schemas.aliases import AliasMove, AliasRemoval, AliasRollback
from sdk.schemas.artifacts import BlobSpec, DatasetRegistration
from sdk.schemas.catalog import Annotation, Parent, Publication, VersionMove
from sdk.schemas.evaluation import EvaluationReport
from sdk.schemas.events import NewEvent, Progress
from sdk.schemas.job_requests import BaseChoice, EvaluationRequest, EvaluationTarget, TrainingRequest
from sdk.schemas.jobs import JobSubmission
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.manifest import Manifest, ManifestFile
from sdk.schemas.removal import GcRequest, RetentionRule
from sdk.schemas.training_report import DatasetUse, TrainingReport
from sdk.schemas.work import (
    CheckpointRecord,
    ClaimRequest,
    Completion,
    EvaluationResult,
    Heartbeat,
    Release,
    WorkerInfo,
)
from support.adapters import SPEC, base_registration, digest, lora_tensors, save_adapter
from support.scored_rows import CONDITIONS

ROWS = b'{"prompt": "a", "completion": "b"}\n'
OTHER_ROWS = b'{"prompt": "c", "completion": "d"}\n'
WORKER = WorkerInfo(name="node-1", device="cpu", memory_bytes=2**34, free_memory_bytes=2**33, version="0.1.0")
ADAPTER = "team/code-review"
PEOPLE = {
    "ana": {"team": Role.WRITER},
    "bo": {"team": Role.PROMOTER, "-": Role.READER},
    "ci": {"*": Role.WRITER},
    "gpu-1": {"*": Role.WORKER},
}
ANA = Principal("ana", PEOPLE["ana"])
GPU = Principal("gpu-1", PEOPLE["gpu-1"])


@cache
def made_now() -> bytes:
    """Return the database as a small SQLite file; its storage is not kept."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        settings = Settings(
            database_url=f"sqlite:///{folder / 'registry.sqlite3'}",
            storage_url=(folder / "artifacts").as_uri(),
            auth="none",
            embedded_home=scratch,
        )
        services = Services(settings, queue=NoQueue())
        services.db.upgrade()
        fill(services, folder)
        services.db.close()
        with closing(sqlite3.connect(folder / "registry.sqlite3")) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")
            # Each of so many tables and indexes takes a page at least.
            connection.execute("PRAGMA page_size=1024")
            connection.execute("VACUUM")
        return (folder / "registry.sqlite3").read_bytes()


#: What the trainings of `jobs` hand in.
ASKED = SPEC.model_copy(update={"method": "qlora", "lr": 0.0004, "max_steps": 1})


def fill(services: Services, folder: Path) -> None:
    """People, a base, datasets, two adapters with versions in each state, aliases with history, jobs, an evaluation."""
    for name, grants in PEOPLE.items():
        services.tokens.create(name=name, grants=grants, who=SYSTEM)
    expired = services.tokens.create(name="left", grants={"team": Role.ADMIN}, days=1, who=SYSTEM)
    services.tokens.revoke(expired.id, who=SYSTEM)
    services.quotas.set("team", limits=QuotaLimits(max_adapters=9, max_bytes=10**10, max_jobs=9), who=SYSTEM)
    services.bases.register(base=base_registration(), who=SYSTEM)
    data = dataset(services, ROWS, "rows")
    services.datasets.remove(dataset(services, OTHER_ROWS, "given up"), who=ANA)
    jobs(services, folder, data)
    for seed in (2, 3, 4):
        publish(services, folder, seed, data, parent=f"{ADAPTER}@v{seed - 1}")
    publish(services, folder, 5, data, adapter="summary")
    for alias, number, expect in (("production", 1, 0), ("production", 2, 1), ("staging", 3, 0)):
        move = AliasMove(adapter=ADAPTER, alias=alias, number=number, expect=expect, reason=f"to v{number}")
        services.gate.move(move=move, who=ANA)
    services.gate.rollback(rollback=AliasRollback(adapter=ADAPTER, alias="production", expect=2), who=SYSTEM)
    services.gate.remove(removal=AliasRemoval(adapter=ADAPTER, alias="staging"), who=ANA)
    services.aliases.protect(scope="team/*", alias="production", who=SYSTEM)
    annotation = Annotation(ref=f"{ADAPTER}@v1", tags={"language": "python"}, note="beats the base")
    services.version_states.annotate(annotation=annotation, who=ANA)
    services.removal.set_retention("summary", rule=RetentionRule(keep_last=3), who=SYSTEM)
    archived, deleted = VersionState.ARCHIVED, VersionState.DELETED
    services.version_states.move(VersionMove(ref=f"{ADAPTER}@v3", reason="worse"), archived, who=ANA)
    services.version_states.move(VersionMove(ref=f"{ADAPTER}@v4", reason="leaks"), deleted, who=SYSTEM)
    with services.db.write() as session:
        session.add(
            KeyedRequest(owner=digest("ana"), key="once", request_digest=digest("request"), status=201, body="{}")
        )
    # The files of v4, and the rows that were given up, are gone.
    services.removal.collect(request=GcRequest(dry_run=False, grace_hours=0), who=SYSTEM)
    idle = {name: tensor * (0 if "v_proj.lora_B" in name else 1) for name, tensor in lora_tensors(6).items()}
    publish(services, folder, 6, data, tensors=idle)
    under_way = services.uploads.begin(blobs=[BlobSpec(sha256=digest("large"), size_bytes=2**30)], who=ANA)
    with services.db.write() as session:
        sent = session.get_one(UploadBlob, (under_way.id, digest("large")))
        sent.parts_id = "0123456789abcdef"
        session.add(UploadPart(stored_as=sent.stored_as, number=1, sha256=digest("part")))
        signed = services.catalog.resolve(f"{ADAPTER}@v2", who=SYSTEM).digest
        session.add(
            Signature(manifest_digest=signed, namespace="team", key_id=digest("key"), bundle="{}", created_by="ana")
        )


def jobs(services: Services, folder: Path, data: str) -> None:
    """A training that made v1, an evaluation of it, a cancelled job, and one that waits to go on from a checkpoint."""
    base = BaseChoice(id="tiny", fingerprint=digest("tiny: base"))
    training = JobSubmission(request=TrainingRequest(adapter=ADAPTER, base=base, data=data, spec=ASKED))
    services.jobs.submit(submission=training, who=ANA, idempotency_key="first")
    held = services.claims.claim(claim=ClaimRequest(worker=WORKER), who=GPU)
    progress = NewEvent(kind="progress", progress=Progress(phase="train", step=1, total=2, loss=2.5))
    services.claims.heartbeat(job_id=held.job, beat=Heartbeat(attempt=1, events=[progress]), who=GPU)
    pushed = publication(services, folder, 1, data, who=GPU)
    # A worker names none of it.
    first = pushed.model_copy(update={"tags": {}, "description": "", "unknown": []})
    services.claims.complete(job_id=held.job, completion=Completion(attempt=1, version=first), who=GPU)
    evaluation = EvaluationRequest(targets=[EvaluationTarget(ref=f"{ADAPTER}@v1")], only=True, data=data)
    services.jobs.submit(submission=JobSubmission(request=evaluation), who=ANA)
    given = services.claims.claim(claim=ClaimRequest(worker=WORKER), who=GPU)
    result = EvaluationResult(
        label=f"{ADAPTER}@v1",
        digest=first.manifest.digest,
        base_fingerprint=digest("tiny: base"),
        report=EvaluationReport(metrics={"loss": 1.5, "rouge_l": 0.25}, precision="nf4", conditions=CONDITIONS),
    )
    services.claims.complete(job_id=given.job, completion=Completion(attempt=1, evaluations=[result]), who=GPU)
    cancelled = services.jobs.submit(submission=training, who=ANA)
    services.jobs.cancel(cancelled.id, who=ANA)
    services.jobs.submit(submission=training, who=ANA)
    begun = services.claims.claim(claim=ClaimRequest(worker=WORKER), who=GPU)
    kept = checkpoint(services, folder, data)
    services.checkpoints.record(job_id=begun.job, record=kept, who=GPU)
    services.claims.release(job_id=begun.job, release=Release(attempt=1), who=GPU)


def checkpoint(services: Services, folder: Path, data: str) -> CheckpointRecord:
    """Upload a checkpoint of step 10 and say what a worker says of it."""
    said = publication(services, folder, 90, data, who=GPU)
    state = b"the optimiser's state"
    sha256 = hashlib.sha256(state).hexdigest()
    files = [*said.manifest.files, ManifestFile(path="optimizer.safetensors", size_bytes=len(state), sha256=sha256)]
    upload_id = upload(services, state, *_bodies(folder, 90), who=GPU)
    return CheckpointRecord(
        attempt=1,
        step=10,
        total=30,
        upload=upload_id,
        manifest=Manifest(kind="checkpoint", base_fingerprint=digest("tiny: base"), files=files),
        report=TrainingReport(
            lora=said.lora,
            quantization=said.quantization,
            rows=1,
            supervised_tokens=1,
            training={"lr": 0.0004},
            metrics={"loss": 2.0},
            libraries={"peft": "0.21.0"},
        ),
    )


def _bodies(folder: Path, seed: int) -> list[bytes]:
    """The files of an adapter as they were packed."""
    packed = {
        path.name: path for place in (f"adapter-{seed}", f"staging-{seed}") for path in (folder / place).iterdir()
    }
    return [path.read_bytes() for path in packed.values()]


def publish(
    services: Services,
    folder: Path,
    seed: int,
    data: str,
    *,
    adapter: str = ADAPTER,
    parent: str | None = None,
    tensors: dict[str, Any] | None = None,
) -> None:
    """Push an adapter, made from the version `parent`."""
    who = ANA if adapter == ADAPTER else SYSTEM
    parents = [] if parent is None else [Parent(ref=parent, relation="continued-from")]
    pushed = publication(services, folder, seed, data, who=who, tensors=tensors).model_copy(
        update={"adapter": adapter, "parents": parents}
    )
    services.publisher.publish(publication=pushed, who=who)


def publication(
    services: Services, folder: Path, seed: int, data: str, *, who: Principal, tensors: dict[str, Any] | None = None
) -> Publication:
    """Upload an adapter and say what a training says of it."""
    adapter = save_adapter(folder / f"adapter-{seed}", seed, tensors=tensors)
    staging = folder / f"staging-{seed}"
    staging.mkdir()
    package = pack_adapter(
        adapter, base_id="tiny", base_revision=None, base_fingerprint=digest("tiny: base"), staging=staging
    )
    return Publication(
        adapter=ADAPTER,
        upload=upload(services, *(path.read_bytes() for path in package.sources.values()), who=who),
        manifest=package.manifest,
        lora=package.lora,
        quantization=QuantizationRecipe(),
        dataset=DatasetUse(digest=data, rows=1, supervised_tokens=1),
        training={"lr": 0.0004, "max_steps": seed},
        metrics={"loss": 2.5 - seed},
        libraries={"peft": "0.21.0"},
        tags={"team": "a"},
        description=f"number {seed}",
        unknown=["base_revision"],
    )


def dataset(services: Services, body: bytes, name: str) -> str:
    """Upload and register rows; return their digest."""
    registration = DatasetRegistration(
        digest=hashlib.sha256(body).hexdigest(),
        size_bytes=len(body),
        format="jsonl",
        rows=1,
        name=name,
        upload=upload(services, body, who=ANA),
    )
    return services.datasets.register(dataset=registration, who=ANA).digest


def upload(services: Services, *bodies: bytes, who: Principal) -> str:
    """Announce and store bytes; return the session."""
    sent = {hashlib.sha256(body).hexdigest(): body for body in bodies}
    blobs = [BlobSpec(sha256=sha256, size_bytes=len(body)) for sha256, body in sent.items()]
    session = services.uploads.begin(blobs=blobs, who=who)
    for put in session.put:
        path = Path(unquote(urlsplit(put.url).path))
        path.write_bytes(sent[put.sha256])
    return session.id
