"""What a child imports, and what it leaves until it is asked for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec

import pytest
from support.processes import environment

from workers.child.imports import _when_called

# Importing it here would load the compiler that a child does without, into each process that collects tests.
if find_spec("bitsandbytes") is None:
    pytest.skip("needs bitsandbytes", allow_module_level=True)


def _run(program: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(HF_HUB_OFFLINE="1"), capture_output=True, text=True, check=True
    )
    assert not done.stderr
    return done.stdout.split()


def test_no_compiler_is_loaded_and_torch_is_as_it_was() -> None:
    program = """
import sys
import torch
real = torch.compile
from workers.child.imports import import_libraries
import_libraries()
print("bitsandbytes" in sys.modules, "torch._inductor.compile_fx" in sys.modules, torch.compile is real)
"""
    assert _run(program) == ["True", "False", "True"]


@pytest.mark.parametrize("options", [{}, {"dynamic": False}])
def test_a_function_is_compiled_once_when_it_is_first_called(options: dict[str, bool]) -> None:
    compiled: list[object] = []

    def compile_at_once(function: Callable[[int], int], **given: bool) -> Callable[[int], int]:
        compiled.append((function.__name__, given))
        return lambda number: function(number) + 1

    later = _when_called(compile_at_once)

    def double(number: int) -> int:
        return 2 * number

    found = later(**options)(double) if options else later(double)
    assert compiled == []
    assert [found(1), found(2)] == [3, 5]
    assert compiled == [("double", options)]


def test_a_preview_loads_neither() -> None:
    program = """
import sys
from workers.child.imports import import_libraries
import_libraries("data")
print("torch" in sys.modules)
"""
    assert _run(program) == ["False"]
