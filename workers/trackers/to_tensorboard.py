"""TensorBoard: files of events in a folder for each run, below `TENSORBOARD_LOGGING_DIR`.

A file that goes on after a step says so, and readers drop what earlier files have from there on.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from sdk.schemas.series import Point
from workers.trackers.tracker import BegunRun, RunEnd, Training, shown

_FOLDER = "TENSORBOARD_LOGGING_DIR"


class ToTensorboard:
    """A folder of events."""

    def __init__(self) -> None:
        self._writer: EventFileWriter | None = None
        #: The newest step that was written; None: nothing was, and other files may have any.
        self._last: int | None = None

    def begin(self, training: Training, run: str | None) -> BegunRun:
        """Write into the folder of a run, and the parameters into a new one. Raises OSError, RuntimeError."""
        if not (root := os.environ.get(_FOLDER)):
            raise RuntimeError(f"{_FOLDER} is not set for the worker; set it to the folder that TensorBoard shows")
        name = run or training.title
        folder = Path(root) / name
        there = folder.is_dir()
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventFileWriter(str(folder))
        if not there:
            self._text("params", json.dumps({key: shown(value) for key, value in training.params.items()}, indent=2))
        return BegunRun(name, continues=there and run is not None)

    def log(self, points: Sequence[Point], at_s: float) -> None:
        """Write points; those of steps that were written before are dropped by readers. Raises OSError."""
        if self._last is None or points[0].step <= self._last:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(event_pb2.Event(step=points[0].step, wall_time=at_s, session_log=start))
        for point in points:
            values = [summary_pb2.Summary.Value(tag=name, simple_value=value) for name, value in point.values.items()]
            self._write(event_pb2.Event(step=point.step, wall_time=at_s, summary=summary_pb2.Summary(value=values)))
        self._last = points[-1].step
        self._open.flush()

    def end(self, end: RunEnd | None) -> None:
        """Write how the run ended, and close the file. Raises OSError."""
        if end is not None:
            self._text("state", end)
        self._open.close()
        self._writer = None

    @property
    def _open(self) -> EventFileWriter:
        assert self._writer is not None, "it has begun"
        return self._writer

    def _text(self, tag: str, text: str) -> None:
        plugin = summary_pb2.SummaryMetadata.PluginData(plugin_name="text")
        tensor = tensor_pb2.TensorProto(
            dtype=types_pb2.DT_STRING,
            string_val=[f"```\n{text.replace('```', '')}\n```".encode()],
            tensor_shape=tensor_shape_pb2.TensorShapeProto(dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=1)]),
        )
        value = summary_pb2.Summary.Value(
            tag=tag, tensor=tensor, metadata=summary_pb2.SummaryMetadata(plugin_data=plugin)
        )
        self._write(event_pb2.Event(step=max(0, self._last or 0), summary=summary_pb2.Summary(value=[value])))

    def _write(self, event: event_pb2.Event) -> None:
        if not event.wall_time:
            event.wall_time = time.time()
        self._open.add_event(event)


TRACKER = ToTensorboard
