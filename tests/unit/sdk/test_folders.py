"""A pulled folder is whole or says that it is not, and what a pull did not write is not touched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sdk.errors import AdapterctlError, Conflict, NotFound, VerificationFailed
from sdk.folders import replace_folder, require_free, verify_folder
from sdk.schemas.manifest import Manifest, ManifestFile
from sdk.transfer import hash_file

ONE = {"adapter_config.json": "{}", "adapter_model.safetensors": "one", "extra/old.txt": "old"}
TWO = {"a_new.txt": "new too", "adapter_config.json": "{ }", "adapter_model.safetensors": "two", "more/new.txt": "new"}


def make(folder: Path, content: dict[str, str]) -> tuple[Path, Manifest]:
    """Write a cache's folder; return it with its manifest."""
    files = []
    for name, text in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        sha256, size = hash_file(path)
        files.append(ManifestFile(path=name, size_bytes=size, sha256=sha256))
    return folder, Manifest(base_fingerprint="f" * 64, files=files)


def tree(folder: Path) -> dict[str, str]:
    """Everything in a folder, links by what they point at."""
    return {
        path.relative_to(folder).as_posix(): f"-> {path.readlink()}" if path.is_symlink() else path.read_text()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


@pytest.fixture
def one(tmp_path: Path) -> tuple[Path, Manifest]:
    return make(tmp_path / "cache/one", ONE)


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Manifest]:
    return make(tmp_path / "cache/two", TWO)


@pytest.fixture
def pulled(tmp_path: Path, one: tuple[Path, Manifest]) -> Path:
    return replace_folder(one[0], tmp_path / "pulled", one[1])


def without_marker(folder: Path) -> dict[str, str]:
    return {name: text for name, text in tree(folder).items() if not name.startswith(".adapterctl/")}


@pytest.mark.parametrize("there", [False, True])
def test_a_new_folder_is_whole(there: bool, tmp_path: Path, one: tuple[Path, Manifest]) -> None:
    target = tmp_path / "deep/er/pulled"
    if there:
        (target / "empty/folders").mkdir(parents=True)
    assert replace_folder(one[0], target, one[1]) == target
    assert without_marker(target) == ONE
    assert verify_folder(target) == one[1]
    # Nothing of the making is left beside it, and nothing in it shares the cache's file.
    assert [path.name for path in target.parent.iterdir()] == ["pulled"]
    (target / "adapter_config.json").write_text("edited")
    assert (one[0] / "adapter_config.json").read_text() == "{}"


def test_a_new_folder_appears_at_once_or_not_at_all(tmp_path: Path, one: tuple[Path, Manifest]) -> None:
    (one[0] / "extra/old.txt").unlink()
    with pytest.raises(FileNotFoundError):
        replace_folder(one[0], tmp_path / "pulled", one[1])
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_an_older_version_is_replaced(pulled: Path, two: tuple[Path, Manifest]) -> None:
    require_free(pulled)
    replace_folder(two[0], pulled, two[1])
    assert without_marker(pulled) == TWO
    assert verify_folder(pulled) == two[1]
    assert not (pulled / "extra").exists()
    assert [path.name for path in (pulled / ".adapterctl").iterdir()] == ["manifest.json"]


def test_a_file_may_become_a_folder(pulled: Path, tmp_path: Path) -> None:
    source, manifest = make(tmp_path / "cache/three", {"extra": "now a file", "adapter_config.json/x": "now a folder"})
    replace_folder(source, pulled, manifest)
    assert verify_folder(pulled) == manifest


def _file(name: str) -> Callable[[Path], None]:
    def add(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("precious")

    return add


def _link(name: str, to: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).symlink_to(to)


FOREIGN = [
    _file("notes.txt"),
    _file(".github/workflow.yml"),
    _file(".adapterctl/notes.txt"),
    _file("extra/mine.txt"),
    _file("model.partial-0123abcd"),
    _link("link", "/etc"),
    _link("link", "nowhere"),
    _link("link", "adapter_config.json"),
]


@pytest.mark.parametrize("add", FOREIGN)
def test_foreign_files_are_refused_and_not_touched(
    add: Callable[[Path], None], pulled: Path, two: tuple[Path, Manifest]
) -> None:
    add(pulled)
    before = tree(pulled)
    for refuse in (lambda: require_free(pulled), lambda: replace_folder(two[0], pulled, two[1])):
        with pytest.raises(Conflict, match="holds files that no pull wrote"):
            refuse()
    assert tree(pulled) == before


@pytest.mark.parametrize(
    "name", ["adapter_config.json", ".adapterctl/x.partial-0123abcd", ".adapterctl/replacing.json"]
)
def test_without_a_marker_every_file_is_foreign(name: str, tmp_path: Path, two: tuple[Path, Manifest]) -> None:
    target = tmp_path / "mine"
    target.mkdir()
    _file(name)(target)
    with pytest.raises(Conflict, match="holds files that no pull wrote"):
        replace_folder(two[0], target, two[1])
    assert tree(target) == {name: "precious"}


def test_a_marker_can_not_claim_what_lies_outside(tmp_path: Path, two: tuple[Path, Manifest]) -> None:
    target, outside = tmp_path / "target", tmp_path / "precious.txt"
    outside.write_text("precious")
    (target / ".adapterctl").mkdir(parents=True)
    (target / ".adapterctl/replacing.json").write_text(json.dumps({"files": ["../precious.txt", str(outside)]}))
    with pytest.raises(Conflict):
        replace_folder(two[0], target, two[1])
    assert outside.read_text() == "precious"


def test_a_target_that_is_no_folder_is_refused(tmp_path: Path, pulled: Path, one: tuple[Path, Manifest]) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "link").symlink_to(pulled)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link", "dangling"):
        with pytest.raises(Conflict, match="is no folder"):
            replace_folder(one[0], tmp_path / name, one[1])
    assert (tmp_path / "file").read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_behind_the_marker_folders_name_is_not_written_to(
    pulled: Path, tmp_path: Path, two: tuple[Path, Manifest]
) -> None:
    outside = tmp_path / "outside"
    (pulled / ".adapterctl").rename(outside)
    (pulled / ".adapterctl").symlink_to(outside)
    before = tree(outside)
    with pytest.raises(Conflict):
        replace_folder(two[0], pulled, two[1])
    assert tree(outside) == before
    with pytest.raises(VerificationFailed):
        verify_folder(pulled)


def test_a_merge_wants_a_new_folder(pulled: Path, tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="is not empty"):
        require_free(pulled, replaceable=False)
    (tmp_path / "empty").mkdir()
    require_free(tmp_path / "empty", replaceable=False)


INTERRUPTED = """
import sys
from pathlib import Path
from sdk.folders import replace_folder
from sdk.schemas.manifest import Manifest
source, target, manifest = sys.argv[1:]
replace_folder(Path(source), Path(target), Manifest.model_validate_json(manifest))
"""


def test_an_interrupted_replacement_shows_and_the_next_pull_finishes_it(
    pulled: Path, two: tuple[Path, Manifest]
) -> None:
    source, manifest = two
    # The last file of the source is a pipe that nobody writes to: there the process waits, until it is killed.
    (source / "more/new.txt").unlink()
    os.mkfifo(source / "more/new.txt")
    command = [sys.executable, "-c", INTERRUPTED, str(source), str(pulled), manifest.canonical().decode()]
    with subprocess.Popen(command) as process:
        deadline = time.monotonic() + 20
        while (pulled / "adapter_model.safetensors").read_text() != "two" and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    # Old and new are mixed: this must never pass for a version.
    assert (pulled / "adapter_model.safetensors").read_text() == "two"
    assert not (pulled / "more/new.txt").exists()
    assert not (pulled / ".adapterctl/manifest.json").exists()
    # What a kill in the middle of a copy leaves.
    (pulled / ".adapterctl/file.partial-0123abcd").write_text("half")
    with pytest.raises(VerificationFailed, match="was being replaced when that was interrupted; finish it with"):
        verify_folder(pulled)
    (source / "more/new.txt").unlink()
    (source / "more/new.txt").write_text("new")
    replace_folder(source, pulled, manifest)
    assert without_marker(pulled) == TWO
    assert verify_folder(pulled) == manifest


def test_after_an_interruption_another_version_may_be_pulled_too(
    pulled: Path, one: tuple[Path, Manifest], two: tuple[Path, Manifest]
) -> None:
    (two[0] / "more/new.txt").unlink()
    with pytest.raises(FileNotFoundError):
        replace_folder(two[0], pulled, two[1])
    with pytest.raises(VerificationFailed, match="interrupted"):
        verify_folder(pulled)
    replace_folder(one[0], pulled, one[1])
    assert without_marker(pulled) == ONE
    assert verify_folder(pulled) == one[1]


def _alter(folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_text("On3")


def _remove(folder: Path) -> None:
    (folder / "extra/old.txt").unlink()


def _rename(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model2.safetensors")


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
        _alter,
        _remove,
        _rename,
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
def test_a_folder_without_a_marker_is_none_of_ours(marker: bytes, pulled: Path) -> None:
    (pulled / ".adapterctl/manifest.json").write_bytes(marker)
    with pytest.raises(NotFound, match="so no pull wrote it"):
        verify_folder(pulled)
    with pytest.raises(AdapterctlError):
        require_free(pulled)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no folder"):
        verify_folder(tmp_path / "none")
