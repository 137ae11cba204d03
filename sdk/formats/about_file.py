"""The file `about.json` beside the manifest of a pulled copy: what the registry tells of the version, for where it is pushed.

>>> registry_name("https://registry.example:8443/team/"), registry_name("local:/srv/adapters")
('https://registry.example:8443/team', 'local:adapters')
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from sdk.formats.canonical_json import canonical_json

#: Beside the manifest, and a signature over its bytes.
ABOUT, ABOUT_SIGNATURE = "about.json", "about.signature.json"
#: The longest that is written, sent and kept, in bytes.
MOST_ABOUT_BYTES = 131_072
_MOST_NAME = 300


def registry_name(url: str) -> str:
    """Return how a registry is named where it tells something: without a password, a query, or the folders of this machine."""
    if url.startswith("local:"):
        return f"local:{url.removeprefix('local:').rstrip('/').rpartition('/')[2]}"[:_MOST_NAME]
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))[:_MOST_NAME]


def about_bytes(about: Any, *, digest: str, url: str) -> bytes | None:
    """Return the file for what a registry told of a version; None if that is no record of these bytes, or too long."""
    if not isinstance(about, dict) or about.get("digest") != digest:
        return None
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    try:
        made = canonical_json(
            {"format": "adapterctl.about/1", "registry": registry_name(url), "at": now, "about": about}
        )
    except (ValueError, RecursionError):
        return None
    return made if len(made) <= MOST_ABOUT_BYTES else None
