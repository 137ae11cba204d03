"""Bases on a model hub: finding the immutable commit that a name means now. Files are fetched by workers, with their token."""

from __future__ import annotations

import os
import re

from sdk.errors import NotFound, Unavailable

_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def resolve_commit(repo: str, revision: str | None) -> str:
    """Return the commit that `repo` at `revision` (or its main branch) names now.

    Raises NotFound where the hub has no such model, Unavailable where it can't be reached. A gated model can't be
    looked into without a token, which clients do not hold; name its commit (`org/name@<commit>`), which is taken as it is.
    """
    import httpx

    if not _REPO.fullmatch(repo) or ".." in repo or (revision is not None and not _REVISION.fullmatch(revision)):
        raise NotFound(
            "there is no such base in this registry, and no model hub has such a name; "
            "for a folder write ./FOLDER, or see: adapterctl base list",
            param="base",
        )
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        raise Unavailable(
            f"{repo} is no base of this registry, and HF_HUB_OFFLINE forbids to ask the model hub; "
            "add a folder with: adapterctl base add FOLDER",
            param="base",
        )
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    try:
        response = httpx.get(
            f"{endpoint}/api/models/{repo}/revision/{revision or 'main'}", timeout=10, follow_redirects=True
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unavailable(
            f"{repo} is no base of this registry, and the model hub can't be reached ({type(error).__name__}); "
            "add a folder with: adapterctl base add FOLDER",
            param="base",
        ) from error
    if response.status_code in (401, 403, 404):
        raise NotFound(
            f"the model hub has no {repo} at {revision or 'main'} that can be read without a token; "
            "check the name, or add a folder with: adapterctl base add FOLDER",
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
