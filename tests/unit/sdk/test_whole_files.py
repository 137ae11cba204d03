"""Files and folders that get their names when they are whole, and on the disk if that is said."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from sdk.whole_files import give_name, whole_file, write_whole


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is synced and renamed, in order."""
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        steps.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name.partition('.partial')[0]}")
        fsync(descriptor)

    def replaced(source: Any, target: Any) -> None:
        steps.append(f"rename {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    return steps


def test_a_block_that_fails_leaves_no_file(tmp_path: Path) -> None:
    def fail() -> None:
        with whole_file(tmp_path / "file", durable=True) as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="tells files by their descriptors")
def test_a_durable_file_is_on_the_disk_before_it_has_its_name_and_then_the_name_is(
    tmp_path: Path, steps: list[str]
) -> None:
    write_whole(tmp_path / "quick", "text", durable=False)
    assert steps == ["rename quick"]
    steps.clear()
    write_whole(tmp_path / "kept", b"bytes", durable=True, mode=0o600)
    assert steps == ["sync kept", "rename kept", f"sync {tmp_path.name}"]
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o600


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="tells files by their descriptors")
def test_a_durable_folder_is_on_the_disk_with_all_that_is_in_it(tmp_path: Path, steps: list[str]) -> None:
    written = tmp_path / "written"
    (written / "below").mkdir(parents=True)
    (written / "below" / "file").write_text("x")
    (written / "link").symlink_to("nowhere")
    give_name(written, tmp_path / "folder", durable=True)
    assert sorted(steps[:3]) == ["sync below", "sync file", "sync written"]
    assert steps[2:] == ["sync written", "rename folder", f"sync {tmp_path.name}"]


@pytest.mark.parametrize("links", [True, False])
def test_a_name_that_something_has_is_not_taken_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    write_whole(tmp_path / "file", "first", durable=False, replace=False)
    with pytest.raises(FileExistsError):
        write_whole(tmp_path / "file", "second", durable=False, replace=False)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["first"]


def test_a_folder_replaces_an_empty_one_only(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    give_name(tmp_path / "one", tmp_path / "folder", durable=False)
    (tmp_path / "file").write_text("x")
    for taken in ("folder", "file"):
        with pytest.raises(FileExistsError):
            give_name(tmp_path / "two", tmp_path / taken, durable=False)
    assert (tmp_path / "folder" / "one").read_text() == "one"
