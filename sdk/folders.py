"""A user's folder that a pull wrote: whose it is, whether it is whole, and how it is replaced.

The marker `.adapterctl/manifest.json` is removed first and written last, so an interrupted replacement shows.
Meanwhile `.adapterctl/replacing.json` lists every file, old and new, so that the next pull may finish it.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from pathlib import Path

from pydantic import ValidationError

from sdk.errors import Conflict, NotFound, VerificationFailed, disk_explained
from sdk.schemas.manifest import Manifest, check_path
from sdk.transfer import hash_file, place, written_whole

MARKER_FOLDER = ".adapterctl"
_MANIFEST = "manifest.json"
_JOURNAL = "replacing.json"
#: What an interrupted replacement may leave beside the marker.
_STAGED = re.compile(re.escape(MARKER_FOLDER) + r"/[^/]+\.partial-[0-9a-f]{8}")
_MAX_MARKER_BYTES = 64 * 1024 * 1024


def require_free(target: Path, *, replaceable: bool = True) -> None:
    """Raise Conflict where `target` holds something that a pull did not write."""
    if not target.exists() and not target.is_symlink():
        return
    if not target.is_dir() or target.is_symlink():
        raise Conflict(f"{target} is there and is no folder; choose another with -o DIR", param="to")
    present = _entries(target)
    if not present:
        return
    if not replaceable:
        raise Conflict(f"{target} is not empty; choose a new folder with -o DIR", param="to")
    own = _own_files(target)
    foreign = sorted(name for name, plain in present.items() if not plain or not (name in own or _is_staged(name, own)))
    if foreign:
        raise Conflict(
            f"{target} holds files that no pull wrote ({', '.join(foreign[:3])}{', …' if len(foreign) > 3 else ''}); "
            "move them away or choose another folder with -o DIR",
            param="to",
        )


def _entries(folder: Path) -> dict[str, bool]:
    """Everything below `folder` that is no folder, by relative path, and whether it is a plain file.

    A link is never followed: one to a folder counts as a file that no pull wrote.
    """
    found = {}
    for parent, folders, files in os.walk(folder, followlinks=False):
        for name in [*files, *(name for name in folders if os.path.islink(os.path.join(parent, name)))]:  # noqa: PTH114, PTH118
            path = Path(parent, name)
            found[path.relative_to(folder).as_posix()] = path.is_file() and not path.is_symlink()
    return found


def _own_files(target: Path) -> set[str]:
    """The files that a pull wrote, or was writing; none where nothing says so."""
    manifest = _read(target / MARKER_FOLDER / _MANIFEST)
    files = set() if manifest is None else {file.path for file in manifest.files}
    files |= _read_journal(target / MARKER_FOLDER / _JOURNAL)
    return files | {f"{MARKER_FOLDER}/{_MANIFEST}", f"{MARKER_FOLDER}/{_JOURNAL}"} if files else set()


def _is_staged(name: str, own: set[str]) -> bool:
    return bool(own) and _STAGED.fullmatch(name) is not None


def _read_bytes(path: Path) -> bytes | None:
    if path.is_symlink() or not path.is_file() or path.stat().st_size > _MAX_MARKER_BYTES:
        return None
    return path.read_bytes()


def _read(path: Path) -> Manifest | None:
    try:
        return Manifest.model_validate_json(_read_bytes(path) or b"")
    except (OSError, ValidationError):
        return None


def _read_journal(path: Path) -> set[str]:
    try:
        found = json.loads(_read_bytes(path) or b"")
        # Files are removed by these names, so none may lead out of the folder.
        return {check_path(name) for name in found["files"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()


def replace_folder(source: Path, target: Path, manifest: Manifest) -> Path:
    """Make `target` a copy of the cached folder `source`; return its absolute path.

    A new folder appears by one rename. Of an older version's folder the marker goes first, then files are replaced
    one by one, and the marker comes last. Raises Conflict where `target` holds foreign files.
    """
    target = target.absolute()
    with disk_explained(f"writing {target}"):
        require_free(target)
        if target.is_dir() and _entries(target):
            _replace_files(source, target, manifest)
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name[:100]}.partial-{secrets.token_hex(4)}")
        try:
            partial.mkdir()
            for file in manifest.files:
                (partial / file.path).parent.mkdir(parents=True, exist_ok=True)
                place(source / file.path, partial / file.path)
            _write(partial / MARKER_FOLDER / _MANIFEST, manifest.canonical())
            if target.is_dir():
                _remove_empty(target, keep_top=False)
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


def _replace_files(source: Path, target: Path, manifest: Manifest) -> None:
    meta = target / MARKER_FOLDER
    ours = {f"{MARKER_FOLDER}/{_MANIFEST}", f"{MARKER_FOLDER}/{_JOURNAL}"}
    wanted = {file.path for file in manifest.files}
    older = _own_files(target) - ours
    _write(meta / _JOURNAL, json.dumps({"files": sorted(older | wanted)}).encode())
    (meta / _MANIFEST).unlink(missing_ok=True)
    for leaving in meta.iterdir():
        if _STAGED.fullmatch(f"{MARKER_FOLDER}/{leaving.name}"):
            leaving.unlink()
    for path in older - wanted:
        (target / path).unlink(missing_ok=True)
    _remove_empty(target, keep_top=True)
    for file in manifest.files:
        destination = target / file.path
        # Staged beside the marker, where the leavings of an interruption are known for ours.
        staged = meta / f"file.partial-{secrets.token_hex(4)}"
        destination.parent.mkdir(parents=True, exist_ok=True)
        try:
            place(source / file.path, staged)
            staged.replace(destination)
        finally:
            staged.unlink(missing_ok=True)
    _write(meta / _MANIFEST, manifest.canonical())
    (meta / _JOURNAL).unlink(missing_ok=True)


def _remove_empty(folder: Path, *, keep_top: bool) -> None:
    """Remove folders that hold nothing, from the bottom up."""
    for parent, _, _ in os.walk(folder, topdown=False, followlinks=False):
        path = Path(parent)
        if (path != folder or not keep_top) and not any(path.iterdir()):
            path.rmdir()


def _write(path: Path, content: bytes) -> None:
    with written_whole(path) as file:
        file.write(content)


def verify_folder(folder: Path) -> Manifest:
    """Hash a pulled folder again and hold it against its manifest; return that.

    Raises NotFound for a folder that no pull wrote, VerificationFailed for a file that was altered, added or removed.
    """
    if not folder.is_dir():
        raise NotFound(f"there is no folder {folder}; pull one with: adapterctl pull REF -o {folder}", param="folder")
    if (folder / MARKER_FOLDER / _JOURNAL).is_file():
        raise VerificationFailed(
            f"{folder} was being replaced when that was interrupted; finish it with: adapterctl pull REF -o {folder}"
        )
    manifest = _read(folder / MARKER_FOLDER / _MANIFEST)
    if manifest is None:
        raise NotFound(
            f"{folder} has no {MARKER_FOLDER}/{_MANIFEST}, so no pull wrote it; pull one with: adapterctl pull REF -o DIR",
            param="folder",
        )
    expected = {file.path: file for file in manifest.files}
    present = _entries(folder)
    for name in sorted(present.keys() - expected.keys() - {f"{MARKER_FOLDER}/{_MANIFEST}"}):
        raise VerificationFailed(
            f"{folder / name} is not part of the version; remove it, or pull again into a new folder"
        )
    for name, file in sorted(expected.items()):
        if name not in present:
            raise VerificationFailed(f"{folder / name} is missing; pull again")
        if not present[name]:
            raise VerificationFailed(f"{folder / name} is no plain file; remove it, then pull again into a new folder")
        sha256, _ = hash_file(folder / name)
        if sha256 != file.sha256:
            raise VerificationFailed(f"{folder / name} has the SHA-256 {sha256}, not {file.sha256}; pull again")
    return manifest
