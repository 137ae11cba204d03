"""An export in a process of its own: `python -m workers.pipelines.exporting.program`, with a JSON request on standard input.

The last line of standard output is one JSON object: an `ExportReport`, a `PlainLoraReport`, or `{"refused", "code", "param"}`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from sdk.errors import AdapterctlError, InvalidBase, disk_explained
from sdk.formats.error_codes import ErrorCode
from sdk.imports import nothing_collected
from sdk.schemas.export import ExportReport, ExportRequest, PlainLoraReport, PlainLoraRequest
from sdk.schemas.wire import read
from workers.pipelines.errors import PipelineError
from workers.pipelines.imports import nothing_searched
from workers.pipelines.sandbox import limit, stand_alone

#: Memory for a tokenizer with some hundred thousand tokens, and for blocks of numbers.
_SPARE_BYTES = 3 * 1024**3


def request_of(said: bytes) -> ExportRequest | PlainLoraRequest:
    """Return the parsed request."""
    asked = json.loads(said)
    if asked["kind"] == "lora":
        return read(PlainLoraRequest, asked)
    return read(ExportRequest, asked)


def export(request: ExportRequest | PlainLoraRequest) -> ExportReport | PlainLoraReport:
    """Write what is requested. Raises AdapterctlError."""
    try:
        with disk_explained(f"writing {request.out}"):
            if isinstance(request, PlainLoraRequest):
                from workers.pipelines.exporting.plain_lora import export_plain_lora

                return export_plain_lora(request)
            if request.kind == "adapter":
                from workers.pipelines.exporting.adapter import export_adapter

                return export_adapter(request)
            from workers.pipelines.exporting.model import export_model

            return export_model(request)
    except PipelineError as error:
        sentence = error.message[:1].lower() + error.message[1:].rstrip(".")
        raise InvalidBase(sentence, param="target") from error


def main() -> int:
    """Answer the request on standard input."""
    request = request_of(sys.stdin.buffer.read())
    stand_alone()
    if request.kind == "lora":
        # Many small decompositions: several threads would wait for the slowest one, which took ten times as long on a
        # busy machine.
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
    with nothing_collected(ever=True), nothing_searched():
        _load(request)
    _limit(request)
    said = _answer(request)
    if "size_bytes" not in said:
        _remove(Path(request.out))
    sys.stdout.write(json.dumps(said) + "\n")
    return 0


def _remove(out: Path) -> None:
    if out.is_dir():
        shutil.rmtree(out, ignore_errors=True)
    else:
        out.unlink(missing_ok=True)


def _answer(request: ExportRequest | PlainLoraRequest) -> dict[str, Any]:
    """Return the report, or why there is none."""
    try:
        return export(request).model_dump(mode="json")
    except AdapterctlError as error:
        return {"refused": error.message, "code": error.code.value, "param": error.param}
    except MemoryError:
        sentence = f"{request.folder} takes more memory than its files should need, or than is free; check them, or free some memory"
        return {"refused": sentence, "code": ErrorCode.UNAVAILABLE.value, "param": "target"}
    except Exception as error:  # noqa: BLE001 - whatever it is, the person is told
        return {"unexpected": f"{type(error).__name__}: {error}"[:300]}


def _load(request: ExportRequest | PlainLoraRequest) -> None:
    """Load the libraries, whose address space doesn't count towards the limits."""
    if isinstance(request, PlainLoraRequest):
        import workers.pipelines.exporting.plain_lora

        if request.base is not None:
            import workers.pipelines.exporting.dora
    elif request.kind == "adapter":
        import workers.pipelines.exporting.adapter
    else:
        import transformers  # noqa: F401

        import workers.pipelines.exporting.model  # noqa: F401


def _limit(request: ExportRequest | PlainLoraRequest) -> None:
    given, times = [*Path(request.folder).glob("*.safetensors")], 2
    if isinstance(request, PlainLoraRequest):
        # A rank above the adapter's makes it larger; one weight of the base at a time is widened.
        given += Path(request.base).glob("*.safetensors") if request.base else []
        times = 2 * (request.rank or 1)
    elif request.tokenizer_from is not None:
        given.append(Path(request.tokenizer_from))
    # Files are mapped, both the input and the output, whose type has at most twice the size. An adapter is also held in memory.
    size_bytes = sum(path.stat().st_size for path in given if path.is_file())
    limit(
        spare_bytes=_SPARE_BYTES + 4 * times * size_bytes,
        processor_s=600 + size_bytes // 1_000_000,
        file_bytes=_SPARE_BYTES + times * size_bytes,
    )


if __name__ == "__main__":
    sys.exit(main())
