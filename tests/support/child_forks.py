"""A worker whose children are forks of a process that has imported their libraries, which saves three seconds of CPU
each time.

It is for tests of what jobs make, not for tests of how a worker starts, stops and outlives its children: a fork is
below the process that forks, and not below the worker, which sees a small process instead.
"""

from __future__ import annotations

import importlib
import os
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from support.forks import READ_AT_START, ForkServer
from workers.child.process import LIBRARIES, PARENT_VARIABLE

#: Replaces a child: gets the address of the process that forks, and the folder of an order.
LAUNCHER = Path(__file__).with_name("child_launcher.py")
#: The real worker, except for the program of its children.
_WORKER = """
import sys
from workers.child.process import WarmChild
program, sys.argv[0:2] = ("-I", "-S", *sys.argv[1].split("\\n")), ["adapter-worker"]
WarmChild.__init__.__kwdefaults__["program"] = program
from workers.entry.cli import main
main()
"""
_PIPELINES = ("training.train", "scoring.evaluate")
#: The ones of this process, by what the interpreter and its hooks read when they start.
_started: dict[frozenset[tuple[str, str]], ForkServer] = {}


def worker(environment: Mapping[str, str]) -> list[str]:
    """Return the command of such a worker, without its arguments. Its children see what new ones with `environment`
    would.
    """
    read = {name: value for name, value in environment.items() if name.startswith((*READ_AT_START, "SKEWED_"))}
    key = frozenset(read.items())
    if key not in _started:
        _started[key] = ForkServer({**environment, **LIBRARIES}, preloads="support.child_forks:preload")
    return [sys.executable, "-P", "-c", _WORKER, f"{LAUNCHER}\n{_started[key].address}"]


def end() -> None:
    """End the processes that fork."""
    while _started:
        _started.popitem()[1].close()


def preload() -> None:
    """Import what a warm child imports."""
    from sdk.imports import nothing_collected
    from workers.child.main import import_libraries
    from workers.pipelines.imports import nothing_searched

    os.environ["HF_HUB_OFFLINE"] = "1"
    with nothing_collected(ever=True), nothing_searched():
        import_libraries()
        for name in _PIPELINES:
            importlib.import_module(f"workers.pipelines.{name}")


def run() -> NoReturn:
    """Be a child."""
    import numpy as np

    from workers.child.main import main

    # Each new process has different ones, and tests must notice anything that depends on them.
    random.seed()
    np.random.seed()
    # Its parent is the process that forks.
    del os.environ[PARENT_VARIABLE]
    os._exit(main())
