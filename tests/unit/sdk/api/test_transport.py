"""Clients of a registry in a folder, opened and closed by a pipeline that lives long."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from support import processes

from sdk.api import answers
from sdk.api.transport import Transport
from sdk.client import Client
from sdk.config import load
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


def test_threads_that_come_first_together_share_their_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, opened = threading.Barrier(4), list[httpx.Client]()

    def opening(transport: Transport) -> httpx.Client:
        together.wait(60)
        answering = httpx.MockTransport(lambda _: httpx.Response(200, json=[]))
        opened.append(httpx.Client(transport=answering, base_url="http://registry"))
        return opened[-1]

    monkeypatch.setattr(Transport, "_open", opening)
    transport = Transport(load(f"local:{tmp_path / 'home'}"))
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(transport.call, "GET", "/bases", list[int]) for _ in range(4)]
        assert [each.result() for each in asked] == [[]] * 4
    assert [each.is_closed for each in opened].count(False) == 1
    transport.close()
    assert all(each.is_closed for each in opened)


def test_after_a_fork_each_process_has_its_own_connections(tmp_path: Path) -> None:
    said = """
import os, sdk
client = sdk.connect(f"local:{os.environ['HOME']}/home")
for asked in (sdk.bases, client.adapters):
    assert asked() == []
child = os.fork()
assert sdk.bases() == client.adapters() == []
if child == 0:
    os._exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
client.close()
"""
    done = processes.finished(sys.executable, "-c", said, env=processes.environment(HOME=str(tmp_path)))
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr


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
