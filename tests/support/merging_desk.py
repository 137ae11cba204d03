"""A worker that merges without torch: it hands in the base's own folder with other numbers, or with a fault."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdk.client import Client
from sdk.objects import Job
from sdk.pulling.transfer import hash_file
from sdk.schemas.catalog import BaseView
from sdk.schemas.evaluation import MergeReport, ReadBack
from sdk.schemas.jobs import JobView
from sdk.schemas.manifest import Manifest, ManifestFile
from sdk.schemas.work import Assignment, MergeResult
from sdk.version import VERSION
from support import calls
from support.people import SEEDS
from support.small import TENSORS, write_adapter, write_base, write_safetensors

#: What a merge reports about itself, except for what a test changes.
REPORT = {
    "onto": "original",
    "dtype": "float32",
    "metrics": {"logit_kl_original": 1e-9},
    "libraries": {"torch": "2"},
    "read_back": ReadBack(tensors=len(TENSORS), copied=3, rows=2, prompts="run"),
    "warnings": ["Rounding took it."],
}
#: Writes a merged folder with a fault.
Change = Callable[[Path], None]


def value() -> float:
    """A number that is in no other file of the run."""
    return next(SEEDS) / 1_000_000


def write_shards(folder: Path, *, held: float, tensors: Mapping[str, list[int]] = TENSORS) -> None:
    """Write a model's tensors into two files, with their index."""
    (folder / "model.safetensors").unlink(missing_ok=True)
    names = list(tensors)
    where: dict[str, str] = {}
    for number, part in enumerate((names[:2], names[2:]), start=1):
        name = f"model-0000{number}-of-00002.safetensors"
        write_safetensors(folder / name, {key: tensors[key] for key in part}, value=held + number)
        where |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": 4}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@dataclass
class MergingDesk:
    """A namespace with a base that was sent, a writer, and a worker."""

    writer: Client
    worker: Client
    space: str
    tmp_path: Path
    base: BaseView
    folder: Path

    @classmethod
    def open(cls, writer: Client, worker: Client, space: str, tmp_path: Path, **config: Any) -> MergingDesk:
        """Send a base of its own."""
        folder = write_base(tmp_path / f"base-{next(SEEDS)}", value=value(), **config)
        base = writer.bases.add(folder, namespace=space, upload=True)
        return cls(writer, worker, space, tmp_path, base, folder)

    def named(self, name: str) -> str:
        return name if self.space == "-" else f"{self.space}/{name}"

    def push(self, name: str = "a", **config: Any) -> str:
        """Push a new adapter; return its ref."""
        folder = write_adapter(self.tmp_path / f"adapter-{next(SEEDS)}", value=value(), **config)
        return self.writer.push(folder, self.named(name), base=self.base.fingerprint, method="lora").ref

    def submit(self, ref: str, name: str | None = "m", **spec: Any) -> Job[Any]:
        return self.writer.submit_merge(ref, register=None if name is None else self.named(name), **spec)

    def claim(self) -> Assignment:
        return calls.hold(self.worker, name=f"w-{self.space}", version=VERSION)

    def model(self, change: Change = lambda folder: None, *, held: float | None = None) -> Path:
        """Write a merged folder: the base's, with other weights."""
        out = self.tmp_path / f"merged-{next(SEEDS)}"
        shutil.copytree(self.folder, out)
        write_safetensors(out / "model.safetensors", TENSORS, value=value() if held is None else held)
        change(out)
        return out

    def result(self, out: Path, **said: Any) -> MergeResult:
        """Send a merged folder, and report about it as a worker does."""
        files, sources = [], {}
        for path in sorted(out.iterdir()):
            sha256, size = hash_file(path)
            files.append(ManifestFile(path=path.name, size_bytes=size, sha256=sha256))
            sources[sha256] = path
        kind = said.pop("kind", "merged")
        manifest = Manifest(kind=kind, base_fingerprint=self.base.fingerprint, files=files)
        upload = self.worker.uploader.upload(sources, "sending", self.space)
        return MergeResult(manifest=manifest, upload=upload, report=MergeReport.model_validate(REPORT | said))

    def complete(self, held: Assignment, result: MergeResult) -> JobView:
        return calls.complete(self.worker, held, merge=result)

    def merged(self, ref: str, name: str | None = "m", out: Path | None = None, **said: Any) -> dict[str, Any]:
        """Merge a version and hand the model in; return the job's result."""
        self.submit(ref, name)
        done = self.complete(self.claim(), self.result(self.model() if out is None else out, **said))
        assert done.result is not None
        return done.result
