"""Make `schema_0003.sqlite3`: a tiny registry as the release with schema 0003 leaves it, with a row of everything.

    python tests/assets/make_schema_0003.py

It runs the services of that release, so it can be made again only from a checkout whose newest migration is 0003. What
is in it is said by `tests/integration/test_past_schemas.py`. Its storage is not kept.
"""

from __future__ import annotations

import hashlib
import sqlite3
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]

from support.adapters import base_registration, digest, lora_tensors, save_adapter  # noqa: E402

from registry.app.services import Services, build  # noqa: E402
from registry.artifacts.models import UploadBlob, UploadPart  # noqa: E402
from registry.db.schema_version import head_revision  # noqa: E402
from registry.http.idempotency.models import KeyedRequest  # noqa: E402
from registry.principal import SYSTEM, Principal, Role  # noqa: E402
from registry.queue import NoQueue  # noqa: E402
from registry.settings import Settings  # noqa: E402
from registry.signatures.models import Signature  # noqa: E402
from sdk.pushing.pack import pack_adapter  # noqa: E402
from sdk.schemas.access import QuotaLimits  # noqa: E402
from sdk.schemas.aliases import AliasMove, AliasRemoval, AliasRollback  # noqa: E402
from sdk.schemas.artifacts import BlobSpec, DatasetRegistration  # noqa: E402
from sdk.schemas.catalog import Annotation, Parent, Publication, VersionMove  # noqa: E402
from sdk.schemas.evaluation import EvaluationReport  # noqa: E402
from sdk.schemas.events import NewEvent, Progress  # noqa: E402
from sdk.schemas.job_requests import BaseChoice, EvaluationRequest, EvaluationTarget, TrainingRequest  # noqa: E402
from sdk.schemas.jobs import JobSubmission  # noqa: E402
from sdk.schemas.lora_config import QuantizationRecipe  # noqa: E402
from sdk.schemas.removal import GcRequest, RetentionRule  # noqa: E402
from sdk.schemas.training_report import DatasetUse  # noqa: E402
from sdk.schemas.work import ClaimRequest, Completion, EvaluationResult, Heartbeat, WorkerInfo  # noqa: E402

TARGET = HERE / "schema_0003.sqlite3"
ROWS = b'{"prompt": "a", "completion": "b"}\n'
OTHER_ROWS = b'{"prompt": "c", "completion": "d"}\n'
WORKER = WorkerInfo(name="node-1", device="cpu", memory_bytes=2**34, free_memory_bytes=2**33, version="0.2.0")
ADAPTER = "team/code-review"
PEOPLE = {
    "ana": {"team": Role.WRITER},
    "bo": {"team": Role.PROMOTER, "-": Role.READER},
    "ci": {"*": Role.WRITER},
    "gpu-1": {"*": Role.WORKER},
}
ANA = Principal("ana", PEOPLE["ana"])
GPU = Principal("gpu-1", PEOPLE["gpu-1"])


def main() -> None:
    """Write the database."""
    if head_revision() != "0003":
        raise SystemExit(f"this checkout is at {head_revision()}; check out the release with schema 0003")
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
            # Each of so many tables and indexes takes a page at least.
            connection.execute("PRAGMA page_size=1024")
            connection.execute("VACUUM")
        connection.close()
        TARGET.write_bytes((folder / "registry.sqlite3").read_bytes())


def fill(services: Services, folder: Path) -> None:
    """People, a base, datasets, two adapters with versions in each state, aliases with history, jobs, an evaluation."""
    for name, grants in PEOPLE.items():
        services.tokens.create(name=name, grants=grants, who=SYSTEM)
    expired = services.tokens.create(name="left", grants={"team": Role.ADMIN}, days=1, who=SYSTEM)
    services.tokens.revoke(expired.id, who=SYSTEM)
    services.quotas.set("team", limits=QuotaLimits(max_adapters=9, max_bytes=10**9, max_jobs=9), who=SYSTEM)
    services.bases.register(base=base_registration(), who=SYSTEM)
    data = dataset(services, ROWS, "rows")
    services.datasets.remove(dataset(services, OTHER_ROWS, "given up"), who=ANA)
    jobs(services, folder, data)
    for seed in (2, 3, 4):
        publish(services, folder, seed, data, parent=f"{ADAPTER}@v{seed - 1}")
    publish(services, folder, 5, data, adapter="summary")
    for alias, number, expect in (("production", 1, 0), ("production", 2, 1), ("staging", 3, 0)):
        move = AliasMove(adapter=ADAPTER, alias=alias, number=number, expect=expect, reason=f"to v{number}")
        services.aliases.move(move=move, who=ANA)
    services.aliases.rollback(rollback=AliasRollback(adapter=ADAPTER, alias="production"), who=SYSTEM)
    services.aliases.remove(removal=AliasRemoval(adapter=ADAPTER, alias="staging"), who=ANA)
    services.aliases.protect(scope="team/*", alias="production", who=SYSTEM)
    annotation = Annotation(ref=f"{ADAPTER}@v1", tags={"language": "python"}, note="beats the base")
    services.version_states.annotate(annotation=annotation, who=ANA)
    services.removal.set_retention("summary", rule=RetentionRule(keep_last=3), who=SYSTEM)
    services.version_states.archive(move=VersionMove(ref=f"{ADAPTER}@v3", reason="worse"), who=ANA)
    services.version_states.delete(move=VersionMove(ref=f"{ADAPTER}@v4", reason="leaks"), who=SYSTEM)
    with services.db.write() as session:
        session.add(
            KeyedRequest(owner=digest("ana"), key="once", request_digest=digest("request"), status=201, body="{}")
        )
    # The files of v4, and the rows that were given up, are gone.
    services.removal.collect(request=GcRequest(dry_run=False, grace_hours=0), who=SYSTEM)
    idle = {name: tensor * (0 if "v_proj.lora_B" in name else 1) for name, tensor in lora_tensors(6).items()}
    publish(services, folder, 6, data, tensors=idle)
    under_way = services.artifacts.begin_upload(blobs=[BlobSpec(sha256=digest("large"), size_bytes=2**30)], who=ANA)
    with services.db.write() as session:
        sent = session.get_one(UploadBlob, (under_way.id, digest("large")))
        sent.parts_id = "0123456789abcdef"
        session.add(UploadPart(stored_as=sent.stored_as, number=1, sha256=digest("part")))
        signed = services.catalog.resolve(f"{ADAPTER}@v2", who=SYSTEM).digest
        session.add(
            Signature(manifest_digest=signed, namespace="team", key_id=digest("key"), bundle="{}", created_by="ana")
        )


def jobs(services: Services, folder: Path, data: str) -> None:
    """A training that made v1, an evaluation of it, a cancelled job and a waiting one."""
    base = BaseChoice(id="tiny", fingerprint=digest("tiny: base"))
    training = JobSubmission(request=TrainingRequest(adapter=ADAPTER, base=base, data=data))
    services.jobs.submit(submission=training, who=ANA, idempotency_key="first")
    held = services.claims.claim(claim=ClaimRequest(worker=WORKER), who=GPU)
    assert held is not None
    progress = NewEvent(kind="progress", progress=Progress(phase="train", step=1, total=2, loss=2.5))
    services.claims.heartbeat(job_id=held.job, beat=Heartbeat(attempt=1, events=[progress]), who=GPU)
    first = publication(services, folder, 1, data, who=GPU)
    services.claims.complete(job_id=held.job, completion=Completion(attempt=1, version=first), who=GPU)
    evaluation = EvaluationRequest(targets=[EvaluationTarget(ref=f"{ADAPTER}@v1")], data=data)
    services.jobs.submit(submission=JobSubmission(request=evaluation), who=ANA)
    given = services.claims.claim(claim=ClaimRequest(worker=WORKER), who=GPU)
    assert given is not None
    result = EvaluationResult(
        label=f"{ADAPTER}@v1",
        digest=first.manifest.digest,
        base_fingerprint=digest("tiny: base"),
        report=EvaluationReport(metrics={"loss": 1.5, "rouge_l": 0.25}, precision="float32"),
    )
    services.claims.complete(job_id=given.job, completion=Completion(attempt=1, evaluations=[result]), who=GPU)
    cancelled = services.jobs.submit(submission=training, who=ANA)
    services.jobs.cancel(cancelled.id, who=ANA)
    services.jobs.submit(submission=training, who=ANA)


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
        training={"lr": 0.0003, "max_steps": seed},
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
    session = services.artifacts.begin_upload(blobs=blobs, who=who)
    for put in session.put:
        path = Path(unquote(urlsplit(put.url).path))
        path.write_bytes(sent[put.sha256])
    return session.id


if __name__ == "__main__":
    main()
