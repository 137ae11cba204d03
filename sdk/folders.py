"""A user's folder that a pull wrote: whose it is, whether it is whole, and how it is replaced.

The marker `.adapterctl/manifest.json` is removed first and written last, so an interrupted replacement shows.
"""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

from pydantic import ValidationError

from sdk.errors import Conflict, NotFound, VerificationFailed, disk_explained
from sdk.schemas.manifest import Manifest
from sdk.transfer import hash_file, place, written_whole

MARKER_FOLDER = ".adapterctl"
_MANIFEST = "manifest.json"
#: Names the files of a replacement that is under way, so that the next pull may finish it.
_JOURNAL = "replacing.json"


def require_free(target: Path, *, replaceable: bool = True) -> None:
    """Raise Conflict where `target` holds something that a pull did not write."""
    if not target.exists() and not target.is_symlink():
        return
    if not target.is_dir() or target.is_symlink():
        raise Conflict(f"{target} is there and is no folder; choose another with -o DIR", param="to")
    present = {path.relative_to(target).as_posix() for path in target.rglob("*") if not path.is_dir()}
    if not present:
        return
    if not replaceable:
        raise Conflict(f"{target} is not empty; choose a new folder with -o DIR", param="to")
    own = _own_files(target)
    foreign = sorted(present - own)
    if foreign:
        raise Conflict(
            f"{target} holds files that no pull wrote ({', '.join(foreign[:3])}{', …' if len(foreign) > 3 else ''}); "
            "move them away or choose another folder with -o DIR",
            param="to",
        )


def _own_files(target: Path) -> set[str]:
    own = {f"{MARKER_FOLDER}/{_MANIFEST}", f"{MARKER_FOLDER}/{_JOURNAL}"}
    for name in (_MANIFEST, _JOURNAL):
        manifest = _read(target / MARKER_FOLDER / name)
        if manifest is not None:
            own |= {file.path for file in manifest.files}
    return own


def _read(path: Path) -> Manifest | None:
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def replace_folder(source: Path, target: Path, manifest: Manifest) -> Path:
    """Make `target` a copy of the cached folder `source`; return its absolute path.

    A new folder appears by one rename. Of an older version's folder the marker goes first, then files are replaced
    one by one, and the marker comes last.
    """
    target = target.absolute()
    with disk_explained(f"writing {target}"):
        if target.is_dir() and any(target.iterdir()):
            _replace_files(source, target, manifest)
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name[:100]}.partial-{secrets.token_hex(4)}")
        try:
            partial.mkdir()
            for file in manifest.files:
                (partial / file.path).parent.mkdir(parents=True, exist_ok=True)
                place(source / file.path, partial / file.path)
            _write_marker(partial, _MANIFEST, manifest)
            if target.is_dir():
                target.rmdir()
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


def _replace_files(source: Path, target: Path, manifest: Manifest) -> None:
    marker = target / MARKER_FOLDER / _MANIFEST
    older = _own_files(target)
    # The journal keeps the right to the older version's files as well: they are not foreign to the next pull.
    if (previous := _read(marker)) is not None:
        _write_marker(target, _JOURNAL, previous)
    marker.unlink(missing_ok=True)
    wanted = {file.path for file in manifest.files}
    for file in manifest.files:
        destination = target / file.path
        staged = destination.with_name(f"{destination.name[:100]}.partial-{secrets.token_hex(4)}")
        destination.parent.mkdir(parents=True, exist_ok=True)
        try:
            place(source / file.path, staged)
            staged.replace(destination)
        finally:
            staged.unlink(missing_ok=True)
    for path in older - wanted:
        if not path.startswith(MARKER_FOLDER):
            (target / path).unlink(missing_ok=True)
    _write_marker(target, _MANIFEST, manifest)
    (target / MARKER_FOLDER / _JOURNAL).unlink(missing_ok=True)


def _write_marker(folder: Path, name: str, manifest: Manifest) -> None:
    with written_whole(folder / MARKER_FOLDER / name) as file:
        file.write(manifest.canonical())


def verify_folder(folder: Path) -> Manifest:
    """Hash a pulled folder again and hold it against its manifest; return that.

    Raises NotFound for a folder that no pull wrote, VerificationFailed for a file that was altered, added or removed.
    """
    if not folder.is_dir():
        raise NotFound(f"there is no folder {folder}; pull one with: adapterctl pull REF -o {folder}", param="folder")
    manifest = _read(folder / MARKER_FOLDER / _MANIFEST)
    if manifest is None:
        if (folder / MARKER_FOLDER / _JOURNAL).exists():
            raise VerificationFailed(f"{folder} was being replaced when it was interrupted; finish it by pulling again")
        raise NotFound(f"{folder} has no {MARKER_FOLDER}/{_MANIFEST}, so no pull wrote it", param="folder")
    expected = {file.path: file for file in manifest.files}
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    for name in sorted(present - set(expected) - {f"{MARKER_FOLDER}/{_MANIFEST}"}):
        raise VerificationFailed(
            f"{folder / name} is not part of the version; remove it, or pull again into a new folder"
        )
    for name, file in sorted(expected.items()):
        if name not in present or (folder / name).is_symlink():
            raise VerificationFailed(f"{folder / name} is missing; pull again")
        sha256, _ = hash_file(folder / name)
        if sha256 != file.sha256:
            raise VerificationFailed(f"{folder / name} has the SHA-256 {sha256}, not {file.sha256}; pull again")
    return manifest
