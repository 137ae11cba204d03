"""How FastAPI and the rooms are imported where somebody waits for it: without what is only needed for a document.

::

    with lean_imports():
        import fastapi
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel, ConfigDict

from sdk.imports import is_program, nothing_collected

#: FastAPI looks for them and goes on without: one checks addresses in the OpenAPI document and takes 0.02 s, and the other
#: is for models of pydantic 1, of which it refuses the use; that takes 0.015 s, and a search of it for each field.
_LEFT_OUT = ("email_validator", "pydantic.v1")
#: These models refer to each other, so FastAPI builds them as soon as all are defined.
_REBUILT = "fastapi.openapi.models"


@contextmanager
def lean_imports() -> Iterator[None]:
    """Within the block, import without garbage collection, and let pydantic's models build their schemas when they are first used.

    FastAPI's models of an OpenAPI document take 0.06 s, and only the document needs them. In a process that isn't a
    program of ours, nothing is left out: another thread may be importing it.
    """
    with nothing_collected(), _built_on_first_use(), _left_out(_LEFT_OUT if is_program() else ()):
        yield


@contextmanager
def _built_on_first_use() -> Iterator[None]:
    if not is_program() or "fastapi" in sys.modules:
        yield
        return
    # What models inherit that are defined meanwhile.
    before, rebuild = BaseModel.model_config, BaseModel.__dict__["model_rebuild"]

    def later(cls: type[BaseModel], /, **given: Any) -> bool | None:
        caller = getattr(inspect.currentframe(), "f_back", None)
        if caller is not None and caller.f_globals.get("__name__") == _REBUILT:
            return None
        done: bool | None = rebuild.__func__(cls, **given)
        return done

    BaseModel.model_config = ConfigDict(**before, defer_build=True)
    BaseModel.model_rebuild = classmethod(later)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        BaseModel.model_config = before
        BaseModel.model_rebuild = rebuild  # type: ignore[method-assign]


@contextmanager
def _left_out(names: tuple[str, ...]) -> Iterator[None]:
    missing = [name for name in names if name not in sys.modules]
    # Python's way to say that there is no such module.
    sys.modules.update(dict.fromkeys(missing))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]
