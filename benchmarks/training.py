"""QLoRA training speed beside the common script: same base, rows, rank, effective batch and number of steps.

    python benchmarks/training.py [CACHE]

Both run in processes of their own, in turn, on all cores that there are. The held-out loss of both adapters is
measured with the same evaluation over the same NF4 base.
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
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
#: One row of a results table: what was measured, our figure, the peer's, how many times better ours is, conditions.
Row = dict[str, Any]

#: 16 rows a step.
STEPS = 12
LR = 1e-3
ROUNDS = 3

_OURS = """
import json, sys, time
from pathlib import Path
from sdk.schemas.training import TrainingSpec
started = time.perf_counter()
from benchmarks.pipelines import train
base, data, out, steps, lr = sys.argv[1:]
spec = TrainingSpec(rank=8, alpha=16.0, max_steps=int(steps), lr=float(lr), batch_size=4, grad_accum=4)
report = train(Path(base), Path(data), Path(out), spec)
print(json.dumps({**report.metrics, "wall_s": time.perf_counter() - started, "training": report.training}))
"""
#: Prints the held-out loss of each folder of an adapter, over the NF4 base; that of the base alone where it is empty.
LOSS = """
import json, sys
from pathlib import Path
from sdk.formats.peft_config import DROPPED_KEYS
from sdk.schemas.evaluation import EvaluationSpec
from sdk.schemas.lora_config import QuantizationRecipe
from benchmarks.pipelines import score
base, data, *adapters = sys.argv[1:]
for adapter in filter(None, adapters):
    # What PEFT itself writes there names code, which no adapter of a registry does.
    path = Path(adapter) / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in config.items() if key not in DROPPED_KEYS}))
reports = [score(Path(base), Path(data), Path(adapter) if adapter else None, EvaluationSpec(generate_rows=0),
                 quantization=QuantizationRecipe()) for adapter in adapters]
print(json.dumps([report.metrics["loss"] for report in reports]))
"""


def run(cache: Path | None = None, *, steps: int = STEPS, rounds: int = ROUNDS) -> list[Row]:
    """Run both trainings `rounds` times in turn and return one row per figure; the median counts.

    For the time to the same held-out loss ours is then run with fewer and fewer steps, as long as its loss stays at
    or under the peer's, give or take 1 %.
    """
    cache = cache or Path(tempfile.gettempdir()) / "adapterctl-benchmarks"
    base = example("base").make_base(cache)
    train, heldout = example("dataset").write_dataset(cache / "docstrings")
    ours: list[dict[str, Any]] = []
    peer: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        mine, theirs = f"{scratch}/ours", f"{scratch}/peer"
        for _ in range(rounds):
            ours.append(_json("-c", _OURS, base, train, mine, steps, LR))
            peer.append(_json(ROOT / "benchmarks" / "common_script.py", base, train, theirs, steps, LR))
        bare, our_loss, peer_loss = _json("-c", LOSS, base, heldout, "", mine, theirs)
        matched = _fewer_steps(base, train, heldout, scratch, steps, our_loss, peer_loss, ours)
    note = (
        f"SmolLM2-135M, NF4, r=8 attention, {steps} steps of 16 rows, {os.cpu_count()} cores, median of {rounds} interleaved;"
        f" base weights {ours[0]['training']['base_weights']},"
        f" gradient checkpointing {str(ours[0]['training']['gradient_checkpointing']).lower()}"
    )

    def row(what: str, name: str, digits: int, *, higher_is_better: bool = False, note: str = note) -> Row:
        mine, theirs = (statistics.median(float(figure[name]) for figure in figures) for figures in (ours, peer))
        ratio = mine / theirs if higher_is_better else theirs / mine
        return {
            "what": what,
            "ours": round(mine, digits),
            "peer": round(theirs, digits),
            "ratio": round(ratio, 2),
            "note": note,
        }

    return [
        row("training, useful tokens/s", "tokens_per_s", 1, higher_is_better=True),
        row("training, s in the loop", "train_s", 1),
        row("training, s in all with imports and loading", "wall_s", 1),
        {
            "what": "training, s in all to the peer's held-out loss (+1 % at most)",
            "ours": round(matched["wall_s"], 1),
            "peer": round(statistics.median(float(figure["wall_s"]) for figure in peer), 1),
            "ratio": round(statistics.median(float(figure["wall_s"]) for figure in peer) / matched["wall_s"], 2),
            "note": f"ours: {matched['steps']} steps, loss {matched['loss']:.4f}; peer: {steps} steps, loss {peer_loss:.4f}",
        },
        row("training, peak resident bytes", "peak_memory_bytes", 0),
        {
            "what": "held-out loss after the same steps, nats/token",
            "ours": round(our_loss, 4),
            "peer": round(peer_loss, 4),
            "ratio": round(peer_loss / our_loss, 3),
            "note": f"bare base {bare:.4f}; same evaluation for both",
        },
    ]


def _fewer_steps(
    base: Path,
    train: Path,
    heldout: Path,
    scratch: str,
    steps: int,
    our_loss: float,
    peer_loss: float,
    ours: list[dict[str, Any]],
) -> dict[str, Any]:
    """Return steps, loss and wall time of our shortest run whose held-out loss is at most 1 % over the peer's."""
    found = {"steps": steps, "loss": our_loss, "wall_s": statistics.median(float(figure["wall_s"]) for figure in ours)}
    for fewer in range(steps - 1, steps // 2, -1):
        if found["loss"] > peer_loss:
            break
        folder = f"{scratch}/steps-{fewer}"
        report = _json("-c", _OURS, base, train, folder, fewer, LR)
        (loss,) = _json("-c", LOSS, base, heldout, folder)
        if loss > 1.01 * peer_loss:
            break
        found = {"steps": fewer, "loss": loss, "wall_s": float(report["wall_s"])}
    return found


def _json(*arguments: object) -> Any:
    """Run Python with arguments and return the JSON of its last line."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[1]} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def example(name: str) -> Any:
    """Import a module of the docstring example by its path; examples are no package."""
    spec = importlib.util.spec_from_file_location(f"docstrings_{name}", ROOT / "examples" / "docstrings" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Print the table."""
    started = time.perf_counter()
    rows = run(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    for row in rows:
        print(f"{row['what']:<50} {row['ours']:>14} {row['peer']:>14} {row['ratio']:>6}x  {row['note']}")
    print(f"{time.perf_counter() - started:.0f} s in all")


if __name__ == "__main__":
    main()
