"""Leases: who uses a cached folder beyond the life of one process, such as an engine that reads an adapter's files again.

A lock of the cache ends with its process. An engine goes on when the gateway that gave it a path is restarted, so a lease is a
file, `leases/DIGEST/OWNER@HOST.json`. It is on the disk before anybody gets the path, and it ends by being released: by its
owner, or by somebody with `adapterctl cache release`; never because time passed, or because a process ended.

Leases are written under the folder's lock, shared, and removers read them under the same lock, exclusively: a lease that is
there was seen, and one that comes later finds the folder gone.

>>> import tempfile
>>> cache = Cache(Path(tempfile.mkdtemp()))
>>> (cache.version("a" * 64) / MARKER).parent.mkdir(parents=True)
>>> _ = (cache.version("a" * 64) / MARKER).write_text("{}")
>>> held = lease(cache, "a" * 64, "serve-8011")
>>> [one.owner for one in leased(cache, held.digest)]
['serve-8011']
>>> held.release()
>>> leased(cache, held.digest)
[]
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from sdk.errors import Conflict, InvalidInput, NotFound, disk_explained
from sdk.formats.refs import parse_digest
from sdk.process_starts import boot_id, process_started_at
from sdk.pulling.cache import MARKER, Cache
from sdk.whole_files import sync, write_whole

#: A version by its manifest's digest, or a base by its fingerprint, with its 4-bit weights.
Leasable = Literal["version", "base"]
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+:-]{0,99}")
_NO_HOST = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class LeaseView:
    """A lease as it is on the disk."""

    digest: str
    owner: str
    #: The machine, the process that wrote it last, and when; empty, or 0, if the file is damaged.
    host: str
    pid: int
    #: An opaque text by which the process is told from a later one with its number.
    started_at: str
    boot_id: str
    #: In ISO 8601: the first time, and the last.
    since: str
    renewed: str

    @property
    def is_running(self) -> bool | None:
        """Whether the process that wrote it is running; None for one of another machine.

        An engine may use the folder even if the process has ended.
        """
        if self.host != socket.gethostname():
            return None
        return self.boot_id == boot_id() and process_started_at(self.pid) == self.started_at

    def __str__(self) -> str:
        if not self.host:
            return f"{self.owner} (the lease can't be read)"
        state = {True: "running", False: "ended", None: "perhaps running"}[self.is_running]
        return f"{self.owner} (process {self.pid} on {self.host}, {state}; since {self.since})"


@dataclass(frozen=True)
class FolderLease:
    """A folder that stays as it is until the lease is released. It outlives the process that took it."""

    cache: Cache
    digest: str
    owner: str
    folder: Path

    def release(self) -> None:
        """End the lease; done already is fine."""
        release(self.cache, self.digest, self.owner)


def lease(cache: Cache, digest: str, owner: str, *, kind: Leasable = "version") -> FolderLease:
    """Lease a cached folder; an owner's lease that is there already is renewed. It is on the disk when this returns.

    Owners choose a name that is theirs for good, also after a restart: letters, digits and `._+:-`. Waits while the folder is
    being fetched. Raises NotFound if the folder isn't in the cache, InvalidInput for another name.
    """
    with disk_explained("leasing a folder of the cache"), cache.lock(_lock_name(digest, kind), shared=True):
        folder = _folder(cache, digest, kind)
        if not (folder / MARKER if kind == "version" else folder).exists():
            raise NotFound(
                f"the {kind} {digest[:12]} is not in the cache; pull it again, or see what is cached with: adapterctl cache list"
            )
        return record(cache, digest, owner, kind=kind)


def record(cache: Cache, digest: str, owner: str, *, kind: Leasable = "version") -> FolderLease:
    """Write a lease, for a caller that holds the folder's lock and has seen the folder."""
    if not _OWNER.fullmatch(owner):
        raise InvalidInput(
            f"{owner[:120]!a} is not a lease's owner; use 1 to 100 letters, digits and . _ + : -", param="owner"
        )
    path = _path(cache, digest, owner)
    before = _read(path)
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    written = {
        "owner": owner,
        "host": socket.gethostname(),
        "boot_id": boot_id(),
        "pid": os.getpid(),
        "started_at": process_started_at(os.getpid()) or "",
        "since": (before and before.since) or now,
        "renewed": now,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(written, indent=1) + "\n", durable=True)
    # A writer that was killed may have made the folders without that being on the disk yet.
    sync(path.parent.parent, cache.root)
    return FolderLease(cache, digest, owner, _folder(cache, digest, kind))


def release(cache: Cache, digest: str, owner: str) -> bool:
    """End an owner's lease of this machine; return whether there was one. It needs no lock: a remover that still sees it waits
    for its next turn.
    """
    return _end(_path(cache, digest, owner))


def release_as_shown(cache: Cache, one: LeaseView) -> bool:
    """End a lease of whatever machine, also a damaged one; return whether it was still there."""
    return _end(_path(cache, one.digest, one.owner, one.host))


def leased(cache: Cache, digest: str) -> list[LeaseView]:
    """Return the leases of a version, by its digest, or of a base, by its fingerprint; sorted by owner."""
    return [view for path in sorted(_leases(cache, digest).glob("*.json")) if (view := _read(path)) is not None]


def all_leases(cache: Cache) -> dict[str, list[LeaseView]]:
    """Return every lease, by digest."""
    folder = cache.root / "leases"
    names = sorted(path.name for path in folder.iterdir() if len(path.name) == 64) if folder.is_dir() else []
    return {digest: views for digest in names if (views := leased(cache, digest))}


def leases_of(cache: Cache, owner: str) -> list[LeaseView]:
    """Return an owner's leases on this machine, such as those that it took before it was killed."""
    host = socket.gethostname()
    return [one for views in all_leases(cache).values() for one in views if (one.owner, one.host) == (owner, host)]


def require_unleased(cache: Cache, digest: str, folder: Path, *, owner: str | None = None) -> None:
    """Raise Conflict if a folder that is there, and has to be replaced, is leased to anybody but `owner`. The caller holds its
    lock.
    """
    others = [one for one in leased(cache, digest) if one.owner != owner or one.host != socket.gethostname()]
    if others and folder.is_dir():
        raise Conflict(
            f"the copy of {digest[:12]} in the cache is damaged, but in use by {names_of(others)}, so it stays; stop what uses it, "
            f"then run: adapterctl cache release {digest[:12]}"
        )


def forget(cache: Cache, digest: str) -> None:
    """Remove what killed writers left of leases, for a caller that holds the folder's lock exclusively and has removed it."""
    if not leased(cache, digest):
        shutil.rmtree(_leases(cache, digest), ignore_errors=True)


def names_of(views: Iterable[LeaseView]) -> str:
    """Say whose leases these are, for a message."""
    return ", ".join(str(one) for one in views)


def _lock_name(digest: str, kind: Leasable) -> str:
    return digest if kind == "version" else f"base-{digest}"


def _folder(cache: Cache, digest: str, kind: Leasable) -> Path:
    return cache.version(digest) if kind == "version" else cache.base(digest)


def _leases(cache: Cache, digest: str) -> Path:
    return cache.root / "leases" / parse_digest(digest)


def _path(cache: Cache, digest: str, owner: str, host: str | None = None) -> Path:
    """The file of a lease. Machines that share a cache have leases of their own, whatever their owners are called."""
    host = socket.gethostname() if host is None else host
    suffix = f"@{_NO_HOST.sub('-', host)[:64]}" if host else ""
    return _leases(cache, digest) / f"{owner}{suffix}.json"


def _end(path: Path) -> bool:
    with disk_explained("releasing a folder of the cache"):
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        with suppress(FileNotFoundError):
            # A remover may have taken the empty folder away by now.
            sync(path.parent)
        return True


def _read(path: Path) -> LeaseView | None:
    """Read a lease; None if it is gone. A damaged one is still a lease, of which the file's name alone is known."""
    try:
        content: Any = json.loads(path.read_bytes())
        texts = {key: str(content[key]) for key in ("owner", "host", "started_at", "boot_id", "since", "renewed")}
        view = LeaseView(digest=path.parent.name, pid=int(content["pid"]), **texts)
        if not _OWNER.fullmatch(view.owner) or path.name != f"{view.owner}@{_NO_HOST.sub('-', view.host)[:64]}.json":
            raise ValueError(path.name)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return LeaseView(path.parent.name, path.name.removesuffix(".json"), "", 0, "", "", "", "")
    return view
