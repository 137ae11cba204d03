"""How a worker is asked to end."""

from __future__ import annotations

import os
import signal
import time

from workers.node.shutdown import Shutdown


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
    assert signal.getsignal(signal.SIGUSR1) is before
