"""Answers a shell that asks what to offer. Whatever fails, it says nothing, and nothing is offered."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def answer() -> NoReturn:
    """Print what the shell may offer, and end the process."""
    try:
        from sdk.cli.completing.command_tree import read_tree
        from sdk.cli.completing.shells import LineComplete

        sys.stdout.write(f"{LineComplete(read_tree()).complete()}\n")
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001, S110 - also an end that is asked for: a shell waits, and nobody reads
        pass
    # A thread may still wait for a server.
    os._exit(0)
