"""What people do with adapters each day, from the command line: 25 tasks, timed whole, beside `hf` and `mlflow` where they have the like.

python -m benchmarks.daily REGISTRY BASE [ROUNDS]

REGISTRY is the folder of a registry with versions that were trained, scored and promoted (it is copied and stays as it
is), BASE the folder of their base. Each task is one command, or two; its times are those of its commands together. It
runs in a process of its own ("cold"), then with the folder's helper ("warm"). Peers need a network for most of these
tasks: here they have what a folder or a cache on this machine can answer.
"""

from __future__ import annotations

import json
import os
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.startup import peer_environment

_HERE = Path(sys.executable).parent


class Task(NamedTuple):
    """What somebody wants, the commands that do it, and a peer's for the like."""

    wish: str
    commands: list[str]
    #: What puts things back, so that the task can be done again; not timed.
    undone_by: Sequence[str] = ()
    peer: str = ""


class Taken(NamedTuple):
    """Medians, in seconds."""

    wall: float
    processor: float


TASKS = [
    Task("which adapters are there", ["list"], peer="mlflow experiments search"),
    Task("which versions has one", ["versions {name}"], peer="mlflow runs list --experiment-id 0"),
    Task("what is in production", ["show {name}@production"], peer="mlflow runs describe --run-id {run}"),
    Task("find versions by rank and score", ["search 'rank >= 4' --sort -created"]),
    Task("fetch what is in production", ["pull {name}@production -o {out}/fetched"], ["!rm -rf {out}/fetched"]),
    Task(
        "the same again, from the cache",
        ["pull {name}@production"],
        peer="mlflow artifacts download --run-id {run} --dst-path {out}/mlflow",
    ),
    Task("is this folder whole", ["verify {pulled}"]),
    Task("publish a folder", ["push {pulled} copied"], ["delete copied --all-versions --yes"]),
    Task("how do two versions differ", ["diff {name}@v1 {name}@v2"]),
    Task("what scores has it", ["evals list {name}@v1"]),
    Task("is one better than the other", ["compare {name}@v1 {name}@v2 --data test.jsonl"]),
    Task("put it in production", ["promote {name}@v1 staging"], ["alias rm {name} staging --yes"]),
    Task("take it back", ["rollback {name} staging"], ["promote {name}@v1 staging", "promote {name}@v2 staging"]),
    Task("who moved it, and why", ["alias history {name}"]),
    Task("who changed what", ["audit --limit 20"]),
    Task("what runs and waits", ["jobs list"]),
    Task("what did a job print", ["jobs logs {job}"]),
    Task("note something down", ["annotate {name}@v1 --tag reviewed=yes"]),
    Task("what is it made from", ["lineage {name}@v1"]),
    Task("which rows are there", ["data list"], peer="hf cache ls"),
    Task("are these rows good", ["data check {rows}"]),
    Task("what will a training take", ["plan --base {base} --rank 8"]),
    Task("its curve as a picture", ["plot {name}@v1 -o {out}/curve.svg"], ["!rm {out}/curve.svg"]),
    Task("one file to send", ["report {name}@v1 -o {out}/report.html"], ["!rm {out}/report.html"]),
    Task("can an engine serve it", ["compat {name}@v1 --engine vllm"]),
]


def run(registry: Path, base: Path, rounds: int = 5) -> Iterator[tuple[Task, Taken, Taken, Taken | None]]:
    """Yield each task with its times cold, warm, and the peer's."""
    peers = peer_environment()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        shutil.copytree(registry, out / "registry")
        (out / "hub/hub").mkdir(parents=True)
        env = {
            **os.environ,
            "ADAPTERCTL_URL": f"local:{out}/registry",
            "ADAPTERCTL_CACHE": f"{out}/cache",
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": f"{out}/hub",
            "MLFLOW_TRACKING_URI": f"sqlite:///{out}/mlflow.db",
            "ADAPTERCTL_HELPER": "0",
        }
        (out / "rows.jsonl").write_text('{"prompt": "def add(a, b):", "completion": "Add two numbers."}\n' * 64)
        name = json.loads(_output(env, "adapterctl", "list", "--format", "json"))[0]["adapter"]
        jobs = json.loads(_output(env, "adapterctl", "jobs", "list", "--format", "json"))
        values = {
            "name": name,
            "base": base,
            "job": next(job["id"] for job in jobs if job["state"] == "succeeded"),
            "out": out,
            "pulled": out / "pulled",
            "rows": out / "rows.jsonl",
        }
        _output(env, "adapterctl", "pull", f"{name}@v1", "-o", str(out / "pulled"), "--base-name", "keep")
        values["run"] = _mlflow_run(env, peers, out)
        for task in TASKS:
            times: dict[str, list[Taken]] = {"cold": [], "warm": [], "peer": []}
            for _ in range(rounds):
                for kind, helper in (("cold", "0"), ("warm", "1")):
                    times[kind].append(_done(task, values, {**env, "ADAPTERCTL_HELPER": helper}))
                if task.peer:
                    times["peer"].append(_timed(f"{peers}/{task.peer.format(**values)}", env))
            yield task, _median(times["cold"]), _median(times["warm"]), _median(times["peer"]) if task.peer else None


def _done(task: Task, values: dict[str, object], env: dict[str, str]) -> Taken:
    before, after = (task.undone_by, ()) if task.commands[0].startswith("rollback") else ((), task.undone_by)
    for command in before:
        _timed(f"{_HERE}/adapterctl {command.format(**values)}", env)
    times = [_timed(f"{_HERE}/adapterctl {command.format(**values)}", env) for command in task.commands]
    for command in after:
        line = command.format(**values)
        _timed(line[1:] if line.startswith("!") else f"{_HERE}/adapterctl {line}", env)
    return Taken(sum(one.wall for one in times), sum(one.processor for one in times))


def _timed(line: str, env: dict[str, str]) -> Taken:
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(shlex.split(line), env=env, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    # 7: the command did what was asked, and says what is wrong with the rows.
    if done.returncode not in (0, 7):
        sys.exit(f"{line}\n{done.stderr}")
    return Taken(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def _output(env: dict[str, str], *command: str) -> str:
    return subprocess.run(
        [_HERE / command[0], *command[1:]], env=env, capture_output=True, text=True, check=True
    ).stdout


def _mlflow_run(env: dict[str, str], peers: Path, out: Path) -> str:
    """Log the pulled folder as a run of MLflow's; return its id."""
    script = (
        "import sys, mlflow\n"
        "with mlflow.start_run() as run:\n"
        "    mlflow.log_metric('loss', 1.0); mlflow.log_artifacts(sys.argv[1])\n"
        "print(run.info.run_id)"
    )
    command = [str(peers / "python"), "-c", script, str(out / "pulled")]
    done = subprocess.run(command, env=env, cwd=out, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def _median(times: list[Taken]) -> Taken:
    return Taken(statistics.median(one.wall for one in times), statistics.median(one.processor for one in times))


def table(registry: Path, base: Path, rounds: int) -> str:
    """The table for `RESULTS.md`."""
    lines = ["| task | commands | cold s (CPU) | warm s (CPU) | peer | s |", "|---|---|---|---|---|---|"]
    for task, cold, warm, peer in run(registry, base, rounds):
        commands = "<br>".join(f"`{command}`" for command in task.commands)
        theirs = f"{peer.wall:.2f}" if peer else ""
        what = f"`{task.peer.split(' --')[0]}`" if peer else ""
        times = " | ".join(f"{one.wall:.2f} ({one.processor:.2f})" for one in (cold, warm))
        lines.append(f"| {task.wish} | {commands} | {times} | {what} | {theirs} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 5))
