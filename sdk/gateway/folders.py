"""Versions' files for an engine: pulled by digest, leased to this gateway, and hashed again before an engine gets their path."""

from __future__ import annotations

from pathlib import Path

from sdk.errors import TimedOut, Unavailable
from sdk.gateway.apart import in_thread
from sdk.gateway.versions import Fetched
from sdk.pulling.cache import Cache
from sdk.pulling.folder import verify_folder
from sdk.pulling.leases import FolderLease, leases_of
from sdk.pulling.puller import Puller


class PulledFolders:
    """Those of one gateway, which is the leases' owner also after a restart."""

    def __init__(self, puller: Puller, cache: Cache, owner: str) -> None:
        self._puller, self._cache, self._owner = puller, cache, owner
        self._leases: dict[Path, FolderLease] = {}

    async def fetch(self, name: str, digest: str) -> Fetched:
        """Return a version's files. Raises AdapterctlError, and then nothing is leased."""
        return await in_thread(lambda: self._fetch(f"{name.partition('@')[0]}@sha256:{digest}"))

    async def release(self, fetched: Fetched) -> None:
        """End the lease of what `fetch` returned."""
        lease = self._leases.pop(fetched.folder, None)
        if lease is not None:
            await in_thread(lease.release)

    def release_others(self) -> None:
        """End the leases of an earlier process of this gateway: the engine has forgotten what that gave it."""
        mine = {lease.digest for lease in self._leases.values()}
        for view in leases_of(self._cache, self._owner):
            if view.digest not in mine:
                FolderLease(self._cache, view.digest, self._owner, self._cache.version(view.digest)).release()

    def _fetch(self, ref: str) -> Fetched:
        try:
            lease = self._puller.lease(ref, self._owner)
        except (Unavailable, TimedOut):
            # What was pulled before is enough while the registry is away.
            lease = self._puller.lease(ref, self._owner, offline=True)
        try:
            verify_folder(lease.folder)
        except BaseException:
            lease.release()
            raise
        self._leases[lease.folder] = lease
        return Fetched(lease.folder)
