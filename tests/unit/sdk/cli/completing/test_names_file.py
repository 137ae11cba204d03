"""The file of names that shells complete: whose it is, what is in it, and what is not."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sdk.cli.completing.names_file import MOST_NAMES, NamesFile
from sdk.config import Config

URL = "https://registry.example"
TOKEN = "actl_not-to-be-found-in-any-file"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTERCTL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def names() -> NamesFile:
    return NamesFile(Config(URL, TOKEN))


def test_only_its_owner_reads_the_file(names: NamesFile) -> None:
    os.umask(os.umask(0))
    names.add([("adapter", "sql")])
    assert stat.S_IMODE(names.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(names.path.parent.stat().st_mode) == 0o700


def test_tokens_and_registries_never_see_names_of_each_other(names: NamesFile) -> None:
    names.add([("adapter", "secret-project")])
    others = [
        Config(URL, "actl_other"),
        Config(URL),
        Config("https://other.example", TOKEN),
        Config("local:/tmp", TOKEN),
    ]
    assert [NamesFile(config).read() for config in others] == [[], [], [], []]


def test_token_is_in_no_file(names: NamesFile, tmp_path: Path) -> None:
    names.add([("adapter", "sql")])
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if TOKEN in path.read_text() or TOKEN in str(path)]


def test_names_not_seen_for_longest_make_room(names: NamesFile) -> None:
    names.add(("job", f"{number:06}") for number in range(MOST_NAMES))
    names.add([("job", "000000"), ("job", "new")])
    kept = [name for _, name in names.read()]
    assert len(kept) == MOST_NAMES
    assert kept[-2:] == ["000000", "new"]
    assert "000001" not in kept


@pytest.mark.parametrize(
    "name",
    [
        "$(reboot)",
        "`id`",
        "a b",
        "a'b",
        'a"b',
        "a\nb",
        "a\tb",
        "\x1b[2J",
        "a;b",
        "-rf",
        "~root",
        "a*",
        "a!b",
        "a\\b",
        "ä",
        "\u202ea",
    ],
)
def test_name_that_a_shell_reads_as_more_is_never_offered(names: NamesFile, name: str) -> None:
    names.add([("adapter", name), ("adapter", "plain")])
    assert names.read() == [("adapter", "plain")]


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"[[1]]", b'[["adapter"]]', b"[" * 100_000, b"\xff\xfe"])
def test_damaged_file_has_no_names_and_is_written_anew(names: NamesFile, content: bytes) -> None:
    names.add([("adapter", "old")])
    names.path.write_bytes(content)
    assert names.read() == []
    names.add([("adapter", "new")])
    assert names.read() == [("adapter", "new")]


def test_pipe_or_link_in_its_place_is_not_read(names: NamesFile, tmp_path: Path) -> None:
    names.path.parent.mkdir(parents=True)
    os.mkfifo(names.path)
    assert names.read() == []
    names.path.unlink()
    (tmp_path / "other").write_text('[["adapter", "elsewhere"]]')
    names.path.symlink_to(tmp_path / "other")
    assert names.read() == []


def test_forgotten_file_is_gone(names: NamesFile) -> None:
    names.add([("adapter", "sql")])
    names.forget()
    names.forget()
    assert list(names.path.parent.iterdir()) == []


def test_folder_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ADAPTERCTL_CACHE", str(tmp_path / "file"))
    NamesFile(Config(URL, TOKEN)).add([("adapter", "sql")])
    assert NamesFile(Config(URL, TOKEN)).read() == []
