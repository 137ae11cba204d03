"""Bulk import: every PEFT folder below a root becomes a version, and refused ones are reported with the reason."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sdk.errors import AdapterctlError, Conflict, InvalidInput, NotFound, Unavailable
from sdk.formats.adapter_files import CONFIG_FILE
from sdk.formats.refs import BadNameError, parse_name, parse_namespace
from sdk.pushing.pusher import PushReport

#: Publishes the adapter in a folder under a name.
Push = Callable[[Path, str], PushReport]


@dataclass(frozen=True)
class Imported:
    """The outcome for one folder."""

    #: Relative to the root.
    folder: str
    #: The adapter that the folder belongs to; None if its name can't be made into an adapter's.
    adapter: str | None
    #: "new", "existing" or "refused".
    outcome: str
    ref: str | None = None
    #: The stable code and the sentence of a refusal.
    code: str | None = None
    message: str | None = None
    #: The refusal's exit code.
    exit_code: int = 0


@dataclass(frozen=True)
class _Found:
    folder: Path
    shown: str
    adapter: str | None


def push_tree(
    push: Push,
    root: Path,
    *,
    namespace: str | None = None,
    versions: bool = False,
    on_folder: Callable[[int, int], None] | None = None,
) -> list[Imported]:
    """Publish every folder below `root` that holds an adapter; a repeated call continues where the last one stopped.

    An adapter is named after its folder: `NAME`, or `NAMESPACE/NAME` one level deeper; further parts are joined with
    dots, letters become lower case, and characters that a name can't have become '-'. With `namespace`, all adapters
    are put there. With `versions`, the last part of a path is not part of the name: `code-review/v1` and
    `code-review/v2` become versions of `code-review`, pushed in natural order. `push` publishes one folder under a name. If a
    folder is refused, the others are still pushed; Unavailable stops everything, and what was pushed stays. Raises
    NotFound if there is no adapter, InvalidInput for a bad namespace.
    """
    if not root.is_dir():
        raise NotFound(f"there is no folder {root}; give the one that holds the adapters", param="path")
    if namespace is not None:
        try:
            parse_namespace(namespace)
        except BadNameError as error:
            raise InvalidInput(str(error), param="namespace") from None
    found = [_name(root, folder, namespace, versions) for folder in sorted(_folders(root), key=_natural)]
    if not found:
        raise NotFound(f"no folder below {root} has an {CONFIG_FILE}; give one that holds PEFT adapters", param="path")
    results = []
    first: dict[str, str] = {}
    for position, item in enumerate(found, start=1):
        taken = None if versions or item.adapter is None else first.get(item.adapter)
        results.append(_push_one(push, item, taken))
        if item.adapter is not None:
            first.setdefault(item.adapter, item.shown)
        if on_folder is not None:
            on_folder(position, len(found))
    return results


def _push_one(push: Push, item: _Found, taken: str | None) -> Imported:
    try:
        if item.adapter is None:
            raise InvalidInput(
                f"the folder {item.shown!a} can't be made into an adapter's name; push it separately, with a name that you choose"
            )
        if taken is not None:
            raise Conflict(
                f"{taken!a} is named {item.adapter} too; push this one separately with another name, or use --versions"
            )
        report = push(item.folder, item.adapter)
    except Unavailable:
        raise
    except AdapterctlError as error:
        return Imported(
            item.shown,
            item.adapter,
            "refused",
            code=error.code.value,
            message=error.message,
            exit_code=error.exit_code,
        )
    return Imported(item.shown, item.adapter, "existing" if report.existing else "new", ref=report.version.ref)


def _folders(root: Path) -> Iterator[Path]:
    """The folders that hold an adapter. Links and hidden folders are skipped, and so are folders inside an adapter's.

    The latter are a trainer's leftovers.
    """
    for folder, inside, files in os.walk(root):
        inside[:] = [name for name in inside if not name.startswith(".")]
        if CONFIG_FILE in files:
            inside.clear()
            yield Path(folder)


def _natural(folder: Path) -> list[tuple[bool, int, str]]:
    """The order in which people count: v2 before v10."""
    pieces = re.split(r"([0-9]+)", str(folder))
    return [(piece.isdigit(), int(piece) if piece.isdecimal() else 0, piece) for piece in pieces]


def _name(root: Path, folder: Path, namespace: str | None, versions: bool) -> _Found:
    parts = folder.relative_to(root).parts or (root.resolve().name,)
    shown = "/".join(parts)
    if versions and len(parts) > 1:
        parts = parts[:-1]
    plain = [re.sub(r"[^a-z0-9._-]+", "-", part.lower()).strip("-._") for part in parts]
    if namespace is not None:
        name = f"{namespace}/{'.'.join(plain)}"
    elif len(plain) > 1:
        name = f"{plain[0]}/{'.'.join(plain[1:])}"
    else:
        name = plain[0]
    try:
        return _Found(folder, shown, parse_name(name))
    except BadNameError:
        return _Found(folder, shown, None)
