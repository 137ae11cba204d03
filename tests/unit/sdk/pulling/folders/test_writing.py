"""Folders of versions: how they are written, replaced and left whole."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.waiting import wait_until
from unit.sdk.pulling.folders.helpers import FOREIGN, MARKERS, ONE, OTHER_WEIGHTS, TWO, _file, make

from sdk.errors import Conflict, InvalidInput, VerificationFailed
from sdk.pulling import folder
from sdk.pulling.folder import replace_folder, require_free, verify_folder
from sdk.schemas.manifest import Manifest


def tree(folder: Path) -> dict[str, str]:
    """Everything in a folder, links by what they point at."""
    return {
        path.relative_to(folder).as_posix(): f"-> {path.readlink()}" if path.is_symlink() else path.read_text()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


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


@pytest.mark.parametrize("place", ["/proc/nothing", "{}/file/below", "{}/" + "n" * 300])
def test_a_place_that_can_have_no_folder_is_named_in_one_sentence(
    place: str, tmp_path: Path, one: tuple[Path, Manifest]
) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(InvalidInput, match=r"can't be written .*; give another name with -o"):
        replace_folder(one[0], Path(place.format(tmp_path)), one[1])
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith((".", "n"))] == []


def test_an_older_version_is_replaced(pulled: Path, two: tuple[Path, Manifest]) -> None:
    require_free(pulled)
    replace_folder(two[0], pulled, two[1])
    assert without_marker(pulled) == TWO
    assert verify_folder(pulled) == two[1]
    assert not (pulled / "extra").exists()
    assert sorted(path.name for path in (pulled / ".adapterctl").iterdir()) == MARKERS


def test_a_file_may_become_a_folder(pulled: Path, tmp_path: Path) -> None:
    source, manifest = make(tmp_path / "cache/three", {"extra": "now a file", "adapter_config.json/x": "now a folder"})
    replace_folder(source, pulled, manifest)
    assert verify_folder(pulled) == manifest


@pytest.mark.parametrize("add", FOREIGN)
def test_foreign_files_are_refused_and_not_touched(
    add: Callable[[Path], None], pulled: Path, two: tuple[Path, Manifest]
) -> None:
    add(pulled)
    before = tree(pulled)
    for refuse in (lambda: require_free(pulled), lambda: replace_folder(two[0], pulled, two[1])):
        with pytest.raises(Conflict, match="has files that no pull wrote"):
            refuse()
    assert tree(pulled) == before


@pytest.mark.parametrize(
    "name", ["adapter_config.json", ".adapterctl/x.partial-0123abcd", ".adapterctl/replacing.json"]
)
def test_without_a_marker_every_file_is_foreign(name: str, tmp_path: Path, two: tuple[Path, Manifest]) -> None:
    target = tmp_path / "mine"
    target.mkdir()
    _file(name)(target)
    with pytest.raises(Conflict, match="has files that no pull wrote"):
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
        with pytest.raises(Conflict, match="is not a folder"):
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
import sys, time
from pathlib import Path
from sdk.pulling import folder as folders
from sdk.schemas.manifest import Manifest
source, target, manifest = sys.argv[1:]
place = folders.place
folders.place = lambda source, target: time.sleep(60) if source.name == "new.txt" else place(source, target)
folders.replace_folder(Path(source), Path(target), Manifest.model_validate_json(manifest))
"""


def test_an_interrupted_replacement_shows_and_the_next_pull_finishes_it(
    pulled: Path, two: tuple[Path, Manifest]
) -> None:
    source, manifest = two
    # Before the last file of the source the process waits, until it is killed.
    command = [sys.executable, "-c", INTERRUPTED, str(source), str(pulled), manifest.canonical().decode()]
    with subprocess.Popen(command) as process:
        wait_until(lambda: (pulled / "adapter_model.safetensors").read_text() == OTHER_WEIGHTS, timeout_s=20)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    # Old and new are mixed: this must never pass for a version.
    assert (pulled / "adapter_model.safetensors").read_text() == OTHER_WEIGHTS
    assert not (pulled / "more/new.txt").exists()
    assert not (pulled / ".adapterctl/manifest.json").exists()
    # What a kill in the middle of a copy leaves.
    (pulled / ".adapterctl/file.partial-0123abcd").write_text("half")
    with pytest.raises(VerificationFailed, match="was interrupted; finish it with"):
        verify_folder(pulled)
    replace_folder(source, pulled, manifest)
    assert without_marker(pulled) == TWO
    assert verify_folder(pulled) == manifest


def test_after_an_interruption_another_version_may_be_pulled_too(
    pulled: Path, one: tuple[Path, Manifest], two: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = folder.place

    def fail(source: Path, target: Path) -> None:
        if source.name == "new.txt":
            raise FileNotFoundError
        place(source, target)

    monkeypatch.setattr(folder, "place", fail)
    with pytest.raises(FileNotFoundError):
        replace_folder(two[0], pulled, two[1])
    monkeypatch.undo()
    with pytest.raises(VerificationFailed, match="interrupted"):
        verify_folder(pulled)
    replace_folder(one[0], pulled, one[1])
    assert without_marker(pulled) == ONE
    assert verify_folder(pulled) == one[1]
