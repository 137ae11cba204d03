"""Grids of real trainings whose looks `benchmarks.once.sweeps` replays: `PYTHONPATH=tests python -m benchmarks.once.sweep_curves OUT.jsonl BASES`.

Each grid has ranks 1, 4, 16 and 64 with four rates, over one of the tiny bases that `benchmarks.once.advice` makes in `BASES`, and
one of its datasets. It looks at its held-out rows at each tenth of its steps. `OUT.jsonl` gets a line for each training; what is there is not run
again.

Its figures in RESULTS.md are of 2026-11-30.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import torch
from support.recorded_grids import BATCH, HELD_OUT, STEPS, TENTHS
from support.trainings import inputs_of, run_training, save_jsonl
from transformers import TrainerCallback

from benchmarks.once.advice import _base, _masses, _row_losses
from benchmarks.once.advice_rows import rows_of
from sdk.schemas.sweep_grid import grid
from sdk.schemas.training import TrainingSpec
from sdk.schemas.varied_options import checked_axis, parse_axis, with_setting

#: A family and a dataset for each grid, those first that learn in the fewest seconds.
GRIDS = (
    ("llama", "sums"),
    ("qwen3", "colours"),
    ("gpt2", "labels"),
    ("mistral", "copies"),
    ("phi3", "sorted"),
    ("opt", "records"),
    ("gemma2", "text"),
    ("llama", "licence"),
    ("qwen3", "pairs"),
    ("gemma3", "sums"),
    ("mistral", "records"),
    ("phi3", "copies"),
)
SETTINGS = {"rank": "1,4,16,64", "lr": "1e-3..3e-2:log[4]"}


class _Looks(TrainerCallback):
    """Looks at the held-out rows at each tenth of the steps."""

    def __init__(self, given: Any) -> None:
        self._given, self._masses = given, _masses(given)
        self.found: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        if state.global_step % (STEPS // TENTHS) == 0:
            generator = torch.get_rng_state()
            named["model"].eval()
            self.found.append(sum(_row_losses(self._given, named["model"])) / sum(self._masses))
            torch.set_rng_state(generator)


def main() -> None:
    """Run every training that the file lacks."""
    out, bases = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    gc.freeze()
    warnings.simplefilter("ignore")
    lines = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    known = {(one["grid"], *one["setting"].values()) for one in map(json.loads, lines)}
    axes = {name: checked_axis(name, parse_axis(name, text)) for name, text in SETTINGS.items()}
    with tempfile.TemporaryDirectory(prefix="sweeps-") as scratch:
        for (at, (family, dataset)), setting in product(enumerate(GRIDS), grid(axes)):
            if (at, *setting.values()) not in known:
                curve = _train(_base(bases, family), Path(scratch), dataset, setting)
                with out.open("a", encoding="utf-8") as file:
                    one = {"grid": at, "family": family, "dataset": dataset, "setting": setting, "curve": curve}
                    file.write(json.dumps(one) + "\n")


def _train(base: Path, scratch: Path, dataset: str, setting: dict[str, Any]) -> list[float]:
    rows = rows_of(dataset, STEPS * BATCH // 2 + HELD_OUT, f"sweep {dataset}")
    data, held_out = (
        save_jsonl(scratch / "rows.jsonl", rows[:-HELD_OUT]),
        save_jsonl(scratch / "h.jsonl", rows[-HELD_OUT:]),
    )
    alike = TrainingSpec(
        method="lora",
        max_steps=STEPS,
        batch_size=BATCH,
        grad_accum=1,
        max_length=128,
        targets="all-linear",
        schedule="cosine",
    )
    spec = with_setting(alike, setting)
    looks = _Looks(inputs_of(base, data, spec=spec, eval_data=held_out))
    run_training(base, data, scratch / "out", spec=spec, callbacks=[looks])
    return looks.found


if __name__ == "__main__":
    main()
