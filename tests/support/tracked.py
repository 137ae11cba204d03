"""What trackers hold, read with their own libraries; and MLflow's own server."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support import processes
from support.waiting import wait_until

Values = dict[str, dict[int, float]]


@contextmanager
def mlflow_server(folder: Path, port: int | None = None) -> Iterator[str]:
    """MLflow's REST server over SQLite; yield its URL."""
    folder.mkdir(exist_ok=True)
    port = port or processes.free_port()
    environment = {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder}/mlflow.db",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": str(folder / "files"),
    }
    command = [sys.executable, "-m", "flask", "--app", "mlflow.server", "run", "--port", str(port)]
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: _answers(url, process), lambda: (folder / "server.log").read_text())
        yield url
    finally:
        process.kill()
        process.wait()


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "MLflow's server has ended"
    try:
        # Its first answer makes its tables.
        body = urllib.request.Request(f"{url}/api/2.0/mlflow/experiments/get?experiment_id=0")
        with urllib.request.urlopen(body, timeout=60) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def in_mlflow(client: Any, run: str) -> Values:
    """The metrics of a run: of each step the value with the latest time, as MLflow draws it."""
    found: Values = {}
    for name in client.get_run(run).data.metrics:
        history = sorted(client.get_metric_history(run, name), key=lambda metric: (metric.step, metric.timestamp))
        found[name] = {metric.step: metric.value for metric in history}
    return found


def in_tensorboard(folder: Path) -> tuple[Values, dict[str, str]]:
    """The scalars of a folder, and its texts, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    reader.Reload()
    events = {name: reader.Scalars(name) for name in reader.Tags()["scalars"]}
    scalars = {name: {event.step: event.value for event in each} for name, each in events.items()}
    assert all(len(scalars[name]) == len(each) for name, each in events.items()), "a step stands twice"
    texts = {name: reader.Tensors(name)[-1].tensor_proto.string_val[0].decode() for name in reader.Tags()["tensors"]}
    return scalars, texts


def in_wandb(file: Path) -> list[Any]:
    """The records of a file that is sent later, once it is whole: another process writes it, and its last record is of the end."""

    def whole() -> list[Any]:
        records = _records_in_wandb(file)
        return records if any(record.WhichOneof("record_type") == "exit" for record in records) else []

    return wait_until(whole, lambda: f"{file} has no end", 60)


def _records_in_wandb(file: Path) -> list[Any]:
    """Read blocks of 32 KiB as in LevelDB's logs, after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts, found = file.read_bytes(), 7, b"", []
    assert data[:4] in (b":W&B", b"")
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        if at + 7 + length > len(data):
            break
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            found.append(wandb_internal_pb2.Record.FromString(parts))
            parts = b""
    return found
