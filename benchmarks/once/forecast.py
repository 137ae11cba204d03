"""The forecast of a training's memory beside its measured peak: `python -m benchmarks.once.forecast [CACHE]`.

Each training is the worker's own, from a folder and rows to an adapter, in a fresh child: anonymous memory above that after
the imports, sampled every 20 ms, with one malloc arena and one thread. Weights that are computed with as they are stored are mapped
from their files, so they are no anonymous memory and are left out of both. `CACHE` keeps what was measured; what is there is
not run again, so that a changed formula is held against the same peaks. Sizes are in GB of 10⁹ bytes.

Its figures in docs/planning.md are of 2026-11-27.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.once.forecast_cases import CASES, Case
from sdk.lora.planning.adapter import adapter_of
from sdk.lora.planning.blueprint import blueprint_of
from sdk.lora.planning.footprint import weights_parts
from sdk.lora.planning.forecast import Run, forecast_of
from sdk.lora.planning.job_forecasts import without_head
from sdk.schemas.training import TrainingSpec
from workers.child.process import LIBRARIES

_SEED = 7
_GB = 10**9
#: What a case's rows are for; of text and prompts it is sft.
_OBJECTIVES = {"pairs": "dpo", "labels": "classify"}


def main() -> None:
    """Run every case that the cache lacks, and print the table."""
    cache = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.gettempdir()) / "adapterctl-forecasts.json"
    for case in CASES:
        if _key(case) not in _read(cache):
            measured = _measured(case)
            cache.write_text(json.dumps({**_read(cache), _key(case): measured}, indent=1))
    print(table(_read(cache)))


def table(measured: dict[str, Any]) -> str:
    """Return the table of what was measured, and what it comes to over the cases that no formula was changed after."""
    lines = [
        "| base | dtype | rows | options | checkpointing | forecast | measured | error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    errors = []
    for case in CASES:
        found = measured[_key(case)]
        forecast, peak = forecast_bytes(case, found), found["peak_bytes"]
        error = 100 * (forecast / peak - 1)
        if not case.tuned_on:
            errors.append(error)
        options = ", ".join(f"{key} {value}" for key, value in case.options.items()) or "defaults"
        cells = (
            case.name,
            case.dtype,
            f"{case.rows} × {case.length} {case.kind}",
            options,
            "on" if case.checkpointing else "off",
            f"{forecast / _GB:.2f}",
            f"{peak / _GB:.2f}",
            f"{error:+.1f} %{' (tuned on)' if case.tuned_on else ''}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    off = [abs(error) for error in errors]
    said = f"Over the {len(errors)} cases that nothing was tuned on: median {statistics.median(off):.1f} %, worst {max(off):.1f} %"
    return "\n".join([*lines, "", f"{said}, lowest {min(errors):+.1f} %."])


def forecast_bytes(case: Case, measured: dict[str, Any]) -> int:
    """Return what the planner forecasts of a case above its imports, without weights that are mapped.

    Known are its rows and whether its worker holds a quantised base in 16 bits, as to the worker itself.
    """
    spec = TrainingSpec.model_validate({**case.asked, "objective": _OBJECTIVES.get(case.kind)})
    base = blueprint_of(case.config)
    base = without_head(base) if spec.objective == "classify" else base
    held = measured["training"]["base_weights"]
    run = Run(
        spec=spec,
        method="qlora" if held == "packed" else "lora",
        batch_size=case.rows,
        max_length=case.tokens,
        checkpointing=case.checkpointing,
        place="cpu",
        width=2 if case.dtype == "bfloat16" else 4,
        supervised_tokens=case.supervised_tokens,
    )
    mapped = weights_parts(base, "qlora" if spec.method == "qlora" else "lora", width=run.width)
    of_files = mapped.get("kept", 0) + mapped.get("weights", 0)
    return int(forecast_of(base, adapter_of(base, spec), run).needed_bytes) - of_files - int(measured["import_bytes"])


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
            [sys.executable, "-W", "ignore", "-m", "benchmarks.once.forecast_child", scratch],
            input=json.dumps({"spec": case.asked, "checkpointing": case.checkpointing}),
            capture_output=True,
            text=True,
            env={
                **os.environ,
                "MALLOC_ARENA_MAX": "1",
                "OMP_NUM_THREADS": "1",
                "HF_HUB_OFFLINE": "1",
                # As a worker tells its children.
                **LIBRARIES,
            },
        )
        if done.returncode:
            raise RuntimeError(f"{case.name} failed: {done.stderr[-1500:]}")
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


def _make(case: Case, folder: Path) -> None:
    import torch
    import transformers

    from examples.tiny.make import save_tokenizer

    draw = random.Random(_SEED)  # noqa: S311 - words, no secrets
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=5)) for _ in range(4000)]
    base = folder / "base"
    save_tokenizer(base, [" ".join(words)])
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)

    def text(tokens: int) -> str:
        said = " ".join(draw.choices(words, k=tokens))
        return str(tokenizer.decode(tokenizer(said)["input_ids"][:tokens]))

    half, rows, added = case.half, [], "".join(case.added)
    for number in range(2 * case.rows):
        if case.kind == "text":
            rows.append({"text": added + text(case.length - 1 - len(case.added))})
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
