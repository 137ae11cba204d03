"""Where the base of a version lies, for a copy that a library is to load: a folder of this machine, or a model hub."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from sdk.formats.base_files import (
    CONFIG_FILE,
    INDEX_FILE,
    OTHER_FILES,
    SINGLE_FILE,
    TOKENIZER_FILES,
    BadBaseError,
    identify,
    read_config,
    read_index,
    weight_map,
)
from sdk.pulling.cache import Cache

if TYPE_CHECKING:
    from sdk.pulling.transfer import OnBytes


def folder_in(location: str | None) -> Path | None:
    """Return the folder that a base's location names on this machine; None for another location."""
    place = urlsplit(location or "")
    return Path(unquote(place.path)) if place.scheme == "file" and place.netloc in ("", "localhost") else None


def base_name_for(cache: Cache, fingerprint: str, location: str | None, on_bytes: OnBytes | None = None) -> str | None:
    """Return what a library can load a base by; None if neither this machine nor a hub has it.

    It is the absolute path of a folder with exactly the registered files, which are hashed unless the cache knows their
    digests, or else the name at the hub that its location states.
    """
    for folder in (folder_in(location), cache.base(fingerprint)):
        if folder is not None and _fingerprint_of(folder, cache, on_bytes) == fingerprint:
            return str(folder.absolute())
    place = urlsplit(location or "")
    return f"{place.netloc}{place.path}".partition("@")[0] if place.scheme == "hf" else None


def _fingerprint_of(folder: Path, cache: Cache, on_bytes: OnBytes | None) -> str | None:
    """Return the fingerprint of the base in a folder; None if there is none that can be read."""
    with suppress(OSError, BadBaseError):
        config = read_config((folder / CONFIG_FILE).read_bytes())
        index = folder / INDEX_FILE
        weights = set(weight_map(read_index(index.read_bytes())).values()) if index.is_file() else {SINGLE_FILE}
        if not all((folder / name).is_file() for name in weights):
            return None
        present = [name for name in {*TOKENIZER_FILES, *OTHER_FILES, *weights} if (folder / name).is_file()]
        # By a link's target, as when the base was registered, so that the digest is known.
        digests = {name: cache.sha256_of((folder / name).resolve(), on_bytes) for name in present}
        return identify(config, digests).fingerprint
    return None
