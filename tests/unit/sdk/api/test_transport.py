"""Clients of a registry in a folder, opened and closed by a pipeline that lives long."""

from __future__ import annotations

import os
import threading
from contextlib import closing
from pathlib import Path

import pytest

from sdk.api import answers
from sdk.client import Client
from sdk.errors import Incompatible, InvalidInput


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are counted on Linux")
def test_a_closed_client_of_a_folder_leaves_neither_files_nor_threads(tmp_path: Path) -> None:
    def used() -> tuple[int, int]:
        client = Client(f"local:{tmp_path / 'home'}", cache=tmp_path / "cache")
        assert client.bases() == []
        client.close()
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    files, threads = used()
    more = [used() for _ in range(10)][-1]
    # One that is just ending may still be counted; each client that leaves something leaves five files and a thread.
    assert more[0] < files + 10, more
    assert more[1] < threads + 5, more


def test_what_is_nought_is_asked_for_and_not_left_to_the_registry(tmp_path: Path) -> None:
    with (
        closing(Client(f"local:{tmp_path / 'home'}", cache=tmp_path / "cache")) as client,
        pytest.raises(InvalidInput, match="depth"),
    ):
        client.lineage("team/a", depth=0)


@pytest.mark.parametrize("server", ["1.4.0", "1.5.9", "1.6.2", "development", None])
def test_a_server_one_minor_version_away_is_talked_to(server: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "VERSION", "1.5.0")
    answers.check_version(server, "https://registry.example")


@pytest.mark.parametrize(
    ("server", "behind"),
    [("1.3.9", "the server"), ("0.5.0", "the server"), ("1.7.0", "this client"), ("2.5.0", "this client")],
)
def test_a_server_further_away_is_not(server: str, behind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "VERSION", "1.5.0")
    with pytest.raises(Incompatible, match=f"is version {server}, this client is 1.5.0; upgrade {behind}"):
        answers.check_version(server, "https://registry.example")
