"""The child process: one order in, files and one outcome out. torch lives and dies in here.

Progress goes line by line as JSON to the pipe that was its standard output; what libraries print goes to standard
error. The child ends with its worker.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

from sdk.schemas.events import Progress
from workers.orders import (
    FAULT_FILE,
    ORDER_FILE,
    OUT_FOLDER,
    RESULT_FILE,
    EvaluationOrder,
    Fault,
    MergeOrder,
    Order,
    Outcome,
    TrainingOrder,
)

_PR_SET_PDEATHSIG = 1
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main() -> int:
    """Carry out the order in the folder that is the only argument."""
    folder = Path(sys.argv[1])
    pipe = _take_stdout()
    _die_with_parent()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    order = Order.model_validate_json((folder / ORDER_FILE).read_bytes()).order

    def report(progress: Progress) -> None:
        pipe.write(progress.model_dump_json(exclude_none=True) + "\n")
        pipe.flush()

    try:
        outcome = _carry_out(order, folder / OUT_FOLDER, report)
    except Exception as error:
        _leave_fault(folder, error)
        raise
    (folder / RESULT_FILE).write_text(outcome.model_dump_json())
    return 0


def _take_stdout() -> IO[str]:
    """Return standard output as a pipe of our own, and point it at standard error for everybody else."""
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return pipe


def _die_with_parent() -> None:
    """Ask Linux for SIGKILL when the worker is gone; it may be so already."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def _carry_out(
    order: TrainingOrder | EvaluationOrder | MergeOrder, out: Path, report: Callable[[Progress], None]
) -> Outcome:
    out.mkdir()
    if isinstance(order, TrainingOrder):
        from workers.pipelines.train import train

        training = train(
            base=Path(order.base),
            base_name=order.base_name,
            base_revision=order.base_revision,
            data=Path(order.data),
            eval_data=None if order.eval_data is None else Path(order.eval_data),
            out=out,
            spec=order.spec,
            on_progress=report,
        )
        return Outcome(training=training)
    if isinstance(order, MergeOrder):
        from workers.pipelines.merge import merge

        merged = merge(
            base=Path(order.base),
            adapter=Path(order.adapter),
            quantization=order.quantization,
            out=out,
            spec=order.spec,
            on_progress=report,
        )
        return Outcome(merge=merged)
    from workers.pipelines.evaluate import evaluate

    reports = [
        evaluate(
            base=Path(item.base),
            adapter=None if item.adapter is None else Path(item.adapter),
            quantization=item.quantization,
            data=Path(order.data),
            spec=order.spec,
            on_progress=report,
        )
        for item in order.items
    ]
    return Outcome(evaluations=reports)


def _leave_fault(folder: Path, error: Exception) -> None:
    """Say why, in a word and a sentence, where the worker looks."""
    from workers.pipelines.errors import PipelineError

    if isinstance(error, PipelineError):
        fault = Fault(reason=str(error.reason), message=error.message)
    elif (isinstance(error, OSError) and error.errno in _FULL_DISK) or "No space left" in str(error):
        fault = Fault(
            reason="disk_full", message="the worker's disk is full; free some space there, then submit the job again"
        )
    elif isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        fault = Fault(reason="oom", message="memory ran out; lower batch_size or max_length, then submit the job again")
    else:
        said = (str(error).splitlines() or [""])[0][:300]
        fault = Fault(reason="internal", message=f"{type(error).__name__}: {said}; the worker's log has the details")
    (folder / FAULT_FILE).write_text(fault.model_dump_json())


if __name__ == "__main__":
    sys.exit(main())
