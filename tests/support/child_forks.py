"""A worker whose children are forks of a process that has imported their libraries, which saves three seconds of CPU
each time.

It is for tests of what jobs make, not for tests of how a worker starts, stops and outlives its children: a fork is
below the process that forks, and not below the worker, which sees a small process instead.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from support.forks import READ_AT_START, ForkServer
from support.waiting import PATIENCE_S
from workers.child.process import LIBRARIES, PARENT_VARIABLE

#: Replaces a child: gets the address of the process that forks, the name of its program, and the folder of an order.
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
#: The real runner of an embedded registry, which stays, except for the program of its children.
_RUNNER = """
import signal, sys
from dataclasses import replace
from pathlib import Path
from workers.child.process import WarmChild
WarmChild.__init__.__kwdefaults__["program"] = ("-I", "-S", *sys.argv[1].split("\\n"))
from workers.entry import local_runner
from workers.entry.runner import Worker
from workers.settings import WorkerSettings
home, shutdown = Path.cwd(), local_runner.Shutdown(grace_s=5)
with local_runner._only_runner(home) as alone, shutdown.on_signals(signal.SIGTERM):
    assert alone
    worker = Worker(replace(WorkerSettings.from_env(), name="local", warm=False), shutdown)
    print("ready", flush=True)
    while not shutdown.wait(0.05):
        if (home / local_runner.ASKED_FILE).exists():
            (home / local_runner.ASKED_FILE).unlink()
            local_runner._drain(worker, shutdown)
    worker.end()
"""
_MODULES = (
    "workers.pipelines.training.train",
    "workers.pipelines.scoring.evaluate",
    "workers.serving.program",
    "workers.serving.starting",
    "workers.serving.door.routes",
    "peft",
)


def worker(environment: Mapping[str, str]) -> list[str]:
    """Return the command of such a worker, without its arguments. Its children see what new ones with `environment`
    would.
    """
    return [sys.executable, "-P", "-c", _WORKER, f"{LAUNCHER}\n{warm(environment).address}\nchild"]


@contextmanager
def local_runner(home: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Have such a worker at work on the jobs of an embedded registry, in whose folder no command starts its own then."""
    home.mkdir(parents=True)
    shared = {"ADAPTER_WORKER_SHARED_PATHS": "/", "ADAPTER_WORKER_HUB_REPOSITORIES": "*"}
    runner = subprocess.Popen(
        [sys.executable, "-P", "-c", _RUNNER, f"{LAUNCHER}\n{warm(environment).address}\nchild"],
        env={**environment, **shared, "ADAPTERCTL_URL": f"local:{home}"},
        cwd=home,
        stdout=subprocess.PIPE,
    )
    try:
        assert runner.stdout is not None
        assert runner.stdout.readline() == b"ready\n"
        yield
    finally:
        runner.terminate()
        runner.communicate(timeout=PATIENCE_S)


def warm(environment: Mapping[str, str]) -> ForkServer:
    """Return the process that forks children with an environment: one for each of what the interpreter and its hooks read there."""
    read = {name: value for name, value in environment.items() if name.startswith((*READ_AT_START, "SKEWED_"))}
    name = hashlib.sha256(json.dumps(sorted(read.items())).encode()).hexdigest()[:16]
    return ForkServer.of_run(name, {**environment, **LIBRARIES}, preloads="support.child_forks:preload")


def preload() -> None:
    """Import what a warm child imports, and what an engine program does and what makes its bases."""
    from sdk.imports import nothing_collected
    from workers.pipelines.imports import import_libraries, nothing_searched

    os.environ["HF_HUB_OFFLINE"] = "1"
    with nothing_collected(ever=True), nothing_searched():
        import_libraries()
        for name in _MODULES:
            importlib.import_module(name)
        from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM  # noqa: F401 - found when asked for


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
