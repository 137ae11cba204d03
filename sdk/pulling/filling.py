"""The files of a manifest, fetched into the cache or into a folder, each checked against its digest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from sdk.errors import VerificationFailed, disk_explained
from sdk.formats.manifest import FileEntry, HasFiles
from sdk.pulling.cache import MARKER, READ_ONLY, Cache
from sdk.pulling.download import fetch
from sdk.pulling.http import HttpClient
from sdk.pulling.leases import record, require_unleased
from sdk.pulling.ranges import BlobLocation, Relocate
from sdk.pulling.transfer import OnBytes, folder_whole, hash_file
from sdk.whole_files import write_whole

#: Called with what is being done, the bytes that just arrived, and the total.
OnTransfer = Callable[[str, int, int], None]
#: Returns where the files of a manifest are, by its digest.
Locate = Callable[[str], Sequence[BlobLocation]]


def fill(
    cache: Cache,
    contents: HasFiles,
    locate: Locate,
    http: HttpClient,
    on_transfer: OnTransfer | None = None,
    *,
    checked: bool = False,
    owner: str | None = None,
) -> Path:
    """Return the cache's folder of a version, fetching it if needed; other processes that want it wait meanwhile.

    With `checked`, cached files are used only if their bytes have the manifest's digests. With `owner`, the folder is leased to
    them before this returns; by asking they say that nothing of theirs relies on a damaged one. Raises Conflict if the folder is
    damaged, but leased to others.
    """
    folder = cache.version(contents.digest)

    def there() -> bool:
        return cache.has_version(contents) and not (
            checked and any(not cache.is_unaltered(folder / file.path, file.sha256) for file in contents.files)
        )

    # A lease is written under the lock, so that nobody removes the folder between the look and the lease.
    with (
        disk_explained("leasing a folder of the cache"),
        cache.lock(contents.digest, shared=True) if owner else nullcontext(),
    ):
        if there():
            if owner is not None:
                record(cache, contents.digest, owner)
            cache.used(folder)
            return folder
    # While any process holds this lock, nobody removes a blob that is not in a folder yet.
    with disk_explained("filling the cache"), cache.lock("filling", shared=True), cache.lock(contents.digest):
        if not there():
            require_unleased(cache, contents.digest, folder, owner=owner)
            _fetch_missing(cache, contents, locate, http, on_transfer)
            cache.remove_folder(folder)
            with folder_whole(folder, durable=False) as new:
                for file in contents.files:
                    cache.link(file.sha256, new / file.path)
                (new / MARKER).parent.mkdir(exist_ok=True)
                write_whole(new / MARKER, contents.canonical(), durable=True)
        if owner is not None:
            record(cache, contents.digest, owner)
    cache.used(folder)
    return folder


def _fetch_missing(
    cache: Cache,
    contents: HasFiles,
    locate: Locate,
    http: HttpClient,
    on_transfer: OnTransfer | None,
) -> None:
    missing = []
    for file in contents.files:
        blob = cache.blob(file.sha256)
        if not cache.has_blob(file.sha256, file.size_bytes) or hash_file(blob)[0] != file.sha256:
            # If there is a file, it is damaged.
            blob.unlink(missing_ok=True)
            missing.append(file)
    if not missing:
        return
    watch = watching(on_transfer, "fetching", contents.size_bytes)
    if cached := sum(file.size_bytes for file in contents.files if file not in missing):
        watch(cached)
    for file, origin, relocate in located(contents, locate):
        blob = cache.blob(file.sha256)
        if file not in missing or cache.has_blob(file.sha256, file.size_bytes):
            continue
        fetch(origin, blob, watch, name=file.path, relocate=relocate, http=http, mode=READ_ONLY, once=True)
        cache.fresh.add(file.sha256)


def located(contents: HasFiles, locate: Locate) -> Iterator[tuple[FileEntry, BlobLocation, Relocate]]:
    """Yield each file with its blob's location, and a function that returns a fresh one.

    Raises VerificationFailed if the registry gives no location for a file.
    """
    places = {place.sha256: place for place in locate(contents.digest)}
    for file in contents.files:
        yield file, _place_of(file, places), partial(_relocated, file, contents.digest, locate)


def _relocated(file: FileEntry, digest: str, locate: Locate) -> BlobLocation:
    return _place_of(file, {place.sha256: place for place in locate(digest)})


def _place_of(file: FileEntry, places: Mapping[str, BlobLocation]) -> BlobLocation:
    place = places.get(file.sha256)
    if place is None or place.size_bytes != file.size_bytes:
        raise VerificationFailed(f"the registry does not say where {file.path} is; tell an admin")
    return place


def watching(on_transfer: OnTransfer | None, doing: str, total: int) -> OnBytes:
    """Return a function to be called with the number of bytes that just passed, which tells `on_transfer`."""
    if on_transfer is None:
        return lambda _count: None
    return lambda count: on_transfer(doing, count, total)
