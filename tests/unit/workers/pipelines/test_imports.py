"""What is not looked through while libraries are imported, and that all is found nevertheless."""

from __future__ import annotations

import sys
from pathlib import Path

from support import processes
from support.processes import environment

from workers.pipelines.imports import shortened


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


def test_what_is_left_out_is_there_for_who_asks_later() -> None:
    program = """
import sys
from workers.pipelines.imports import import_libraries
from workers.pipelines.imports import nothing_searched
with nothing_searched():
    import_libraries("training")
    import accelerate, transformers
    print("boto3" in sys.modules and sys.modules["boto3"] is not None)
print("boto3" in sys.modules)
import boto3
from transformers.utils import import_utils
from transformers import LlamaForCausalLM
print(import_utils.fetch__all__.__name__, len(sys.meta_path) == len({id(finder) for finder in sys.meta_path}))
"""
    done = processes.finished(sys.executable, "-c", program, env=environment(), check=True)
    assert done.stdout.split() == ["False", "False", "search_the_end", "True"]
