"""Trainings to set the rules of advice by, good ones and spoilt ones: `PYTHONPATH=tests python -m benchmarks.once.advice OUT.jsonl`.

Each is the worker's own training in this process, over a tiny base of one of nine families that has read some of the
documentation, with what it measured at each step, and with the loss of each held-out row at looks between. There are two
sets of held-out rows: one that rules may see, and one by which a training counts as good. `OUT.jsonl` gets a line for each; what is
there is not run again. `benchmarks.once.advice_bars` holds the rules against them.

Its figures in RESULTS.md and docs/training.md are of 2026-11-30.
"""

from __future__ import annotations

import gc
import json
import math
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from support.architectures import save_model
from support.trainings import Checkpoints, inputs_of, run_training, save_jsonl
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from benchmarks.once.advice_rows import (
    DATASETS,
    READ,
    WITH_ANSWERS,
    Row,
    broken_run,
    rows_of,
    shuffled_answers,
)
from sdk.schemas.training import TrainingSpec
from workers.pipelines.data.batches import example_losses, longest_first
from workers.pipelines.data.classify import guesses
from workers.pipelines.data.preferences import judged
from workers.pipelines.errors import PipelineError
from workers.pipelines.training import train
from workers.pipelines.training.row_means import RowMeans

FAMILIES = ("llama", "mistral", "qwen3", "phi3", "gemma2", "gemma3", "gpt2", "opt", "qwen3-moe")
#: How often each way to spoil a training is run, and how many others.
SPOILT, GOOD = 20, 420
KINDS = ("rate", "warmup", "shuffled", "few", "broken", "nothing")
#: The datasets of the kinds that are not of all: where labels and preferences are by chance, nothing can be learnt at all.
OF_KIND = {
    "shuffled": WITH_ANSWERS,
    "broken": [*WITH_ANSWERS, "records", "text", "licence"],
    "nothing": ["labels", "pairs"],
}
HELD_OUT_ROWS = 32
LOOKS = 7
#: A rate from which a tiny base learns, by what it learns.
_RATES = {"labels": 4e-3, "pairs": 3e-3}
_RATE = 6e-3
#: With these a tiny base can learn rows by heart.
_ROOM = {"rank": 16, "targets": "all-linear", "lr": 1.2e-2, "dropout": 0.0}


def main() -> None:
    """Run every training that the file lacks."""
    out = Path(sys.argv[1])
    most_s = float(sys.argv[2]) if len(sys.argv) > 2 else 1e9
    torch.set_num_threads(1)
    # A training collects garbage twice, which takes as long as all that is imported is large.
    gc.freeze()
    warnings.simplefilter("ignore")
    train.RowMeans = _Counted  # type: ignore[misc]
    known = {json.loads(line)["name"] for line in out.read_text().splitlines()} if out.exists() else set()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="advice-") as scratch:
        bases = out.parent / "bases"
        for name in _order():
            if name in known or time.monotonic() - began > most_s:
                continue
            found = _train(name, bases, Path(scratch))
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(found, separators=(",", ":")) + "\n")


def _order() -> list[str]:
    """Return the names of all trainings, good ones and each kind by turns, until the spoilt ones are through."""
    turns = [
        [f"good-{len(KINDS) * at + turn}", f"{kind}-{at}"] for at in range(SPOILT) for turn, kind in enumerate(KINDS)
    ]
    return [name for turn in turns for name in turn] + [f"good-{at}" for at in range(len(turns), GOOD)]


def _base(folder: Path, family: str) -> Path:
    """Return a tiny base that has read texts for some seconds."""
    base = folder / family
    if base.exists():
        return base
    save_model(folder / f"{family}.partial", family)
    tokenizer = AutoTokenizer.from_pretrained(folder / f"{family}.partial")
    model = AutoModelForCausalLM.from_pretrained(folder / f"{family}.partial")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rng = random.Random(family)  # noqa: S311 - the same texts each time
    loss = None
    for step in range(400):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / 400)
        texts = [READ(rng)["text"] for _ in range(16)]
        batch = tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=96)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        loss = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    print(f"{family}: read to {float(loss.detach()):.3f} nats a token", file=sys.stderr, flush=True)
    model.save_pretrained(folder / f"{family}.partial")
    (folder / f"{family}.partial").rename(base)
    return base


def _train(name: str, bases: Path, scratch: Path) -> dict[str, Any]:
    """Run one training; its name decides all of it."""
    kind = name.rpartition("-")[0]
    rng = random.Random(name)  # noqa: S311 - a name decides all
    family = rng.choice(FAMILIES)
    base = _base(bases, family)
    dataset = rng.choice(OF_KIND.get(kind, [*DATASETS]))
    options, count = _options(dataset, rng)
    rows = rows_of(dataset, count + 2 * HELD_OUT_ROWS, name)
    if kind == "rate":
        options["lr"] = min(1.0, 30 * options["lr"])
    elif kind == "warmup":
        options |= {"warmup_ratio": 0.99, "schedule": "cosine"}
    elif kind == "shuffled":
        # Few of them, often: a tiny base learns no thousand rows by heart.
        options |= {"epochs": 24.0} | _ROOM
        count = max(24, round(options["batch_size"] * rng.randrange(80, 120) / 24))
        rows = shuffled_answers(rows_of(dataset, count + 2 * HELD_OUT_ROWS, name), rng)
    elif kind == "few":
        rows, options = rows[-2 * HELD_OUT_ROWS - 8 :], options | {"epochs": 50.0, "batch_size": 4} | _ROOM
    elif kind == "broken":
        # Among many rows of a step, one is not seen.
        options |= {"batch_size": min(8, options["batch_size"])}
        rows = [*broken_run(rows[: -2 * HELD_OUT_ROWS], rng), *rows[-2 * HELD_OUT_ROWS :]]
    elif kind == "nothing":
        rows = shuffled_answers(rows, rng)
    training, seen, unseen = (
        rows[: -2 * HELD_OUT_ROWS],
        rows[-2 * HELD_OUT_ROWS : -HELD_OUT_ROWS],
        rows[-HELD_OUT_ROWS:],
    )
    began = time.perf_counter()
    found = {
        "name": name,
        "kind": kind,
        "family": family,
        "dataset": dataset,
        "rows": len(training),
        "options": options,
        **_run(base, scratch, options, training, (seen, unseen)),
    }
    took = time.perf_counter() - began
    print(f"{name} {family} {dataset} {took:.1f} s {found.get('failed', '')}", file=sys.stderr, flush=True)
    return {**found, "seconds": round(took, 2)}


def _options(dataset: str, rng: random.Random) -> tuple[dict[str, Any], int]:
    """Return options as people vary them, and a number of rows, of a training of about 40 to 120 steps."""
    batch, steps, epochs = (
        rng.choice([4, 8, 8, 16]),
        rng.randrange(50, 160),
        rng.choice([1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 6.0, 10.0]),
    )
    options = {
        "method": "lora",
        "lr": _RATES.get(dataset, _RATE) * rng.choice([0.5, 1.0, 1.0, 2.0]),
        "schedule": rng.choice(["cosine", "cosine", "linear", "constant", "wsd"]),
        "warmup_ratio": rng.choice([0.0, 0.03, 0.03, 0.1, 0.2]),
        "rank": rng.choice([4, 8, 8, 16]),
        "targets": rng.choice(["attention", "all-linear"]),
        "dropout": rng.choice([0.0, 0.05, 0.05, 0.1]),
        "batch_size": batch,
        "grad_accum": 1,
        "epochs": epochs,
        "max_length": 128,
        "seed": rng.randrange(1000),
    }
    return options, round(batch * steps / epochs)


class _Counted(RowMeans):
    """The losses of rows of the newest training."""

    newest: RowMeans | None = None

    def __init__(self, rows: int) -> None:
        super().__init__(rows)
        _Counted.newest = self


class _Looks(TrainerCallback):
    """Scores each held-out row before the first step, at looks between, and after the last one."""

    def __init__(self, parts: Sequence[Any], total: int) -> None:
        self._parts, self._total = parts, total
        self.found: list[dict[str, Any]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        self._look(0, named["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        step = state.global_step
        if step == self._total or (
            step % max(1, self._total // LOOKS) == 0 and step + self._total // LOOKS <= self._total
        ):
            self._look(step, named["model"])

    def _look(self, step: int, model: Any) -> None:
        generator = torch.get_rng_state()
        model.eval()
        seen, unseen = (_row_losses(part, model) for part in self._parts)
        self.found.append({"step": step, "seen": _rounded(seen), "unseen": _rounded(unseen)})
        torch.set_rng_state(generator)


def _row_losses(given: Any, model: Any) -> list[float]:
    """Return what the objective minimises of each held-out row: a sum over its tokens, or the loss of a label or a pair."""
    examples, pad = given.held_out.examples, given.tokenizer.pad_token_id
    sequences = given.objective.sequences
    if given.objective.name == "dpo":
        pairs = [pair for part in judged(model, examples, pad, 20, "cpu") for pair in part]
        found = -torch.nn.functional.logsigmoid(given.spec.beta * torch.tensor([pair.margin for pair in pairs]))
        losses = found.tolist()
    elif given.objective.name == "classify":
        losses = [guess.loss for part in guesses(model, examples, pad, 20, "cpu") for guess in part]
    else:
        losses = [loss for part in example_losses(model, examples, pad, 20, "cpu") for _, loss in part]
    ordered = [0.0] * len(losses)
    for row, loss in zip(longest_first(examples, sequences), losses, strict=True):
        ordered[row] = loss
    return ordered


def _masses(given: Any) -> list[int]:
    """Return how many terms of the mean each held-out row has."""
    examples = given.held_out.examples
    if given.objective.name != "sft":
        return [1] * (len(examples) // given.objective.sequences)
    return [example.supervised_tokens for example in examples]


def _run(
    base: Path, scratch: Path, options: dict[str, Any], training: list[Row], held_out: tuple[list[Row], list[Row]]
) -> dict[str, Any]:
    """Train, and return what was measured."""
    data = save_jsonl(scratch / "rows.jsonl", training)
    files = [save_jsonl(scratch / f"held-out-{at}.jsonl", rows) for at, rows in enumerate(held_out)]
    spec = TrainingSpec.model_validate(options)
    parts = [inputs_of(base, data, spec=spec, eval_data=file) for file in files]
    schedule = parts[0].schedule
    looks, points = _Looks(parts, schedule.total_steps), []
    kept = Checkpoints(scratch / "unused", measured=lambda chunk: points.extend(chunk.points))
    failed, metrics, _Counted.newest = None, {}, None
    try:
        metrics = run_training(base, data, scratch / "out", spec=spec, checkpoints=kept, callbacks=[looks]).metrics
    except PipelineError as error:
        failed = str(error)
    shutil.rmtree(scratch / "out", ignore_errors=True)
    return {
        "objective": parts[0].objective.name,
        "total_steps": schedule.total_steps,
        "warmup_steps": schedule.warmup_steps,
        "points": {
            name: _rounded([point.values.get(name, math.nan) for point in points])
            for name in ("loss", "lr", "grad_norm")
        },
        "row_losses": [] if _Counted.newest is None else [float(f"{mean:.3g}") for mean in _Counted.newest.means()],
        "masses": {"seen": _masses(parts[0]), "unseen": _masses(parts[1])},
        "looks": looks.found,
        "metrics": {name: metrics[name] for name in ("first_loss", "last_loss", "largest_update") if name in metrics},
        "failed": failed,
    }


def _rounded(values: Sequence[float]) -> list[float | None]:
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in values]


if __name__ == "__main__":
    main()
