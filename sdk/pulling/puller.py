"""A pull, from a ref to a folder: resolve once, fetch what the cache lacks, and write a copy if one is wanted.

It has only the parts of a client that a pull needs: `adapterctl pull` can be done before a whole client would be
imported.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdk.config import user_path
from sdk.errors import (
    AdapterctlError,
    InvalidInput,
    NotAllowed,
    NotFound,
    Unavailable,
    VerificationFailed,
    disk_explained,
)
from sdk.formats.about_file import about_bytes
from sdk.formats.adapter_files import CONFIG_FILE
from sdk.formats.manifest import Contents, FileEntry, HasFiles
from sdk.formats.refs import MemberRef, Ref, is_folder, namespace_of
from sdk.names import parse_ref_or_member
from sdk.pulling.base_name import AUTO, KEEP, can_be_named, name_in
from sdk.pulling.base_place import base_name_for
from sdk.pulling.cache import MARKER, Cache
from sdk.pulling.download import fetch
from sdk.pulling.filling import OnTransfer, fill, located, watching
from sdk.pulling.folder import MARKER_FOLDER, SIGNATURES, refuse_hazard, replace_folder, require_free, verify_folder
from sdk.pulling.http import HttpClient
from sdk.pulling.leases import FolderLease, lease
from sdk.pulling.pins import Pins, require_pinned
from sdk.pulling.ranges import BlobLocation, Relocate
from sdk.pulling.source import ManifestSignature, PullSource, Resolved
from sdk.pulling.transfer import folder_whole
from sdk.pulling.verification import check_signed, read_signatures, signature_bytes
from sdk.whole_files import write_whole

#: How often a pull asks again what an alias names, if it moves between the answer and the statements of it.
_MOST_MOVES = 3
#: How many files of a storage in a folder are copied at a time.
_COPIED_AT_ONCE = 2

if TYPE_CHECKING:
    from sdk.pulling.signed_aliases import AliasSigner
    from sdk.schemas.artifacts import Transfer
    from sdk.schemas.manifest import Manifest


@dataclass(frozen=True)
class Pulled:
    """What a pull did."""

    ref: str
    digest: str
    path: Path
    #: The name of the base in the config of the copy, and in the version; None without a copy, or without a config.
    base_name: str | None = None
    own_base_name: str | None = None
    #: Whether that is a folder of this machine, or a name that was given; else only a model hub may know it.
    base_known: bool = False


@dataclass(frozen=True)
class PlannedFile:
    """One file that a pull would write."""

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
        """Bytes to fetch from the registry's storage: each blob once."""
        return sum({file.sha256: file.size_bytes for file in self.files if not file.cached}.values())


class Puller:
    """Pulls from one registry into one cache."""

    def __init__(
        self, source: PullSource, cache: Cache, url: str, *, http: HttpClient, on_transfer: OnTransfer | None = None
    ) -> None:
        self._source, self._cache, self._http, self._on_transfer = source, cache, http, on_transfer
        self._url = url
        self._pins = Pins(cache, url)

    def cached_file(self, digest: str, locate: Callable[[str], Transfer], *, doing: str = "fetching data") -> Path:
        """Return a file of rows or scores by its whole digest; it is fetched if the cache doesn't have it intact.

        Only then is `locate` called. Raises NotFound, VerificationFailed, Unavailable.
        """
        path = self._cache.blob(digest)
        with self._cache.lock(digest):
            if not self._cache.is_unaltered(path, digest):
                path.unlink(missing_ok=True)
                origin = locate(digest)
                fetch(origin, path, watching(self._on_transfer, doing, origin.size_bytes), http=self._http)
        self._cache.used(path)
        return path

    def pull(
        self,
        ref: str,
        to: str | Path | None = None,
        *,
        offline: bool = False,
        frozen: bool = False,
        base_name: str | None = None,
        verify_with: str | Path | None = None,
        alias_signer: AliasSigner | None = None,
        digest: str | None = None,
    ) -> Pulled:
        """Fetch a version; see `Client.pull`. Raises VerificationFailed if it has another `digest` than is given."""
        to = None if to is None else user_path(to)
        if base_name is not None and is_folder(base_name):
            base_name = str(user_path(base_name).absolute())
        if base_name is not None and to is None:
            raise InvalidInput(
                "a base can be renamed only in a copy; say where to put it with -o DIR", param="base_name"
            )
        if to is not None:
            require_free(to)
        version = self.resolve(ref, offline=offline, frozen=frozen, alias_signer=alias_signer)
        if digest is not None and version.digest != digest:
            raise VerificationFailed(
                f"{ref} has the digest {version.digest[:12]} in the registry at {self._url}, and not {digest[:12]}: it is "
                "another registry's version; connect to the registry that it is from",
                param="ref",
            )
        contents = version.contents
        # Signatures may be newer than the cached bytes, so they are asked for again to verify or to write a copy.
        wanted = to is not None or verify_with is not None or not self._cache.has_version(contents)
        signatures = self._signatures(version.digest, offline=offline) if wanted else []
        if verify_with is not None:
            check_signed(contents, signatures, user_path(verify_with))
        self._cache.fresh.clear()
        folder = self._folder(version, offline=offline)
        if wanted and not offline:
            self._keep_signatures(version.digest, signatures)
        if to is None:
            return Pulled(version.ref, version.digest, folder)
        name = base_name or AUTO
        if name == AUTO and not offline:
            name = self.base_name_for(version) or KEEP
        chosen = None if name in (AUTO, KEEP) else name
        written = signature_bytes(signatures) if signatures else None
        about = None if offline else self._about(version)
        with self._cache.lock(f"folder {to.absolute()}"), self._cache.lock(version.digest, shared=True):
            beside = {"signatures": written, "about": about}
            path = replace_folder(folder, to, contents, **beside, base_name=chosen, hashed=self._cache.fresh)
            own = name_in((folder / CONFIG_FILE).read_bytes()) if _has_config(contents) else None
        known = chosen is not None or base_name == KEEP
        return Pulled(version.ref, version.digest, path, chosen or own, own, known)

    def _about(self, version: Resolved) -> bytes | None:
        """What the registry tells of a version, for where its copy may be pushed; None if it tells nothing of it."""
        if version.contents.kind != "adapter" or not isinstance(parse_ref_or_member(version.ref), Ref):
            return None
        # The copy is whole without it.
        with contextlib.suppress(AdapterctlError):
            about = self._source.about_of(f"{version.adapter}@sha256:{version.digest}")
            return about_bytes(about, digest=version.digest, url=self._url)
        return None

    def base_name_for(self, version: Resolved) -> str | None:
        """Return the folder or hub name by which a library loads an adapter's base on this machine; None if none is known.

        The files of a folder are hashed, unless the cache knows their digests. Raises Unavailable.
        """
        if version.contents.kind != "adapter" or not _has_config(version.contents):
            return None
        fingerprint, location = version.contents.base_fingerprint, None
        # A base that was removed, or that the caller may not read, may be in the cache all the same.
        with contextlib.suppress(NotFound, NotAllowed):
            location = self._source.location_of(fingerprint, namespace_of(version.adapter) or "-")
        watch = watching(self._on_transfer, "hashing base", 0)
        found = base_name_for(self._cache, fingerprint, location, watch)
        return found if found is not None and can_be_named(found) else None

    def lease(self, ref: str, owner: str, *, offline: bool = False) -> FolderLease:
        """Fetch a version into the cache, and lease its folder to `owner` before anybody could remove it.

        The cached bytes are not hashed again; `check_cached` does that. Raises what `pull` raises; Conflict if the folder is damaged,
        but leased to others.
        """
        version = self.resolve(ref, offline=offline)
        if offline:
            return lease(self._cache, version.digest, owner)
        return FolderLease(self._cache, version.digest, owner, self._folder(version, offline=False, owner=owner))

    def plan(
        self,
        ref: str,
        to: Path | None = None,
        *,
        offline: bool = False,
        frozen: bool = False,
        alias_signer: AliasSigner | None = None,
    ) -> PullPlan:
        """Say what `pull` would do; nothing is fetched or written, but a signed move of an alias counts as seen."""
        if to is not None:
            require_free(to)
        version = self.resolve(ref, offline=offline, frozen=frozen, alias_signer=alias_signer)
        whole = self._cache.has_version(version.contents)
        files = [
            PlannedFile(
                file.path, file.size_bytes, file.sha256, whole or self._cache.has_blob(file.sha256, file.size_bytes)
            )
            for file in version.contents.files
        ]
        return PullPlan(version.ref, version.digest, files)

    # Which version.

    def resolve(
        self, ref: str, *, offline: bool = False, frozen: bool = False, alias_signer: AliasSigner | None = None
    ) -> Resolved:
        """Return the version that a ref names: from the registry, or offline from what was pulled before.

        With `alias_signer` it must be an alias of which that signer states this. Raises InvalidInput for a ref that may
        move if only a fixed one is accepted, VerificationFailed.
        """
        parsed = parse_ref_or_member(ref)
        if alias_signer is not None:
            return self._signed(parsed, alias_signer, offline=offline, frozen=frozen)
        if isinstance(parsed, MemberRef):
            return self._member(parsed, offline=offline)
        moves = parsed.number is None and parsed.digest_prefix is None
        if offline:
            if moves:
                raise InvalidInput(
                    f"{parsed} may name another version by now, so it can't be pulled offline; "
                    f"name a version: {self._pinned(parsed)} --offline",
                    param="ref",
                )
            return self._known(parsed)
        try:
            version = self._source.resolve(str(parsed))
        except Unavailable as error:
            raise Unavailable(
                f"{error.message}; a version that was pulled before can be used without the registry: "
                f"{self._pinned(parsed)} --offline"
            ) from error
        if frozen and moves:
            raise InvalidInput(
                f"{parsed} may name another version later, so --frozen refuses it; "
                f"write {parsed.adapter}@sha256:{version.digest}",
                param="ref",
            )
        require_pinned(parsed, version.adapter, version.number, version.digest)
        return _with_its_files(version)

    def _signed(self, ref: Ref | MemberRef, signer: AliasSigner, *, offline: bool, frozen: bool) -> Resolved:
        """The version that an alias names, as its signer states."""
        from sdk.pulling.signed_aliases import AliasMemory

        if isinstance(ref, MemberRef) or ref.alias is None:
            raise InvalidInput(
                f"{ref} is not an alias, so nobody states what it names; give NAME@ALIAS, or leave out --require-signed-alias",
                param="ref",
            )
        memory = AliasMemory(self._cache, self._url)
        if offline and not frozen:
            return self._known(Ref(ref.adapter, f"sha256:{memory.recall(ref, signer)}"))
        version = self.resolve(str(ref), offline=offline, frozen=frozen)
        for _ in range(_MOST_MOVES):
            try:
                memory.accept(ref, version.digest, self._source.statements_about(ref.adapter, ref.alias), signer)
            except VerificationFailed:
                # The alias may have moved since it was resolved.
                now = self.resolve(str(ref))
                if now.digest == version.digest:
                    raise
                version = now
            else:
                return version
        raise Unavailable(f"{ref} moves too often to be pulled; try again later")

    def _member(self, ref: MemberRef, *, offline: bool) -> Resolved:
        """What a member of a sweep has kept, which is always the same as long as it is there."""
        if offline:
            raise InvalidInput(
                f"{ref} is a member of a sweep, and only the registry knows what it has kept; leave out --offline, or name a "
                "version that was pulled before",
                param="ref",
            )
        return _with_its_files(self._source.resolve(str(ref)))

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
                "pull it once without --offline, or see what is cached with: adapterctl cache list",
                param="ref",
            )
        return Resolved(str(ref), ref.adapter, ref.number, contents.digest, contents)

    # Bytes.

    def _folder(self, version: Resolved, *, offline: bool, owner: str | None = None) -> Path:
        if offline:
            folder = self._cache.version(version.digest)
            self._cache.used(folder)
            return folder
        folder = self.fill_cache(version.contents, owner=owner)
        # The cache may belong to another user, or be full: remembering helps, but is not part of the pull.
        with contextlib.suppress(OSError, NotAllowed, Unavailable):
            if isinstance(parse_ref_or_member(version.ref), Ref):
                self._pins.remember(version.adapter, version.number, version.digest)
        return folder

    def _signatures(self, digest: str, *, offline: bool) -> list[ManifestSignature]:
        if offline:
            return read_signatures(self._cache.version(digest))
        return self._source.signatures_of(digest)

    def _keep_signatures(self, digest: str, signatures: list[ManifestSignature]) -> None:
        path = self._cache.version(digest) / MARKER_FOLDER / SIGNATURES
        if signatures and read_signatures(self._cache.version(digest)) != signatures:
            with disk_explained("filling the cache"):
                write_whole(path, signature_bytes(signatures), durable=True)

    # Files of any manifest.

    def fill_cache(self, contents: HasFiles, *, checked: bool = False, owner: str | None = None) -> Path:
        """Return the cache's folder of a manifest's files, fetching them if needed; other processes wait meanwhile.

        With `checked`, cached files that don't match the manifest are fetched again; with `owner`, the folder is leased to them.
        """
        locate = self._source.locations
        return fill(self._cache, contents, locate, self._http, self._on_transfer, checked=checked, owner=owner)

    def check_cached(self, contents: HasFiles) -> Manifest:
        """Hash the cache's folder of a manifest again; return the manifest.

        Raises VerificationFailed, also for an adapter whose config is not safe to load.
        """
        folder = self.fill_cache(contents)
        try:
            found = verify_folder(folder)
        except VerificationFailed as error:
            raise VerificationFailed(
                f"{error.message}; the copy in the cache was altered: remove damaged files with: adapterctl cache verify"
            ) from error
        if found.digest != contents.digest:
            raise VerificationFailed(f"{folder} holds another version; run: adapterctl cache verify")
        refuse_hazard(folder, found)
        return found

    def verify(self, ref: str, *, verify_with: str | Path | None = None) -> Manifest:
        """Fetch a version and hash the cached copy again; with `verify_with` it must be signed by that public key.

        Raises VerificationFailed.
        """
        manifest = self.check_cached(self.resolve(ref).contents)
        if verify_with is not None:
            check_signed(manifest, self._source.signatures_of(manifest.digest), user_path(verify_with))
        return manifest

    def save(self, contents: HasFiles, to: Path, *, beside: Mapping[str, str]) -> Path:
        """Fetch a manifest's files into the new folder `to`, which appears only once it is complete. Raises Conflict.

        `beside` has further texts by file name; the manifest's own files take precedence.
        """
        target = user_path(to).absolute()
        require_free(target, replaceable=False)
        with (
            disk_explained(f"writing {target}"),
            self._cache.lock(f"folder {target}"),
            folder_whole(target, durable=True) as partial,
        ):
            self.fetch(contents, partial)
            for name, text in beside.items():
                if not (partial / name).exists():
                    (partial / name).write_text(text, encoding="utf-8")
            if target.is_dir():
                target.rmdir()
        return target

    def fetch(self, contents: HasFiles, folder: Path) -> None:
        """Fetch a manifest's files into an existing folder, each checked against its digest."""
        watch = watching(self._on_transfer, "fetching", contents.size_bytes)
        placed = list(located(contents, self._source.locations))

        def one(file: FileEntry, origin: BlobLocation, relocate: Relocate) -> None:
            fetch(origin, folder / file.path, watch, name=file.path, relocate=relocate, http=self._http)

        if len(placed) > 1 and all(origin.url.startswith("file:") for _, origin, _ in placed):
            from concurrent.futures import ThreadPoolExecutor

            # Hashing takes longest, and one core at a time.
            with ThreadPoolExecutor(_COPIED_AT_ONCE, "copy") as pool:
                for copied in [pool.submit(one, *each) for each in placed]:
                    copied.result()
            return
        for each in placed:
            one(*each)


def _has_config(contents: HasFiles) -> bool:
    return any(file.path == CONFIG_FILE for file in contents.files)


def _with_its_files(version: Resolved) -> Resolved:
    """Return what a registry says a ref names, if the digest is that of its files. Raises VerificationFailed."""
    if version.contents.digest != version.digest:
        raise VerificationFailed(
            f"the registry gives {version.ref} the digest {version.digest}, "
            f"but files with the digest {version.contents.digest}; tell an admin"
        )
    return version
