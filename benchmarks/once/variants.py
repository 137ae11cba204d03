"""Variants of LoRA on the docstring example: what each learns, and what it takes.

    python -m benchmarks.once.variants [CACHE]

SmolLM2-135M in NF4, the example's rows, the same seed, steps and order; each in a process of its own with one thread, two seeds
in turn. The seconds are those of the processor, so other programs disturb them little. Memory is the peak of anonymous memory above
the imports. It prints the table of `docs/training-options.md`.

Its figures in docs/training-options.md are of 2026-11-27.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.training import example

ROOT = Path(__file__).resolve().parents[2]
STEPS, SEEDS = 10, (0, 1)
#: Options by what the table calls them. The scale of each is 2, that of rsLoRA 8/√16.
VARIANTS: dict[str, dict[str, Any]] = {
    "LoRA, rank 4": {"rank": 4},
    "LoRA, rank 8": {},
    "LoRA, rank 16": {"rank": 16},
    "LoRA, rank 16, all-linear": {"rank": 16, "targets": "all-linear"},
    "rsLoRA, rank 16": {"rank": 16, "alpha": 8.0, "use_rslora": True},
    "DoRA, rank 8": {"use_dora": True},
    "EVA, rank 8": {"init_lora_weights": "eva"},
    "LoRA+, ratio 8, rank 8": {"loraplus_lr_ratio": 8.0},
}
_RUN = """
import json, sys, time
from pathlib import Path
from peaks import Peak
from sdk.schemas.training import TrainingSpec
import bitsandbytes
from benchmarks.pipelines import train
base, data, held_out, out, options = sys.argv[1:]
computed = time.process_time()
with Peak() as peak:
    report = train(Path(base), Path(data), Path(out), TrainingSpec.model_validate_json(options), eval_data=Path(held_out))
said = {name: report.metrics[name] for name in ("eval_loss", "eval_loss_base", "trainable_parameters")}
print(json.dumps({**said, "cpu_s": time.process_time() - computed, "peak_bytes": peak.bytes_above,
                  "size_bytes": (Path(out) / "adapter_model.safetensors").stat().st_size}))
"""


def main() -> None:
    """Train all variants with each seed, and print the table."""
    cache = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.gettempdir()) / "adapterctl-benchmarks"
    base = example("base").make_base(cache)
    train, held_out = example("dataset").write_dataset(cache / "docstrings")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as scratch:
        for seed in SEEDS:
            for name, options in VARIANTS.items():
                given = {"max_steps": STEPS, "lr": 1e-3, "dropout": 0.0, "seed": seed} | options
                out = f"{scratch}/{len(found[name])}-{name.replace(' ', '-')}"
                found[name].append(_said(base, train, held_out, out, json.dumps(given)))
                print(f"{name}, seed {seed}: {found[name][-1]}", file=sys.stderr, flush=True)
    print(table(found))


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """Return the table: the held-out loss with each seed, and the rest as means."""

    def mean(name: str, figure: str) -> float:
        return sum(each[figure] for each in found[name]) / len(found[name])

    lines = ["| variant | held-out loss, by seed | parameters | file | processor | peak |", "|---|---|---|---|---|---|"]
    for name, each in found.items():
        losses = ", ".join(f"{one['eval_loss']:.3f}" for one in each)
        sizes = f"{mean(name, 'trainable_parameters'):,.0f} | {mean(name, 'size_bytes') / 1e6:.1f} MB"
        lines.append(
            f"| {name} | {losses} | {sizes} | {mean(name, 'cpu_s'):.0f} s | {mean(name, 'peak_bytes') / 1e9:.2f} GB |"
        )
    return "\n".join(lines)


def _said(*arguments: object) -> dict[str, float]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")]),
        "HF_HUB_OFFLINE": "1",
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",
    }
    command = [sys.executable, "-c", _RUN, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{arguments[-1]} failed:\n{done.stderr[-2000:]}")
    said: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return said


if __name__ == "__main__":
    main()
