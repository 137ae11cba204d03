"""What these tests share. The life of a job on both databases: retries by reason, release, routing, checkpoints, the
reconciler.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from support import calls
from support.adapters import SPEC, digest, save_adapter, use_of
from support.people import SEEDS, new_adapter
from support.registries import World

from registry.app.services import Services
from registry.queue import NoQueue
from sdk.client import Client
from sdk.pulling.transfer import hash_file
from sdk.schemas.catalog import Publication
from sdk.schemas.job_requests import BaseChoice, TrainingRequest
from sdk.schemas.jobs import AttemptView, CheckpointView, JobSubmission, JobView
from sdk.schemas.manifest import Manifest, ManifestFile
from sdk.schemas.work import Assignment, CheckpointRecord, Release


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
        return calls.claim(client or self.worker, key=key, **about)

    def hold(self, *, key: str | None = None, **about: Any) -> Assignment:
        return calls.hold(self.worker, key=key, **about)

    def fail(self, held: Assignment, reason: str, message: str = "so it is") -> JobView:
        return calls.fail(self.worker, held, reason, message)

    def release(self, held: Assignment) -> JobView:
        return self.worker.call("POST", f"/jobs/{held.job}/release", JobView, body=Release(attempt=held.attempt))

    def view(self, job_id: str) -> JobView:
        return self.writer.jobs.view(job_id)

    def attempts(self, job_id: str) -> list[AttemptView]:
        return self.writer.call("GET", f"/jobs/{job_id}/attempts", list[AttemptView])

    def checkpoints(self, job_id: str) -> list[CheckpointView]:
        return self.writer.call("GET", f"/jobs/{job_id}/checkpoints", list[CheckpointView])

    def checkpoint(self, held: Assignment, step: int, total: int = 30, **changed: Any) -> CheckpointView:
        """Store a checkpoint as a worker does."""
        folder = self.tmp_path / f"checkpoint-{next(SEEDS)}"
        save_adapter(folder, next(SEEDS))
        (folder / "generation_config.json").write_text('{"eos_token_id":[7]}')
        packed = calls.packed(folder)
        state = folder / "optimizer.pt"
        state.write_bytes(f"{held.job} {step} {next(SEEDS)}".encode())
        sha256, size = hash_file(state)
        files = [*packed.manifest.files, ManifestFile(path="optimizer.pt", size_bytes=size, sha256=sha256)]
        manifest = Manifest(kind="checkpoint", base_fingerprint=digest("tiny: base"), files=files)
        record = CheckpointRecord(
            attempt=held.attempt,
            step=step,
            total=total,
            upload=self.worker.uploader.upload({**packed.sources, sha256: state}, "storing"),
            manifest=manifest,
            report=calls.training_report(
                packed.lora, training={"lr": SPEC.lr, "threads": 2}, metrics={"loss": 1.0 / step}
            ),
        ).model_copy(update=changed)
        return self.worker.call("POST", f"/jobs/{held.job}/checkpoints", CheckpointView, body=record)

    def publication(self, **told: Any) -> Publication:
        """Send a new adapter, and say of it what a worker says."""
        said = {"dataset": use_of(self.data), "metrics": {"loss": 1.0}, **told}
        folder = new_adapter(self.tmp_path)
        return calls.publication(self.worker, folder, f"{self.space}/a", space=self.space, **said)

    def complete(self, held: Assignment, **told: Any) -> JobView:
        return calls.complete(self.worker, held, version=self.publication(**told))

    def services(self, **changed: Any) -> Services:
        """Another server process of this registry, with other settings."""
        settings = replace(self.world.services.settings, **changed)
        self.others.append(Services(settings, storage=self.world.services.artifacts.storage, queue=NoQueue()))
        return self.others[-1]
