"""The rules of advice held against recorded trainings: `python -m benchmarks.once.advice_bars OUT.jsonl [NAME… | --keep FILE]`.

`benchmarks.once.advice` makes the recording. A training counts as good if, on held-out rows that rules never see, it ends within
1 % of its own best look and better than it began, by paired rows. Limits were set by every other training of a kind, and
the table counts these, the others, and all: trainings that are advised something at their end or on the way. With names, it prints what the rules say of these trainings; with `--keep` it writes what
rules read of each, for the tests.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdk.advice.broken_rows import run_of_rows
from sdk.advice.rules import advice_of, advice_so_far, checks_every, merged
from sdk.schemas.advice import Advice
from sdk.schemas.looks import HigherLoss, LookRecord
from sdk.schemas.series import Point
from sdk.schemas.version_records import TrainingRecord
from sdk.statistics.comparison import compare_rows, paired_ratio

#: How far from its own best a good training may end.
_NEAR = 1.01
#: Labels of its classifications.
_LABELS = 2


def main() -> None:
    """Print the tables."""
    runs = [json.loads(line) for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()]
    if sys.argv[2:3] == ["--keep"]:
        kept = [kept_of(run) for run in runs if run["kind"] != "good" or is_good(run)]
        Path(sys.argv[3]).write_bytes(gzip.compress(json.dumps(kept, separators=(",", ":")).encode(), 9, mtime=0))
        return
    for name in sys.argv[2:]:
        for one in said_of(next(run for run in runs if run["name"] == name)):
            print(f"{name}: {one.rule}: {one.message} {one.changes}")
    if not sys.argv[2:]:
        print(table(runs))


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Return the table of what the rules say of good trainings, and of spoilt ones by the way that they were spoilt."""
    lines = ["| trainings | set by | measured on | of all | on the way | rules |", "|---|---|---|---|---|---|"]
    for title, some in _groups(runs):
        halves = [some[::2], some[1::2]]
        rules = Counter(one.rule for run in some for one in said_of(run))
        counts = [f"{sum(bool(said_of(run)) for run in part)} of {len(part)}" for part in (*halves, some)]
        told = ", ".join(f"{rule} {count}" for rule, count in rules.most_common())
        early = sum(bool(told_midway(run)) for run in some)
        lines.append(f"| {title} | {' | '.join(counts)} | {early} | {told} |")
    return "\n".join(lines)


def _groups(runs: Sequence[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    yield "good", [run for run in runs if run["kind"] == "good" and is_good(run)]
    yield "neither", [run for run in runs if run["kind"] == "good" and not is_good(run)]
    for kind in dict.fromkeys(run["kind"] for run in runs if run["kind"] != "good"):
        yield kind, [run for run in runs if run["kind"] == kind]


def is_good(run: dict[str, Any]) -> bool:
    """Whether a training ended well, on the rows that rules never see."""
    masses = np.array(run["masses"]["unseen"], dtype=float)
    losses = [np.array(look["unseen"], dtype=float) for look in run["looks"]]
    if run["failed"] or run["looks"][-1]["step"] != run["total_steps"]:
        return False
    means = [one.sum() / masses.sum() for one in losses]
    found = compare_rows(paired_ratio(losses[0] - losses[-1], masses), seed=run["name"])
    return bool(means[-1] <= _NEAR * min(means)) and found.better() == 1


def said_of(run: dict[str, Any], *, blind: bool = False) -> list[Advice]:
    """Return what the rules say of a training; `blind`: without its looks."""
    if "said" not in run or blind:
        looks, update = [] if blind else looks_of(run), run["metrics"].get("largest_update")
        # Recordings of before have no losses of rows.
        odd = run_of_rows(run["row_losses"]) if run.get("row_losses") else None
        said = advice_of(record_of(run), points_of(run), looks, labels=_LABELS, update=update, run=odd)
        if blind:
            return said
        run["said"] = merged(told_midway(run), said)
    found: list[Advice] = run["said"]
    return found


def told_midway(run: dict[str, Any]) -> list[Advice]:
    """Return what the rules say of a training while it goes on, at its looks and where its losses are judged besides."""
    record, losses, looks = record_of(run), run["points"]["loss"], looks_of(run)
    told: list[Advice] = []
    for step in range(1, len(losses)):
        if step % checks_every(run["total_steps"]) == 0 or any(look.step == step for look in looks):
            seen = [look for look in looks if look.step <= step]
            told = merged(told, advice_so_far(record, losses[:step], seen, labels=_LABELS), newer=False)
    return told


def kept_of(run: dict[str, Any]) -> dict[str, Any]:
    """Return what rules read of a training: four digits of each loss, and its looks without their rows."""
    looks = [
        [look.step, *_short([look.scores["loss"]]), *([] if (worse := look.worse) is None else _worse(worse))]
        for look in looks_of(run)
    ]
    return {
        "name": run["name"],
        "kind": run["kind"],
        "labels": _LABELS,
        "update": run["metrics"].get("largest_update"),
        "record": record_of(run).flat(),
        "losses": _short(run["points"]["loss"]),
        "looks": looks,
        # In the file of the tests, those of trainings by which the rule about them is measured.
        "rows": run.get("row_losses", []) if run["kind"] in ("good", "broken") else [],
    }


def _worse(worse: HigherLoss) -> list[float]:
    return [worse.step, *_short([worse.mean, worse.low, worse.high])]


def _short(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


def record_of(run: dict[str, Any]) -> TrainingRecord:
    """Return what is recorded of a training, as far as rules read it."""
    options = run["options"]
    return TrainingRecord.read(
        {
            **options,
            "objective": run["objective"],
            "effective_batch": options["batch_size"] * options["grad_accum"],
            "total_steps": run["total_steps"],
            "warmup_steps": run["warmup_steps"],
            "samples": run["rows"],
        }
    )


def points_of(run: dict[str, Any]) -> list[Point]:
    """Return the points of a training."""
    columns = run["points"]
    return [
        Point(step=at + 1, values={name: column[at] for name, column in columns.items() if column[at] is not None})
        for at in range(len(columns["loss"]))
    ]


def looks_of(run: dict[str, Any]) -> list[LookRecord]:
    """Return the looks at the rows that rules may see, each against the best one before it."""
    masses = np.array(run["masses"]["seen"], dtype=float)
    found: list[LookRecord] = []
    best, best_losses = None, None
    for look in run["looks"]:
        losses = np.array(look["seen"], dtype=float)
        mean, worse = float(losses.sum() / masses.sum()), None
        if best is not None and best_losses is not None:
            compared = compare_rows(paired_ratio(losses - best_losses, masses), seed=run["name"])
            low, high = compared.low, compared.high
            worse = HigherLoss(
                step=best.step,
                mean=compared.difference,
                low=compared.difference if low is None else low,
                high=compared.difference if high is None else high,
            )
        record = LookRecord(step=look["step"], rows=len(losses), scores={"loss": mean}, seconds=0.0, worse=worse)
        found.append(record)
        if best is None or mean < best.scores["loss"]:
            best, best_losses = record, losses
    return found


if __name__ == "__main__":
    main()
