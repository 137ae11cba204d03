"""Lets the main thread of a process do one thing for ever once it gets SIGUSR2. Python reads this at its start.

`SILENT_IN`: "python", for a loop of Python's, or "c", for one call into C that holds the lock of the interpreter.
"""

import os
import re
import signal


def _for_ever(_signal: int, _frame: object) -> None:
    if os.environ["SILENT_IN"] == "c":
        re.match("(a+)+b", "a" * 64)
    while True:
        pass


signal.signal(signal.SIGUSR2, _for_ever)
