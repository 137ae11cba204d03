"""From a training's submission to its first step, on a cold and on a warm worker, beside the bare script.

    python benchmarks/first_steps.py [ROUNDS [BASE]]

A step is of one short row, so that the start is what is measured and not how fast a step is.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet import Site, broker_url, postgres_server, site, valkey_server, worker
from servers import environment_of
from startup import ROOT, Row

from sdk.schemas.events import Event

ROUNDS = 5
_STEPS = 2
_LR = 1e-3
_ROWS = 64
#: What the script says once the optimiser has taken the first step.
_SAID = b"step 1"
_LIMIT_S = 600.0
#: A warm child that has used no processor for so long has imported what it needs.
_QUIET_S = 2.0
_CHILD = "workers.child.main"


@dataclass(frozen=True)
class _Runner:
    """A registry, its one worker, and the base's id there."""

    site: Site
    pid: int
    base: str
    warm: bool

    def first_step_s(self, rows: Path) -> float:
        """Submit a training and return when the registry held its first step, in seconds since just before."""
        if self.warm:
            _wait_for_spare(self.pid)
        began = time.time()
        job = self.site.client.submit_training(
            "bench", base=self.base, data=rows, max_steps=_STEPS, lr=_LR, batch_size=1, grad_accum=1
        )
        after, first = 0, None
        while first is None and time.time() - began < _LIMIT_S:
            events = job.poll_events(after=after, wait_s=10)
            after = events[-1].seq if events else after
            first = next((event for event in events if _tells_of_a_step(event)), None)
            if first is None and not events and job.state.is_final:
                break
        # The next one must not share the machine with what is left of this one.
        job.wait(_LIMIT_S)
        if first is None:
            raise RuntimeError(f"nothing was heard of the first step of job {job.id}")
        return first.at.timestamp() - began


def run(rounds: int = ROUNDS, *, base: Path | None = None) -> list[Row]:
    """Measure both workers and the script in turn, once to warm up and then `rounds` times; medians count."""
    base = base or _base(Path(tempfile.gettempdir()) / "adapterctl-benchmarks")
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        rows = _write_rows(scratch / "rows.jsonl")
        postgres = stack.enter_context(postgres_server())
        valkey = stack.enter_context(valkey_server())
        runners = {}
        for number, name in enumerate(("cold", "warm")):
            at = stack.enter_context(site(postgres, name, broker_url(valkey, number)))
            runners[name] = _runner(stack, at, base, warm=name == "warm")
        times: dict[str, list[float]] = {"cold": [], "warm": [], "peer": []}
        for turn in range(rounds + 1):
            found = {name: runner.first_step_s(rows) for name, runner in runners.items()}
            _wait_for_spare(runners["warm"].pid)
            found["peer"] = _peer_s(base, rows, scratch)
            if turn:
                for name, took in found.items():
                    times[name].append(took)
    median = {name: statistics.median(found) for name, found in times.items()}
    note = (
        f"{base.name}, NF4, r=8 attention, one short row a step; {os.cpu_count()} cores; median of {rounds} interleaved; "
        "ours from before the SDK's call, with Celery over Valkey and PostgreSQL, until the registry holds the event; "
        "peer: `benchmarks/common_script.py` on the same base and rows, from its start"
    )
    return [
        _row("cold worker, base at hand", 1.10, median["cold"], median["peer"], note),
        _row("warm worker, whose child has its imports done", 0.6, median["warm"], median["peer"], note),
    ]


def _tells_of_a_step(event: Event) -> bool:
    progress = event.progress
    return progress is not None and progress.phase == "train" and (progress.step or 0) >= 1


def _row(where: str, target: float, ours: float, peer: float, note: str) -> Row:
    return {
        "what": f"submission to first training step, {where}, s",
        "ours": round(ours, 2),
        "peer": round(peer, 2),
        "ratio": round(peer / ours, 2),
        "note": f"takes {ours / peer:.2f} × the script's time (target at most {target:g} ×); {note}",
    }


def _runner(stack: ExitStack, at: Site, base: Path, *, warm: bool) -> _Runner:
    name = "warm" if warm else "cold"
    command = [str(Path(sys.executable).with_name("adapter-worker")), "start", "--name", name]
    variables = {"ADAPTER_WORKER_SHARED_PATHS": str(base.parent), "ADAPTER_WORKER_WARM": "1" if warm else "0"}
    pid = stack.enter_context(worker(at, name, command, **variables))
    return _Runner(at, pid, at.client.bases.add(base).id, warm)


def _peer_s(base: Path, rows: Path, scratch: Path) -> float:
    """Run the script, end it after its first step, and return how long that took in seconds."""
    script = ROOT / "benchmarks" / "first_step_script.py"
    command = [sys.executable, str(script), str(base), str(rows), str(scratch / "peer"), str(_STEPS), str(_LR)]
    environment = environment_of(PYTHONPATH=str(ROOT), HF_HUB_OFFLINE="1")
    log = scratch / "peer.log"
    with log.open("wb") as errors:
        began = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors)
        assert process.stdout is not None
        with process.stdout as stdout:
            said = any(line.strip() == _SAID for line in stdout)
            took = time.perf_counter() - began
        process.kill()
        process.wait()
    if not said:
        raise RuntimeError(f"the common script failed:\n{log.read_text(errors='replace')[-2000:]}")
    return took


def _write_rows(path: Path) -> Path:
    lines = []
    for number in range(_ROWS):
        a, b = 10 + number % 40, 49 - number % 37
        lines.append(json.dumps({"prompt": f"Question: what is {a} plus {b}?\nAnswer: ", "completion": str(a + b)}))
    path.write_text("\n".join(lines) + "\n")
    return path


def _base(cache: Path) -> Path:
    """The base of `training.py`."""
    path = ROOT / "examples" / "docstrings" / "base.py"
    spec = importlib.util.spec_from_file_location("docstrings_base", path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: Path = module.make_base(cache)
    return made


# The warm child, seen from outside.


def _wait_for_spare(worker_pid: int) -> None:
    """Return once a warm child of the worker waits with its imports done."""
    deadline = time.monotonic() + _LIMIT_S
    before: tuple[int, int] | None = None
    while time.monotonic() < deadline:
        time.sleep(_QUIET_S)
        warm = next((pid for pid in _below(worker_pid) if _CHILD in _command_of(pid)), None)
        now = None if warm is None else (warm, _ticks_of(warm))
        if now is not None and now == before:
            return
        before = now
    raise RuntimeError("the worker has no warm child that waits")


def _below(pid: int) -> Iterator[int]:
    """Every process that this one started, and those that they started."""
    parents = {int(path.name): _stat_of(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()}
    waiting = [pid]
    while waiting:
        above = waiting.pop()
        children = [child for child, stat in parents.items() if stat and int(stat[1]) == above]
        yield from children
        waiting += children


def _stat_of(pid: int | str) -> list[str]:
    """The fields of /proc/PID/stat from the state on; none for a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _ticks_of(pid: int) -> int:
    """How much processor a process has used."""
    return sum(map(int, _stat_of(pid)[11:13]))


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


if __name__ == "__main__":
    arguments = sys.argv[1:]
    found = run(
        int(arguments[0]) if arguments else ROUNDS, base=Path(arguments[1]).absolute() if len(arguments) > 1 else None
    )
    for row in found:
        print(row)
