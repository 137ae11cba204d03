"""Which rank to take for `docstring-writer`: a rate for each rank on a coarse grid, then each rank with its rate and three seeds,
every training until its held-out loss has stopped; then all of them in every score of texts, judged together. What
docs/sweeps.md shows.

    python -m benchmarks.once.sweep_ranks OUT rates
    python -m benchmarks.once.sweep_ranks OUT train --rank 16 --lr 1e-3
    python -m benchmarks.once.sweep_ranks OUT scores
    python -m benchmarks.once.sweep_ranks OUT verdict

prints the commands with what they print; options after the part go to the command. The registry is the folder OUT/registry, and
OUT/log has what the commands say of their progress. `train` is called once for each rank, since each has a rate of its own, and
publishes three versions; `scores` is over all of them. METEOR wants WordNet in `ADAPTER_WORKER_WORDNET`.

The example's 320 rows are learnt; the first 200 held-out ones choose, its 48 among them, and 200 others tell how good the chosen is.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from benchmarks.training import example
from sdk.plotting.scales import scale_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from sdk.schemas.evaluation import RowScore
    from sdk.statistics.sweeps import SettingJudgement, SettingScores

ADAPTER = "docstring-writer"
RANKS, SEEDS = (1, 4, 16), (0, 1, 2)
ROWS = 200
#: As the example has them, but for smaller steps and a rate that stays, so that no end of the steps is planned: 8 epochs at most, and
#: the weights of the best look.
TRAINING = (
    *("--method", "lora", "--targets", "attention", "--batch-size", "4", "--grad-accum", "2", "--max-length", "512"),
    *("--schedule", "constant", "--epochs", "8", "--eval-rows", "48", "--patience", "2"),
)
RATES = ("--lr", "1e-3,3e-3", "--max-steps", "40", "--eval-every", "13", "--parallel", "1", "--publish", "none")
METRICS = ("rouge_l", "bleu", "chrf", "nist", "meteor", "cider_d")
#: Where ranks stand in the picture.
_PLACES = (0.1, 0.5, 0.9)
#: By which rows can be judged one by one.
_BY_ROW = ("loss", "rouge_l", "bleu", "chrf", "nist", "meteor")


def main() -> int:
    """Run a part; return the exit code of the first command that fails."""
    out, part, options = Path(sys.argv[1]).resolve(), sys.argv[2], sys.argv[3:]
    out.mkdir(parents=True, exist_ok=True)
    base = example("base").make_base(out / "base")
    _write_rows(out)
    versions = [f"{ADAPTER}@v{number}" for number in range(1, 1 + len(RANKS) * len(SEEDS))]
    data = ("--base", str(base), "--data", "train.jsonl", "--eval-data", "choose.jsonl", *TRAINING)
    match part:
        case "rates":
            _run(out, "sweep", ADAPTER, *data, "--rank", ",".join(map(str, RANKS)), *RATES, *options)
        case "train":
            for seed in SEEDS:
                _run(out, "train", ADAPTER, *data, "--eval-every", "10", "--seed", str(seed), *options)
        case "scores":
            generated = ("--metrics", ",".join(METRICS), "--generate-rows", str(ROWS), "--batch-size", "16")
            _run(out, "eval", *versions, "--data", "test.jsonl", *generated, *options)
        case "verdict":
            _print_verdicts(out, versions)
        case _:
            sys.exit(f"{part} is no part; give rates, train, scores or verdict")
    return 0


def _write_rows(out: Path) -> None:
    dataset = example("dataset")
    dataset.HELDOUT_ROWS = 2 * ROWS
    _, held_out = dataset.write_dataset(out)
    lines = held_out.read_text(encoding="utf-8").splitlines(keepends=True)
    (out / "choose.jsonl").write_text("".join(lines[:ROWS]), encoding="utf-8")
    (out / "test.jsonl").write_text("".join(lines[ROWS:]), encoding="utf-8")


def _run(out: Path, *arguments: str) -> None:
    """Run `adapterctl` in the folder `out`; end with its exit code where that isn't 0."""
    begun = time.monotonic()
    print("$", "adapterctl", *arguments, flush=True)
    places = {"ADAPTERCTL_URL": f"local:{out / 'registry'}", "ADAPTERCTL_CACHE": str(out / "cached")}
    environment = {**os.environ, **places, "COLUMNS": "80"}
    script = Path(sys.executable).with_name("adapterctl")
    with (out / "log").open("a") as log:
        done = subprocess.run([script, *arguments], cwd=out, env=environment, stderr=log)
    print(f"# {time.monotonic() - begun:.0f} s\n", flush=True)
    if done.returncode != 0:
        sys.exit(done.returncode)


def _print_verdicts(out: Path, versions: Sequence[str]) -> None:
    """Print every score of every version, and for each metric what the rows and seeds say of the ranks, as a sweep judges them."""
    import sdk
    from sdk.schemas.evaluation import better_is
    from sdk.statistics.sweeps import judge

    with contextlib.closing(sdk.connect(f"local:{out / 'registry'}")) as client:
        by_rank: dict[int, list[tuple[Mapping[str, float], list[RowScore]]]] = defaultdict(list)
        for ref in versions:
            version = client.get(ref)
            [scores] = [one for one in version.evaluations if "cider_d" in one.metrics]
            rank = version.as_dict()["lora"]["rank"]
            by_rank[rank].append((scores.metrics, client.evaluations.rows(scores.id)))
            shown = {name: round(scores.metrics[name], 4) for name in ("loss", *METRICS)}
            print(ref, f"rank {rank}", f"best step {(version.as_dict()['training'] or {}).get('best_step')}", shown)
    for metric in _BY_ROW:
        settings = [_setting_scores([rows for _, rows in by_rank[rank]], metric) for rank in RANKS]
        lower = better_is(metric) == "less"
        best = min if lower else max
        score = best(float(one.sums.sum() / one.masses.sum() / len(one.sums)) for one in settings)
        judged = judge(settings, margin=0.01 * abs(score), lower_is_better=lower, seed=f"{ADAPTER} {metric}")
        print(f"\n{metric}: deviation between seeds {judged.seed_deviation}")
        for rank, one in zip(RANKS, judged.settings, strict=True):
            interval = "" if one.low is None else f" worse by [{one.low:.4g}, {one.high:.4g}], p {one.p:.3g}"
            print(f"  rank {rank}: {one.score:.4f} ± {one.standard_error:.4f} {one.outcome}{interval}")
        if metric == "loss":
            _draw(out / "ranks.svg", {rank: [scores for scores, _ in by_rank[rank]] for rank in RANKS}, judged.settings)


def _draw(to: Path, scores: Mapping[int, Sequence[Mapping[str, float]]], judged: Sequence[SettingJudgement]) -> None:
    """Draw the ranks as `adapterctl plot` draws a sweep: loss with its error and seeds, and the scores of texts."""
    from sdk.plotting.sweeps import svg
    from sdk.plotting.sweeps.panels import Dot, Mark, SettingPanel, SweepPicture
    from sdk.plotting.sweeps.settings import name_of

    marks, dots, others = [], [], []
    for at, rank, one in zip(_PLACES, RANKS, judged, strict=True):
        error = one.standard_error or 0.0
        marks.append(Mark(0, at, one.score, one.score - error, one.score + error, best=one.outcome == "best"))
        dots += [Dot(0, at - 0.03, seed["loss"], pruned=False) for seed in scores[rank]]
    ends = [end for mark in marks for end in (mark.low, mark.high) if end is not None]
    main = SettingPanel(name_of("loss"), scale_of([*ends, *(dot.y for dot in dots)]), tuple(marks), tuple(dots))
    for metric in METRICS:
        seeds = [
            Dot(0, at - 0.03, seed[metric], pruned=False)
            for at, rank in zip(_PLACES, RANKS, strict=True)
            for seed in scores[rank]
        ]
        means = [
            Mark(0, at, fmean(seed[metric] for seed in scores[rank])) for at, rank in zip(_PLACES, RANKS, strict=True)
        ]
        others.append(
            SettingPanel(name_of(metric), scale_of([dot.y for dot in seeds], most=3), tuple(means), tuple(seeds))
        )
    ticks = tuple((at, str(rank)) for at, rank in zip(_PLACES, RANKS, strict=True))
    legend = ("bar: ± one standard error · small points: seeds · ring: the best",)
    picture = SweepPicture(
        f"{ADAPTER}: loss and scores of texts by rank", "rank", ticks, (), True, (main, *others), legend
    )
    to.write_text(svg.svg_of(picture), encoding="utf-8")


def _setting_scores(seeds: Sequence[Sequence[RowScore]], metric: str) -> SettingScores:
    """Return the scores of one rank, a line for each seed, over the rows that all have."""
    import numpy as np

    from sdk.statistics.sweeps import SettingScores

    if metric == "loss":
        sums = [[row.loss_sum or 0.0 for row in rows] for rows in seeds]
        masses: npt.NDArray[np.float64] = np.array([float(row.tokens) for row in seeds[0]])
    else:
        sums = [list(_scores(rows, metric)) for rows in seeds]
        masses = np.ones(len(sums[0]))
    return SettingScores(np.array(sums), masses)


def _scores(rows: Sequence[RowScore], metric: str) -> Iterator[float]:
    return (row.scores[metric] for row in rows if metric in row.scores)


if __name__ == "__main__":
    sys.exit(main())
