"""`adapterctl merge REF -o DIR` over a registry in a folder, whole, beside PEFT's own script and `cp -r` of the model.

    python -m benchmarks.merge_command BASE ADAPTER [ROUNDS]

BASE and ADAPTER are folders. Each way is a process of its own, from its start until all is on the disk (`sync`), in turn;
medians. Every merge begins with a registry and a cache that have never seen the merged model; the cache remembers the
base's digests since it was added, as any does. PEFT's script loads, merges,
and saves model and tokenizer. "Warm": another command was here within the last minute, so the registry's helper stays. Where
`perf` is installed, the processor's seconds of all processes that a way starts, until its end, are counted too.
"""

from __future__ import annotations

import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_SCRIPT = """
import sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base, adapter, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out)
AutoTokenizer.from_pretrained(base).save_pretrained(out)
"""
#: How long a helper takes to start.
_HELPED_S = 4.0
_QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": True}


def run(base: Path, adapter: Path, *, rounds: int = 5) -> dict[str, tuple[float, float]]:
    """Return the median seconds of each way, on the clock and of the processor."""
    with tempfile.TemporaryDirectory(dir=base.resolve().parent) as folder:
        at = Path(folder)
        program = str(Path(sys.executable).with_name("adapterctl"))
        environment = {
            **os.environ,
            "ADAPTERCTL_URL": f"local:{at / 'home'}",
            "ADAPTERCTL_CACHE": str(at / "cache"),
            "HF_HUB_OFFLINE": "1",
        }
        subprocess.run([program, "base", "add", str(base), "--id", "base"], env=environment, **_QUIET)
        subprocess.run(
            [program, "push", str(adapter), "a", "--base", "base", "--quantized", "none"], env=environment, **_QUIET
        )
        _until_idle(at / "home")
        for name in ("home", "cache"):
            shutil.copytree(at / name, at / f"prepared-{name}")

        def merge(*options: str) -> list[str]:
            return [program, "merge", "a@v1", "-o", str(at / "out"), *options]

        ways: Mapping[str, list[str]] = {
            "cp": ["cp", "-r", str(base), str(at / "out")],
            "peft": [sys.executable, "-c", _SCRIPT, str(base), str(adapter), str(at / "out")],
            "merge": merge(),
            "merge --no-measure": merge("--no-measure"),
            "merge, warm": merge(),
            "merge --no-measure, warm": merge("--no-measure"),
        }

        def anew(way: str) -> None:
            _anew(at)
            if way.endswith("warm"):
                subprocess.run([program, "list"], env=environment, **_QUIET)
                time.sleep(_HELPED_S)

        return _medians(ways, anew, environment, rounds)


def _medians(
    ways: Mapping[str, list[str]], anew: Callable[[str], None], environment: Mapping[str, str], rounds: int
) -> dict[str, tuple[float, float]]:
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, command in ways.items():
            anew(name)
            started = time.perf_counter()
            processor_s = _processor_s(command, environment)
            subprocess.run(["sync"], check=True)
            found[name].append((time.perf_counter() - started, processor_s))
            clock_s, processor_s = found[name][-1]
            load = os.getloadavg()[0]
            print(f"{number} {name} {clock_s:.2f} s, {processor_s:.2f} s of the processor, load {load:.1f}", flush=True)
    return {
        name: (statistics.median(clock for clock, _ in all_s), statistics.median(processor for _, processor in all_s))
        for name, all_s in found.items()
    }


def _processor_s(command: list[str], environment: Mapping[str, str]) -> float:
    """Run a command; return the processor's seconds of all processes that it starts, also those that it doesn't wait for."""
    if (perf := shutil.which("perf")) is None:
        subprocess.run(command, env=dict(environment), **_QUIET)
        return math.nan
    with tempfile.NamedTemporaryFile() as counted:
        counting = [perf, "stat", "-x", ",", "-e", "task-clock", "-o", counted.name, "--"]
        subprocess.run([*counting, *command], env=dict(environment), **_QUIET)
        lines = Path(counted.name).read_text().splitlines()
        return next(float(line.split(",")[0]) for line in lines if "task-clock" in line) / 1000


def _anew(at: Path) -> None:
    _until_idle(at / "home")
    for name in ("out", "home", "cache"):
        shutil.rmtree(at / name, ignore_errors=True)
    for name in ("home", "cache"):
        shutil.copytree(at / f"prepared-{name}", at / name)
    subprocess.run(["sync"], check=True)


def _until_idle(home: Path) -> None:
    """Wait until the runner of a home has ended."""
    from sdk.file_locks import locked

    if home.exists():
        with locked(home / "runner.lock", timeout_s=60):
            pass


def main() -> None:
    """Measure, and print a table."""
    base, adapter = (Path(word).resolve() for word in sys.argv[1:3])
    found = run(base, adapter, rounds=int(sys.argv[3]) if len(sys.argv) > 3 else 5)
    for name in [each for each in found if each not in ("cp", "peft")]:
        for what, own, cp, peft in zip(("clock", "processor"), found[name], found["cp"], found["peft"], strict=True):
            print(
                f"| `{name}`, s of the {what} | {own:.2f} | {cp:.2f} | {own / cp:.1f} × `cp` | "
                f"{peft:.2f} | {peft / own:.2f} × PEFT's speed |"
            )


if __name__ == "__main__":
    main()
