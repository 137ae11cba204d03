"""What these tests share. The life of a job on both databases: retries by reason, release, routing, checkpoints, the
reconciler.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from support.adapters import SPEC, digest, save_adapter, use_of
from support.people import SEEDS, new_adapter
from support.registries import World

from registry.app.services import Services
from registry.queue import NoQueue
from sdk.client import Client
from sdk.pulling.transfer import hash_file
from sdk.pushing.pack import pack_adapter
from sdk.schemas.catalog import Publication
from sdk.schemas.job_requests import BaseChoice, TrainingRequest
from sdk.schemas.jobs import AttemptView, CheckpointView, JobSubmission, JobView
from sdk.schemas.manifest import Manifest, ManifestFile
from sdk.schemas.training_report import TrainingReport
from sdk.schemas.work import Assignment, CheckpointRecord, ClaimRequest, Completion, Failure, Release, WorkerInfo


@dataclass
class Crew:
    """A namespace of its own, whoever submits there, and a worker that is given only its jobs."""

    world: World
    space: str
    writer: Client
    worker: Client
    data: str
    tmp_path: Path
    others: list[Services] = field(default_factory=list)

    def body(self, *, base: str = "tiny", **changed: Any) -> JobSubmission:
        spec = changed.pop("spec", SPEC)
        start = changed.pop("from_checkpoint", None)
        request = TrainingRequest(
            adapter=changed.pop("adapter", f"{self.space}/a"),
            base=BaseChoice(id=base),
            data=self.data,
            spec=spec,
            from_checkpoint=start,
            template_date=changed.pop("template_date", None),
        )
        return JobSubmission(request=request, **changed)

    def submit(self, **changed: Any) -> JobView:
        return self.writer.call("POST", "/jobs", JobView, body=self.body(**changed))

    def claim(self, client: Client | None = None, *, key: str | None = None, **about: Any) -> Assignment | None:
        return (client or self.worker).call(
            "POST",
            "/jobs/claim",
            Assignment | None,  # type: ignore[arg-type]
            body=ClaimRequest(worker=info(**about)),
            headers=None if key is None else {"Idempotency-Key": key},
        )

    def hold(self, *, key: str | None = None, **about: Any) -> Assignment:
        held = self.claim(key=key, **about)
        assert held is not None
        return held

    def fail(self, held: Assignment, reason: str, message: str = "so it is") -> JobView:
        failure = Failure(attempt=held.attempt, reason=reason, message=message)
        return self.worker.call("POST", f"/jobs/{held.job}/fail", JobView, body=failure)

    def release(self, held: Assignment) -> JobView:
        return self.worker.call("POST", f"/jobs/{held.job}/release", JobView, body=Release(attempt=held.attempt))

    def view(self, job_id: str) -> JobView:
        return self.writer.job_view(job_id)

    def attempts(self, job_id: str) -> list[AttemptView]:
        return self.writer.call("GET", f"/jobs/{job_id}/attempts", list[AttemptView])

    def checkpoints(self, job_id: str) -> list[CheckpointView]:
        return self.writer.call("GET", f"/jobs/{job_id}/checkpoints", list[CheckpointView])

    def checkpoint(self, held: Assignment, step: int, total: int = 30, **changed: Any) -> CheckpointView:
        """Store a checkpoint as a worker does."""
        folder = self.tmp_path / f"checkpoint-{next(SEEDS)}"
        save_adapter(folder, next(SEEDS))
        (folder / "generation_config.json").write_text('{"eos_token_id":[7]}')
        staging = self.tmp_path / f"staging-{next(SEEDS)}"
        staging.mkdir()
        packed = pack_adapter(
            folder, base_id="tiny", base_revision="0" * 40, base_fingerprint=digest("tiny: base"), staging=staging
        )
        state = folder / "optimizer.pt"
        state.write_bytes(f"{held.job} {step} {next(SEEDS)}".encode())
        sha256, size = hash_file(state)
        files = [*packed.manifest.files, ManifestFile(path="optimizer.pt", size_bytes=size, sha256=sha256)]
        manifest = Manifest(kind="checkpoint", base_fingerprint=digest("tiny: base"), files=files)
        record = CheckpointRecord(
            attempt=held.attempt,
            step=step,
            total=total,
            upload=self.worker.upload({**packed.sources, sha256: state}, "storing"),
            manifest=manifest,
            report=TrainingReport(
                lora=packed.lora,
                quantization=None,
                rows=1,
                supervised_tokens=1,
                training={"lr": SPEC.lr, "threads": 2},
                metrics={"loss": 1.0 / step},
                libraries={"torch": "2"},
            ),
        ).model_copy(update=changed)
        return self.worker.call("POST", f"/jobs/{held.job}/checkpoints", CheckpointView, body=record)

    def publication(self, **told: Any) -> Publication:
        """Send a new adapter, and say of it what a worker says."""
        folder = new_adapter(self.tmp_path)
        staging = self.tmp_path / f"staging-{next(SEEDS)}"
        staging.mkdir()
        packed = pack_adapter(
            folder, base_id="tiny", base_revision="0" * 40, base_fingerprint=digest("tiny: base"), staging=staging
        )
        return Publication(
            adapter=f"{self.space}/a",
            upload=self.worker.upload(packed.sources, "sending", self.space),
            manifest=packed.manifest,
            lora=packed.lora,
            dataset=use_of(self.data),
            **{"metrics": {"loss": 1.0}, **told},
        )

    def complete(self, held: Assignment, **told: Any) -> JobView:
        completion = Completion(attempt=held.attempt, version=self.publication(**told))
        return self.worker.call("POST", f"/jobs/{held.job}/complete", JobView, body=completion)

    def services(self, **changed: Any) -> Services:
        """Another server process of this registry, with other settings."""
        settings = replace(self.world.services.settings, **changed)
        self.others.append(Services(settings, storage=self.world.services.artifacts.storage, queue=NoQueue()))
        return self.others[-1]


def info(name: str = "w1", **changed: Any) -> WorkerInfo:
    given = {"device": "cpu", "memory_bytes": 2**34, "free_memory_bytes": 2**33, **changed}
    return WorkerInfo(name=name, **given)
