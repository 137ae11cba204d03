"""What a sweep costs the registry beside as many single trainings, if training itself costs nothing.

    PYTHONPATH=tests python -m benchmarks.once.sweep_cost [MEMBERS]

Counted is the processor time of submitting, claiming and taking in results, in a registry in this process over SQLite; what workers
and clients do (packing and sending adapters) is not.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from contract.jobs.helpers import Crew
from contract.sweeps.helpers import Desk, held_out_rows, result
from support import registries
from support.adapters import base_registration, use_of
from support.calls import worker_info

from registry.principal import LOCAL
from sdk.schemas.jobs import JobSubmission
from sdk.schemas.sweep_axes import Values
from sdk.schemas.sweeps import SweepSubmission
from sdk.schemas.work import Assignment, ClaimRequest, Completion

T = TypeVar("T")


class Meter:
    """Adds up processor time."""

    def __init__(self) -> None:
        self.total_s = 0.0

    def of(self, call: Callable[..., T], **given: Any) -> T:
        """Call a function, and count what it takes."""
        began = time.process_time()
        try:
            return call(**given)
        finally:
            self.total_s += time.process_time() - began


def work(desk: Desk, meter: Meter, count: int) -> None:
    """Claim so many trainings and hand in a result of each."""
    claims = desk.world.services.claims
    for number in range(count):
        held = meter.of(claims.claim, claim=ClaimRequest(worker=worker_info()), who=LOCAL)
        assert held is not None
        completion = completed(desk, held, loss=1.0 + number / count)
        meter.of(claims.complete, job_id=held.job, completion=completion, who=LOCAL)


def completed(desk: Desk, held: Assignment, *, loss: float) -> Completion:
    """Send an adapter; return what is handed in."""
    told = {
        "training": {**held.request.spec.recorded(), "total_steps": 30},
        "metrics": {"loss": 1.0, "eval_loss": loss},
        "dataset": use_of(desk.crew.data),
    }
    is_member = held.request.sweep is not None
    return Completion(
        attempt=held.attempt,
        version=desk.crew.publication(**told),
        member=result(loss) if is_member else None,
    )


def main(members: int = 200) -> None:
    """Print what each costs."""
    with tempfile.TemporaryDirectory() as folder, registries.embedded(Path(folder) / "home") as world:
        world.admin.bases.register(base_registration())
        rows = Path(folder) / "rows.jsonl"
        rows.write_text('{"prompt": "a", "completion": "b"}\n')
        data = world.writer.datasets.add(rows, namespace="own").digest
        held_out = world.writer.datasets.add(held_out_rows(Path(folder)), namespace="own").digest
        desk = Desk(Crew(world, "own", world.writer, world.worker, data, Path(folder)), held_out)
        services = world.services
        single, swept = Meter(), Meter()
        for _ in range(members):
            submission = JobSubmission(request=desk.request().training)
            single.of(services.jobs.submit, submission=submission, who=LOCAL)
        work(desk, single, members)
        axes = {"lr": Values(values=[1e-4 + number * 1e-6 for number in range(members)])}
        asked = SweepSubmission(request=desk.request(settings=axes))
        sweep = swept.of(services.sweeps.submit, submission=asked, who=LOCAL)
        work(desk, swept, members)
        ended = services.sweeps.get(sweep.id, who=LOCAL)
        assert (ended.state, ended.winner) == ("ended", 1), ended
        print(f"{members} trainings: {1000 * single.total_s / members:.1f} ms each")
        print(f"a sweep of {members} members: {1000 * swept.total_s / members:.1f} ms each")
        print(f"ratio: {swept.total_s / single.total_s:.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
