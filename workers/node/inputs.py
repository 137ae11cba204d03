"""An attempt's inputs, in the node's cache: fetched once, and held there while the attempt runs.

A job gets exactly what it was pinned to: wherever a file comes from, also from this cache, it has the pinned digest.
"""

from __future__ import annotations

import contextlib
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from sdk.client import Client
from sdk.errors import NotAllowed
from sdk.pushing.base_folder import ScannedBase
from sdk.schemas.manifest import Manifest
from sdk.schemas.work import BaseSource
from workers.node import bases
from workers.node.transfers import Transfers
from workers.settings import WorkerSettings


class AttemptInputs:
    """The bases, versions and datasets of one attempt."""

    def __init__(
        self, client: Client, transfers: Transfers, *, folder: Path, namespace: str | None, settings: WorkerSettings
    ) -> None:
        self._client = client
        self._settings = settings
        #: The attempt's own folder, in which bases are assembled.
        self._folder = folder
        #: The job's namespace.
        self._namespace = namespace
        self._transfers = transfers
        #: Locks on parts of the cache that must not be pruned meanwhile.
        self._kept = ExitStack()
        self._bases: list[ScannedBase] = []
        self._adapters: dict[str, Path] = {}

    def __enter__(self) -> AttemptInputs:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._kept.__exit__(kind, error, at)

    def base(self, source: BaseSource) -> ScannedBase:
        """Obtain a base; tell the registry about it if it is new, from a hub, or if its files have not been read yet."""
        found = next((base for base in self._bases if base.registration.fingerprint == source.fingerprint), None)
        if found is not None:
            return found
        view = self._folder / "bases" / str(len(self._bases))
        told = self._transfers.on_bytes("hashing base", 0)
        scanned = bases.obtain(self._client, source, view, told, settings=self._settings)
        if source.fingerprint is None:
            self._client.bases.register(scanned.registration.model_copy(update={"namespace": self._namespace}))
        elif not source.hashed:
            # Not every worker may report about bases that are published for all.
            with contextlib.suppress(NotAllowed):
                self._client.bases.register(scanned.registration.model_copy(update={"namespace": source.namespace}))
        self._bases.append(scanned)
        self._kept.enter_context(self._client.cache.lock(f"base-{scanned.registration.fingerprint}", shared=True))
        return scanned

    def kept(self, base: ScannedBase) -> Path | None:
        """Return the folder in which weights of a base in 4 bits are kept; it isn't pruned while the base is held.
        None: nowhere.
        """
        if not self._settings.quantized_cache:
            return None
        return self._client.cache.quantized(base.registration.fingerprint)

    @property
    def wordnet(self) -> Path | None:
        """The folder of this worker's WordNet, if it has one."""
        return self._settings.wordnet

    def adapter(self, manifest: Manifest) -> Path:
        """Return the folder of a version's files."""
        # Taking a lock again that this attempt already holds would block it.
        while manifest.digest not in self._adapters:
            folder = self._client.puller.fill_cache(manifest, checked=True)
            kept = self._client.cache.lock(manifest.digest, shared=True)
            with ExitStack() as stack:
                stack.enter_context(kept)
                # In between, another process may have pruned the cache.
                if folder.is_dir():
                    self._adapters[manifest.digest] = folder
                    self._kept.push(stack.pop_all())
        return self._adapters[manifest.digest]

    def dataset(self, digest: str) -> Path:
        """Return a dataset's file."""
        return self._client.puller.cached_file(digest, self._client.datasets.locate)
