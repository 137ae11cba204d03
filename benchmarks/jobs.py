"""What the job system costs: until a training's first step, for a job that does nothing, and for those who watch.

    python benchmarks/jobs.py [ROUNDS JOBS FINISHED WATCHERS SECONDS]

Each of the three parts can be run by itself: `first_steps.py`, `throughput.py`, `watching.py`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import first_steps
import throughput
import watching
from startup import Row


def run(
    rounds: int = first_steps.ROUNDS,
    jobs: int = throughput.JOBS,
    finished: int = throughput.FINISHED,
    watchers: int = watching.WATCHERS,
    seconds: float = watching.SECONDS,
    *,
    base: Path | None = None,
) -> list[Row]:
    """Measure all three; `rounds` trainings of each kind over `base`, and the rest as `throughput` and `watching` say."""
    return [
        *first_steps.run(rounds, base=base),
        *throughput.run(jobs, finished),
        *watching.run(watchers, seconds),
    ]


def main() -> None:
    """Print the table."""
    started = time.perf_counter()
    for row in run(*map(int, sys.argv[1:])):
        print(f"{row['what']:<90} {row['ours']:>9} {row['peer']:>9} {row['ratio']:>6}x  {row['note']}")
    print(f"{time.perf_counter() - started:.0f} s in all")


if __name__ == "__main__":
    main()
