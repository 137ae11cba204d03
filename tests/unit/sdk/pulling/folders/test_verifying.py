"""Folders of versions: what was altered in them is found."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError
from unit.sdk.pulling.folders.helpers import CONFIG, FOREIGN, MARKERS, WEIGHTS, _file, make

from sdk.errors import AdapterctlError, InvalidInput, NotFound, VerificationFailed
from sdk.formats.manifest import Contents
from sdk.pulling.base_name import declared, rewritten
from sdk.pulling.folder import replace_folder, require_free, verify_folder
from sdk.pulling.verification import verify_pulled
from sdk.schemas.manifest import Manifest


def _replace_by_link(folder: Path) -> None:
    (folder / "extra/old.txt").rename(folder.parent / "old.txt")
    (folder / "extra/old.txt").symlink_to(folder.parent / "old.txt")


def _replace_folder_by_link(folder: Path) -> None:
    (folder / "extra").rename(folder.parent / "extra")
    (folder / "extra").symlink_to(folder.parent / "extra")


def _replace_by_pipe(folder: Path) -> None:
    (folder / "extra/old.txt").unlink()
    os.mkfifo(folder / "extra/old.txt")


def _replace_by_folder(folder: Path) -> None:
    (folder / "extra/old.txt").unlink()
    (folder / "extra/old.txt").mkdir()


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "adapter_model.safetensors").write_text("On3"),
        lambda folder: (folder / "extra/old.txt").unlink(),
        lambda folder: (folder / "adapter_model.safetensors").rename(folder / "adapter_model2.safetensors"),
        _replace_by_link,
        _replace_folder_by_link,
        _replace_by_pipe,
        _replace_by_folder,
        *FOREIGN,
    ],
)
def test_a_change_fails_verification(change: Callable[[Path], None], pulled: Path) -> None:
    change(pulled)
    with pytest.raises(VerificationFailed) as caught:
        verify_folder(pulled)
    assert str(pulled) in caught.value.message


@pytest.mark.parametrize("marker", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_marker_that_was_altered(marker: bytes, pulled: Path) -> None:
    (pulled / ".adapterctl/manifest.json").write_bytes(marker)
    with pytest.raises(VerificationFailed, match="was altered"):
        verify_folder(pulled)
    with pytest.raises(AdapterctlError):
        require_free(pulled)


def test_a_folder_without_a_marker_is_none_of_ours(pulled: Path) -> None:
    (pulled / ".adapterctl/manifest.json").unlink()
    with pytest.raises(VerificationFailed, match="is missing"):
        verify_folder(pulled)
    (pulled / ".adapterctl/manifest.sha256").unlink()
    with pytest.raises(NotFound, match="so it was not written by a pull"):
        verify_folder(pulled)
    with pytest.raises(AdapterctlError):
        require_free(pulled)


@pytest.mark.parametrize("name", MARKERS)
def test_every_byte_of_the_marker_counts(name: str, pulled: Path) -> None:
    path = pulled / ".adapterctl" / name
    content = path.read_bytes()
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        with pytest.raises(VerificationFailed):
            verify_folder(pulled)
    path.write_bytes(content)
    verify_folder(pulled)


def test_an_adapter_whose_tensors_cant_be_read_is_none(tmp_path: Path) -> None:
    for name, content in (("short", "one"), ("long", "\x7f" + "\0" * 7 + "{}"), ("other", "\x02" + "\0" * 7 + "[]")):
        source, manifest = make(tmp_path / "cache" / name, {"adapter_model.safetensors": content})
        replace_folder(source, tmp_path / name, manifest)
        with pytest.raises(VerificationFailed, match=r"adapter_model\.safetensors"):
            verify_folder(tmp_path / name)


def test_an_adapter_that_was_stored_before_its_patterns_were_looked_at_fails(tmp_path: Path) -> None:
    config = json.dumps({"peft_type": "LORA", "r": 2, "exclude_modules": "(a+)+b"})
    source, manifest = make(tmp_path / "cache", {"adapter_config.json": config, "adapter_model.safetensors": WEIGHTS})
    replace_folder(source, tmp_path / "adapter", manifest)
    # Its bytes are the version's, so nothing in the cache is damaged.
    assert verify_folder(tmp_path / "adapter") == manifest
    with pytest.raises(VerificationFailed, match=r"'\(a\+\)\+b', which PEFT might try for ever: it repeats a group"):
        verify_pulled(tmp_path / "adapter")


# What was altered in the cache.


def test_what_was_altered_in_the_cache_is_not_copied(
    tmp_path: Path, pulled: Path, one: tuple[Path, Manifest], two: tuple[Path, Manifest]
) -> None:
    (two[0] / "adapter_config.json").write_text("[ ]")
    found, expected = (hashlib.sha256(text).hexdigest() for text in (b"[ ]", b"{ }"))
    for target in (tmp_path / "new", pulled):
        with pytest.raises(VerificationFailed, match=f"{found}, not {expected}: it was altered in the cache"):
            replace_folder(two[0], target, two[1])
    assert not (tmp_path / "new").exists()
    # The older version was not touched.
    assert verify_folder(pulled) == one[1]


def test_the_base_is_renamed_in_the_copy_only(
    renamed: tuple[Path, Manifest], tmp_path: Path, two: tuple[Path, Manifest]
) -> None:
    folder, manifest = renamed
    assert json.loads((folder / "adapter_config.json").read_text()) == {
        **CONFIG,
        "base_model_name_or_path": "my \u00e4 base",
    }
    assert (tmp_path / "cache/renamed/adapter_config.json").read_text() == json.dumps(CONFIG)
    assert verify_folder(folder) == manifest
    # Again, with another name, and without one.
    source = tmp_path / "cache/renamed"
    replace_folder(source, folder, manifest, base_name="other")
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "other"
    assert verify_folder(folder) == manifest
    replace_folder(source, folder, manifest)
    assert (folder / "adapter_config.json").read_text() == json.dumps(CONFIG)
    assert sorted(path.name for path in (folder / ".adapterctl").iterdir()) == MARKERS
    replace_folder(source, folder, manifest, base_name="/home/x/base")
    assert sorted(path.name for path in (folder / ".adapterctl").iterdir()) == MARKERS
    replace_folder(source, folder, manifest, base_name="other")
    replace_folder(two[0], folder, two[1])
    assert verify_folder(folder) == two[1]


def _edit_config(folder: Path) -> None:
    path = folder / "adapter_config.json"
    path.write_text(path.read_text().replace('"r": 2', '"r": 3'))


def _declare(**changed: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / ".adapterctl/rewrite.json"
        said = {**json.loads(path.read_text()), **changed}
        path.write_text(json.dumps({key: value for key, value in said.items() if value}, indent=2) + "\n")

    return change


def _declare_another_change(folder: Path) -> None:
    """Alter the config and declare that, as somebody would who wants it to pass."""
    original = folder / ".adapterctl/original/adapter_config.json"
    original.write_text(original.read_text().replace('"r": 2', '"r": 3'))
    changed = rewritten(original.read_bytes(), "other")
    (folder / "adapter_config.json").write_bytes(changed)
    (folder / ".adapterctl/rewrite.json").write_bytes(declared(changed, "other"))


@pytest.mark.parametrize(
    "change",
    [
        _edit_config,
        lambda folder: (folder / "adapter_config.json").write_text(json.dumps(CONFIG)),
        _declare(base_name="another"),
        _declare(base_name=""),
        _declare(sha256="0" * 64),
        _declare(file="adapter_model.safetensors"),
        _declare(extra="x"),
        _declare_another_change,
        lambda folder: (folder / ".adapterctl/rewrite.json").unlink(),
        lambda folder: (folder / ".adapterctl/rewrite.json").write_text("["),
        lambda folder: (folder / ".adapterctl/original/adapter_config.json").unlink(),
        lambda folder: (folder / ".adapterctl/original/adapter_config.json").write_text("{}"),
        lambda folder: (folder / "adapter_config.json").unlink(),
        _file(".adapterctl/original/other.json"),
    ],
)
def test_a_rewrite_must_be_the_declared_one(change: Callable[[Path], None], renamed: tuple[Path, Manifest]) -> None:
    change(renamed[0])
    with pytest.raises(VerificationFailed):
        verify_folder(renamed[0])


@pytest.mark.parametrize("name", ["", "x" * 1001, "a\nb"])
def test_a_base_has_a_name_that_can_be_shown(name: str, one: tuple[Path, Manifest], tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="base's name"):
        replace_folder(one[0], tmp_path / "new", one[1], base_name=name)
    assert not (tmp_path / "new").exists()


def test_without_a_config_no_base_is_renamed(tmp_path: Path) -> None:
    source, manifest = make(tmp_path / "cache/bare", {"adapter_model.safetensors": WEIGHTS})
    with pytest.raises(InvalidInput, match="has no adapter_config"):
        replace_folder(source, tmp_path / "new", manifest, base_name="x")


# The two readers of manifests.

_ENTRY = {"path": "a.txt", "size_bytes": 1, "sha256": "a" * 64}


_SOUND = {"format": "adapterctl.manifest.v1", "kind": "adapter", "base_fingerprint": "f" * 64, "files": [_ENTRY]}


@pytest.mark.parametrize(
    "value",
    [
        _SOUND,
        {**_SOUND, "files": [{**_ENTRY, "path": "b/c"}, _ENTRY]},
        {**_SOUND, "files": [_ENTRY, _ENTRY]},
        {**_SOUND, "files": [_ENTRY, {**_ENTRY, "path": "A.txt"}]},
        {**_SOUND, "files": [_ENTRY, {**_ENTRY, "path": "a.txt/b"}]},
        {**_SOUND, "files": []},
        {**_SOUND, "files": {}},
        {**_SOUND, "files": [{**_ENTRY, "path": "../x"}]},
        {**_SOUND, "files": [{**_ENTRY, "path": ".hidden"}]},
        {**_SOUND, "files": [{**_ENTRY, "path": 1}]},
        {**_SOUND, "files": [{**_ENTRY, "size_bytes": -1}]},
        {**_SOUND, "files": [{**_ENTRY, "size_bytes": True}]},
        {**_SOUND, "files": [{**_ENTRY, "size_bytes": 1.0}]},
        {**_SOUND, "files": [{**_ENTRY, "sha256": "A" * 64}]},
        {**_SOUND, "files": [{**_ENTRY, "sha256": "a" * 64 + "\n"}]},
        {**_SOUND, "files": [{**_ENTRY, "more": 1}]},
        {**_SOUND, "kind": "other"},
        {**_SOUND, "kind": None},
        {**_SOUND, "format": "adapterctl.manifest.v2"},
        {**_SOUND, "base_fingerprint": "f"},
        {**_SOUND, "more": 1},
        [],
        None,
    ],
)
def test_both_readers_of_manifests_agree(value: object) -> None:
    try:
        expected = Manifest.model_validate_json(json.dumps(value))
    except ValidationError:
        with pytest.raises(ValueError):  # noqa: PT011 - each has words of its own
            Contents.of(value)
        return
    read = Contents.read(json.dumps(value).encode())
    assert (read.canonical(), read.digest, read.size_bytes) == (
        expected.canonical(),
        expected.digest,
        expected.size_bytes,
    )


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no folder"):
        verify_folder(tmp_path / "none")
