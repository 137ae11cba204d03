"""Modules are compiled once: what a test, or a program that it starts, imports is kept as bytecode next to its source.

If the environment forbids that, as images often do, each of a thousand programs compiles all of our code again, and
pytest rewrites the assertions of all tests in each of its processes.
"""

from __future__ import annotations

import os
import sys


def keep_bytecode() -> None:
    """Let this process, and those below it, keep what they compile."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
