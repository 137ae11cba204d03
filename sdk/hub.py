"""Bases on a model hub: finding the immutable commit that a name means now. Files are fetched by workers, with their token."""

from __future__ import annotations

import os

from sdk.errors import NotFound, Unavailable


def resolve_commit(repo: str, revision: str | None) -> str:
    """Return the commit that `repo` at `revision` (or its main branch) names now.

    Raises NotFound where the hub has no such model, Unavailable where it can't be reached. A gated model can't be
    looked into without a token, which clients do not hold; name its commit (`org/name@<commit>`), which is taken as it is.
    """
    import httpx

    if revision is not None and len(revision) == 40 and all(c in "0123456789abcdef" for c in revision):
        return revision
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    try:
        response = httpx.get(
            f"{endpoint}/api/models/{repo}/revision/{revision or 'main'}", timeout=10, follow_redirects=True
        )
    except httpx.HTTPError as error:
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
    commit = response.json().get("sha") if response.is_success else None
    if not isinstance(commit, str):
        raise Unavailable(
            f"the model hub answers HTTP {response.status_code} for {repo}; try again later", param="base"
        )
    return commit
