"""How a worker is asked to end."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from workers.node.shutdown import Shutdown, pass_on, withdraw


def test_nobody_asked() -> None:
    shutdown = Shutdown(grace_s=30)
    assert not shutdown.asked
    assert not shutdown.at_once
    assert shutdown.left_s == 30
    assert shutdown.wait(0.01) is False


def test_a_signal_asks_and_a_second_one_insists() -> None:
    shutdown = Shutdown(grace_s=30)
    before = signal.getsignal(signal.SIGUSR1)
    with shutdown.on_signals(signal.SIGUSR1):
        os.kill(os.getpid(), signal.SIGUSR1)
        assert shutdown.asked
        assert not shutdown.at_once
        time.sleep(0.05)
        assert 20 < shutdown.left_s < 30
        # It returns at once.
        assert shutdown.wait(600)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert shutdown.at_once
        assert shutdown.left_s == 0
        assert shutdown.by_signal_alone
    assert signal.getsignal(signal.SIGUSR1) is before


def test_the_process_above_asks_through_a_file(tmp_path: Path) -> None:
    file = tmp_path / "new folder" / "stop"
    shutdown = Shutdown(grace_s=30, file=file)
    assert not shutdown.asked
    pass_on(file)
    assert shutdown.asked
    assert not shutdown.at_once
    assert not shutdown.by_signal_alone
    pass_on(file)
    assert shutdown.at_once
    withdraw(file)
    assert list(file.parent.iterdir()) == []
    assert not Shutdown(grace_s=30, file=file).asked


def test_a_signal_to_both_processes_counts_once(tmp_path: Path) -> None:
    shutdown = Shutdown(grace_s=30, file=tmp_path / "stop")
    with shutdown.on_signals(signal.SIGUSR1):
        os.kill(os.getpid(), signal.SIGUSR1)
        pass_on(tmp_path / "stop")
    assert shutdown.asked
    assert not shutdown.at_once
    assert not shutdown.by_signal_alone
