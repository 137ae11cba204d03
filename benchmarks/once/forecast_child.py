"""One training of `forecast.py`, in a process of its own: what it took above its imports."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from unittest import mock

_EVERY_S = 0.02


def main() -> None:
    """Train in the folder that is the only argument, as standard input says, and print the peak as JSON."""
    asked = json.load(sys.stdin)
    import bitsandbytes  # noqa: F401
    import peft  # noqa: F401

    import workers.pipelines.training.train  # noqa: F401
    from benchmarks.pipelines import train
    from sdk.schemas.training import TrainingSpec
    from workers.pipelines.training import choosing

    mock.patch.object(choosing, "needs_checkpointing", return_value=asked["checkpointing"]).start()
    folder, stop = Path(sys.argv[1]), threading.Event()
    before, imported = _bytes("RssAnon"), _bytes("VmRSS")
    peak = [0]

    def watch() -> None:
        while not stop.is_set():
            peak[0] = max(peak[0], _bytes("RssAnon") - before)
            time.sleep(_EVERY_S)

    watcher = threading.Thread(target=watch)
    watcher.start()

    report = train(folder / "base", folder / "rows.jsonl", folder / "out", TrainingSpec.model_validate(asked["spec"]))
    stop.set()
    watcher.join()
    said = {"peak_bytes": peak[0], "import_bytes": imported}
    print(json.dumps({**said, "metrics": report.metrics, "training": report.training}))


def _bytes(name: str) -> int:
    with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123 - read fifty times a second
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))


if __name__ == "__main__":
    main()
