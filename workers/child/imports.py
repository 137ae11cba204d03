"""How the child imports its libraries: without what they say of themselves, and without a compiler that nothing asks for."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any

from workers.pipelines.imports import leave_out_torch

#: Pipelines that do without torch.
_LIGHT = frozenset({"data"})


def import_libraries(pipeline: str | None = None) -> None:
    """Import torch and bitsandbytes in the way that costs least, where they are installed, and needed by the pipeline.

    bitsandbytes hands four functions to `torch.compile` while it is imported, which loads the whole of inductor: 0.8 s,
    a quarter of a child's imports. No job calls them on a processor; where one is called, it is compiled then.
    """
    if pipeline in _LIGHT:
        leave_out_torch()
        return
    # It warns where an optional package with a faster kernel for the CPU is missing.
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
    """Return what stands for `torch.compile`, and calls it when the function that it was given is first called."""

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
