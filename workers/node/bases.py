"""The node's bases: found in a shared folder, or fetched once into the cache, and always fingerprinted before use."""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sdk.api.artifacts import locate_files
from sdk.client import Client
from sdk.errors import InvalidBase, NotFound, Unavailable, VerificationFailed, disk_explained
from sdk.formats.base_files import OTHER_FILES, TOKENIZER_FILES, BadBaseError, check_files
from sdk.pulling.download import fetch
from sdk.pulling.leases import require_unleased
from sdk.pulling.transfer import OnBytes, folder_whole
from sdk.pushing.base_folder import ScannedBase, scan_base
from sdk.schemas.manifest import Manifest
from sdk.schemas.work import BaseSource
from workers.settings import WorkerSettings

_PATTERNS = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]

_log = logging.getLogger(__name__)


def obtain(
    client: Client, source: BaseSource, view: Path, on_bytes: OnBytes, *, settings: WorkerSettings
) -> ScannedBase:
    """Return the base that the job names, in the new folder `view`, which has exactly its files.

    Anything else next to them on this node would be loaded by a library too: an adapter, a second set of weights.
    `on_bytes` is called while files are hashed. Raises NotFound if it is nowhere that this node can reach, InvalidBase
    if it has changed, VerificationFailed if the registry lists files that are not the base's.
    """
    if source.manifest is not None:
        try:
            check_files([file.path for file in source.manifest.files])
        except BadBaseError as error:
            raise _not_of_the_base(source, str(error)) from error
    scanned = _Search(client, source, on_bytes, settings).find()
    return _lay_out(client, source, scanned, view, on_bytes)


@dataclass(frozen=True)
class _Search:
    """One base, and where this node may look for it."""

    client: Client
    source: BaseSource
    on_bytes: OnBytes
    settings: WorkerSettings

    def find(self) -> ScannedBase:
        """Find it in a shared folder, the registry's storage or on a model hub, in this order."""
        location = self.source.location or ""
        folder = _shared_folder(location, self.settings, self.client.cache.parts)
        uploaded = self.source.manifest is not None and self.source.fingerprint is not None
        if folder is not None:
            try:
                return self._checked(folder)
            except (InvalidBase, NotFound) as error:
                _log.warning("base %s in the shared folder %s: %s", self.source.id, folder, error.message)
                if not uploaded:
                    raise
        if uploaded:
            return self._from_registry()
        if location.startswith("hf://"):
            return self._checked(self._from_hub())
        raise NotFound(
            f"base {self.source.id} is not on this node; upload it with: adapterctl base add FOLDER --upload"
        )

    def _checked(self, folder: Path) -> ScannedBase:
        """The base in a folder. Raises InvalidBase if it isn't the wanted one, without saying which one it is."""
        scanned = _scan(self.client, self.source, folder, self.on_bytes)
        found, wanted = scanned.registration.fingerprint, self.source.fingerprint
        if wanted in (None, found):
            return scanned
        _log.warning("base %s in %s has the fingerprint %s", self.source.id, folder, found)
        raise InvalidBase(
            f"the files at the location of base {self.source.id} are not those that the job wants ({str(wanted)[:12]}): they were changed. "
            "Restore them, or add the base again and submit the job again"
        )

    def _from_registry(self) -> ScannedBase:
        """The base from the cache, or fetched into it; an altered one in the cache is fetched again, once."""
        fingerprint, manifest, cache = self.source.fingerprint, self.source.manifest, self.client.cache
        assert fingerprint is not None
        assert manifest is not None
        folder, name = cache.base(fingerprint), f"base-{fingerprint}"
        with disk_explained(f"fetching base {self.source.id}"):
            # Attempts share it while they run, so it is locked exclusively only if something must be fetched.
            with cache.lock(name, shared=True):
                if (found := self._cached(folder)) is not None:
                    return found
            with cache.lock(name):
                if (found := self._cached(folder)) is not None:
                    return found
                if folder.is_dir():
                    require_unleased(cache, fingerprint, folder)
                    _log.warning("the cached base %s is damaged; fetching it again", fingerprint[:12])
                    cache.remove_folder(folder)
                with folder_whole(folder, durable=False) as partial:
                    self.client.puller.fetch(manifest, partial)
                return self._checked(folder)

    def _cached(self, folder: Path) -> ScannedBase | None:
        """The base in its folder of the cache; None if that is missing, or was altered."""
        if not folder.is_dir():
            return None
        with contextlib.suppress(InvalidBase, NotFound):
            scanned = self._checked(folder)
            self.client.cache.used(folder)
            return scanned
        return None

    def _from_hub(self) -> Path:
        """Fetch a commit of a hub's model, with this node's own token if that may be used for this repository."""
        repository, revision = _on_hub(self.source)
        if self.settings.may_use_hub_token(repository):
            # Here the library finds the node's token and its cache.
            return _snapshot(repository, revision)
        # Files fetched with a token are not for everybody who names them, so this folder has none of them.
        with disk_explained(f"fetching base {self.source.id}"):
            self.client.cache.keep_private()
        return _snapshot(repository, revision, token=False, cache_dir=self.client.cache.hub)


def _shared_folder(location: str, settings: WorkerSettings, cached: Sequence[Path]) -> Path | None:
    """The folder that a `file:` location names, if clients see it as well: the folder and its files, after following links.

    Files in the cache may be another tenant's, and are not shared, whatever folder contains the cache.
    """
    parts = urlsplit(location)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        return None
    folder = Path(unquote(parts.path))
    try:
        roots = [Path(path).resolve() for path in settings.shared_paths]
        if not folder.is_dir():
            return None
        names = {*TOKENIZER_FILES, *OTHER_FILES, *(path.name for path in folder.glob("*.safetensors"))}
        own = [path.resolve() for path in cached]
        outside = sorted(name for name in names if not _is_below(folder / name, roots) or _is_below(folder / name, own))
    except (OSError, RuntimeError, ValueError):
        # Circular links, or not a path.
        return None
    if outside:
        _log.warning("not following %s: %s leads out of the shared folders", folder, outside[0])
        return None
    return folder


def _is_below(path: Path, roots: Sequence[Path]) -> bool:
    whole = path.resolve()
    return any(whole.is_relative_to(root) for root in roots)


def _lay_out(client: Client, source: BaseSource, scanned: ScannedBase, view: Path, on_bytes: OnBytes) -> ScannedBase:
    """Link a base's files into the new folder `view`; the few that differ on this node are fetched.

    The result is checked again: the registry's list may name other files than were found.
    """
    manifest = source.manifest or scanned.manifest
    have = {file.sha256: scanned.folder / file.path for file in scanned.manifest.files}
    # The fingerprint covers weights and tokenizer, so this is at most an index or a generation config.
    missing = {file.sha256 for file in manifest.files} - have.keys()
    origins = {origin.sha256: origin for origin in locate_files(client.transport, manifest.digest)} if missing else {}
    with disk_explained("laying out a base"):
        view.mkdir(parents=True)
        for file in manifest.files:
            if file.sha256 in have:
                (view / file.path).symlink_to(have[file.sha256].resolve())
            elif file.sha256 in origins:
                fetch(origins[file.sha256], view / file.path, http=client.http)
            else:
                raise InvalidBase(f"the registry has no {file.path} for this base; add the base again with --upload")
    try:
        laid_out = _scan(client, source, view, on_bytes)
    except (InvalidBase, NotFound) as error:
        raise _not_of_the_base(source, error.message.replace(f"{view}", "what it lists")) from error
    if (
        _digests(laid_out.manifest) != _digests(manifest)
        or laid_out.manifest.base_fingerprint != scanned.manifest.base_fingerprint
    ):
        raise _not_of_the_base(source, "a library would load others")
    return ScannedBase(
        folder=view, registration=laid_out.registration.model_copy(update={"location": scanned.registration.location})
    )


def _digests(manifest: Manifest) -> dict[str, str]:
    return {file.path: file.sha256 for file in manifest.files}


def _not_of_the_base(source: BaseSource, why: str) -> VerificationFailed:
    return VerificationFailed(
        f"the files that the registry lists for base {source.id} can't be a base: {why}. An admin can let them be sent "
        f"again with: adapterctl base fix {str(source.fingerprint)[:12]} --forget-files"
    )


def _scan(client: Client, source: BaseSource, folder: Path, on_bytes: OnBytes) -> ScannedBase:
    return scan_base(
        folder,
        cache=client.cache,
        base_id=source.id,
        revision=source.revision,
        location=source.location,
        on_bytes=on_bytes,
    )


def _on_hub(source: BaseSource) -> tuple[str, str | None]:
    """The repository and revision of a base on a hub; its name here may have changed since."""
    if source.fingerprint is None:
        # So far only the name tells which one it is.
        return source.id, source.revision
    repository, _, revision = (source.location or "").removeprefix("hf://").partition("@")
    return repository, revision or source.revision


def _snapshot(repository: str, revision: str | None, **given: Any) -> Path:
    hub: Any = importlib.import_module("huggingface_hub")
    errors: Any = importlib.import_module("huggingface_hub.errors")
    try:
        return Path(hub.snapshot_download(repository, revision=revision, allow_patterns=_PATTERNS, **given))
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise NotFound(
            f"the model hub has no {repository} at {revision} that this worker may read; "
            "check the name; if it is gated, add it to the worker's ADAPTER_WORKER_HUB_REPOSITORIES and give the worker a hub token"
        ) from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        raise Unavailable(
            f"{repository} can't be fetched from the model hub ({type(error).__name__}); submit the job again later"
        ) from error
