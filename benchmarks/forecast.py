"""The forecast of a training's memory beside its measured peak: `python -m benchmarks.forecast [CACHE]`.

Each training is the worker's own, from a folder and rows to an adapter, in a fresh child: anonymous memory above that after
the imports, sampled every 20 ms, with one malloc arena and one thread. `CACHE` keeps what was measured; what is there is
not run again. The table has configuration, forecast, measured and error, in GB of 10⁹ bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.forecast_cases import CASES, Case

_EVERY_S = 0.02
_SEED = 7


def main() -> None:
    """Run every case that the cache lacks, and print the table."""
    cache = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.gettempdir()) / "adapterctl-forecasts.json"
    for case in CASES:
        found = _read(cache)
        if _key(case) not in found:
            started = time.perf_counter()
            measured = _measured(case)
            measured["wall_s"] = time.perf_counter() - started
            cache.write_text(json.dumps({**found, _key(case): measured}, indent=1))
        print(case.name, case.options, _read(cache)[_key(case)], flush=True)


def _read(cache: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cache.read_text()) if cache.exists() else {}
    return found


def _key(case: Case) -> str:
    said = dataclasses.asdict(case)
    del said["tuned_on"]
    return hashlib.sha256(json.dumps([said, case.config], sort_keys=True).encode()).hexdigest()[:16]


def _measured(case: Case) -> dict[str, Any]:
    """Make a base and rows, train over them in a child, and return what it says."""
    with tempfile.TemporaryDirectory(prefix="forecast-", dir="/var/tmp") as scratch:
        _make(case, Path(scratch))
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.forecast_child", scratch],
            input=json.dumps({"spec": case.asked, "checkpointing": case.checkpointing}),
            capture_output=True,
            text=True,
            env={**os.environ, "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )
        if done.returncode:
            return {"failed": done.stderr[-1500:]}
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


def _make(case: Case, folder: Path) -> None:
    import torch
    import transformers

    from examples.tiny.make import save_tokenizer

    draw = random.Random(_SEED)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=5)) for _ in range(4000)]
    base = folder / "base"
    save_tokenizer(base, [" ".join(words)])
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)

    def text(tokens: int) -> str:
        said = " ".join(draw.choices(words, k=tokens))
        return str(tokenizer.decode(tokenizer(said)["input_ids"][:tokens]))

    half, rows = case.length // 2 - 4, []
    for number in range(2 * case.rows):
        if case.kind == "text":
            rows.append({"text": text(case.length - 1)})
        elif case.kind == "labels":
            rows.append({"text": text(case.length - 1), "label": ["good", "bad"][number % 2]})
        elif case.kind == "prompts":
            rows.append({"prompt": text(half), "completion": text(half)})
        else:
            rows.append({"prompt": text(half), "chosen": text(half), "rejected": text(half)})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = dict(case.config)
    kind = transformers.CONFIG_MAPPING[config.pop("model_type")]
    dtype = getattr(torch, config.pop("dtype"))
    torch.manual_seed(_SEED)
    model = transformers.AutoModelForCausalLM.from_config(kind(**config), dtype=dtype)
    model.save_pretrained(base)


if __name__ == "__main__":
    main()
