"""A worker that does what a test says: claims a job, reports, stores checkpoints, fails."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdk.client import Client
from sdk.pulling.transfer import hash_file
from sdk.schemas.advice import Advice
from sdk.schemas.events import NewEvent, Progress
from sdk.schemas.jobs import CheckpointView, JobView
from sdk.schemas.manifest import Manifest, ManifestFile
from sdk.schemas.work import (
    Assignment,
    CheckpointRecord,
    Heartbeat,
    HeartbeatReply,
    Release,
)
from support import calls
from support.adapters import digest, use_of
from support.people import SEEDS, new_adapter


def progress(phase: str = "train", step: int | None = None, **said: Any) -> NewEvent:
    return NewEvent(kind="progress", progress=Progress(phase=phase, step=step, **said))


def line(text: str) -> NewEvent:
    return NewEvent(kind="log", message=text)


@dataclass
class Held:
    """A job that the test's worker holds."""

    client: Client
    assignment: Assignment
    tmp_path: Path

    @classmethod
    def claim(cls, client: Client, tmp_path: Path, *, name: str = "w1", **about: Any) -> Held:
        """Claim a job; there must be one."""
        return cls(client, calls.hold(client, name=name, **about), tmp_path)

    @property
    def job(self) -> str:
        return self.assignment.job

    def report(self, *events: NewEvent) -> HeartbeatReply:
        """Send one heartbeat."""
        beat = Heartbeat(attempt=self.assignment.attempt, events=list(events))
        return self.client.call("POST", f"/jobs/{self.job}/heartbeat", HeartbeatReply, body=beat)

    def advise(self, *advice: Advice) -> HeartbeatReply:
        """Send all that the training is advised so far."""
        beat = Heartbeat(attempt=self.assignment.attempt, advice=list(advice))
        return self.client.call("POST", f"/jobs/{self.job}/heartbeat", HeartbeatReply, body=beat)

    def fail(self, reason: str = "data", message: str = "the rows are odd") -> JobView:
        return calls.fail(self.client, self.assignment, reason, message)

    def release(self) -> JobView:
        body = Release(attempt=self.assignment.attempt)
        return self.client.call("POST", f"/jobs/{self.job}/release", JobView, body=body)

    def complete(self, *advice: Advice) -> JobView:
        """Hand in an adapter, and what its training is advised."""
        request: Any = self.assignment.request
        said = {"dataset": use_of(request.data), "metrics": {"loss": 1.0}}
        version = calls.publication(self.client, new_adapter(self.tmp_path), request.adapter, **said)
        return calls.complete(self.client, self.assignment, version=version, advice=list(advice))

    def checkpoint(self, step: int, total: int) -> CheckpointView:
        """Store a checkpoint whose optimiser is some unique bytes."""
        packed = calls.packed(new_adapter(self.tmp_path))
        state = self.tmp_path / f"optimizer-{next(SEEDS)}.pt"
        state.write_bytes(f"{self.job} {step} {next(SEEDS)}".encode())
        sha256, size = hash_file(state)
        files = [*packed.manifest.files, ManifestFile(path="optimizer.pt", size_bytes=size, sha256=sha256)]
        report = calls.training_report(packed.lora, metrics={"loss": 1.0 / step})
        body = CheckpointRecord(
            attempt=self.assignment.attempt,
            step=step,
            total=total,
            upload=self.client.uploader.upload({**packed.sources, sha256: state}, "storing"),
            manifest=Manifest(kind="checkpoint", base_fingerprint=digest("tiny: base"), files=files),
            report=report,
        )
        return self.client.call("POST", f"/jobs/{self.job}/checkpoints", CheckpointView, body=body)
