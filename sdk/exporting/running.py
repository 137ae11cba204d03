"""The worker's program that writes an export and reads it back, run in a process of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sdk import worker_program
from sdk.errors import AdapterctlError, Unavailable, raise_for
from sdk.schemas.export import ExportReport, ExportRequest, PlainLoraReport, PlainLoraRequest

_PROGRAM = "workers.pipelines.exporting.program"
#: A model's tokenizer needs transformers, which takes some seconds to load, or a minute from a cold disk.
_TIMEOUT_S = 300.0
_BYTES_PER_S = 5_000_000


@dataclass(frozen=True)
class Exported:
    """A GGUF file that was written and read back."""

    path: Path
    kind: Literal["adapter", "model"]
    report: ExportReport
    #: The Ollama Modelfile beside it, if one was requested.
    modelfile: Path | None = None


@dataclass(frozen=True)
class ExportedLora:
    """The folder of a plain LoRA that was written and read back."""

    path: Path
    report: PlainLoraReport


def run(request: ExportRequest | PlainLoraRequest, folder: Path, *, reads: Iterable[Path]) -> dict[str, Any]:
    """Return what the program reports about an export of `folder`.

    The more bytes the weight files in the folders `reads` have, the longer it may take. Raises the error with which the
    program refuses, TimedOut, Unavailable if it ends without an answer.
    """
    files = (path for each in reads for path in each.glob("*.safetensors"))
    timeout_s = _TIMEOUT_S + sum(path.stat().st_size for path in files if path.is_file()) / _BYTES_PER_S
    late = f"{folder} was not exported within {timeout_s:.0f} s; try again on a machine that is less busy"
    asked = request.model_dump_json().encode()
    said = worker_program.run_program(_PROGRAM, asked=asked, timeout_s=timeout_s, late=late, param="target")
    if said is None:
        raise Unavailable(
            f"{folder} could not be exported, since its program ended without an answer: it was killed, perhaps for its "
            "memory, or can't load its libraries; free some memory, or run: pip install 'adapterctl[worker]'"
        )
    if "unexpected" in said:
        raise AdapterctlError(
            f"{folder} could not be exported because of an unexpected {said['unexpected']}; report it with the folder's config.json"
        )
    if "refused" in said:
        raise_for(str(said["code"]), str(said["refused"]), said.get("param"))
    return said
