"""The contents of the cache: listed, hashed again, and removed if unused.

Nothing that another process holds is removed: a process locks a version while it copies from it, and all blobs while
it fills a folder. Nor is what somebody has leased.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from sdk.errors import disk_explained
from sdk.formats.manifest import Contents
from sdk.pulling.cache import MARKER, Cache
from sdk.pulling.leases import LeaseView, all_leases, forget, leased
from sdk.pulling.partial_file import is_leaving
from sdk.pulling.pins import all_refs
from sdk.pulling.transfer import hash_file

Kind = Literal["version", "base", "quantized", "blob"]
#: A blob without a version is kept this long: a job may be reading it, or its version may be about to be assembled.
_LOOSE_S = 24 * 3600.0


@dataclass(frozen=True)
class CacheEntry:
    """A version, a base, a base's 4-bit weights, or a blob that is in no version."""

    kind: Kind
    digest: str
    path: Path
    size_bytes: int
    #: Seconds since 1970.
    used_s: float
    #: The refs that were pulled as this version.
    refs: tuple[str, ...] = ()
    #: The blobs that a version consists of, with their sizes.
    blobs: tuple[tuple[str, int], ...] = ()
    #: Who uses it beyond the life of a process, so that it stays.
    leases: tuple[LeaseView, ...] = ()

    @property
    def last_used(self) -> str:
        """When it was last used, in ISO 8601."""
        return datetime.fromtimestamp(self.used_s, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Damage:
    """An entry whose content does not match its name."""

    kind: Kind
    digest: str
    path: Path
    #: What is wrong with it.
    what: str
    #: Who uses it, so that it stays all the same.
    leases: tuple[LeaseView, ...] = ()


def entries(cache: Cache) -> list[CacheEntry]:
    """Everything in the cache that has a name, most recently used first."""
    with disk_explained("reading the cache"):
        refs = all_refs(cache)
        found = [_version(path, refs.get(path.name, [])) for path in _folders(cache.versions)]
        found += [_base("base", path.name, path) for path in _folders(cache.bases)]
        found += [entry for base in _folders(cache.quantized_bases) for entry in _quantized(base)]
        leases = all_leases(cache)
        found = [replace(entry, leases=tuple(leases.get(entry.digest, ()))) for entry in found]
        held = {sha256 for entry in found for sha256, _ in entry.blobs}
        for path in _blobs(cache):
            if path.name not in held:
                stat = path.stat()
                found.append(CacheEntry("blob", path.name, path, stat.st_size, stat.st_mtime))
        return sorted(found, key=lambda entry: (-entry.used_s, entry.digest))


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if len(path.name) == 64) if parent.is_dir() else []


def _blobs(cache: Cache) -> Iterator[Path]:
    for path in sorted((cache.root / "blobs").glob("??/*")):
        if len(path.name) == 64 and path.is_file():
            yield path


def _version(path: Path, refs: Iterable[str]) -> CacheEntry:
    marker = path / MARKER
    contents = _contents(path)
    blobs = () if contents is None else tuple((file.sha256, file.size_bytes) for file in contents.files)
    used_s = (marker if marker.exists() else path).stat().st_mtime
    return CacheEntry("version", path.name, path, _size(path), used_s, tuple(refs), blobs)


def _base(kind: Kind, fingerprint: str, path: Path) -> CacheEntry:
    return CacheEntry(kind, fingerprint, path, _size(path), path.stat().st_mtime)


def _quantized(base: Path) -> Iterator[CacheEntry]:
    """Yield a base's 4-bit weights, and those that a killed process left half-written, which may be gigabytes."""
    for path in sorted(base.iterdir()):
        # An attempt that is writing them may rename the folder meanwhile.
        with suppress(FileNotFoundError):
            if path.is_dir():
                yield _base("quantized", base.name, path)


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def _contents(folder: Path) -> Contents | None:
    try:
        return Contents.read((folder / MARKER).read_bytes())
    except (OSError, ValueError):
        return None


# Hashing again.


def verify(cache: Cache) -> list[Damage]:
    """Hash every version and blob again; remove the damaged ones that nobody has leased, and return all that are damaged.

    Waits for entries that another process is filling or copying from.
    """
    damaged: list[Damage] = []
    with disk_explained("verifying the cache"):
        for entry in entries(cache):
            if entry.kind == "version":
                with cache.lock(entry.digest):
                    what = _what_is_wrong(entry)
                    if what is not None:
                        leases = tuple(leased(cache, entry.digest))
                        if not leases:
                            _remove_version(cache, entry)
                        damaged.append(Damage(entry.kind, entry.digest, entry.path, what, leases))
        # Blobs that versions link to were hashed with these; those of no version, or that were copied, were not.
        for path in _blobs(cache):
            what = _wrong_bytes(path, path.name) if path.stat().st_nlink == 1 else None
            if what is not None:
                path.unlink(missing_ok=True)
                damaged.append(Damage("blob", path.name, path, what))
    return damaged


def _what_is_wrong(entry: CacheEntry) -> str | None:
    from sdk.errors import AdapterctlError
    from sdk.pulling.folder import verify_folder

    if not entry.path.is_dir():
        # Another process has removed it meanwhile.
        return None
    try:
        digest = verify_folder(entry.path).digest
    except AdapterctlError as error:
        return error.message
    return None if digest == entry.digest else f"it holds the version {digest}"


def _wrong_bytes(path: Path, sha256: str) -> str | None:
    try:
        found, _ = hash_file(path)
    except FileNotFoundError:
        return None
    return None if found == sha256 else f"{path} has the SHA-256 {found}, not {sha256}"


def _remove_version(cache: Cache, entry: CacheEntry) -> None:
    """Remove a damaged version and its damaged blobs, which share their bytes with it."""
    for sha256, _ in entry.blobs:
        blob = cache.blob(sha256)
        if _wrong_bytes(blob, sha256) is not None:
            blob.unlink(missing_ok=True)
    cache.remove_folder(entry.path)
    forget(cache, entry.digest)


# Removing.


@dataclass(frozen=True)
class PrunePlan:
    """What a prune removes."""

    removed: list[CacheEntry]
    kept: list[CacheEntry]
    #: What would be removed too if nobody had leased it.
    leased: list[CacheEntry] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        """The space freed; a blob that a kept version shares does not count."""
        held = {sha256 for entry in self.kept for sha256, _ in entry.blobs}
        blobs = {sha256: size for entry in self.removed for sha256, size in entry.blobs if sha256 not in held}
        return sum(blobs.values()) + sum(entry.size_bytes for entry in self.removed if entry.kind != "version")


def plan_prune(
    found: list[CacheEntry], *, keep: int | None = None, keep_days: float | None = None, max_bytes: int | None = None
) -> PrunePlan:
    """Plan what to remove: versions beyond the `keep` most recently used, anything not used for `keep_days`, then the
    least recently used until the rest takes at most `max_bytes`. Loose blobs are removed after a day in any case, and nothing
    that is leased.
    """
    now = time.time()
    versions = [entry for entry in found if entry.kind == "version"]
    plan = PrunePlan([], [])
    for entry in found:
        idle_s = now - entry.used_s
        beyond = keep is not None and entry.kind == "version" and versions.index(entry) >= keep
        old = keep_days is not None and idle_s > keep_days * 86_400
        unwanted = beyond or old or (entry.kind == "blob" and idle_s > _LOOSE_S)
        _sort_into(plan, entry, unwanted=unwanted)
    for entry in plan.kept[::-1]:
        if max_bytes is None or _taken(plan.kept) <= max_bytes:
            break
        plan.kept.remove(entry)
        _sort_into(plan, entry, unwanted=True)
    return plan


def _sort_into(plan: PrunePlan, entry: CacheEntry, *, unwanted: bool) -> None:
    if unwanted and not entry.leases:
        plan.removed.append(entry)
        return
    plan.kept.append(entry)
    if unwanted and entry not in plan.leased:
        plan.leased.append(entry)


def _taken(kept: list[CacheEntry]) -> int:
    blobs = {sha256: size for entry in kept for sha256, size in entry.blobs}
    return sum(blobs.values()) + sum(entry.size_bytes for entry in kept if entry.kind != "version")


def prune(cache: Cache, plan: PrunePlan) -> tuple[list[CacheEntry], list[CacheEntry]]:
    """Remove what a plan says; return what was removed, and what stayed because another process holds it, or because it was
    leased meanwhile.
    """
    gone: list[CacheEntry] = []
    held: list[CacheEntry] = []
    with disk_explained("pruning the cache"):
        for entry in plan.removed:
            if entry.kind == "blob":
                continue
            with cache.lock_if_free(entry.digest if entry.kind == "version" else f"base-{entry.digest}") as free:
                leases = tuple(leased(cache, entry.digest)) if free else ()
                if free and not leases:
                    cache.remove_folder(entry.path)
                    forget(cache, entry.digest)
                    gone.append(entry)
                else:
                    held.append(replace(entry, leases=leases))
        # While a process fills a folder, a blob that is in no folder may be one that it is about to link.
        with cache.lock_if_free("filling") as free:
            loose = [entry for entry in plan.removed if entry.kind == "blob"]
            if free:
                _remove_blobs(cache, [*gone, *loose])
            (gone if free else held).extend(loose)
    return gone, held


def _remove_blobs(cache: Cache, gone: list[CacheEntry]) -> None:
    """Remove the blobs of removed versions, unless a remaining version has them, and old leftovers of downloads."""
    used = {sha256 for entry in entries(cache) for sha256, _ in entry.blobs}
    for entry in gone:
        for sha256 in [entry.digest] if entry.kind == "blob" else [sha256 for sha256, _ in entry.blobs]:
            if sha256 not in used:
                cache.blob(sha256).unlink(missing_ok=True)
    oldest_s = time.time() - _LOOSE_S
    for path in (cache.root / "blobs").glob("??/*"):
        if is_leaving(path.name) and path.stat().st_mtime < oldest_s:
            path.unlink(missing_ok=True)
