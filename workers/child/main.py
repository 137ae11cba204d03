"""The child process: one order in, files and one report out. Only this process imports torch.

Reports go line by line as JSON to the pipe that was its standard output; output of libraries goes to standard error.
Started without a folder, it imports what a job needs, touches no card, and waits on standard input for a folder. The
child ends with its worker.
"""

from __future__ import annotations

import errno
import faulthandler
import importlib
import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

from pydantic import TypeAdapter

from sdk.imports import nothing_collected
from sdk.schemas.advice import Advice
from sdk.schemas.events import Progress
from sdk.schemas.failures import FailureReason
from sdk.schemas.series import PointChunk
from sdk.schemas.sweeps import RungAnswer
from sdk.schemas.wire import Wire
from workers.child.protocol import (
    DISK_FULL_STATUS,
    FAULT_FILE,
    INTERRUPTED_STATUS,
    ORDER_FILE,
    OUT_FOLDER,
    READY_VARIABLE,
    RESULT_FILE,
    Fault,
    News,
    ReachedRung,
    WrittenCheckpoint,
    answer_file,
)
from workers.pipelines.imports import import_libraries, nothing_searched
from workers.pipelines.orders import AnyOrder, MergeOrder
from workers.pipelines.sandbox import die_with_parent

_PARENT_VARIABLE = "ADAPTER_WORKER_PID"
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: The messages of libraries that don't keep an error number.
_FULL_DISK_WORDS = (*(os.strerror(number) for number in _FULL_DISK), "PytorchStreamWriter failed writing")


def run() -> NoReturn:
    """Be a child, and end at once when its work is done.

    Shutting these libraries down in order takes a second or more, which a worker that shuts down may not have, and some say
    then what they have not freed, in many lines that would follow those of the job.
    """
    try:
        status = main()
    except Exception:  # noqa: BLE001 - printed as the interpreter would print it
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main() -> int:
    """Carry out the order in the folder given as the only argument or on standard input."""
    pipe = _take_stdout()
    die_with_parent(os.environ.get(_PARENT_VARIABLE))
    faulthandler.enable()
    # The child has everything it needs and must not download anything, whatever its worker may do.
    os.environ["HF_HUB_OFFLINE"] = "1"
    given = Path(sys.argv[1]) if len(sys.argv) > 1 else _wait_warm()
    if given is None:
        return 0
    folder = given.absolute()
    # If a library opens a bare name, it finds only the job's own files.
    os.chdir(folder)
    order = (folder / ORDER_FILE).read_bytes()
    try:
        (folder / OUT_FOLDER).mkdir()
        report = _carry_out(order, _Process(folder, pipe))
        if report is None:
            return INTERRUPTED_STATUS
        (folder / RESULT_FILE).write_text(report.model_dump_json())
    except Exception as error:
        fault = _fault(error)
        try:
            (folder / FAULT_FILE).write_text(fault.model_dump_json())
        except OSError:
            if fault.reason is FailureReason.DISK_FULL:
                return DISK_FULL_STATUS
        if fault.reason is FailureReason.INTERNAL:
            raise
        return 1
    return 0


def _take_stdout() -> IO[str]:
    """Return standard output as a pipe of our own, and redirect it to standard error for everything else."""
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return pipe


def _wait_warm() -> Path | None:
    """Import what takes longest, then return the folder of the next order; None if the worker has none."""
    with nothing_collected(ever=True), nothing_searched():
        if (only := os.environ.pop(READY_VARIABLE, None)) is not None:
            importlib.import_module(f"workers.pipelines.{only}")
            return _given()
        import_libraries()
        # First what every model needs; an order that comes meanwhile doesn't wait for what only other pipelines need.
        for name in ("model.adapters", "training.train", "scoring.evaluate"):
            if select.select([sys.stdin], [], [], 0)[0]:
                break
            importlib.import_module(f"workers.pipelines.{name}")
    return _given()


def _given() -> Path | None:
    line = sys.stdin.readline()
    return Path(json.loads(line)) if line.endswith("\n") else None


def _carry_out(text: bytes, host: _Process) -> Wire | None:
    """Return the result of a pipeline; None if it was told to stop and has written a checkpoint."""
    order = TypeAdapter(AnyOrder).validate_json(text)
    with nothing_collected(ever=True), nothing_searched():
        # A plain merge imports what it needs itself.
        if not (isinstance(order, MergeOrder) and order.may_be_plain):
            import_libraries(order.pipeline)
        module = importlib.import_module(f"workers.pipelines.{order.module}")
    found: Wire | None = module.carry_out(order, host)
    return found


class _Process:
    """This process, as the host of a pipeline."""

    def __init__(self, folder: Path, pipe: IO[str]) -> None:
        self._folder = folder
        self._pipe = pipe
        self._listens = False
        self.told_to_stop = False

    @property
    def out(self) -> Path:
        """The folder for the result's files."""
        return self._folder / OUT_FOLDER

    def report(self, progress: Progress) -> None:
        """Report the pipeline's progress."""
        self._say(News(progress=progress))

    def stop_in_order(self) -> None:
        """On SIGTERM, leave it to the pipeline to end."""
        if not self._listens:
            signal.signal(signal.SIGTERM, self._stop)
            self._listens = True

    def wrote_checkpoint(self, step: int, total: int, folder: Path) -> None:
        """Report that a checkpoint is complete and on the disk."""
        self._say(News(checkpoint=WrittenCheckpoint(step=step, total=total, folder=str(folder))))

    def measured(self, chunk: PointChunk) -> None:
        """Report numbers of a training by step."""
        self._say(News(points=chunk))

    def advised(self, advice: Sequence[Advice]) -> None:
        """Report all that a training is advised so far."""
        self._say(News(advice=list(advice)))

    def reached_rung(self, number: int, step: int, loss: float) -> None:
        """Ask whether a training of a sweep goes on after a rung."""
        self._say(News(rung=ReachedRung(number=number, step=step, loss=loss)))

    def goes_on(self, number: int) -> bool | None:
        """Whether it goes on after a rung; None: there is no answer yet."""
        try:
            answer = (self._folder / answer_file(number)).read_bytes()
        except FileNotFoundError:
            return None
        return RungAnswer.model_validate_json(answer).goes_on

    def _say(self, news: News) -> None:
        self._pipe.write(news.model_dump_json(exclude_none=True) + "\n")
        self._pipe.flush()

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.told_to_stop = True


def _fault(error: Exception) -> Fault:
    """Report the reason, as a word and a sentence."""
    from workers.pipelines.errors import PipelineError

    text = str(error)
    if isinstance(error, PipelineError):
        return Fault(reason=error.reason, message=error.message)
    if (isinstance(error, OSError) and error.errno in _FULL_DISK) or any(word in text for word in _FULL_DISK_WORDS):
        return Fault(
            reason=FailureReason.DISK_FULL,
            message="the worker's disk is full; free some space there, then submit the job again",
        )
    if isinstance(error, MemoryError) or "out of memory" in text.lower():
        return Fault(
            reason=FailureReason.OOM,
            message="memory ran out; lower batch_size or max_length, then submit the job again",
        )
    said = (text.splitlines() or [""])[0][:300]
    return Fault(
        reason=FailureReason.INTERNAL, message=f"{type(error).__name__}: {said}; the job's log has the details"
    )


if __name__ == "__main__":
    run()
