"""How the child imports its libraries: without their messages, and without a compiler that is never used."""

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
    """Import torch and bitsandbytes in the cheapest way, if they are installed and the pipeline needs them.

    bitsandbytes passes four functions to `torch.compile` during its import, which loads all of inductor: 0.8 s, a
    quarter of a child's imports. No job calls them on a CPU; if one is called, it is compiled then.
    """
    if pipeline in _LIGHT:
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
