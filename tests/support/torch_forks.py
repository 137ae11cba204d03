"""Forks of a process that has imported torch and what programs of the worker import: each is a process of its own, without three
seconds of imports.

    models = torch_forks.call("support.served_models:make_tiny", folder, versions=5)

It is for tests of what such programs answer, and for making their bases; how a program starts, and what it has then, is tested
with real ones. Whoever starts one below `programs_as_forks` gets a small process that represents a fork in which the program's own
module runs, with its input, output and environment. Commands that are forks do so with `for_commands` in their environment.
"""

from __future__ import annotations

import importlib
import os
import pickle
import random
import runpy
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from sdk import worker_program
from sdk.asking import programs
from sdk.worker_program import PARENT_VARIABLE
from support.child_forks import LAUNCHER, warm

#: The programs whose processes are forks begin with this: those for which torch is imported, or transformers.
_FORKED = "workers."
#: Says to a fork of a command that the programs that it starts are forks, and where they are made.
VARIABLE = "TORCH_FORKS"
#: Longer than making a base with its versions takes on a busy machine.
_PATIENCE_S = 300


def address() -> str:
    """Return where the process listens that forks; it is started on first use, and ends with the run."""
    return warm(os.environ).address


def call(function: str, *args: Any, **options: Any) -> Any:
    """Return what a function, "module:name", returns in a fork. All of it is pickled. Raises AssertionError with its output if it
    raises.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "asked").write_bytes(pickle.dumps((function, args, options)))
        done = warm(os.environ).run(["call", folder], env=os.environ, cwd=None, timeout_s=_PATIENCE_S)
        assert done.returncode == 0, done.stderr
        return pickle.loads((Path(folder) / "answered").read_bytes())


def for_commands() -> dict[str, str]:
    """Return what a command gets in its environment so that the programs that it starts are forks, if it is one itself."""
    return {VARIABLE: address()}


@contextmanager
def programs_as_forks(where: str | None = None) -> Iterator[None]:
    """Have programs that this process starts during the block be forks, of the process that listens there."""
    where = where or address()
    real = worker_program.program_command

    def command(module: str, *args: str) -> list[str]:
        forked = [sys.executable, "-I", "-S", str(LAUNCHER), where, "module", module, *args]
        return forked if module.startswith(_FORKED) else real(module, *args)

    with patch.object(worker_program, "program_command", command), patch.object(programs, "program_command", command):
        yield


def run_module() -> None:
    """Run a module, as `python -m` does."""
    _, module, *arguments = sys.argv
    # Others compute as those with which they are compared: with as many threads as a new process has.
    _be_new(in_one_thread=module == "workers.serving")
    # Its parent is the process that forks; the one that represents it ends with whom it belongs to.
    os.environ.pop(PARENT_VARIABLE, None)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def run_call() -> None:
    """Call what is asked for in the folder given as the only argument."""
    folder = Path(sys.argv[1])
    function, args, options = pickle.loads((folder / "asked").read_bytes())
    module, _, name = function.partition(":")
    _be_new(in_one_thread=True)
    answer = getattr(importlib.import_module(module), name)(*args, **options)
    (folder / "answered").write_bytes(pickle.dumps(answer))


def _be_new(*, in_one_thread: bool) -> None:
    """Draw other numbers than the forks before: tests must notice anything that depends on them."""
    import numpy as np
    import torch

    random.seed()
    np.random.seed()
    torch.seed()
    if in_one_thread:
        torch.set_num_threads(1)
