"""What a child imports, and what it leaves until it is asked for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.processes import environment

from workers.child.imports import _Distributions, _when_called, shortened

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


def test_what_is_searched_less_finds_the_same() -> None:
    from transformers.utils import import_utils

    sources = [path.read_text() for path in Path(import_utils.__file__).parents[1].rglob("*.py")]
    search = shortened(import_utils.fetch__all__)
    found = [search(source) for source in sources]
    assert found == [import_utils.fetch__all__(source) for source in sources]
    assert sum(map(bool, found)) > 1000
    assert [search(source) for source in ('__all__ = ["a"]', 'x = 1\n__all__ = [\n    "b",\n]', "x = '__all__'")] == [
        ["a"],
        ["b"],
        [],
    ]


def test_a_package_is_of_the_distribution_that_is_called_like_it_or_of_all_that_have_it() -> None:
    every = metadata.packages_distributions()
    found = _Distributions(lambda: every)
    assert found["torch"] == ["torch"]
    assert found["yaml"] == every["yaml"] == ["PyYAML"]
    assert dict(found).keys() == every.keys()
    assert "no_such_package" not in found


def test_what_is_left_out_is_there_for_who_asks_later() -> None:
    program = """
import sys
from importlib import metadata
real = metadata.packages_distributions
from workers.child.imports import import_libraries, nothing_searched
with nothing_searched():
    import_libraries("training")
    import trl, accelerate, transformers
    print("boto3" in sys.modules and sys.modules["boto3"] is not None)
print(metadata.packages_distributions is real, "boto3" in sys.modules)
import boto3
from transformers.utils import import_utils
from transformers import LlamaForCausalLM
print(import_utils.fetch__all__.__name__, len(sys.meta_path) == len({id(finder) for finder in sys.meta_path}))
"""
    assert _run(program) == ["False", "True", "False", "search_the_end", "True"]
