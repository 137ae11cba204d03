"""What a child imports, and what it leaves until it is asked for."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from support import processes
from support.processes import environment
from support.tiny import save_llama

from workers.pipelines.imports import _when_called

# Importing it here would load the compiler that a child does without, into each process that collects tests.
if find_spec("bitsandbytes") is None:
    pytest.skip("needs bitsandbytes", allow_module_level=True)


def _run(program: str, *arguments: str) -> list[str]:
    done = processes.finished(
        sys.executable, "-c", program, *arguments, env=environment(HF_HUB_OFFLINE="1"), check=True
    )
    assert not done.stderr
    return done.stdout.splitlines()


def test_no_compiler_is_loaded_and_torch_is_as_it_was() -> None:
    program = """
import sys
import torch
real = torch.compile
from workers.pipelines.imports import import_libraries
import_libraries()
print("bitsandbytes" in sys.modules, "torch._inductor.compile_fx" in sys.modules, torch.compile is real)
"""
    assert _run(program) == ["True False True"]


def test_a_training_does_without_the_trainers_of_libraries_and_their_tables() -> None:
    """These would be 90 MiB and half a second of each child."""
    program = """
import sys
from workers.pipelines.imports import import_libraries
import_libraries("training")
import workers.pipelines.training.train
print([name for name in ("transformers.trainer", "trl", "datasets", "pandas") if name in sys.modules])
"""
    assert _run(program) == ["[]"]


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


def _rendered(base: str) -> list[object]:
    """What a base's tokenizer makes of words, and which variant with marks TRL has of each template that it knows."""
    import trl.chat_template_utils as known
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    found: list[object] = [type(tokenizer).__name__, tokenizer("two and two")["input_ids"]]
    for path in sorted(known._CHAT_TEMPLATES_DIR.glob("*.jinja")):
        tokenizer.chat_template = path.read_text()
        try:
            found.append([path.name, known.get_training_chat_template(tokenizer)])
        except ValueError as refusal:
            found.append([path.name, str(refusal)])
    return found


def test_a_preview_loads_neither_and_renders_as_with_them(tmp_path: Path) -> None:
    base = str(save_llama(tmp_path / "base"))
    program = f"""
import json, sys
from workers.pipelines.imports import import_libraries
from workers.pipelines.imports import nothing_searched
{inspect.getsource(_rendered)}
with nothing_searched():
    import_libraries("data")
    print(json.dumps(_rendered({base!r})))
print(sys.modules.get("torch"))
"""
    rendered, torch = _run(program)
    assert torch == "None"
    assert json.loads(rendered) == _rendered(base)
    assert len(json.loads(rendered)) > 10
