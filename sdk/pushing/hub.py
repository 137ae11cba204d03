"""A model hub: the immutable commit that a name means now, and pushing adapters from there.

The files of bases are not fetched here, but by workers with their own token.

>>> parse_url("hf://org/name@v1.0"), parse_url("hf://org/name")
(('org/name', 'v1.0'), ('org/name', None))
"""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path
from typing import Any

from sdk.errors import AdapterctlError, InvalidInput, NotFound, Unavailable, disk_explained
from sdk.formats.adapter_files import CONFIG_FILE, SERVING_FILES, WEIGHTS_FILE

_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SCHEME = "hf://"
#: As the hub itself limits `owner/name`.
_MAX_REPO_CHARACTERS = 96
#: Only these are requested: pickled weights and code never reach this machine.
_ADAPTER_FILES = (CONFIG_FILE, WEIGHTS_FILE, *SERVING_FILES)


def resolve_commit(repo: str, revision: str | None) -> str:
    """Return the commit that `repo` at `revision` (or its main branch) names now.

    Raises NotFound if the hub has no such model, Unavailable if it can't be reached. A gated model can't be
    read without a token, and none is sent; name its commit (`org/name@<commit>`), which is accepted as it is.
    """
    import httpx

    if not _REPO.fullmatch(repo) or ".." in repo or (revision is not None and not _REVISION.fullmatch(revision)):
        raise NotFound(
            "this registry has no such base, and no model hub has that name; "
            "if it is a folder, write ./FOLDER, or see: adapterctl base list",
            param="base",
        )
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        raise Unavailable(
            f"{repo} is not a base of this registry, and HF_HUB_OFFLINE forbids asking the model hub; "
            f"{_of_a_folder(repo)}",
            param="base",
        )
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    try:
        response = httpx.get(
            f"{endpoint}/api/models/{repo}/revision/{revision or 'main'}", timeout=10, follow_redirects=True
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unavailable(
            f"{repo} is not a base of this registry, and the model hub can't be reached ({type(error).__name__}); "
            f"{_of_a_folder(repo)}",
            param="base",
        ) from error
    if response.status_code in (401, 403, 404):
        raise NotFound(
            f"the model hub has no {repo} at {revision or 'main'} that can be read without a token; "
            f"check the name, or {_of_a_folder(repo)}",
            param="base",
        )
    try:
        commit = response.json()["sha"] if response.is_success else None
    except (ValueError, KeyError, TypeError):
        commit = None
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise Unavailable(
            f"the model hub answers HTTP {response.status_code} for {repo}; try again later", param="base"
        )
    return commit


def _of_a_folder(repo: str) -> str:
    """What to do if a base on this machine was meant."""
    return f"write ./{repo} for the folder" if Path(repo).is_dir() else "add a folder with: adapterctl base add FOLDER"


def is_url(path: str | Path) -> bool:
    """Tell whether something comes from a model hub rather than from a folder; the address of a page there is none that
    `parse_url` takes.
    """
    return isinstance(path, str) and path.lower().startswith((_SCHEME, "https://", "http://"))


def parse_url(url: str) -> tuple[str, str | None]:
    """Return the repository and the revision, or None, that `hf://org/name@revision` names. Raises InvalidInput."""
    repo, at, revision = url.removeprefix(_SCHEME).partition("@")
    plain = _REPO.fullmatch(repo) and ".." not in repo and len(repo) <= _MAX_REPO_CHARACTERS
    if not url.startswith(_SCHEME) or not plain or (at and (not _REVISION.fullmatch(revision) or ".." in revision)):
        raise InvalidInput(
            f"{url[:200]!a} doesn't name anything on a model hub; write hf://org/name@revision", param="path"
        )
    return repo, revision or None


def fetch_adapter(url: str, folder: Path) -> str:
    """Fetch the adapter that `hf://org/name@revision` names now into `folder`; return `org/name@commit`.

    A token that huggingface_hub finds on this machine is used. Raises InvalidInput, NotFound, Unavailable.
    """
    repo, revision = parse_url(url)
    try:
        hub: Any = importlib.import_module("huggingface_hub")
        errors: Any = importlib.import_module("huggingface_hub.errors")
    except ImportError as error:
        raise Unavailable(
            f"{url} can't be fetched without the package huggingface_hub; install it with: pip install huggingface_hub",
            param="path",
        ) from error
    try:
        with disk_explained(f"fetching {url}"):
            commit: str = hub.HfApi().model_info(repo, revision=revision, timeout=10).sha
            if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
                raise Unavailable(f"the model hub gave no commit for {repo}; try again later", param="path")
            # One commit for all files, even if something is pushed there meanwhile.
            hub.snapshot_download(repo, revision=commit, local_dir=folder, allow_patterns=list(_ADAPTER_FILES))
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise NotFound(
            f"the model hub has no {repo} at {revision or 'main'} that you may read; check the name, or log in with: "
            "hf auth login",
            param="path",
        ) from error
    except AdapterctlError:
        raise
    except Exception as error:
        # huggingface_hub lets its HTTP library's errors through, and which library that is depends on the release.
        raise Unavailable(
            f"{url} can't be fetched from the model hub ({type(error).__name__}); try again later, or push a folder",
            param="path",
        ) from error
    return f"{repo}@{commit}"
