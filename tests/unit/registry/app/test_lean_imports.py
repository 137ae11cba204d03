"""What FastAPI makes for documents alone is not made for commands over a folder, and works once it is needed."""

from __future__ import annotations

import json
import sys

from support import processes

PROGRAM = """
import json, sys
from sdk.imports import begin_program
begin_program()
import registry.app.embedded
from fastapi.openapi.models import PathItem
from pydantic import BaseModel

class Later(BaseModel):
    number: int

later = PathItem.__pydantic_complete__
left_out = [name for name in ("email_validator", "pydantic.v1") if name in sys.modules]
import pydantic.v1
shown = PathItem(summary="all")
print(json.dumps([later, left_out, Later.__pydantic_complete__, shown.summary, PathItem.__pydantic_complete__]))
"""


def test_models_of_the_document_are_built_when_it_is_asked_for() -> None:
    done = processes.finished(sys.executable, "-c", PROGRAM, env=processes.environment(), check=True)
    assert json.loads(done.stdout) == [False, [], True, "all", True]
