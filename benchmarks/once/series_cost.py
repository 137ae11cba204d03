"""What a training's series costs: `PYTHONPATH=tests:benchmarks python -m benchmarks.once.series_cost [PAIRS STEPS]`.

The same training over the tests' tiny Llama, by turns with its points thrown away and with them sent as a worker does: each
as a line of JSON, read again, held, and sent in batches to a registry over PostgreSQL, whose own processes are not counted. One thread computes;
"own" is what the points take by the clocks of threads: of the one that computes while it reports, and of all others.
Its figures in RESULTS.md are of 2026-11-30.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from fleet import Site, postgres_server, site
from series import claimed, submitted
from support import tiny
from support.trainings import Checkpoints, run_training

from sdk.client import Client
from sdk.schemas.series import PointChunk
from workers.child.protocol import News
from workers.kinds.points import PointSender
from workers.lease.heartbeat import Lease

PAIRS, STEPS = 7, 300
#: What a step of the tiny base computes; a real one computes more.
TRAINING: dict[str, Any] = {"method": "lora", "rank": 8, "batch_size": 8, "grad_accum": 1, "packing": "off"}


def main(pairs: int = PAIRS, steps: int = STEPS) -> None:
    """Print what each pair took, and the median share."""
    torch.set_num_threads(1)
    with postgres_server() as postgres, site(postgres, "cost") as at, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base, rows = tiny.save_llama(folder / "base"), tiny.write_rows(folder / "rows.jsonl", 96)

        def cpu_s(out: str, measured: Callable[[PointChunk], object]) -> float:
            began = time.process_time()
            kept = Checkpoints(folder / f"{out}-kept", measured=measured)
            run_training(base, rows, folder / out, checkpoints=kept, max_steps=steps, **TRAINING)
            return time.process_time() - began

        cpu_s("warm", lambda chunk: None)
        submitted(at, pairs)
        shares, owns = [], []
        for pair in range(pairs):
            without_s = cpu_s(f"without-{pair}", lambda chunk: None)
            with_s, own_s = sent(at, lambda take, out=f"with-{pair}": cpu_s(out, take), steps)  # type: ignore[misc]
            shares.append(with_s / without_s - 1)
            owns.append(own_s / (with_s - own_s))
            print(f"{without_s:.2f} s without, {with_s:.2f} s with: {shares[-1]:+.1%}; own {owns[-1]:.2%}", flush=True)
        print(f"{steps} steps, median of {pairs}: {statistics.median(shares):+.1%}; own {statistics.median(owns):.2%}")


def sent(at: Site, run: Callable[[Callable[[PointChunk], object]], float], steps: int) -> tuple[float, float]:
    """Run a training whose points are sent for a job of its own; return the processor's seconds, and those of the points."""
    reporting_s = 0.0
    worker = Client(at.server.url, at.worker_token, cache=at.folder / "worker")
    held = claimed(worker)
    with Lease(worker, held, claimed_at=time.monotonic()) as lease:
        attempt: Any = SimpleNamespace(client=worker, assignment=held, lease=lease)
        with PointSender(attempt) as sender:

            def take(chunk: PointChunk) -> None:
                nonlocal reporting_s
                began = time.thread_time()
                news = News.model_validate_json(News(points=chunk).model_dump_json(exclude_none=True))
                assert news.points is not None
                sender.measured(news.points)
                reporting_s += time.thread_time() - began

            all_s, computing_s = time.process_time(), time.thread_time()
            run(take)
            sender.finish(60)
            all_s, computing_s = time.process_time() - all_s, time.thread_time() - computing_s
    if at.client.jobs.series(held.job).last_step != steps:
        raise SystemExit("not all points arrived")
    worker.close()
    return all_s, reporting_s + all_s - computing_s


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
