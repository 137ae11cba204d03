"""The node's bases: found in a shared folder, or fetched once into the cache, and always fingerprinted before use."""

from __future__ import annotations

import contextlib
import importlib
import logging
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sdk.bases import ScannedBase, scan_base
from sdk.client import Client
from sdk.errors import InvalidBase, NotFound, Unavailable, disk_explained
from sdk.fetching import fetch
from sdk.schemas.manifest import Manifest
from sdk.schemas.work import BaseSource
from sdk.transfer import OnBytes, folder_whole
from workers.settings import WorkerSettings

_PATTERNS = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]

_log = logging.getLogger(__name__)


def obtain(client: Client, source: BaseSource, view: Path, on_bytes: OnBytes) -> ScannedBase:
    """Return the base that the job names, in the new folder `view`, which holds exactly its files and no others.

    Whatever else lies beside them on this node, a library would load it too: an adapter, a second set of weights.
    `on_bytes` is called while files are hashed. Raises NotFound where it lies nowhere that this node can reach, InvalidBase
    where it is another one than it was.
    """
    scanned = _find(client, source, on_bytes)
    if _is_other(scanned, source):
        raise InvalidBase(
            f"base {source.id} in {scanned.folder} has the fingerprint {scanned.registration.fingerprint[:12]}, the job "
            f"wants {str(source.fingerprint)[:12]}: its files were changed. Restore them, or add the base again and submit anew"
        )
    return _lay_out(client, scanned, source.manifest or scanned.manifest, view)


def _is_other(scanned: ScannedBase, source: BaseSource) -> bool:
    return source.fingerprint is not None and scanned.registration.fingerprint != source.fingerprint


def _find(client: Client, source: BaseSource, on_bytes: OnBytes) -> ScannedBase:
    location = urlsplit(source.location or "")
    folder = Path(unquote(location.path))
    if location.scheme == "file" and folder.is_dir():
        return _scan(client, source, folder, on_bytes)
    if source.manifest is not None and source.fingerprint is not None:
        return _from_registry(client, source, source.fingerprint, source.manifest, on_bytes)
    if location.scheme == "hf":
        return _scan(client, source, _from_hub(source), on_bytes)
    raise NotFound(f"base {source.id} is not on this node; upload it with: adapterctl base add FOLDER --upload")


def _from_registry(
    client: Client, source: BaseSource, fingerprint: str, manifest: Manifest, on_bytes: OnBytes
) -> ScannedBase:
    """The base from the cache, or fetched into it; what was altered in the cache is fetched anew, once."""
    folder, name = client.cache.base(fingerprint), f"base-{fingerprint}"
    with disk_explained(f"fetching base {source.id}"):
        # Attempts share it as long as they last, so it is held alone only where something is to be fetched.
        with client.cache.lock(name, shared=True):
            if (found := _cached(client, source, folder, on_bytes)) is not None:
                return found
        with client.cache.lock(name):
            if (found := _cached(client, source, folder, on_bytes)) is not None:
                return found
            if folder.is_dir():
                _log.warning("the cached base %s is not what its name says; it is fetched anew", fingerprint[:12])
                client.cache.remove_folder(folder)
            with folder_whole(folder) as partial:
                client.fetch_manifest(manifest, partial)
            return _scan(client, source, folder, on_bytes)


def _cached(client: Client, source: BaseSource, folder: Path, on_bytes: OnBytes) -> ScannedBase | None:
    """The base in its folder of the cache; None where that is missing, or was altered."""
    if not folder.is_dir():
        return None
    with contextlib.suppress(InvalidBase, NotFound):
        scanned = _scan(client, source, folder, on_bytes)
        if not _is_other(scanned, source):
            client.cache.used(folder)
            return scanned
    return None


def _lay_out(client: Client, scanned: ScannedBase, manifest: Manifest, view: Path) -> ScannedBase:
    """Link the files of a manifest into the new folder `view`; the few that this node has otherwise are fetched."""
    have = {file.sha256: scanned.folder / file.path for file in scanned.manifest.files}
    # The weights and the tokenizer are those of the fingerprint, so this is an index or a generation config at most.
    missing = {file.sha256 for file in manifest.files} - have.keys()
    origins = {origin.sha256: origin for origin in client.locate(manifest.digest)} if missing else {}
    with disk_explained("laying out a base"):
        view.mkdir(parents=True)
        for file in manifest.files:
            if file.sha256 in have:
                (view / file.path).symlink_to(have[file.sha256].resolve())
            elif file.sha256 in origins:
                fetch(origins[file.sha256], view / file.path, links=client.links)
            else:
                raise InvalidBase(f"the registry has no {file.path} of this base; add it again with --upload")
    registration = scanned.registration.model_copy(update={"manifest": manifest})
    return ScannedBase(folder=view, registration=registration)


def _scan(client: Client, source: BaseSource, folder: Path, on_bytes: OnBytes) -> ScannedBase:
    return scan_base(
        folder,
        cache=client.cache,
        base_id=source.id,
        revision=source.revision,
        location=source.location,
        on_bytes=on_bytes,
    )


def _from_hub(source: BaseSource) -> Path:
    """Fetch a commit of a hub's model, with this node's own token where that is for whoever asks."""
    hub: Any = importlib.import_module("huggingface_hub")
    errors: Any = importlib.import_module("huggingface_hub.errors")
    try:
        # None lets the library find the node's token; False sends none.
        token = None if WorkerSettings.from_env().may_use_hub_token(source.id) else False
        return Path(hub.snapshot_download(source.id, revision=source.revision, token=token, allow_patterns=_PATTERNS))
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise NotFound(
            f"the model hub has no {source.id} at {source.revision} that this worker may read; "
            "check the name; for a gated one name it in the worker's ADAPTER_WORKER_HUB_REPOSITORIES and give it a hub token"
        ) from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        raise Unavailable(
            f"{source.id} can't be fetched from the model hub ({type(error).__name__}); submit the job again later"
        ) from error
