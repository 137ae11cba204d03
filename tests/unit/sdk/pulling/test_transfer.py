"""Files that get their name when they are whole, copies that share nothing, and JSON of strangers."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from sdk.errors import Conflict
from sdk.pulling.transfer import place, read_json

CONTENT = bytes(range(256)) * 5000


def test_a_placed_file_is_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "cached").write_bytes(CONTENT)
    (tmp_path / "cached").chmod(0o444)
    place(tmp_path / "cached", tmp_path / "mine")
    assert (tmp_path / "mine").read_bytes() == CONTENT
    assert (tmp_path / "mine").stat().st_ino != (tmp_path / "cached").stat().st_ino
    assert (tmp_path / "mine").stat().st_mode & stat.S_IWUSR
    with pytest.raises(Conflict, match="already exists"):
        place(tmp_path / "cached", tmp_path / "mine")


def test_a_file_is_placed_where_the_kernel_copies_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> int:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    (tmp_path / "cached").write_bytes(CONTENT)
    place(tmp_path / "cached", tmp_path / "mine")
    assert (tmp_path / "mine").read_bytes() == CONTENT


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '"\\ud800"', '{"\\udfff": 1}', "", "\xff\xfe"])
def test_json_of_others_is_read_strictly(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(os.fsencode(text) if text.isascii() else text.encode("latin-1"))
    with pytest.raises(ValueError):  # noqa: PT011 - each has words of its own
        read_json(path)


@pytest.mark.parametrize(
    "write",
    [lambda p: p.write_text('{"a": "\u00e4"}', "utf-8"), lambda p: p.write_text('{"a": "\u00e4"}', "utf-8-sig")],
)
def test_json_may_begin_with_a_mark(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / "x.json")
    assert read_json(tmp_path / "x.json") == {"a": "\u00e4"}
