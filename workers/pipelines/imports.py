"""How a process imports transformers and libraries on top of it, without parts that are never used.

with nothing_collected(ever=True), nothing_searched():
    import transformers
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from workers.pipelines.orders import LIGHT

#: Only accelerate's command line uses it, but the library imports it if it is installed.
_UNUSED = "boto3"


@contextmanager
def nothing_searched() -> Iterator[None]:
    """Make the block import transformers and accelerate without what they look for and don't need.

    That is 0.4 of 3.4 s of the processor for a child's imports: transformers looks for `__all__` in each line of each of
    its 3,400 files, and accelerate imports boto3.
    """
    finder = _ShortSearch()
    leave_out = _UNUSED not in sys.modules
    sys.meta_path.insert(0, finder)
    if leave_out:
        # Makes the module look missing.
        sys.modules[_UNUSED] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        if leave_out:
            del sys.modules[_UNUSED]


def import_libraries(pipeline: str | None = None) -> None:
    """Import torch and bitsandbytes in the cheapest way, if they are installed and the pipeline needs them.

    bitsandbytes passes four functions to `torch.compile` during its import, which loads all of inductor: 0.8 s, a
    quarter of a child's imports. No job calls them on a CPU; if one is called, it is compiled then.
    """
    if pipeline in LIGHT:
        leave_out_torch()
        return
    # It warns if an optional package with a faster kernel for the CPU is missing.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    with suppress(ImportError):
        torch: Any = importlib.import_module("torch")
        at_once = torch.compile
        torch.compile = _when_called(at_once)
        try:
            importlib.import_module("bitsandbytes")
        finally:
            torch.compile = at_once


def _when_called(at_once: Callable[..., Any]) -> Callable[..., Any]:
    """Return a substitute for `torch.compile`, which calls it only when the given function is first called."""

    def compile_later(function: Callable[..., Any] | None = None, **options: Any) -> Any:
        if function is None:
            return lambda found: compile_later(found, **options)
        compiled: list[Callable[..., Any]] = []

        @wraps(function)
        def call(*args: Any, **given: Any) -> Any:
            if not compiled:
                compiled.append(at_once(function, **options))
            return compiled[0](*args, **given)

        return call

    return compile_later


def leave_out_torch() -> None:
    """Make this process, which loads tokenizers but no model, do without torch from now on, unless it is loaded already.

    Importing it takes three quarters of the 2 s of such a process. transformers, and TRL's templates, can work without it.
    """
    if "torch" not in sys.modules:
        # Makes the module look missing.
        sys.modules["torch"] = None  # type: ignore[assignment]
        # Otherwise it says on standard error that there are no models.
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")


class _ShortSearch(MetaPathFinder):
    """Finds the module with which transformers reads its own files, and shortens the part of each that it reads."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return nothing for any other module."""
        spec = PathFinder.find_spec(name, path, target) if name == "transformers.utils.import_utils" else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_shorten(module: ModuleType) -> None:
            execute(module)
            # If the name changes, the search just takes as long as before.
            if (search := getattr(module, "fetch__all__", None)) is not None:
                module.fetch__all__ = shortened(search)  # type: ignore[attr-defined]

        spec.loader.exec_module = execute_and_shorten  # type: ignore[method-assign]
        return spec


def shortened(search: Callable[[str], list[str]]) -> Callable[[str], list[str]]:
    """Return a search that starts at a source's last line that begins with `__all__`, where `search` begins to read."""

    def search_the_end(source: str) -> list[str]:
        return search(source[source.rfind("\n__all__") + 1 :])

    return search_the_end
