"""A machine that is too small: memory that runs out in a step, a disk that is full for one job and not for the next.

Limits of a process stand for those of a machine; whoever is refused memory or room can't tell.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator

import pytest
from faults.jobs.ledger import Ledger
from faults.jobs.stack import Stack
from support import processes
from support.workplace import Running

from registry.principal import Role
from sdk.schemas.jobs import JobState

pytestmark = pytest.mark.slow

#: Whose jobs go to the small machine alone.
SPACE = "small"
#: What a training may take beside its libraries, as addresses.
MEMORY_BYTES = 2**28
#: Says how many addresses the libraries of a training take, in KiB: some builds of torch take several times as many as
#: others.
LIBRARIES = """
from sdk.imports import nothing_collected
from workers.pipelines.imports import import_libraries
from workers.pipelines.imports import nothing_searched
with nothing_collected(), nothing_searched():
    import_libraries()
    import workers.pipelines.training.train
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmPeak")))
"""
#: More than the tokens of all rows, and less than the adapter of the widest training.
FILE_BYTES = 5_500_000
#: Rows and tokens of a batch whose activations take more than that.
BATCH, TOKENS = 512, 250


@pytest.fixture(scope="module")
def worker(stack: Stack) -> Iterator[Running]:
    options = {
        "ADAPTERCTL_TOKEN": stack.reached.token(Role.WORKER, namespace=SPACE),
        "ADAPTERCTL_CACHE": str(stack.folder / "small-cache"),
        "OMP_NUM_THREADS": "1",
    }
    with stack.worker("--name", "small", largest_file_bytes=FILE_BYTES, **options) as worker:
        limit_bytes = _library_bytes() + MEMORY_BYTES
        resource.prlimit(worker.process.pid, resource.RLIMIT_AS, (limit_bytes, limit_bytes))
        yield worker


def _library_bytes() -> int:
    done = processes.finished(
        sys.executable, "-c", LIBRARIES, env=processes.environment(OMP_NUM_THREADS="1"), check=True
    )
    return int(done.stdout) * 1024


@pytest.fixture(scope="module")
def data(stack: Stack) -> str:
    """Rows enough for the largest batch."""
    return _add_rows(stack, BATCH)


def _add_rows(stack: Stack, count: int) -> str:
    path = stack.folder / f"{count}-rows.jsonl"
    rows = ({"prompt": f"{number:05d} ", "completion": "x" * TOKENS} for number in range(count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return stack.client.datasets.add(path, namespace=SPACE).digest


def test_memory_that_runs_out_leaves_a_training_with_smaller_passes(stack: Stack, worker: Running, data: str) -> None:
    job = stack.train(f"{SPACE}/large", data=data, steps=1, batch_size=BATCH, max_length=TOKENS)
    stack.wait_for_end([job])
    said = f"{stack.explain(job)}\n{worker.text}"
    assert stack.row(job).state == JobState.SUCCEEDED, said
    assert len(stack.attempts(job)) == 1, said
    record = stack.client.versions(f"{SPACE}/large")[0].info.training or {}
    assert str(record["memory_steps"]).startswith(f"step 1: {BATCH // 2} rows a pass"), said
    assert record["effective_batch"] == BATCH, said
    Ledger().check(stack, f"{SPACE}/large", [job])


def test_a_full_disk_fails_one_job_and_the_next_one_succeeds(stack: Stack, worker: Running) -> None:
    data = _add_rows(stack, 8)
    large = stack.train(f"{SPACE}/wide", data=data, steps=1, rank=1024, targets="all-linear")
    small = stack.train(f"{SPACE}/narrow", data=data, steps=1)
    stack.wait_for_end([large, small])
    said = f"{stack.explain(large)}\n{stack.explain(small)}\n{worker.text}"
    assert stack.job(large).reason == "disk_full", said
    assert len(stack.attempts(large)) == 1, said
    assert stack.row(small).state == JobState.SUCCEEDED, said
