"""Speed at a given memory: QLoRA beside Unsloth's CPU backend and the common script, over the same base, rows and steps.

    python -m benchmarks.memory_curve CACHE PYTHON_WITH_UNSLOTH

Unsloth (AGPL and LGPL) is a peer alone: it is installed in an environment of its own, as by
`python -m venv V && V/bin/pip install --no-deps unsloth unsloth_zoo`, with torch and transformers shared. Each runs in one thread
with one malloc arena, 8 rows a step, at a constant rate without dropout. Memory is anonymous memory above the imports. Ours is measured
as a machine with much memory would run it, and as one with little. Held-out loss is the same evaluation for all, after the first round.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.training import LOSS
from examples.docstrings.base import make_base
from examples.docstrings.dataset import write_dataset
from workers.child.process import LIBRARIES

ROOT = Path(__file__).resolve().parent.parent
ROUNDS, STEPS, LR, ROWS_A_STEP = 3, 4, 1e-3, 8
#: The same for all: what a schedule's first steps of warm-up do differs by library, and 4 steps are few.
SCHEDULE = "constant"
#: How a worker with less and less free memory holds the base, the most rows of its passes where it packs them, and whether it computes
#: activations twice.
OURS = {
    "roomy": ("wide", 4, False),
    "less": ("packed", 4, False),
    "short": ("packed", 1, False),
    "tight": ("packed", 2, True),
}
_OURS = """
import json, sys, time
from pathlib import Path
from peaks import Peak
from sdk.schemas.training import TrainingSpec
import bitsandbytes
import workers.pipelines.training.choosing as choosing
import workers.pipelines.training.train as module
from workers.pipelines.training.trainer import AdapterTrainer
base, data, out, steps, lr, held, rows, checkpointing = sys.argv[1:]
load, run, spent = module.load_base, AdapterTrainer.run, {}
module.load_base = lambda *given, **named: load(*given, **{**named, "held": held})
choosing.needs_checkpointing = lambda *given: False
fitting_of = module.fitting_of
def fitting(*given, **named):
    found = fitting_of(*given, **named)
    passes = {"micro_rows": int(rows)} if found.fit.packed else {}
    found.fit = found.fit.model_copy(update={"checkpointing": checkpointing == "True", **passes})
    return found
module.fitting_of = fitting
def timed(self, *given):
    begun, computed = time.perf_counter(), time.process_time()
    run(self, *given)
    spent.update(train_s=time.perf_counter() - begun, train_cpu_s=time.process_time() - computed)
AdapterTrainer.run = timed
spec = TrainingSpec(rank=8, alpha=16.0, dropout=0.0, max_steps=int(steps), lr=float(lr), schedule="constant", warmup_ratio=0.0,
                    batch_size=4, grad_accum=2)
with Peak() as peak:
    report = module.train(base=Path(base), base_name="base", base_revision=None, data=Path(data), eval_data=None,
                          out=Path(out), spec=spec, on_progress=lambda progress: None)
print(json.dumps({**spent, "peak_bytes": peak.bytes_above, "tokens": report.metrics["tokens"]}))
"""


def main() -> None:
    """Run all in turn, and print a table for each kind of rows."""
    cache, with_unsloth = Path(sys.argv[1]), sys.argv[2]
    base = make_base(cache)
    train, heldout = write_dataset(cache / "docstrings")
    with tempfile.TemporaryDirectory() as scratch:
        for kind, rows in _rows(train).items():
            data = Path(scratch) / f"{kind}.jsonl"
            data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            found = _measured(str(base), str(data), str(heldout), Path(scratch) / kind, with_unsloth)
            print(_table(kind, found), flush=True)


def _rows(train: Path) -> dict[str, list[dict[str, str]]]:
    """Rows as they come, long ones of uneven lengths, and ones of nearly the same length."""
    given = [json.loads(line) for line in train.read_text("utf-8").splitlines()]
    chosen = random.Random(0)  # noqa: S311 - the same rows each time
    count = STEPS * ROWS_A_STEP

    def joined(least: int, most: int) -> dict[str, str]:
        wanted, row = chosen.randint(least, most), dict(chosen.choice(given))
        while len(row["prompt"]) < wanted:
            row["prompt"] = chosen.choice(given)["prompt"] + row["prompt"]
        return row | {"prompt": row["prompt"][-wanted:]}

    return {
        "short uneven": given[:count],
        "long uneven": [joined(*((2000, 2800) if number % 8 == 0 else (150, 900))) for number in range(count)],
        "even": [joined(700, 720) for _ in range(count)],
    }


def _measured(base: str, data: str, heldout: str, out: Path, with_unsloth: str) -> dict[str, list[dict[str, float]]]:
    scripts = ROOT / "benchmarks"
    runs: dict[str, Callable[[str], list[str]]] = {
        f"ours, {name}": lambda to, held=held, rows=rows, twice=twice: [  # type: ignore[misc]
            sys.executable,
            "-c",
            _OURS,
            base,
            data,
            to,
            str(STEPS),
            str(LR),
            held,
            str(rows),
            str(twice),
        ]
        for name, (held, rows, twice) in OURS.items()
    }
    runs["Unsloth"] = lambda to: [
        with_unsloth,
        str(scripts / "unsloth_script.py"),
        base,
        data,
        to,
        str(STEPS),
        str(LR),
        SCHEDULE,
    ]
    runs["common script"] = lambda to: [
        sys.executable,
        str(scripts / "common_script.py"),
        base,
        data,
        to,
        str(STEPS),
        str(LR),
        "2",
        SCHEDULE,
        "0",
    ]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for number in range(ROUNDS):
        for name, command in runs.items():
            adapter = f"{out}-{number}-{name.replace(' ', '-')}"
            figures = _said(command(adapter))
            if not number:
                (figures["loss"],) = _said([sys.executable, "-c", LOSS, base, heldout, adapter])
            found[name].append(figures)
    return found


def _said(command: list[str]) -> Any:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")]),
        "HF_HUB_OFFLINE": "1",
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",
        # As a worker tells its children; a peer is run as it is, and so is what reads the loss.
        **(LIBRARIES if command[1:3] == ["-c", _OURS] else {}),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[:3]} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _table(kind: str, found: dict[str, list[dict[str, float]]]) -> str:
    tokens = next(each["tokens"] for figures in found.values() for each in figures if "tokens" in each)

    def of(name: str, figure: str) -> float:
        return statistics.median(each[figure] for each in found[name] if figure in each)

    lines = [
        f"{kind} rows, {tokens:.0f} tokens in {STEPS} steps, median of {ROUNDS} interleaved",
        "",
        "| | tokens/s | s | CPU s | peak MB | held-out loss | speed by Unsloth's | peak by Unsloth's | speed by the script's | peak by the script's |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in found:
        seconds, peak = of(name, "train_s"), of(name, "peak_bytes")
        ratios = [
            f"{ratio:.2f}"
            for peer in ("Unsloth", "common script")
            for ratio in (of(peer, "train_s") / seconds, peak / of(peer, "peak_bytes"))
        ]
        figures = [f"{tokens / seconds:.0f}", f"{seconds:.1f}", f"{of(name, 'train_cpu_s'):.1f}", f"{peak / 1e6:.0f}"]
        figures.append(f"{of(name, 'loss'):.3f}")
        lines.append(f"| {' | '.join([name, *figures, *ratios])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
