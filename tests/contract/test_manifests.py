"""Whoever reads manifests reads every kind, takes and refuses the same ones, and finds the same digest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.artifacts.manifests import manifest_of
from registry.errors import Unreadable
from sdk.errors import AdapterctlError
from sdk.formats.manifest import FORMAT, KINDS, Contents, HasFiles
from sdk.pulling import cache_maintenance
from sdk.pulling.cache import MARKER, Cache
from sdk.pulling.folder import verify_folder
from sdk.pulling.source import read_version
from sdk.schemas.manifest import Manifest

#: SHA-256 of the empty file, of which all files here are made, so that a folder of them can be verified.
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def document(kind: str, **changed: Any) -> dict[str, Any]:
    files = [{"path": path, "size_bytes": 0, "sha256": EMPTY} for path in ("a.json", "b/c.bin")]
    return {"format": FORMAT, "kind": kind, "base_fingerprint": "f" * 64, "files": files, **changed}


def laid_out(text: str, folder: Path) -> Path:
    """A folder that a pull might have written."""
    (folder / MARKER).parent.mkdir(parents=True)
    (folder / MARKER).write_text(text)
    for path in ("a.json", "b/c.bin"):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).touch()
    return folder


def by_the_registry(text: str, _folder: Path) -> HasFiles:
    return manifest_of("0" * 64, text)


def by_the_wire(text: str, _folder: Path) -> HasFiles:
    return Manifest.model_validate_json(text)


def without_pydantic(text: str, _folder: Path) -> HasFiles:
    return Contents.read(text.encode())


def by_a_pull(text: str, _folder: Path) -> HasFiles:
    found = json.loads(text)
    if found.pop("format") != FORMAT:
        raise ValueError("a version says no format, so this reader is told of none")
    answer = {"ref": "x@v1", "adapter": "x", "number": 1, "digest": "0" * 64, **found}
    return read_version({**answer, "base": {"fingerprint": answer["base_fingerprint"]}}).contents


def by_verify(text: str, folder: Path) -> HasFiles:
    return verify_folder(laid_out(text, folder / "pulled"))


def by_cache_maintenance(text: str, folder: Path) -> HasFiles:
    cache = Cache(folder / "cache")
    digest = Contents.read(text.encode()).digest
    laid_out(text, cache.version(digest))
    assert cache_maintenance.verify(cache) == []
    return cache_maintenance._contents(cache.version(digest))


READERS = [by_the_registry, by_the_wire, without_pydantic, by_a_pull, by_verify, by_cache_maintenance]
Reader = Callable[[str, Path], HasFiles]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_alike(kind: str, read: Reader, tmp_path: Path) -> None:
    canonical = Manifest.model_validate(document(kind)).canonical()
    found = read(canonical.decode(), tmp_path)
    assert (found.kind, found.canonical(), found.size_bytes) == (kind, canonical, 0)
    assert [file.path for file in found.files] == ["a.json", "b/c.bin"]


ENTRY = {"path": "a.json", "size_bytes": 0, "sha256": EMPTY}


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "dataset"},
        {"kind": None},
        {"format": "adapterctl.manifest.v2"},
        {"base_fingerprint": "F" * 64},
        {"files": []},
        {"files": [ENTRY, ENTRY | {"path": "A.json"}]},
        {"files": [ENTRY, ENTRY | {"path": "a.json/b"}]},
        {"files": [ENTRY | {"path": "../a.json"}]},
        {"files": [ENTRY | {"size_bytes": -1}]},
        {"files": [ENTRY | {"size_bytes": True}]},
        {"files": [ENTRY | {"sha256": "0" * 63}]},
    ],
    ids=lambda wrong: str(wrong)[:40],
)
def test_what_one_refuses_all_refuse(wrong: dict[str, Any], read: Reader, tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError, Unreadable, AdapterctlError)):
        read(json.dumps(document("adapter") | wrong), tmp_path)
