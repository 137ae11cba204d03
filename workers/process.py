"""Starting the child, reading its progress, and ending it with all that it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from sdk.schemas.events import Progress

#: Between SIGTERM and SIGKILL, in seconds.
GRACE_S = 5.0
_LOOK_S = 0.2
LOG_FILE = "child.log"


def run_child(folder: Path, *, on_progress: Callable[[Progress], None], must_stop: Callable[[], bool]) -> int:
    """Run the order in `folder` to its end; return the exit status, negative for a signal.

    The child has a session of its own, so that ending it ends its own children too. `must_stop` is asked a few times
    a second. The child's tokens are none: it needs no network.
    """
    environment = {
        key: value for key, value in os.environ.items() if key not in ("ADAPTERCTL_TOKEN", "REGISTRY_BROKER_URL")
    }
    environment.setdefault("TOKENIZERS_PARALLELISM", "false")
    with (folder / LOG_FILE).open("wb") as log:
        child = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "workers.child", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
            env=environment,
        )
    reader = threading.Thread(target=_read, args=(child, on_progress), daemon=True)
    reader.start()
    try:
        while child.poll() is None:
            if must_stop():
                end_group(child)
                break
            try:
                child.wait(_LOOK_S)
            except subprocess.TimeoutExpired:
                continue
    finally:
        end_group(child)
        reader.join(timeout=5)
        if child.stdout is not None:
            child.stdout.close()
    return child.returncode


def _read(child: subprocess.Popen[bytes], on_progress: Callable[[Progress], None]) -> None:
    if child.stdout is None:
        return
    for line in child.stdout:
        try:
            progress = Progress.model_validate_json(line)
        except ValidationError:
            # A line that was cut when the child was killed.
            continue
        on_progress(progress)


def end_group(child: subprocess.Popen[bytes]) -> None:
    """End the child's whole session: SIGTERM, a grace, SIGKILL; returns once the child is gone."""
    for number, patience_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, None)):
        try:
            os.killpg(child.pid, number)
        except (ProcessLookupError, PermissionError):
            # The group is gone already.
            child.wait()
            return
        try:
            child.wait(patience_s)
        except subprocess.TimeoutExpired:
            continue
