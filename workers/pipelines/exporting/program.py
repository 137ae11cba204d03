"""An export in a process of its own: `python -m workers.pipelines.exporting.program`, with a JSON request on standard input.

The last line of standard output is one JSON object: an `ExportReport`, or `{"refused", "code", "param"}`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from sdk.errors import AdapterctlError, InvalidBase, disk_explained
from sdk.schemas.export import ExportReport, ExportRequest
from sdk.schemas.wire import read_json
from workers.pipelines.errors import PipelineError
from workers.pipelines.sandbox import leave_network


def export(request: ExportRequest) -> ExportReport:
    """Write the file that is requested. Raises AdapterctlError."""
    try:
        with disk_explained(f"writing {request.out}"):
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
    request = read_json(ExportRequest, sys.stdin.buffer.read())
    # Before the libraries, which start threads.
    leave_network()
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        said = export(request).model_dump_json()
    except AdapterctlError as error:
        Path(request.out).unlink(missing_ok=True)
        said = json.dumps({"refused": error.message, "code": error.code.value, "param": error.param})
    sys.stdout.write(said + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
