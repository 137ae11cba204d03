"""One training by each way to prefer: what it learns of short answers over long ones, and what it takes.

    python -m benchmarks.once.preferences [CACHE [OBJECTIVE…]]

SmolLM2-135M-Instruct in bfloat16, questions for capitals, whose chosen answer is the name alone and whose rejected one is wordy;
the same rows, order and steps for each, with one thread, each in a process of its own. Seconds are those of the processor, so
other programs disturb them little; memory is the peak of anonymous memory above the imports.
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
CAPITALS = {
    "Austria": "Vienna", "Belgium": "Brussels", "Canada": "Ottawa", "Chile": "Santiago", "China": "Beijing", "Croatia": "Zagreb",
    "Cuba": "Havana", "Denmark": "Copenhagen", "Egypt": "Cairo", "Finland": "Helsinki", "France": "Paris", "Germany": "Berlin",
    "Greece": "Athens", "Hungary": "Budapest", "India": "New Delhi", "Iran": "Tehran", "Iraq": "Baghdad", "Ireland": "Dublin",
    "Italy": "Rome", "Japan": "Tokyo", "Kenya": "Nairobi", "Nepal": "Kathmandu", "Norway": "Oslo", "Peru": "Lima",
    "Poland": "Warsaw", "Portugal": "Lisbon", "Romania": "Bucharest", "Russia": "Moscow", "Spain": "Madrid", "Sweden": "Stockholm",
}  # fmt: skip
HELD_OUT = 6
OPTIONS: dict[str, Any] = {
    "method": "lora", "lr": 5e-4, "batch_size": 4, "grad_accum": 1, "max_steps": 10, "max_length": 128, "dropout": 0.0,
}  # fmt: skip
#: A row of kto has one answer, so there are twice as many in a step.
OBJECTIVES: dict[str, dict[str, Any]] = {
    "dpo": {},
    "ipo": {},
    "orpo": {},
    "simpo": {"beta": 2.0, "simpo_gamma": 1.0},
    "kto": {"batch_size": 8},
}
_RUN = """
import json, sys, time
from pathlib import Path
from peaks import Peak
from sdk.schemas.training import TrainingSpec
from benchmarks.pipelines import train
base, data, held_out, out, options = sys.argv[1:]
computed = time.process_time()
with Peak() as peak:
    report = train(Path(base), Path(data), Path(out), TrainingSpec.model_validate_json(options), eval_data=Path(held_out))
held = {name: value for name, value in report.metrics.items() if name.startswith("eval_")}
print(json.dumps({**held, "cpu_s": time.process_time() - computed, "peak_mb": peak.bytes_above / 1e6}))
"""


def main() -> None:
    """Train by each objective, and print what each found as one line of JSON."""
    cache = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.gettempdir()) / "adapterctl-benchmarks"
    base = example("base").make_base(cache)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in sys.argv[2:] or OBJECTIVES:
            files = [_write(folder / f"{side}.jsonl", name, side) for side in ("training", "held-out")]
            options = json.dumps({**OPTIONS, **OBJECTIVES[name], "objective": name})
            given = [str(base), *map(str, files), str(folder / name), options]
            print(json.dumps({"objective": name, **_run(given)}), flush=True)


def _write(path: Path, objective: str, side: str) -> Path:
    """Write the rows of one side, the countries in the order of their last letters."""
    countries = sorted(CAPITALS, key=lambda country: (country[::-1], country))
    some = countries[:HELD_OUT] if side == "held-out" else countries[HELD_OUT:]
    rows = [row for country in some for row in _rows(country, objective)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _rows(country: str, objective: str) -> list[dict[str, Any]]:
    city = CAPITALS[country]
    prompt = [{"role": "user", "content": f"What is the capital of {country}?"}]
    wordy = (
        f"That is a great question! The capital of {country} is the wonderful city of {city}. Is there anything else?"
    )
    chosen, rejected = ([{"role": "assistant", "content": text}] for text in (f"{city}.", wordy))
    if objective != "kto":
        return [{"prompt": prompt, "chosen": chosen, "rejected": rejected}]
    return [{"prompt": prompt, "completion": answer, "label": answer is chosen} for answer in (chosen, rejected)]


def _run(given: list[str]) -> dict[str, float]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")]),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *given], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
