"""Versions' files for an engine: fetched by digest into the cache, leased, and hashed."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

from sdk.errors import NotFound, VerificationFailed
from sdk.gateway.apart import in_thread
from sdk.gateway.moves.versions import Fetched
from sdk.pulling.cache import Cache
from sdk.pulling.folder import refuse_hazard, verify_folder
from sdk.pulling.leases import lease, leases_of, release
from sdk.pulling.puller import Puller


class LeasedFolders:
    """The folders of one gateway. Its leases are its owner's, and outlive this process: the next one with the same owner ends them."""

    def __init__(self, puller: Puller, cache: Cache, owner: str) -> None:
        self._puller, self._cache, self._owner = puller, cache, owner
        #: How many versions use each folder: two may have the same files.
        self._uses: Counter[str] = Counter()
        self._lock = threading.Lock()

    async def begin(self) -> None:
        """End the leases of an earlier gateway with this owner, of which no engine has anything any more. Raises AdapterctlError."""
        await in_thread(self._begin)

    async def fetch(self, name: str, digest: str) -> Fetched:
        """Return a version's files: leased, then hashed. What is cached needs no registry. Raises AdapterctlError."""
        return await in_thread(lambda: self._fetch(name, digest))

    async def release(self, fetched: Fetched) -> None:
        """End the lease of a folder, unless another version uses it. Raises AdapterctlError."""
        await in_thread(lambda: self._release(fetched.folder.name))

    def _begin(self) -> None:
        for one in leases_of(self._cache, self._owner):
            with self._lock:
                if not self._uses[one.digest]:
                    release(self._cache, one.digest, self._owner)

    def _fetch(self, name: str, digest: str) -> Fetched:
        with self._lock:
            self._uses[digest] += 1
        try:
            folder = self._leased(name, digest)
            manifest = verify_folder(folder)
            if manifest.digest != digest:
                raise VerificationFailed(f"{folder} holds another version; run: adapterctl cache verify")
            refuse_hazard(folder, manifest)
        except BaseException:
            self._release(digest)
            raise
        return Fetched(folder)

    def _leased(self, name: str, digest: str) -> Path:
        try:
            return lease(self._cache, digest, self._owner).folder
        except NotFound:
            adapter = name.partition("@")[0]
            return self._puller.lease(f"{adapter}@sha256:{digest}", self._owner).folder

    def _release(self, digest: str) -> None:
        # Under the lock, so that no other version takes its lease between the last use and the end of the lease.
        with self._lock:
            if self._uses[digest] <= 1:
                release(self._cache, digest, self._owner)
            # Only now: what could not be ended is counted, and is ended by the next try and no other's.
            self._uses[digest] -= 1
            if self._uses[digest] <= 0:
                del self._uses[digest]
