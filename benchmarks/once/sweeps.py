"""What stopping early costs and saves, and what TPE finds: `PYTHONPATH=tests python -m benchmarks.once.sweeps CURVES.jsonl [--keep FILE]`.

`benchmarks.once.sweep_curves` makes the recording: grids of 16 real trainings with their held-out loss at each tenth of the steps. They
are replayed in random orders of arrival on some workers whose speeds differ, and the product's own rules say which go on. Row passes are
those of learning and of looks, each row counted once wherever it passes through the model. A member counts as it is published, by
its best look.

Then TPE and drawing at random search made-up surfaces of a loss over lr, rank and dropout, and optuna's own study, driven
directly, proposes beside them.

Its figures in RESULTS.md are of 2026-11-30.
"""

from __future__ import annotations

import gzip
import json
import math
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean, median

from support.recorded_grids import MARGIN, Curve, Replay, Rule, replay

from registry.sweeps.deciding.drawing import drawn, number_of
from registry.sweeps.deciding.stopping import HALVING_RUNGS, MEDIAN_RUNGS, halving_goes_on, median_goes_on
from registry.sweeps.deciding.tpe import proposed
from registry.sweeps.deciding.tried import Tried
from sdk.schemas.sweep_axes import Axis, Range, Setting

#: In so many orders the members of a grid come.
ORDERS = 100
#: Searches of a surface, and their trials.
SEARCHES, TRIALS = 20, 60


def main() -> None:
    """Print the tables, or keep the curves for the tests."""
    if sys.argv[2:3] == ["--keep"]:
        kept = json.dumps(families(Path(sys.argv[1])), separators=(",", ":")).encode()
        Path(sys.argv[3]).write_bytes(gzip.compress(kept, 9, mtime=0))
        return
    print(tables_of_rules(families(Path(sys.argv[1]))), "", table_of_searches(), sep="\n")


def families(path: Path) -> dict[str, list[Curve]]:
    """Return the curves of each whole grid, by what was trained."""
    found: dict[str, list[Curve]] = {}
    for one in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        found.setdefault(f"{one['family']}, {one['dataset']}", []).append([round(loss, 4) for loss in one["curve"]])
    return {name: curves for name, curves in found.items() if len(curves) == 16}


def quarter(losses: Sequence[float], at: int, rung: int) -> bool:
    """Halving as it is published: at each rung the best quarter of those so far goes on, or the best of fewer than four."""
    return sum(loss < losses[at] for loss in losses[:at]) < max(1, (at + 1) // 4)


#: What the product does, and what it does not.
RULES: dict[str, tuple[Sequence[float], Rule]] = {
    "halving": (HALVING_RUNGS, halving_goes_on),
    "median": (MEDIAN_RUNGS, median_goes_on),
}
OTHERS: dict[str, tuple[Sequence[float], Rule]] = {
    "halving with a quarter at both rungs": (HALVING_RUNGS, quarter),
    "median at each tenth": ([tenth / 10 for tenth in range(1, 10)], median_goes_on),
}


def tables_of_rules(curves: dict[str, list[Curve]]) -> str:
    """Return the table of the product's rules by grid, and that of all rules over all grids."""
    lines = [
        "| grid | losses, best and median | halving: row passes of the grid's | winner within 1 % | at worst above it by | median: row passes |"
        " winner within 1 % | at worst above it by |",
        "|---|---|---|---|---|---|---|---|",
    ]
    every: dict[str, list[Replay]] = {title: [] for title in RULES | OTHERS}
    for name, family in curves.items():
        ends = sorted(map(min, family))
        cells = [name, f"{ends[0]:.3f}, {median(ends):.3f}"]
        for title, (rungs, rule) in (RULES | OTHERS).items():
            runs = list(_replays(family, rungs, rule, name))
            every[title] += runs
            cells += _cells(runs) if title in RULES else []
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "| rule, all grids | row passes of the grid's | winner within 1 % | at worst above it by |",
        "|---|---|---|---|",
    ]
    return "\n".join(lines + [f"| {title} | {' | '.join(_cells(runs))} |" for title, runs in every.items()])


def _replays(family: Sequence[Curve], rungs: Sequence[float], rule: Rule, name: str) -> Iterator[Replay]:
    for order in range(ORDERS):
        yield replay(family, rungs, rule, random.Random(f"{name} {order}"))  # noqa: S311 - the same orders each time


def _cells(runs: Sequence[Replay]) -> list[str]:
    within = sum(run.regret <= MARGIN for run in runs)
    return [
        f"{100 * median(run.share for run in runs):.0f} %",
        f"{within} of {len(runs)}",
        f"{100 * max(run.regret for run in runs):.1f} %",
    ]


AXES: dict[str, Axis] = {
    "lr": Range(low=1e-5, high=1e-2, log=True),
    "rank": Range(low=1, high=64, log=True, whole=True),
    "dropout": Range(low=0, high=0.5),
}


def _places(setting: Setting) -> tuple[float, float, float]:
    lr, rank, dropout = (float(setting[name] or 0) for name in ("lr", "rank", "dropout"))
    return math.log10(lr), math.log2(rank), dropout


def bowl(setting: Setting) -> float:
    """A loss that rises with the square of the distance from one best setting."""
    lr, rank, dropout = _places(setting)
    return 1.5 * (1 + 0.06 * (lr + 3.5) ** 2 + 0.004 * (rank - 4) ** 2 + 0.4 * (dropout - 0.1) ** 2)


def valley(setting: Setting) -> float:
    """A loss in which larger ranks want lower rates, and which rises fast where rates are too high."""
    lr, rank, dropout = _places(setting)
    off = lr + 3 + 0.15 * rank
    return 1.5 * (1 + (0.15 if off > 0 else 0.04) * off**2 + 0.01 * max(0.0, 3 - rank) + 0.2 * dropout**2)


def cliff(setting: Setting) -> float:
    """A loss that falls with the rate until, above one, training diverges."""
    lr, rank, dropout = _places(setting)
    return 6.0 if lr > -2.6 else 1.5 * (1 + 0.05 * (-2.6 - lr) + 0.002 * (rank - 3) ** 2 + 0.1 * abs(dropout - 0.05))


def table_of_searches() -> str:
    """Return after how many trials the best is within 1 % of the least loss, as a median over searches."""
    lines = [
        "| surface | trials to 1 %: random | TPE, one at a time | TPE, 8 at once | best of 20 above the least: random | TPE | TPE, 8 at once | optuna's own study |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for surface in (bowl, valley, cliff):
        least = min(
            surface({"lr": 10 ** (-5 + lr / 100), "rank": rank, "dropout": dropout / 100})
            for lr in range(301)
            for rank in range(1, 65)
            for dropout in range(0, 21, 5)
        )
        runs = {
            title: [search(surface, title, seed) for seed in range(SEARCHES)] for title in ("random", "tpe", "tpe 8")
        }
        first = [f"{median(_first(scores, least) for scores in some):.0f}" for some in runs.values()]
        best = [f"{100 * mean(min(scores[:20]) / least - 1 for scores in some):.1f} %" for some in runs.values()]
        same = sum(peer(surface, seed) for seed in range(5))
        lines.append(
            f"| {surface.__name__} | {' | '.join([*first, *best])} | {same} of {5 * TRIALS} proposals are the same |"
        )
    return "\n".join(lines)


def _first(scores: Sequence[float], least: float) -> float:
    return next((at for at, score in enumerate(scores, 1) if score <= least * (1 + MARGIN)), TRIALS + 1)


def search(surface: Callable[[Setting], float], sampler: str, seed: int) -> list[float]:
    """Return the losses of trials in order; several at once are told of their losses together."""
    at_once = 8 if sampler == "tpe 8" else 1
    past: list[Tried] = []
    for trial in range(1, TRIALS + 1):
        name = f"{surface.__name__} {seed}"
        if sampler == "random":
            setting = drawn(AXES, seed=name, trial=trial)
        else:
            setting = proposed(AXES, past, seed=name, trial=trial)
        past.append(Tried(trial, setting, "running"))
        if trial % at_once == 0 or trial == TRIALS:
            past = [Tried(one.trial, one.setting, "finished", surface(one.setting)) for one in past]
    return [surface(one.setting) for one in past]


def peer(surface: Callable[[Setting], float], seed: int) -> int:
    """Return how many proposals optuna's own study makes as we do, told of the same rounded settings and losses."""
    import optuna
    from optuna.distributions import FloatDistribution, IntDistribution
    from optuna.trial import create_trial

    space = {
        "lr": FloatDistribution(1e-5, 1e-2, log=True),
        "rank": IntDistribution(1, 64, log=True),
        "dropout": FloatDistribution(0.0, 0.5),
    }
    study, past, same = optuna.create_study(), [], 0
    for trial in range(1, TRIALS + 1):
        study.sampler = optuna.samplers.TPESampler(seed=number_of(f"peer {seed}", trial, bits=32))
        asked = study.ask(space)
        setting = proposed(AXES, past, seed=f"peer {seed}", trial=trial)
        near = [
            math.isclose(float(setting[name] or 0), asked.params[name], rel_tol=5e-3, abs_tol=5e-4) for name in AXES
        ]
        same += all(near)
        # What was asked for is dropped, and the rounded setting told in its place.
        study.tell(asked, state=optuna.trial.TrialState.FAIL)
        study.add_trial(create_trial(params=setting, distributions=space, value=surface(setting)))
        past.append(Tried(trial, setting, "finished", surface(setting)))
    return same


if __name__ == "__main__":
    main()
