"""A program that answers one request in a process of its own.

Standard input is the request; the last line of standard output is the answer, or `{"refused", "reason"}` with a sentence.
What is read may be untrusted, so the process has no network if the system allows that, and limits.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from sdk.imports import nothing_collected
from sdk.schemas.wire import read_json
from workers.pipelines.errors import PipelineError
from workers.pipelines.imports import leave_out_torch, nothing_searched
from workers.pipelines.sandbox import limit, stand_alone

#: It writes nothing itself; libraries write small files.
_MOST_WRITTEN_BYTES = 64 * 1024 * 1024


R = TypeVar("R", bound=BaseModel)


def answer_about(
    asked: type[R],
    make: Callable[[R], BaseModel],
    *,
    data: Callable[[R], str],
    spare_bytes: Callable[[int], int],
    processor_s: Callable[[int], int],
) -> int:
    """Answer the request on standard input about the file `data`, whose size decides the limits, with a tokenizer and no
    more libraries. Returns the exit code.
    """

    def load(request: R) -> None:
        leave_out_torch()
        # Loaded before setting the limits.
        from transformers import AutoTokenizer  # noqa: F401

        size_bytes = Path(data(request)).stat().st_size
        limit(
            spare_bytes=spare_bytes(size_bytes),
            processor_s=processor_s(size_bytes),
            file_bytes=_MOST_WRITTEN_BYTES,
        )

    return answer(asked, make, load=load)


def answer(asked: type[R], make: Callable[[R], BaseModel], *, load: Callable[[R], None]) -> int:
    """Answer the request on standard input; `load` imports the libraries. Returns the exit code."""
    request = read_json(asked, sys.stdin.buffer.read())
    stand_alone()
    with nothing_collected(ever=True), nothing_searched():
        load(request)
    try:
        # It imports more libraries.
        with nothing_searched():
            said = make(request).model_dump_json()
    except PipelineError as error:
        said = json.dumps({"refused": error.message, "reason": error.reason.value})
    sys.stdout.write(said + "\n")
    return 0
