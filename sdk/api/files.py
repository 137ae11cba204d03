"""The client's side of bytes: sent and fetched straight to and from storage, by manifest, through the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from sdk.allowed_locations import Reach
from sdk.api.transport import Transport
from sdk.config import user_path
from sdk.errors import VerificationFailed, disk_explained
from sdk.formats.manifest import HasFiles
from sdk.formats.refs import digest_digits
from sdk.pulling.cache import Cache
from sdk.pulling.download import fetch
from sdk.pulling.folder import refuse_hazard, require_free, verify_folder
from sdk.pulling.http import Links
from sdk.pulling.puller import OnTransfer as OnTransfer
from sdk.pulling.puller import fill, located, watching
from sdk.pushing.upload import send_all
from sdk.schemas.artifacts import BlobSpec, PartSpec, PartsRequest, Transfer, UploadRequest, UploadView
from sdk.schemas.manifest import Manifest
from sdk.transfer import folder_whole
from sdk.validation import segment

T = TypeVar("T")


class FileClient:
    """The part of a client that moves files."""

    def __init__(self, transport: Transport, cache: Cache, on_transfer: OnTransfer | None) -> None:
        self.cache = cache
        self._transport = transport
        self._on_transfer = on_transfer

    def call(self, method: str, path: str, reply: type[T], **given: Any) -> T:
        """Call one route of the API; workers claim, report and hand in through it."""
        return self._transport.call(method, path, reply, **given)

    @property
    def reach(self) -> Reach:
        """The places that the registry may name."""
        return self._transport.config.reach

    @cached_property
    def links(self) -> Links:
        """Connections to the storage, kept from one file to the next."""
        return Links(self.reach)

    def fill_cache(self, manifest: HasFiles, *, checked: bool = False) -> Path:
        """Return the cache's folder of a manifest's files, fetched if need be; other processes wait meanwhile.

        With `checked`, files that lie there with other bytes than the manifest says are fetched again.
        """
        return fill(self.cache, manifest, self.locate, self.links, self._on_transfer, checked=checked)

    def check_cached(self, manifest: HasFiles) -> Manifest:
        """Hash the cache's folder of a manifest again; return the manifest.

        Raises VerificationFailed, also for an adapter whose config no library should be given.
        """
        folder = self.fill_cache(manifest)
        try:
            found = verify_folder(folder)
        except VerificationFailed as error:
            raise VerificationFailed(
                f"{error.message}; it was altered in the cache: remove what is damaged with: adapterctl cache verify"
            ) from error
        if found.digest != manifest.digest:
            raise VerificationFailed(f"{folder} holds another version; run: adapterctl cache verify")
        refuse_hazard(folder, found)
        return found

    def save_manifest(self, manifest: Manifest, to: Path) -> Path:
        """Fetch a manifest's files into the new folder `to`, complete once it has its name. Raises Conflict."""
        target = user_path(to).absolute()
        require_free(target, replaceable=False)
        with (
            disk_explained(f"writing {target}"),
            self.cache.lock(f"folder {target}"),
            folder_whole(target) as partial,
        ):
            self.fetch_manifest(manifest, partial)
            if target.is_dir():
                target.rmdir()
        return target

    def fetch_manifest(self, manifest: Manifest, folder: Path) -> None:
        """Fetch a manifest's files into an existing folder, each checked against its digest."""
        watch = watching(self._on_transfer, "fetching", manifest.size_bytes)
        for file, origin, relocate in located(manifest, self.locate):
            fetch(origin, folder / file.path, watch, name=file.path, relocate=relocate, links=self.links)

    def locate(self, digest: str) -> list[Transfer]:
        """Say where the files of a manifest are fetched from."""
        return self.call("GET", f"/manifests/{segment(digest)}/files", list[Transfer])

    def locate_data(self, name: str) -> Transfer:
        """Say where a dataset is fetched from, by digest or name.

        Raises NotFound, InvalidInput for a name that datasets of several namespaces have, VerificationFailed where another
        digest is answered than was asked for.
        """
        found = self.call("GET", f"/datasets/{segment(name)}/file", Transfer)
        if not found.sha256.startswith(digest_digits(name) or ""):
            raise VerificationFailed(
                f"the registry answers with the dataset {found.sha256[:12]} where {name[:80]} was asked for; tell an admin"
            )
        return found

    def upload(self, sources: Mapping[str, Path], doing: str, namespace: str | None = None) -> str:
        """Send files, by SHA-256, straight to storage; return the upload session's id.

        What the registry has and this client may read is not sent; what was interrupted goes on. Room is reserved for the
        rest where it will be used: in a namespace, "-", or "*" for what is published for all; None: the first in which this
        client may write. Raises QuotaExceeded before anything is sent.
        """
        blobs = [BlobSpec(sha256=sha256, size_bytes=path.stat().st_size) for sha256, path in sources.items()]
        watch: Callable[[int], None] | None = None

        def begin() -> UploadView:
            nonlocal watch
            payer = {"namespace": namespace}
            session = self.call("POST", "/uploads", UploadView, body=UploadRequest(blobs=blobs), params=payer)
            if watch is None:
                left = [min(part.part_bytes * len(part.missing), part.size_bytes) for part in session.parts]
                watch = self._watch(doing, sum(put.size_bytes for put in session.put) + sum(left))
            return session

        def ask_part(session: str, sha256: str, number: int, part_sha256: str) -> Transfer:
            body = PartsRequest(sha256=sha256, parts=[PartSpec(number=number, sha256=part_sha256)])
            return self.call("POST", f"/uploads/{segment(session)}/parts", list[Transfer], body=body)[0]

        return send_all(
            sources,
            begin=begin,
            ask_part=ask_part,
            on_bytes=lambda count: watch and watch(count),
            reach=self.reach,
        )

    def _watch(self, doing: str, total: int | None) -> Callable[[int], None]:
        watcher = self._on_transfer
        if watcher is None:
            return lambda _count: None
        return lambda count: watcher(doing, count, total or 0)

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()
        self.links.close()
