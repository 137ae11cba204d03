"""A server process whose event loop is silent is ended, and the others answer meanwhile and get a new one beside them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.wire import Served, serving
from support.workplace import descendants, wait_until

HOOK = Path(__file__).parent / "hooks" / "silent"


@contextmanager
def served_silently(folder: Path, monkeypatch: pytest.MonkeyPatch, silent_in: str, *arguments: str) -> Iterator[Served]:
    """Serve a registry whose processes can be made silent, each of which is ended after four seconds of that."""
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(HOOK), os.environ.get("PYTHONPATH")))))
        patch.setenv("SILENT_IN", silent_in)
        with serving(folder, *arguments, silent_s="4") as served:
            yield served


def processes_of(served: Served) -> set[int]:
    """The processes that answer requests."""
    return {pid for pid, line in descendants(served.pid).items() if "spawn_main" in line}


@pytest.mark.slow
def test_silent_process_of_several_is_ended_and_replaced_while_the_other_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served_silently(tmp_path, monkeypatch, "c", "--workers", "2") as served:
        before = processes_of(served)
        assert len(before) == 2
        silent = min(before)
        os.kill(silent, signal.SIGUSR2)
        wait_until(lambda: silent not in processes_of(served), served.log.read_text)
        wait_until(lambda: len(processes_of(served)) == 2, served.log.read_text)
        assert served.healthy_s() < 5
        # It was idle for longer than it may be silent.
        assert max(before) in processes_of(served)
        log = served.log.read_text()
    assert "Timeout (0:00:04)!" in log
    assert "in _for_ever" in log
