"""What a push and a worker send to a registry, each in one call."""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sdk.client import Client
from sdk.pulling.transfer import hash_file
from sdk.pushing.pack import Package, pack_adapter
from sdk.schemas.artifacts import BlobSpec, PartSpec, PartsRequest, Transfer, UploadRequest, UploadView
from sdk.schemas.catalog import Publication
from sdk.schemas.jobs import JobView
from sdk.schemas.lora_config import LoraConfig
from sdk.schemas.training_report import TrainingReport
from sdk.schemas.work import (
    Assignment,
    ClaimRequest,
    Completion,
    EvaluationResult,
    Failure,
    TargetSource,
    WorkerInfo,
)
from support.adapters import digest


def at_once(acts: Sequence[Callable[[], object]], *, refused: type[Exception]) -> list[bool]:
    """Do all at the same moment, each in a thread of its own; return which were done and which refused, these first."""
    together = threading.Barrier(len(acts))

    def do(act: Callable[[], object]) -> bool:
        together.wait()
        try:
            act()
        except refused:
            return False
        return True

    with ThreadPoolExecutor(len(acts)) as pool:
        return sorted(pool.map(do, acts))


def packed(folder: Path, *, base: str = "tiny: base", **given: Any) -> Package:
    """Pack an adapter over the base that tests register, beside its folder."""
    staging = folder.parent / f"staging-{uuid.uuid4().hex}"
    staging.mkdir()
    about = {"base_id": "tiny", "base_revision": "0" * 40, "base_fingerprint": digest(base), **given}
    return pack_adapter(folder, staging=staging, **about)


def publication(
    client: Client, folder: Path, name: str, *, base: str = "tiny: base", space: str | None = None, **said: Any
) -> Publication:
    """Send an adapter; return what is to be said of it."""
    package = packed(folder, base=base)
    upload = client.uploader.upload(package.sources, "sending", space)
    told = {"adapter": name, "upload": upload, "manifest": package.manifest, "lora": package.lora}
    return Publication.model_validate({**told, **said})


def announce(client: Client, path: Path) -> UploadView:
    """Begin to send a file."""
    sha256, size = hash_file(path)
    body = UploadRequest(blobs=[BlobSpec(sha256=sha256, size_bytes=size)])
    return client.call("POST", "/uploads", UploadView, body=body)


def place_of_part(client: Client, upload: str, sha256: str, number: int, part: bytes) -> Transfer:
    """Ask where a part of a file is to be sent."""
    body = PartsRequest(sha256=sha256, parts=[PartSpec(number=number, sha256=hashlib.sha256(part).hexdigest())])
    return client.call("POST", f"/uploads/{upload}/parts", list[Transfer], body=body)[0]


def worker_info(name: str = "w1", **about: Any) -> WorkerInfo:
    given = {"name": name, "device": "cpu", "memory_bytes": 2**34, "free_memory_bytes": 2**33, **about}
    return WorkerInfo.model_validate(given)


def claim(client: Client, *, hint: str | None = None, key: str | None = None, **about: Any) -> Assignment | None:
    """Ask for a job, as a worker of which `about` is said."""
    return client.call(
        "POST",
        "/jobs/claim",
        Assignment | None,  # type: ignore[arg-type]
        body=ClaimRequest(worker=worker_info(**about), hint=hint),
        headers=None if key is None else {"Idempotency-Key": key},
    )


def hold(client: Client, **asked: Any) -> Assignment:
    """Claim a job; there must be one."""
    held = claim(client, **asked)
    assert held is not None
    return held


def complete(client: Client, held: Assignment, **result: Any) -> JobView:
    body = Completion(attempt=held.attempt, **result)
    return client.call("POST", f"/jobs/{held.job}/complete", JobView, body=body)


def fail(client: Client, held: Assignment, reason: str, message: str = "so it is") -> JobView:
    body = Failure(attempt=held.attempt, reason=reason, message=message)
    return client.call("POST", f"/jobs/{held.job}/fail", JobView, body=body)


def scored(target: TargetSource, *, upload: str | None = None, **said: Any) -> EvaluationResult:
    """What is handed in for a target: a `report`, a `failure` or what was `recorded`."""
    about = {"label": target.label, "digest": target.digest, "base_fingerprint": target.base.fingerprint or ""}
    return EvaluationResult.model_validate({**about, "upload": upload, **said})


def training_report(lora: LoraConfig, **said: Any) -> TrainingReport:
    """What a training says of itself, in as few words as it may."""
    told = {"rows": 1, "supervised_tokens": 1, "training": {}, "metrics": {"loss": 1.0}, "libraries": {"torch": "2"}}
    return TrainingReport.model_validate({"lora": lora, "quantization": None, **told, **said})
