"""The one change that a pulled copy may have: another name for its base, by which PEFT loads it on this machine.

The folder declares the change beside the marker and keeps the original bytes, so that the version can still be
verified: the original bytes are the version's, and renaming the base in them gives exactly the bytes in the folder.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from sdk.errors import InvalidInput, VerificationFailed
from sdk.formats.adapter_files import CONFIG_FILE
from sdk.pulling.transfer import read_json

REWRITE = "rewrite.json"
ORIGINAL = f"original/{CONFIG_FILE}"
_KEY = "base_model_name_or_path"
_MOST_CHARACTERS = 1000

#: The folder or hub name by which a library loads the base on this machine, if it is known.
AUTO = "auto"
#: The version's own bytes.
KEEP = "keep"


def rewritten(original: bytes, base_name: str) -> bytes:
    """Return a config that names another base; the same bytes if it already names that base. Raises InvalidInput."""
    if not can_be_named(base_name):
        raise InvalidInput("a base's name is 1 to 1000 printable characters; give another", param="base_name")
    try:
        config = json.loads(original)
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise InvalidInput(
            f"the version has no {CONFIG_FILE} in which the base could be renamed; leave --base-name out",
            param="base_name",
        )
    if config.get(_KEY) == base_name:
        return original
    return (json.dumps({**config, _KEY: base_name}, indent=2, ensure_ascii=False) + "\n").encode()


def can_be_named(base_name: str) -> bool:
    """Whether a base can have this name in a copy."""
    return bool(base_name) and len(base_name) <= _MOST_CHARACTERS and base_name.isprintable()


def name_in(config: bytes) -> str | None:
    """Return the name of the base in a config; None without one."""
    try:
        found = json.loads(config)[_KEY]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if isinstance(found, str) else None


def restored(folder: Path, marker_folder: str, config: dict[str, Any]) -> dict[str, Any]:
    """Return a pulled copy's config with the version's own name of the base, if the pull has put another in its place."""
    try:
        name = read_json(folder / marker_folder / REWRITE)["base_name"]
        own = name_in((folder / marker_folder / ORIGINAL).read_bytes())
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return config
    return {**config, _KEY: own} if own is not None and config.get(_KEY) == name else config


def declared(changed: bytes, base_name: str) -> bytes:
    """Return the declaration of a change."""
    said = {"file": CONFIG_FILE, "base_name": base_name, "sha256": hashlib.sha256(changed).hexdigest()}
    return (json.dumps(said, indent=2, ensure_ascii=False) + "\n").encode()


def check_rewrite(folder: Path, marker_folder: str) -> dict[str, Path]:
    """Return the path of the original bytes for each file with a declared change; empty if none is declared.

    Raises VerificationFailed if the change is not exactly the declared one. The original bytes are not checked here:
    the caller checks them against the manifest.
    """
    rewrite, original = folder / marker_folder / REWRITE, folder / marker_folder / ORIGINAL
    if not rewrite.exists() and not original.exists():
        return {}
    for path in (rewrite, original, folder / CONFIG_FILE):
        if not path.is_file():
            raise VerificationFailed(f"{path} is missing; pull again into a new folder")
    try:
        content = rewrite.read_bytes()
        said: Any = read_json(rewrite)
        name = said["base_name"]
        changed = rewritten(original.read_bytes(), name)
        sound = content == declared(changed, name)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidInput):
        sound = False
    if not sound:
        raise VerificationFailed(f"{rewrite} does not match the change that was made; pull again into a new folder")
    if (folder / CONFIG_FILE).read_bytes() != changed:
        found = hashlib.sha256((folder / CONFIG_FILE).read_bytes()).hexdigest()
        raise VerificationFailed(
            f"{folder / CONFIG_FILE} has the SHA-256 {found}, not the declared {hashlib.sha256(changed).hexdigest()}; "
            "pull again"
        )
    return {CONFIG_FILE: original}
