"""Clients of a registry in a folder, opened and closed by a pipeline that lives long."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from sdk.client import Client


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
