"""Adapters as bytes in memory, ready to be sent: for tests that publish by the thousand."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
from safetensors.numpy import save

from registry.artifacts.manifests import blobs_of
from sdk.formats.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from sdk.lora.adapter_config import lora_of
from sdk.schemas.artifacts import BlobSpec
from sdk.schemas.catalog import Publication
from sdk.schemas.manifest import Manifest, ManifestFile
from support.adapters import digest, lora_config, lora_tensors


@dataclass(frozen=True)
class Payload:
    """An adapter's files, and what is said about them."""

    manifest: Manifest
    digest: str
    #: Bytes by SHA-256, in the order of the manifest.
    files: dict[str, bytes]
    #: Whether every B is zero, so that admission refuses it.
    idle: bool

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return self.manifest.size_bytes

    @property
    def blobs(self) -> list[BlobSpec]:
        """The files as an upload announces them."""
        return blobs_of(self.manifest)

    def publication(self, adapter: str, upload: str | None, **said: object) -> Publication:
        """The publication that makes these bytes a version of `adapter`."""
        lora = lora_of(json.loads(next(iter(self.files.values()))))
        described = {"adapter": adapter, "upload": upload, "manifest": self.manifest, "lora": lora, **said}
        return Publication.model_validate(described)


def make_payload(seed: int, *, marked: str = "", alpha: int = 4, dtype: str = "float32", idle: bool = False) -> Payload:
    """Return an adapter over the base `tiny`: seeds differ in the weights, marks and alphas in the config."""
    tensors = lora_tensors(seed, dtype=dtype)
    if idle:
        tensors = {name: np.zeros_like(value) if "lora_B" in name else value for name, value in tensors.items()}
    config = json.dumps(lora_config(lora_alpha=alpha, revision=marked)).encode()
    contents = {CONFIG_FILE: config, WEIGHTS_FILE: save(tensors)}
    files = [
        ManifestFile(path=path, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        for path, content in contents.items()
    ]
    manifest = Manifest(kind="adapter", base_fingerprint=digest("tiny: base"), files=files)
    return Payload(
        manifest=manifest,
        digest=manifest.digest,
        files={file.sha256: contents[file.path] for file in manifest.files},
        idle=idle,
    )
