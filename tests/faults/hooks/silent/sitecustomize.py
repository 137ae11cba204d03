"""Lets the main thread of a process do nothing else for ever once it gets SIGUSR2. Python reads this at its start."""

import signal


def _for_ever(_signal: int, _frame: object) -> None:
    while True:
        pass


signal.signal(signal.SIGUSR2, _for_ever)
