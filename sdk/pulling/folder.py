"""A user's folder that a pull wrote: whether it is ours, whether it is intact, and how it is replaced.

The marker `.adapterctl/manifest.json` is removed before any file is replaced and written last, so that an interrupted
replacement is noticed. Meanwhile `.adapterctl/replacing.json` lists every file, old and new, so that the next pull can
finish it. Beside the marker there may be `signatures.json`; what the registry tells of the version, `about.json`, with a signature
of its own; and, if the base was renamed in the copy, `rewrite.json`, which says so, with the original bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdk.errors import Conflict, NotFound, VerificationFailed, disk_explained, place_explained
from sdk.formats.about_file import ABOUT, ABOUT_SIGNATURE
from sdk.formats.adapter_files import CONFIG_FILE
from sdk.formats.manifest import Contents, HasFiles, check_path
from sdk.pulling.base_name import ORIGINAL, REWRITE, check_rewrite, declared, name_in, restored, rewritten
from sdk.pulling.transfer import folder_whole, hash_file, place
from sdk.whole_files import give_name, write_whole

if TYPE_CHECKING:
    from sdk.schemas.manifest import Manifest

MARKER_FOLDER = ".adapterctl"
SIGNATURES = "signatures.json"
_MANIFEST = "manifest.json"
_JOURNAL = "replacing.json"
#: SHA-256 of the manifest, which is the version's digest, as `sha256sum -c` reads it.
_SUM = "manifest.sha256"
#: What a pull may write besides a version's files, the marker and the journal.
_EXTRAS = (_SUM, SIGNATURES, ABOUT, ABOUT_SIGNATURE, REWRITE, ORIGINAL)
#: What an interrupted replacement may leave beside the marker.
_STAGED = re.compile(re.escape(MARKER_FOLDER) + r"/[^/]+\.partial-[0-9a-f]{8}")
_MAX_MARKER_BYTES = 64 * 1024 * 1024


def require_free(target: Path, *, replaceable: bool = True) -> None:
    """Raise Conflict if `target` has something that no pull wrote; if it is not `replaceable`, if it has anything."""
    with place_explained(target):
        if not target.exists() and not target.is_symlink():
            return
    if not target.is_dir() or target.is_symlink():
        raise Conflict(f"{target} exists and is not a folder; choose another with -o DIR", param="to")
    present = _entries(target)
    if not present:
        return
    if not replaceable:
        raise Conflict(f"{target} is not empty; choose a new folder with -o DIR", param="to")
    own = _own_files(target)
    foreign = sorted(
        name for name, plain in present.items() if not plain or not (name in own or (own and _STAGED.fullmatch(name)))
    )
    if foreign:
        raise Conflict(
            f"{target} has files that no pull wrote ({', '.join(foreign[:3])}{', …' if len(foreign) > 3 else ''}); "
            "move them away or choose another folder with -o DIR",
            param="to",
        )


def _entries(folder: Path) -> dict[str, bool]:
    """Everything below `folder` that is not a folder, by relative path, and whether it is a plain file.

    A link is never followed: one to a folder counts as a file that no pull wrote.
    """
    found = {}
    for parent, folders, files in os.walk(folder, followlinks=False):
        for name in [*files, *(name for name in folders if os.path.islink(os.path.join(parent, name)))]:  # noqa: PTH114, PTH118
            path = Path(parent, name)
            found[path.relative_to(folder).as_posix()] = path.is_file() and not path.is_symlink()
    return found


def _own_files(target: Path) -> set[str]:
    """The files that a pull wrote, or was writing; empty if there is no record."""
    manifest = _read(target / MARKER_FOLDER / _MANIFEST)
    files = set() if manifest is None else {file.path for file in manifest.files}
    files |= _read_journal(target / MARKER_FOLDER / _JOURNAL)
    return files | {f"{MARKER_FOLDER}/{name}" for name in (_MANIFEST, _JOURNAL, *_EXTRAS)} if files else set()


def _read_bytes(path: Path) -> bytes | None:
    if path.is_symlink() or not path.is_file() or path.stat().st_size > _MAX_MARKER_BYTES:
        return None
    return path.read_bytes()


def _read(path: Path) -> Contents | None:
    try:
        return Contents.read(_read_bytes(path) or b"")
    except (OSError, ValueError):
        return None


def _read_journal(path: Path) -> set[str]:
    try:
        found = json.loads(_read_bytes(path) or b"")
        # Files are removed by these names, so none may lead out of the folder.
        return {check_path(name) for name in found["files"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()


def replace_folder(
    source: Path,
    target: Path,
    manifest: HasFiles,
    *,
    signatures: bytes | None = None,
    about: bytes | None = None,
    base_name: str | None = None,
    hashed: Collection[str] = (),
) -> Path:
    """Make `target` a copy of the cached folder `source`; return its absolute path.

    A new folder appears by one rename. In an older version's folder the marker is removed first, then files are
    replaced one by one, and the new marker is written last. Files whose digests are not in `hashed` are hashed
    again. The caller holds the lock of `target`. `about` is what the registry tells of the version. With `base_name` the copy's config names that base, and the folder
    says so. Raises Conflict if `target` has foreign files, InvalidInput if there is no base to rename.
    """
    target = target.absolute()
    with disk_explained(f"writing {target}"):
        require_free(target)
        plan = _plan(source, manifest, {SIGNATURES: signatures, ABOUT: about}, base_name, hashed)
        if target.is_dir() and _entries(target):
            # What would fail half-way is detected before anything is touched.
            for file in manifest.files:
                _check_cached(source / file.path, hash_file(source / file.path)[0], file.sha256)
            _replace_files(target, manifest, plan)
            return target
        with folder_whole(target, durable=True) as partial:
            for path, write in plan.items():
                (partial / path).parent.mkdir(parents=True, exist_ok=True)
                write(partial / path)
            (partial / MARKER_FOLDER / _MANIFEST).write_bytes(manifest.canonical())
            if target.is_dir():
                _remove_empty(target, keep_top=False)
    return target


#: Writes one file that is not there yet.
_Writer = Callable[[Path], object]


def _plan(
    source: Path,
    manifest: HasFiles,
    beside: Mapping[str, bytes | None],
    base_name: str | None,
    hashed: Collection[str],
) -> dict[str, _Writer]:
    """How each file but the marker is written, by its path."""
    plan: dict[str, _Writer] = {
        file.path: _placing(source / file.path, None if file.sha256 in hashed else file.sha256)
        for file in manifest.files
    }
    extras = {_SUM: _sum_of(manifest), **{name: content for name, content in beside.items() if content is not None}}
    if base_name is not None:
        original = (source / CONFIG_FILE).read_bytes() if CONFIG_FILE in plan else b""
        changed = rewritten(original, base_name)
        if changed != original:
            plan[CONFIG_FILE] = _writing(changed)
            extras |= {REWRITE: declared(changed, base_name), ORIGINAL: original}
    return plan | {f"{MARKER_FOLDER}/{name}": _writing(content) for name, content in extras.items()}


def _sum_of(manifest: HasFiles) -> bytes:
    return f"{manifest.digest}  {_MANIFEST}\n".encode()


def _placing(source: Path, sha256: str | None) -> _Writer:
    """Return a function that copies a file, and meanwhile hashes it if `sha256` says what it must be."""
    if sha256 is None:
        return lambda path: place(source, path)

    def write(path: Path) -> None:
        # Neither copying nor hashing holds the interpreter's lock, so the check takes no extra time.
        found: list[str] = []
        thread = threading.Thread(target=_hash_into, args=(source, found))
        thread.start()
        try:
            place(source, path)
        finally:
            thread.join()
        _check_cached(source, found[0] if found else "none", sha256)

    return write


def _hash_into(source: Path, found: list[str]) -> None:
    # A file that can't be read fails when it is copied.
    with contextlib.suppress(OSError):
        found.append(hash_file(source)[0])


def _check_cached(path: Path, found: str, sha256: str) -> None:
    if found != sha256:
        raise VerificationFailed(
            f"{path} has the SHA-256 {found}, not {sha256}: it was altered in the cache, "
            "so nothing was kept. Remove it with: adapterctl cache verify"
        )


def _writing(content: bytes) -> _Writer:
    return lambda path: path.write_bytes(content)


def _replace_files(target: Path, manifest: HasFiles, plan: dict[str, _Writer]) -> None:
    meta = target / MARKER_FOLDER
    ours = {f"{MARKER_FOLDER}/{_MANIFEST}", f"{MARKER_FOLDER}/{_JOURNAL}"}
    wanted = {file.path for file in manifest.files}
    older = _own_files(target) - ours
    extras = {f"{MARKER_FOLDER}/{name}" for name in _EXTRAS}
    meta.mkdir(exist_ok=True)
    write_whole(meta / _JOURNAL, json.dumps({"files": sorted((older - extras) | wanted)}), durable=True)
    (meta / _MANIFEST).unlink(missing_ok=True)
    for leaving in meta.iterdir():
        if _STAGED.fullmatch(f"{MARKER_FOLDER}/{leaving.name}"):
            leaving.unlink()
    for path in older - plan.keys():
        (target / path).unlink(missing_ok=True)
    _remove_empty(target, keep_top=True)
    for path, write in plan.items():
        destination = target / path
        # Staged beside the marker, where leftovers of an interruption are recognised as ours.
        staged = meta / f"file.partial-{os.urandom(4).hex()}"
        destination.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(staged)
            give_name(staged, destination, durable=True)
        finally:
            staged.unlink(missing_ok=True)
    write_whole(meta / _MANIFEST, manifest.canonical(), durable=True)
    (meta / _JOURNAL).unlink(missing_ok=True)


def _remove_empty(folder: Path, *, keep_top: bool) -> None:
    """Remove empty folders, from the bottom up."""
    for parent, _, _ in os.walk(folder, topdown=False, followlinks=False):
        path = Path(parent)
        if (path != folder or not keep_top) and not any(path.iterdir()):
            path.rmdir()


def verify_folder(folder: Path) -> Manifest:
    """Hash a pulled folder again and check it against its manifest; return the manifest.

    Raises NotFound for a folder that no pull wrote, VerificationFailed for a file that was altered, added, removed,
    renamed or replaced with a link, and for an adapter whose tensors can't be read.
    """
    from sdk.lora.tensors import read_tensors
    from sdk.schemas.manifest import Manifest

    if not folder.is_dir():
        raise NotFound(f"there is no folder {folder}; pull one with: adapterctl pull REF -o {folder}", param="folder")
    if (folder / MARKER_FOLDER / _JOURNAL).is_file():
        raise VerificationFailed(f"replacing {folder} was interrupted; finish it with: adapterctl pull REF -o {folder}")
    present = _entries(folder)
    manifest = _marked(folder, present)
    expected = {file.path: file for file in manifest.files}
    extras = {f"{MARKER_FOLDER}/{name}" for name in (_MANIFEST, *_EXTRAS)}
    for name in sorted(present.keys() - expected.keys() - extras):
        raise VerificationFailed(
            f"{folder / name} is not part of the version; remove it, or pull again into a new folder"
        )
    for name in sorted(expected.keys() | (extras & present.keys())):
        if name not in present:
            raise VerificationFailed(f"{folder / name} is missing; pull again")
        if not present[name]:
            raise VerificationFailed(
                f"{folder / name} is not a plain file; remove it, then pull again into a new folder"
            )
    before = check_rewrite(folder, MARKER_FOLDER)
    for name, file in sorted(expected.items()):
        path = before.get(name, folder / name)
        sha256, _ = hash_file(path)
        if sha256 != file.sha256:
            raise VerificationFailed(f"{path} has the SHA-256 {sha256}, not {file.sha256}; pull again")
        if manifest.kind == "adapter" and name.endswith(".safetensors"):
            read_tensors(path)
    return Manifest.model_validate_json(manifest.canonical())


def own_config(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Return the config of an adapter in a folder as its version has it, whichever name a pull gave the base there."""
    return restored(folder, MARKER_FOLDER, config)


def base_of_pulled(folder: Path) -> str | None:
    """Return the fingerprint of the base that an adapter in a pulled folder belongs to; None if no pull wrote the folder,
    or its config has been changed since.
    """
    manifest, path = _read(folder / MARKER_FOLDER / _MANIFEST), folder / CONFIG_FILE
    if manifest is None or path.is_symlink() or not path.is_file():
        return None
    with contextlib.suppress(VerificationFailed, OSError):
        path = check_rewrite(folder, MARKER_FOLDER).get(CONFIG_FILE, path)
    recorded = {file.path: file.sha256 for file in manifest.files}.get(CONFIG_FILE)
    return manifest.base_fingerprint if recorded == hash_file(path)[0] else None


def renamed_base(folder: Path) -> tuple[str, str | None] | None:
    """Return the name of the base in a copy's config and the one in the version's; None if they are one."""
    before = check_rewrite(folder, MARKER_FOLDER).get(CONFIG_FILE)
    if before is None:
        return None
    return name_in((folder / CONFIG_FILE).read_bytes()) or "", name_in(before.read_bytes())


def refuse_hazard(folder: Path, manifest: HasFiles) -> None:
    """Raise VerificationFailed for an adapter whose config is not safe to load, even if it was published so."""
    from sdk.formats.peft_config import hazard

    path = folder / CONFIG_FILE
    if manifest.kind == "adapter" and path.is_file() and (said := hazard(path.read_bytes())):
        raise VerificationFailed(
            f"{path} is as published, but {said}; push the adapter again with: adapterctl push --expand-patterns"
        )


def _marked(folder: Path, present: dict[str, bool]) -> Contents:
    """The manifest in a folder, which must be canonical and have the digest that is written beside it."""
    name = f"{MARKER_FOLDER}/{_MANIFEST}"
    if name not in present and any(path.split("/")[0] == MARKER_FOLDER for path in present):
        raise VerificationFailed(f"{folder / name} is missing, or is not a plain file; pull again into a new folder")
    if name not in present:
        raise NotFound(
            f"{folder} has no {name}, so it was not written by a pull; pull a version with: adapterctl pull REF -o DIR",
            param="folder",
        )
    manifest = _read(folder / name)
    if manifest is None or (folder / name).read_bytes() != manifest.canonical():
        raise VerificationFailed(f"{folder / name} was altered; pull again into a new folder")
    if f"{MARKER_FOLDER}/{_SUM}" in present and _read_bytes(folder / MARKER_FOLDER / _SUM) != _sum_of(manifest):
        raise VerificationFailed(f"{folder / name} does not match {_SUM} next to it; pull again into a new folder")
    return manifest
