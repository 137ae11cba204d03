"""The client's side of bytes: sent and fetched straight to and from storage, by manifest, through the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from sdk import transfer
from sdk.cache import Cache
from sdk.checks import segment
from sdk.config import user_path
from sdk.errors import VerificationFailed, disk_explained
from sdk.folders import require_free
from sdk.schemas.artifacts import BlobSpec, Transfer, UploadRequest, UploadView
from sdk.schemas.manifest import Manifest
from sdk.transport import Transport

T = TypeVar("T")

#: Called with what is being done, the bytes that just passed, and the bytes in all.
OnTransfer = Callable[[str, int, int], None]


class FileClient:
    """The part of a client that moves files."""

    def __init__(self, transport: Transport, cache: Cache, on_transfer: OnTransfer | None) -> None:
        self.cache = cache
        self._transport = transport
        self._on_transfer = on_transfer

    def call(self, method: str, path: str, reply: type[T], **given: Any) -> T:
        """Call one route of the API; workers claim, report and hand in through it."""
        return self._transport.call(method, path, reply, **given)

    def fill_cache(self, manifest: Manifest) -> Path:
        """Return the cache's folder of a manifest's files, fetched if need be; other processes wait meanwhile."""
        folder = self.cache.version(manifest.digest)
        if folder.is_dir():
            return folder
        with disk_explained("filling the cache"), self.cache.lock(manifest.digest):
            if not folder.is_dir():
                with self.cache.new_folder(folder) as partial:
                    self.fetch_manifest(manifest, partial)
        return folder

    def check_cached(self, manifest: Manifest) -> None:
        """Hash the cache's folder of a manifest again. Raises VerificationFailed."""
        folder = self.fill_cache(manifest)
        for file in manifest.files:
            path = folder / file.path
            if not path.is_file() or transfer.hash_file(path)[0] != file.sha256:
                raise VerificationFailed(f"{path} was altered in the cache; remove the folder {folder} and pull again")

    def save_manifest(self, manifest: Manifest, to: Path) -> Path:
        """Fetch a manifest's files into the new folder `to`, complete once it has its name. Raises Conflict."""
        target = user_path(to).absolute()
        require_free(target, replaceable=False)
        with disk_explained(f"writing {target}"), self.cache.new_folder(target) as partial:
            self.fetch_manifest(manifest, partial)
            if target.is_dir():
                target.rmdir()
        return target

    def fetch_manifest(self, manifest: Manifest, folder: Path) -> None:
        """Fetch a manifest's files into an existing folder, each checked against its digest."""
        origins = {origin.sha256: origin for origin in self.locate(manifest.digest)}
        watch = self._watch("fetching", manifest.size_bytes)
        for file in manifest.files:
            if file.sha256 not in origins:
                raise VerificationFailed(f"the registry does not say where {file.path} lies; tell an admin")
            transfer.fetch(origins[file.sha256], folder / file.path, watch)

    def locate(self, digest: str) -> list[Transfer]:
        """Say where the files of a manifest are fetched from."""
        return self.call("GET", f"/manifests/{segment(digest)}/files", list[Transfer])

    def locate_data(self, digest: str) -> Transfer:
        """Say where a dataset is fetched from."""
        return self.call("GET", f"/datasets/{segment(digest)}/file", Transfer)

    def upload(self, sources: Mapping[str, Path], doing: str) -> str:
        """Send files, by SHA-256, straight to storage; return the upload session's id."""
        blobs = [BlobSpec(sha256=sha256, size_bytes=path.stat().st_size) for sha256, path in sources.items()]
        session = self.call("POST", "/uploads", UploadView, body=UploadRequest(blobs=blobs))
        watch = self._watch(doing, sum(put.size_bytes for put in session.put))
        for put in session.put:
            transfer.send(sources[put.sha256], put, watch)
        return session.id

    def _watch(self, doing: str, total: int | None) -> Callable[[int], None]:
        watcher = self._on_transfer
        if watcher is None:
            return lambda _count: None
        return lambda count: watcher(doing, count, total or 0)

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()
