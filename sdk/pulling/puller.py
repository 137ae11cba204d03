"""A pull, from a ref to a folder: resolve once, fetch what the cache lacks, and lay a copy out where one is wanted.

The parts of a client that a pull needs, and no more: `adapterctl pull` is over before the whole client would be imported.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sdk.errors import (
    InvalidInput,
    InvalidName,
    InvalidRef,
    NotAllowed,
    NotFound,
    Unavailable,
    VerificationFailed,
    disk_explained,
)
from sdk.formats.manifest import Contents, FileEntry, HasFiles
from sdk.formats.refs import BadNameError, BadRefError, Ref
from sdk.pulling.cache import MARKER, READ_ONLY, Cache
from sdk.pulling.download import fetch
from sdk.pulling.folder import MARKER_FOLDER, SIGNATURES, refuse_hazard, replace_folder, require_free, verify_folder
from sdk.pulling.http import Links
from sdk.pulling.pins import Pins, require_pinned
from sdk.pulling.ranges import Location, Relocate
from sdk.pulling.source import Door, Resolved, Signature, read_signature
from sdk.transfer import OnBytes, folder_whole, hash_file, written_whole

if TYPE_CHECKING:
    from sdk.schemas.manifest import Manifest

#: Called with what is being done, the bytes that just passed, and the bytes in all.
OnTransfer = Callable[[str, int, int], None]
#: Says where the files of a manifest lie, by its digest.
Locate = Callable[[str], Sequence[Location]]


@dataclass(frozen=True)
class Pulled:
    """What a pull did."""

    ref: str
    digest: str
    path: Path


@dataclass(frozen=True)
class PlannedFile:
    """One file that a pull would give."""

    path: str
    size_bytes: int
    sha256: str
    #: Whether its bytes are in the cache.
    cached: bool


@dataclass(frozen=True)
class PullPlan:
    """What a pull would do."""

    ref: str
    digest: str
    files: list[PlannedFile]

    @property
    def size_bytes(self) -> int:
        """The sum of the files' sizes."""
        return sum(file.size_bytes for file in self.files)

    @property
    def fetch_bytes(self) -> int:
        """What would come from the registry's storage: each blob once."""
        return sum({file.sha256: file.size_bytes for file in self.files if not file.cached}.values())


class Puller:
    """Pulls from one registry into one cache."""

    def __init__(
        self, door: Door, cache: Cache, url: str, *, links: Links, on_transfer: OnTransfer | None = None
    ) -> None:
        self._door, self._cache, self._links, self._on_transfer = door, cache, links, on_transfer
        self._pins = Pins(cache, url)

    def pull(
        self,
        ref: str,
        to: Path | None = None,
        *,
        offline: bool = False,
        frozen: bool = False,
        base_name: str | None = None,
        verify_with: Path | None = None,
    ) -> Pulled:
        """Fetch a version; see `Client.pull`."""
        if base_name is not None and to is None:
            raise InvalidInput("a base is renamed in a copy only; say where that goes with -o DIR", param="base_name")
        if to is not None:
            require_free(to)
        version = self.resolve(ref, offline=offline, frozen=frozen)
        contents = version.contents
        # Who asks for a proof, or writes it beside a copy, hears of signatures that came after the bytes.
        wanted = to is not None or verify_with is not None or not self._cache.has_version(contents)
        signatures = self._signatures(version.digest, offline=offline) if wanted else []
        if verify_with is not None:
            check_signed(contents, signatures, verify_with)
        self._cache.fresh.clear()
        folder = self._folder(version, offline=offline)
        if wanted and not offline:
            self._keep_signatures(version.digest, signatures)
        if to is None:
            return Pulled(version.ref, version.digest, folder)
        written = _signature_bytes(signatures) if signatures else None
        with self._cache.lock(f"folder {to.absolute()}"), self._cache.lock(version.digest, shared=True):
            path = replace_folder(
                folder, to, contents, signatures=written, base_name=base_name, hashed=self._cache.fresh
            )
        return Pulled(version.ref, version.digest, path)

    def plan(self, ref: str, to: Path | None = None, *, offline: bool = False, frozen: bool = False) -> PullPlan:
        """Say what `pull` would do; nothing is fetched or written."""
        if to is not None:
            require_free(to)
        version = self.resolve(ref, offline=offline, frozen=frozen)
        whole = self._cache.has_version(version.contents)
        files = [
            PlannedFile(file.path, file.size_bytes, file.sha256, whole or self._has(file))
            for file in version.contents.files
        ]
        return PullPlan(version.ref, version.digest, files)

    def _has(self, file: FileEntry) -> bool:
        return self._cache.has_blob(file.sha256, file.size_bytes)

    # Which version.

    def resolve(self, ref: str, *, offline: bool = False, frozen: bool = False) -> Resolved:
        """Return the version that a ref names: from the registry, or offline from what was pulled before.

        Raises InvalidInput for a ref that may move where only one that can't is taken.
        """
        parsed = _parse(ref)
        moves = parsed.number is None and parsed.digest_prefix is None
        if offline:
            if moves:
                raise InvalidInput(
                    f"{parsed} may name another version by now, so offline it can't be had; "
                    f"name a version: {self._pinned(parsed)} --offline",
                    param="ref",
                )
            return self._known(parsed)
        try:
            version = self._door.resolve(str(parsed))
        except Unavailable as error:
            raise Unavailable(
                f"{error.message}; a version that was pulled before can be had without the registry: "
                f"{self._pinned(parsed)} --offline"
            ) from error
        if frozen and moves:
            raise InvalidInput(
                f"{parsed} may name another version tomorrow, which --frozen refuses; "
                f"write {parsed.adapter}@sha256:{version.digest}",
                param="ref",
            )
        require_pinned(parsed, version.adapter, version.number, version.digest)
        if version.contents.digest != version.digest:
            raise VerificationFailed(
                f"the registry gives {version.ref} the digest {version.digest}, "
                f"and files with the digest {version.contents.digest}; tell an admin"
            )
        return version

    def _pinned(self, ref: Ref) -> str:
        moves = ref.number is None and ref.digest_prefix is None
        pinned = (self._pins.newest(ref.adapter) or f"{ref.adapter}@vN") if moves else str(ref)
        return f"adapterctl pull {pinned}"

    def _known(self, ref: Ref) -> Resolved:
        digest = self._pins.digest(ref)
        marker = None if digest is None else self._cache.version(digest) / MARKER
        try:
            contents = None if marker is None else Contents.read(marker.read_bytes())
        except (OSError, ValueError):
            contents = None
        if contents is None or contents.digest != digest or not self._cache.has_version(contents):
            raise NotFound(
                f"{ref} is not in the cache, or was pulled from another registry; "
                "pull it once without --offline, or see what there is with: adapterctl cache list",
                param="ref",
            )
        return Resolved(str(ref), ref.adapter, ref.number, contents.digest, contents)

    # Bytes.

    def _folder(self, version: Resolved, *, offline: bool) -> Path:
        if offline:
            folder = self._cache.version(version.digest)
            self._cache.used(folder)
            return folder
        folder = fill(self._cache, version.contents, self._door.locations, self._links, self._on_transfer)
        # The cache may be another's, or full: what is remembered is a help and no part of the pull.
        with contextlib.suppress(OSError, NotAllowed, Unavailable):
            self._pins.remember(version.adapter, version.number, version.digest)
        return folder

    def _signatures(self, digest: str, *, offline: bool) -> list[Signature]:
        if offline:
            return read_signatures(self._cache.version(digest))
        try:
            return self._door.signatures_of(digest)
        except NotFound:
            # A registry that is one version behind knows no signatures.
            return []

    def _keep_signatures(self, digest: str, signatures: list[Signature]) -> None:
        path = self._cache.version(digest) / MARKER_FOLDER / SIGNATURES
        if signatures and read_signatures(self._cache.version(digest)) != signatures:
            with disk_explained("filling the cache"), written_whole(path) as file:
                file.write(_signature_bytes(signatures))


def fill(
    cache: Cache,
    contents: HasFiles,
    locate: Locate,
    links: Links,
    on_transfer: OnTransfer | None = None,
    *,
    checked: bool = False,
) -> Path:
    """Return the cache's folder of a version, fetched if need be; other processes that want it wait meanwhile.

    With `checked`, what lies there is taken only where its bytes have the digests of the manifest.
    """
    folder = cache.version(contents.digest)

    def there() -> bool:
        return cache.has_version(contents) and not (
            checked and any(not cache.is_unaltered(folder / file.path, file.sha256) for file in contents.files)
        )

    if there():
        cache.used(folder)
        return folder
    # Nobody takes away a blob that is not yet in a folder while any process fills one.
    with disk_explained("filling the cache"), cache.lock("filling", shared=True), cache.lock(contents.digest):
        if not there():
            _fetch_missing(cache, contents, locate, links, on_transfer)
            cache.remove_folder(folder)
            with folder_whole(folder) as new:
                for file in contents.files:
                    cache.link(file.sha256, new / file.path)
                with written_whole(new / MARKER) as marker:
                    marker.write(contents.canonical())
    cache.used(folder)
    return folder


def _fetch_missing(
    cache: Cache,
    contents: HasFiles,
    locate: Locate,
    links: Links,
    on_transfer: OnTransfer | None,
) -> None:
    missing = []
    for file in contents.files:
        blob = cache.blob(file.sha256)
        if not cache.has_blob(file.sha256, file.size_bytes) or hash_file(blob)[0] != file.sha256:
            # What is there in its place was damaged.
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
        fetch(origin, blob, watch, name=file.path, relocate=relocate, links=links, mode=READ_ONLY, once=True)
        cache.fresh.add(file.sha256)


def located(contents: HasFiles, locate: Locate) -> Iterator[tuple[FileEntry, Location, Relocate]]:
    """Yield each file with where its blob lies, and what says that anew. Raises VerificationFailed where one is not told."""
    places = {place.sha256: place for place in locate(contents.digest)}
    for file in contents.files:
        yield file, _place_of(file, places), partial(_relocated, file, contents.digest, locate)


def _relocated(file: FileEntry, digest: str, locate: Locate) -> Location:
    return _place_of(file, {place.sha256: place for place in locate(digest)})


def _place_of(file: FileEntry, places: Mapping[str, Location]) -> Location:
    place = places.get(file.sha256)
    if place is None or place.size_bytes != file.size_bytes:
        raise VerificationFailed(f"the registry does not say where {file.path} lies; tell an admin")
    return place


def watching(on_transfer: OnTransfer | None, doing: str, total: int) -> OnBytes:
    """Return what is called with each count of bytes."""
    if on_transfer is None:
        return lambda _count: None
    return lambda count: on_transfer(doing, count, total)


def check_signed(contents: HasFiles, signatures: list[Signature], key: Path) -> None:
    """Raise VerificationFailed unless one of the signatures over exactly this manifest is by the public key in `key`."""
    from sdk.schemas.manifest import Manifest
    from sdk.signing import verify

    manifest = Manifest.model_validate_json(contents.canonical())
    refused: VerificationFailed | None = None
    for signature in signatures:
        try:
            verify(manifest, signature.bundle, key)
        except VerificationFailed as error:
            refused = error
        else:
            return
    if refused is None or len(signatures) > 1:
        raise VerificationFailed(
            f"the version {contents.digest[:12]} has {'no signature' if refused is None else f'{len(signatures)} signatures, none'}"
            f" that {key} verifies; ask its publisher to sign it, or give the signer's public key",
            param="verify_with",
        )
    raise refused


def verify_pulled(folder: Path, key: Path | None = None) -> Manifest:
    """Hash a pulled folder again; with `key`, a signature in it must be by that public key. Raises VerificationFailed."""
    manifest = verify_folder(folder)
    refuse_hazard(folder, manifest)
    if key is not None:
        check_signed(manifest, read_signatures(folder), key)
    return manifest


def read_signatures(folder: Path) -> list[Signature]:
    """Return the signatures that lie in a pulled folder; none where there is no file. Raises VerificationFailed."""
    path = folder / MARKER_FOLDER / SIGNATURES
    try:
        return [read_signature(entry) for entry in json.loads(path.read_bytes())]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise VerificationFailed(f"{path} is no list of signatures; pull the version again") from None


def _signature_bytes(signatures: list[Signature]) -> bytes:
    shown = [{"key_id": signature.key_id, "bundle": signature.bundle} for signature in signatures]
    return (json.dumps(shown, indent=1) + "\n").encode()


def _parse(ref: str) -> Ref:
    try:
        return Ref.parse(ref)
    except BadRefError as error:
        raise InvalidRef(str(error), param="ref") from None
    except BadNameError as error:
        raise InvalidName(str(error), param="ref") from None
