"""A program that answers one request about a file of rows, in a process of its own.

Standard input is the request; the last line of standard output is the answer, or `{"refused", "reason"}` with a sentence.
Only a tokenizer is loaded. It and its template may be untrusted, so the process has limits, and no network if the
system allows that.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from sdk.imports import nothing_collected
from sdk.schemas.wire import read_json
from sdk.worker_program import PARENT_VARIABLE
from workers.pipelines.errors import PipelineError
from workers.pipelines.imports import leave_out_torch, nothing_searched
from workers.pipelines.sandbox import die_with_parent, leave_network, limit

#: It writes nothing itself; libraries write small files.
_MOST_WRITTEN_BYTES = 64 * 1024 * 1024


R = TypeVar("R", bound=BaseModel)


def answer(
    asked: type[R],
    make: Callable[[R], BaseModel],
    *,
    data: Callable[[R], str],
    spare_bytes: Callable[[int], int],
    processor_s: Callable[[int], int],
) -> int:
    """Answer the request on standard input about the file `data`; the limits depend on its size. Returns the exit code."""
    request = read_json(asked, sys.stdin.buffer.read())
    # Before importing the libraries, which start threads.
    leave_network()
    die_with_parent(os.environ.get(PARENT_VARIABLE))
    os.environ["HF_HUB_OFFLINE"] = "1"
    leave_out_torch()
    with nothing_collected(ever=True), nothing_searched():
        # Loaded before setting the limits.
        from transformers import AutoTokenizer  # noqa: F401

    size_bytes = Path(data(request)).stat().st_size
    limit(
        spare_bytes=spare_bytes(size_bytes),
        processor_s=processor_s(size_bytes),
        file_bytes=_MOST_WRITTEN_BYTES,
    )
    try:
        # It imports more libraries.
        with nothing_searched():
            said = make(request).model_dump_json()
    except PipelineError as error:
        said = json.dumps({"refused": error.message, "reason": error.reason.value})
    sys.stdout.write(said + "\n")
    return 0
