"""A server process whose event loop is silent is ended, and the others answer meanwhile and get a new one beside them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from support.wire import Served, serving
from support.workplace import descendants, wait_until

HOOK = Path(__file__).parent / "hooks" / "silent"


def processes_of(served: Served) -> set[int]:
    """The processes that answer requests."""
    return {pid for pid, line in descendants(served.pid).items() if "spawn_main" in line}


@pytest.mark.slow
def test_silent_process_is_ended_and_replaced_while_the_other_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = os.pathsep.join(filter(None, (str(HOOK), os.environ.get("PYTHONPATH"))))
    monkeypatch.setenv("PYTHONPATH", paths)
    with serving(tmp_path, "--workers", "2", silent_s="3") as served:
        # One of them suffices to be healthy, and none is watched before it has started.
        wait_until(lambda: served.log.read_text().count("Application startup complete") == 2, served.log.read_text)
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
    # Not by the supervisor: other threads of the process could still answer it.
    assert "Timeout (0:00:03)!" in log
    assert "in _for_ever" in log
