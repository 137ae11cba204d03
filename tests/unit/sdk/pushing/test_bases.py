"""A base is known by its content: what changes the fingerprint, what does not, and what is not a base."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.small import CONFIG, TENSORS, write_base, write_safetensors

from sdk.errors import AdapterctlError, InvalidBase, InvalidInput, NotFound
from sdk.pulling.cache import Cache
from sdk.pushing.base_folder import ScannedBase, base_id_of, scan_base


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base")


def scan(folder: Path, cache: Cache) -> ScannedBase:
    return scan_base(folder, cache=cache)


def test_what_a_base_is(base: Path, cache: Cache) -> None:
    scanned = scan(base, cache).registration
    assert scanned.id == "base"
    assert scanned.architecture == "LlamaForCausalLM"
    assert scanned.tensors == TENSORS
    assert scanned.config == CONFIG
    assert scanned.location == base.as_uri()
    assert scanned.size_bytes == sum(path.stat().st_size for path in base.iterdir())


def test_the_fingerprint_ignores_who_saved_it_and_in_which_order(base: Path, cache: Cache, tmp_path: Path) -> None:
    fingerprint = scan(base, cache).registration.fingerprint
    other = shutil.copytree(base, tmp_path / "other")
    config = {"_name_or_path": "/somewhere/else", "transformers_version": "9.9", **dict(reversed(CONFIG.items()))}
    (other / "config.json").write_text(json.dumps(config, indent=4))
    assert scan(other, cache).registration.fingerprint == fingerprint
    # Files that say nothing about text or weights.
    (other / "README.md").write_text("hello")
    (other / "generation_config.json").write_text("{}")
    assert scan(other, cache).registration.fingerprint == fingerprint


def test_the_fingerprint_is_independent_of_the_weight_files_names(tmp_path: Path, cache: Cache) -> None:
    bases = []
    for name, order in (("one", (1, 2)), ("two", (2, 1))):
        folder = write_base(tmp_path / name)
        (folder / "model.safetensors").unlink()
        files = [f"model-0000{n}-of-00002.safetensors" for n in order]
        for file, tensor in zip(files, ("a.weight", "b.weight"), strict=True):
            write_safetensors(folder / file, {tensor: [2, 2]})
        index = {"weight_map": {"a.weight": files[0], "b.weight": files[1]}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        bases.append(scan(folder, cache).registration)
    assert bases[0].fingerprint == bases[1].fingerprint
    assert bases[0].tensors == bases[1].tensors == {"a.weight": [2, 2], "b.weight": [2, 2]}


@pytest.mark.parametrize(
    ("change", "same_weights"),
    [
        (lambda base: (base / "config.json").write_text(json.dumps({**CONFIG, "rope_theta": 5.0})), True),
        (lambda base: (base / "tokenizer.json").write_text('{"version": "2.0"}'), True),
        (lambda base: (base / "chat_template.jinja").write_text("{{ messages }}"), True),
        (lambda base: (base / "tokenizer.json").unlink(), True),
        (lambda base: write_safetensors(base / "model.safetensors", TENSORS, value=0.75), False),
    ],
)
def test_what_changes_the_fingerprint(
    change: Callable[[Path], None], same_weights: bool, base: Path, cache: Cache
) -> None:
    before = scan(base, cache).registration
    change(base)
    after = scan(base, cache).registration
    assert after.fingerprint != before.fingerprint
    assert (after.weights_digest == before.weights_digest) is same_weights


def test_files_are_hashed_once_and_again_when_they_change(base: Path, cache: Cache) -> None:
    hashed: list[int] = []
    weights = base / "model.safetensors"

    def hashed_bytes() -> int:
        hashed.clear()
        scan_base(base, cache=cache, on_bytes=hashed.append)
        return sum(hashed)

    everything = sum(path.stat().st_size for path in base.iterdir())
    assert hashed_bytes() == everything
    assert hashed_bytes() == 0
    before = scan(base, cache).registration
    stat = weights.stat()
    write_safetensors(weights, TENSORS, value=0.75)
    # As `cp --preserve` does: size, inode and modification time are what they were.
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = weights.stat()
    assert (after.st_size, after.st_ino, after.st_mtime_ns) == (stat.st_size, stat.st_ino, stat.st_mtime_ns)
    assert scan(base, cache).registration.weights_digest != before.weights_digest
    assert hashed_bytes() == 0
    # A damaged entry of the cache is no answer.
    for entry in (cache.root / "hashes").iterdir():
        entry.write_text("[]")
    assert hashed_bytes() == everything


def test_a_hub_caches_folder_of_links_is_a_base(base: Path, cache: Cache, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshots" / ("c" * 40)
    blobs = tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in base.iterdir():
        shutil.copy(path, blobs / f"blob-of-{path.name}")
        (snapshot / path.name).symlink_to(f"../../blobs/blob-of-{path.name}")
    linked, plain = scan(snapshot, cache), scan(base, cache)
    assert linked.registration.fingerprint == plain.registration.fingerprint
    assert linked.manifest == plain.manifest


def _without(name: str) -> Callable[[Path], None]:
    return lambda base: (base / name).unlink()


def _config(text: str) -> Callable[[Path], None]:
    def write(base: Path) -> None:
        (base / "config.json").write_text(text)

    return write


def _weights(content: bytes) -> Callable[[Path], None]:
    def write(base: Path) -> None:
        (base / "model.safetensors").write_bytes(content)

    return write


def _header(header: Any, data: bytes = b"") -> Callable[[Path], None]:
    text = json.dumps(header).encode()
    return _weights(struct.pack("<Q", len(text)) + text + data)


def _index(value: Any) -> Callable[[Path], None]:
    def write(base: Path) -> None:
        (base / "model.safetensors.index.json").write_text(json.dumps(value))

    return write


def _only_pickled(base: Path) -> None:
    (base / "model.safetensors").rename(base / "pytorch_model.bin")


def _cut(base: Path) -> None:
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def _single_beside_shards(base: Path) -> None:
    write_safetensors(base / "model-00001-of-00001.safetensors", TENSORS, value=0.75)
    _index({"weight_map": dict.fromkeys(TENSORS, "model-00001-of-00001.safetensors")})(base)


def _shard_without_index(base: Path) -> None:
    (base / "model.safetensors").rename(base / "model-00001-of-00001.safetensors")


def _index_that_lies(base: Path) -> None:
    names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    for name in names:
        write_safetensors(base / name, {f"{name}.weight": [2]})
    (base / "model.safetensors").unlink()
    _index({"weight_map": {f"{names[0]}.weight": names[1], f"{names[1]}.weight": names[0]}})(base)


@pytest.mark.parametrize(
    ("damage", "cls", "said"),
    [
        (_without("config.json"), NotFound, "has no config.json"),
        (_without("model.safetensors"), InvalidBase, "no model.safetensors and no model.safetensors.index.json"),
        (_only_pickled, InvalidBase, "only pytorch_model.bin, which is pickled"),
        (_config("{"), InvalidBase, "can't be read as a model's config"),
        (_config('{"x": NaN}'), InvalidBase, "can't be read as a model's config"),
        (_config('{"x": "\\ud800"}'), InvalidBase, "can't be read as a model's config"),
        (_config("[" * 100_000), InvalidBase, "can't be read as a model's config"),
        (_config("[]"), InvalidBase, "is not an object"),
        (_weights(b""), InvalidBase, "not a complete safetensors file"),
        (_weights(b"PK\x03\x04" + b"x" * 60), InvalidBase, "not a complete safetensors file"),
        (_weights(struct.pack("<Q", 2**63) + b"{}"), InvalidBase, "not a complete safetensors file"),
        (_weights(struct.pack("<Q", 60) + b"{}"), InvalidBase, "not a complete safetensors file"),
        (_cut, InvalidBase, "not a complete safetensors file"),
        (_header([]), InvalidBase, "not a complete safetensors file"),
        (_header({"a": {"shape": "xy", "data_offsets": [0, 0]}}), InvalidBase, "not a complete safetensors file"),
        (_header({"a": {"shape": [True], "data_offsets": [0, 0]}}), InvalidBase, "not a complete safetensors file"),
        (_header({"a": {"shape": [1], "data_offsets": [0]}}), InvalidBase, "not a complete safetensors file"),
        (_index({}), InvalidBase, "index.json can't be read"),
        (_index({"weight_map": []}), InvalidBase, "index.json can't be read"),
        (_index({"weight_map": {}}), InvalidBase, "has no weight_map"),
        (_index({"weight_map": {"a": "model-2.safetensors"}}), InvalidBase, "lacks the weight file model-2.saf"),
        (_index({"weight_map": {"a": "../other/model.safetensors"}}), InvalidBase, "is not a weight file"),
        (_index({"weight_map": {"a": "/etc/passwd"}}), InvalidBase, "is not a weight file"),
        (_index({"weight_map": {"a": ".."}}), InvalidBase, "is not a weight file"),
        (_index({"weight_map": {"a": "adapter_model.safetensors"}}), InvalidBase, "is not a weight file"),
        (_config('{"a": 1, "a": 2}'), InvalidBase, "key twice"),
        (_config('{"a": "\\u0000"}'), InvalidBase, "NUL"),
        (_single_beside_shards, InvalidBase, "different programs would load different weights"),
        (_shard_without_index, InvalidBase, "no model.safetensors and no"),
        (_index_that_lies, InvalidBase, "disagree on the tensor"),
        (_index({"weight_map": {"a": 7, "b": "x\u001b[0m"}}), InvalidBase, "has no weight_map"),
    ],
)
def test_what_is_no_base_is_refused(
    damage: Callable[[Path], None], cls: type[AdapterctlError], said: str, base: Path, cache: Cache
) -> None:
    damage(base)
    with pytest.raises(cls, match=said) as caught:
        scan(base, cache)
    assert caught.value.param == "base"
    assert caught.value.message.isprintable()


def test_a_folder_that_is_not_there(tmp_path: Path, cache: Cache) -> None:
    with pytest.raises(NotFound, match="there is no folder"):
        scan(tmp_path / "none", cache)
    (tmp_path / "file").touch()
    with pytest.raises(NotFound, match="there is no folder"):
        scan(tmp_path / "file", cache)


@pytest.mark.parametrize("base_id", ["", "two words", "../x", ".x", "x\n", "x" * 201, "n\u00e4me"])
def test_an_id_is_plain(base_id: str, base: Path, cache: Cache) -> None:
    with pytest.raises(InvalidInput, match="can't be a base's id"):
        scan_base(base, cache=cache, base_id=base_id)


@pytest.mark.parametrize(
    ("name", "base_id"),
    [
        ("c" * 40, "base-" + "c" * 40),
        ("SmolLM2-135M", "SmolLM2-135M"),
        ("my base (1)", "my-base-1"),
        ("...", "base"),
        ("\u00e4", "base"),
        ("_x_", "x"),
    ],
)
def test_a_folders_own_name_becomes_an_id(name: str, base_id: str, tmp_path: Path) -> None:
    (tmp_path / "parent").mkdir()
    folder = tmp_path / "parent" / name
    if name != "...":
        folder.mkdir()
    assert base_id_of(folder) == base_id


def test_a_snapshot_of_a_hubs_cache_is_called_as_its_model(tmp_path: Path) -> None:
    folder = tmp_path / "models--HuggingFaceTB--SmolLM2-135M" / "snapshots" / ("c" * 40)
    folder.mkdir(parents=True)
    assert base_id_of(folder) == "HuggingFaceTB/SmolLM2-135M"
