"""How long the transaction takes that moves an alias by a policy, over PostgreSQL and over SQLite.

    PYTHONPATH=tests python -m benchmarks.promoting [--moves 40]

PostgreSQL is a server of its own with its usual settings, so it waits for the disk. A policy asks for a floor and a margin of the
loss, the age of the scores and one approval; an alias goes round three versions. Prints a JSON line for each database: medians
and the most, in milliseconds, by the clock and of this process's processor.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from contract.promotion.judged import MANY, hand_scores, row_scores, rule
from contract.promotion.scene import Scene
from support import registries
from support.adapters import base_registration

from registry.datasets.signatures import SignedDatasets
from registry.promotion.gate import Gate
from registry.promotion.question import Bench
from sdk.schemas.approvals import ApprovalRequest
from sdk.stack.postgres import PostgresServer


class _TimedGate(Gate):
    """Notes what each transaction that moves takes."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.wall_ms: list[float] = []
        self.processor_ms: list[float] = []

    def _settled(self, *given: Any) -> Any:
        began_s, processor_s = time.perf_counter(), time.process_time()
        done = super()._settled(*given)
        if done is not None:
            self.wall_ms.append((time.perf_counter() - began_s) * 1000)
            self.processor_ms.append((time.process_time() - processor_s) * 1000)
        return done


def measure(world: registries.World, folder: Path, moves: int) -> dict[str, Any]:
    """Move an alias this many times."""
    services = world.services
    signed = SignedDatasets(services.db, services.artifacts, services.reading)
    gate = _TimedGate(
        services.db, Bench(services.db, services.artifacts, services.evaluation_rows, services.reading, signed)
    )
    scene = Scene(world, folder / "scene", gate=gate)
    numbers = [scene.publish() for _ in range(3)]
    data = scene.rows(count=MANY)
    for number in numbers:
        ref = f"{scene.adapter()}@v{number}"
        hand_scores(scene, ref, data, row_scores(seed=number))
    asked = rule(data, {"loss": {"at_most": 1.2, "not_worse_than": 0.3}}, max_age="30d")
    scene.policy(require=[asked], approvals=1, approval_age="30d")
    for number in numbers:
        request = ApprovalRequest(adapter=scene.adapter(), alias="live", number=number, kind="approve")
        services.approvals.give(request=request, who=scene.who("ben"))
    began_s = time.monotonic()
    for at in range(moves):
        scene.move(numbers[at % 3])
    return {
        "moves": len(gate.wall_ms),
        "wall_ms": [round(statistics.median(gate.wall_ms), 1), round(max(gate.wall_ms), 1)],
        "processor_ms": [round(statistics.median(gate.processor_ms), 1), round(max(gate.processor_ms), 1)],
        "whole_move_ms": round((time.monotonic() - began_s) * 1000 / moves, 1),
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    """Measure both databases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moves", type=int, default=40)
    moves = parser.parse_args().moves
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        # PostgreSQL runs as another user.
        folder.chmod(0o755)
        server = PostgresServer(folder / "postgres")
        server.start()
        try:
            url = server.create_database(f"promoting_{uuid.uuid4().hex[:8]}")
            for name, database_url in (("postgresql", url), ("sqlite", None)):
                with registries.served(folder / name, database_url=database_url) as world:
                    world.admin.bases.register(base_registration())
                    print(json.dumps({"database": name, **measure(world, folder / name, moves)}), flush=True)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
