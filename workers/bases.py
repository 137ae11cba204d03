"""The node's bases: found in a shared folder, or fetched once into the cache, and always fingerprinted before use."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sdk.bases import ScannedBase, scan_base
from sdk.client import Client
from sdk.errors import InvalidBase, NotFound, Unavailable, disk_explained
from sdk.schemas.work import BaseSource
from sdk.transfer import OnBytes, folder_whole
from workers.settings import WorkerSettings

_PATTERNS = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]


def obtain(client: Client, source: BaseSource, on_bytes: OnBytes) -> ScannedBase:
    """Return the base in a local folder, with the fingerprint that the job names; `on_bytes` is called while it is hashed.

    Raises NotFound where it lies nowhere that this node can reach, InvalidBase where it is another one than it was.
    """
    scanned = _find(client, source, on_bytes)
    if source.fingerprint is not None and scanned.registration.fingerprint != source.fingerprint:
        raise InvalidBase(
            f"base {source.id} in {scanned.folder} has the fingerprint {scanned.registration.fingerprint[:12]}, the job "
            f"wants {source.fingerprint[:12]}: its files were changed. Restore them, or add the base again and submit anew"
        )
    return scanned


def _find(client: Client, source: BaseSource, on_bytes: OnBytes) -> ScannedBase:
    location = urlsplit(source.location or "")
    folder = Path(unquote(location.path))
    if location.scheme == "file" and folder.is_dir():
        return _scan(client, source, folder, on_bytes)
    if source.manifest is not None and source.fingerprint is not None:
        return _scan(client, source, _fetch(client, source, source.fingerprint), on_bytes)
    if location.scheme == "hf":
        return _scan(client, source, _from_hub(source), on_bytes)
    raise NotFound(f"base {source.id} is not on this node; upload it with: adapterctl base add FOLDER --upload")


def _scan(client: Client, source: BaseSource, folder: Path, on_bytes: OnBytes) -> ScannedBase:
    return scan_base(
        folder,
        cache=client.cache,
        base_id=source.id,
        revision=source.revision,
        location=source.location,
        on_bytes=on_bytes,
    )


def _fetch(client: Client, source: BaseSource, fingerprint: str) -> Path:
    folder = client.cache.base(fingerprint)
    manifest = source.manifest
    with disk_explained(f"fetching base {source.id}"), client.cache.lock(f"base-{fingerprint}"):
        if not folder.is_dir() and manifest is not None:
            with folder_whole(folder) as partial:
                client.fetch_manifest(manifest, partial)
    client.cache.used(folder)
    return folder


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
