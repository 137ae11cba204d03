"""Where the files of a registered base lie on this machine."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from sdk.api import bases
from sdk.api.transport import Transport
from sdk.errors import InvalidBase, NotFound
from sdk.formats.refs import namespace_of
from sdk.pulling.cache import Cache
from sdk.pushing.base_folder import scan_base
from sdk.schemas.catalog import BaseView, VersionView


class Places(Protocol):
    """Where bases are looked for: in a registry, and in the cache of this machine. A client has both."""

    @property
    def transport(self) -> Transport:
        """How requests reach the registry."""

    @property
    def cache(self) -> Cache:
        """Where the files of bases may lie."""


def registered_base(transport: Transport, version: VersionView) -> BaseView | None:
    """Return the base of a version, as it is registered; None if it was removed."""
    with suppress(NotFound):
        return bases.get(transport, version.base.fingerprint, namespace=namespace_of(version.adapter) or "-")
    return None


def files_here(cache: Cache, fingerprint: str, view: BaseView | None) -> Path | None:
    """Return the folder with the files of a base, as they were registered; None if there is none on this machine."""
    for folder in places_of(cache, fingerprint, view):
        # If the files have been changed since, they are those of another base.
        with suppress(NotFound, InvalidBase):
            if scan_base(folder, cache=cache).registration.fingerprint == fingerprint:
                return folder
    return None


def places_of(cache: Cache, fingerprint: str, view: BaseView | None) -> list[Path]:
    """Return the folders where the files of a base may lie; this is not checked."""
    places = [cache.base(fingerprint)]
    location = urlsplit((None if view is None else view.location) or "")
    if location.scheme == "file" and location.netloc in ("", "localhost"):
        places.append(Path(unquote(location.path)))
    return places
