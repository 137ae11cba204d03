"""Looks for what takes more than in proportion: gives orders to a process that is measured, and judges the costs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from faults.growth.costs import DOUBLINGS, Cost, complaints
from support.processes import environment

#: The smallest size, in bytes; each further one is twice as large.
SMALLEST_BYTES = 128


def sizes_to(most_bytes: int) -> list[int]:
    """Return sizes that double, the largest a little below what is allowed."""
    sizes = [most_bytes * 15 // 16]
    while sizes[-1] // 2 >= SMALLEST_BYTES:
        sizes.append(sizes[-1] // 2)
    return sizes[::-1]


class Measured:
    """The process that carries out orders, and another one after each that had to be ended."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._begun = 0
        self._child: subprocess.Popen[str] | None = None

    def places(self) -> list[tuple[str, str, int]]:
        """The (name, kind, most bytes) of every place."""
        (found,) = self._answers({"list": True})
        return [tuple(place) for place in found]

    def costs(self, order: dict[str, Any]) -> list[Cost]:
        """Return the costs of an order's sizes; the last has the status 0 if the process was ended by it."""
        found = []
        try:
            for answer in self._answers(order):
                found.append(Cost(**answer))
        except EOFError:
            size = order["sizes"][min(len(found), len(order["sizes"]) - 1)]
            found.append(Cost(sent_bytes=size, cpu_s=0, peak_bytes=0, gap_s=0, status=0))
        return found

    def _answers(self, order: dict[str, Any]) -> Iterator[Any]:
        child = self._ready()
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps(order) + "\n")
        child.stdin.flush()
        while True:
            line = child.stdout.readline()
            if not line:
                self.close()
                raise EOFError
            if (answer := json.loads(line)) is None:
                return
            yield answer

    def _ready(self) -> subprocess.Popen[str]:
        if self._child is None:
            self._begun += 1
            folder = self._folder / f"child-{self._begun}"
            folder.mkdir(parents=True)
            with (folder / "log").open("wb") as log:
                self._child = subprocess.Popen(
                    [sys.executable, "-m", "faults.growth.child", str(folder)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    env=environment(PYTHONPATH=":".join(path for path in sys.path if path)),
                )
        return self._child

    def close(self) -> None:
        """End the process."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None


@contextmanager
def measuring(folder: Path) -> Iterator[Measured]:
    """A process that is measured, for the block."""
    measured = Measured(folder)
    try:
        yield measured
    finally:
        measured.close()


def judged(measured: Measured, order: dict[str, Any]) -> list[str]:
    """Return what is wrong with an order's costs. What seems to be is looked at again: the machine does other things."""
    first = complaints(measured.costs(order))
    if not first:
        return []
    again = measured.costs(order)
    return complaints(again) if len(again) > DOUBLINGS or any(cost.status == 0 for cost in again) else first


def faults_of(measured: Measured, orders: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    """Return what is wrong, a line for each order that has something."""
    return [f"{name}: {'; '.join(found)}" for name, order in orders if (found := judged(measured, order))]
