"""One training of `forecast.py`, in a process of its own: what it took above its imports."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

_EVERY_S = 0.02


def main() -> None:
    """Train in the folder that is the only argument, as standard input says, and print the peak as JSON."""
    asked = json.load(sys.stdin)
    import bitsandbytes  # noqa: F401
    import peft  # noqa: F401
    import trl  # noqa: F401

    from sdk.schemas.training import TrainingSpec
    from workers.pipelines.training import train as training

    training.needs_checkpointing = lambda *_: asked["checkpointing"]
    folder, stop = Path(sys.argv[1]), threading.Event()
    before, phase = _anonymous_bytes(), ["start"]
    peaks: dict[str, int] = {}

    def watch() -> None:
        while not stop.is_set():
            peaks[phase[0]] = max(peaks.get(phase[0], 0), _anonymous_bytes() - before)
            time.sleep(_EVERY_S)

    watcher = threading.Thread(target=watch)
    watcher.start()

    def note(progress: object) -> None:
        phase[0] = f"{progress.phase} {progress.step or 0}"  # type: ignore[attr-defined]

    report = training.train(
        base=folder / "base",
        base_name="base",
        base_revision=None,
        data=folder / "rows.jsonl",
        eval_data=None,
        out=folder / "out",
        spec=TrainingSpec.model_validate(asked["spec"]),
        on_progress=note,
    )
    stop.set()
    watcher.join()
    said = {"peak_bytes": max(peaks.values()), "by_phase": peaks, "import_bytes": before}
    print(json.dumps({**said, "metrics": report.metrics, "training": report.training}))


def _anonymous_bytes() -> int:
    with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123 - read fifty times a second
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


if __name__ == "__main__":
    main()
