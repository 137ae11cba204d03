"""How often sweeps are judged wrongly, over made scores: `PYTHONPATH=tests python -m benchmarks.once.sweep_errors OUT.jsonl`.

Appends a line for each kind of sweep to OUT.jsonl: in how many of 2,000 sweeps a setting that truly equals the best is said to
be worse, in how many one is said to be as good that is worse by the margin, and how often a true difference is told. Lines
that are there already are not made again; with OUT.jsonl 1 3 it makes every third one, from the first. With `--tables FILE…`
it prints what the files have as the tables of benchmarks/RESULTS.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path

from support.made_sweeps import SCORE, Design, counted

SWEEPS = 2_000
EQUAL, WORSE = (0.0,), (1.0,)
_SETTINGS, _NOISES, _ROWS, _SEEDS = (2, 5, 10), (0, 1, 3), (30, 100, 1000), (1, 2, 3, 5)
#: Of the tables of power, and in margins.
_SEEDS_OF_POWER, _DIFFERENCES = 3, (2.0, 5.0)


def designs() -> Iterator[Design]:
    """Every kind of sweep, those of false answers first."""
    for seeds, noise, rows, skewed, settings, lacks in product(
        _SEEDS, _NOISES, _ROWS, (False, True), _SETTINGS, (EQUAL, WORSE)
    ):
        yield Design(settings, seeds, rows, noise, skewed, lacks)
    for noise, rows, settings, lack in product(_NOISES[1:], _ROWS, _SETTINGS, (*_DIFFERENCES, 0.0)):
        yield _of_power(settings, rows, noise, lack)


def _of_power(settings: int, rows: int, noise: float, lack: float) -> Design:
    return Design(settings, _SEEDS_OF_POWER, rows, noise, False, (lack,), given_margin=0.01 * SCORE)


def key(design: Design) -> str:
    """What a line is found by."""
    return json.dumps(asdict(design), sort_keys=True)


def make(out: Path, wanted: Sequence[Design]) -> None:
    """Append the lines that are missing."""
    there = read([out]) if out.exists() else {}
    for design in wanted:
        if key(design) not in there:
            line = {"design": asdict(design), "sweeps": SWEEPS, "counts": counted(design, sweeps=SWEEPS)}
            with out.open("a") as lines:
                print(json.dumps(line), file=lines)


def read(files: Sequence[Path]) -> dict[str, Mapping[str, int]]:
    """The counts of every line, by its design."""
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return {json.dumps(line["design"], sort_keys=True): line["counts"] for line in lines}


def tables(counts: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """The tables, in % of sweeps; a cell has the figures of each noise."""

    def share(design: Design, what: str) -> str:
        found = counts.get(key(design))
        return "–" if found is None else f"{100 * found.get(what, 0) / SWEEPS:.1f}"

    def cell(lacks: tuple[float, ...], what: str, settings: int, seeds: int, rows: int, skewed: bool) -> str:
        return " ".join(share(Design(settings, seeds, rows, noise, skewed, lacks), what) for noise in _NOISES)

    heads = [f"{what}, {settings}" for what in ("worse", "by Holm", "as good") for settings in _SETTINGS]
    yield f"| seeds | rows | kind | {' | '.join(heads)} |"
    yield "|" + "---|" * (3 + len(heads))
    for seeds, rows, skewed, trainings in product(_SEEDS, _ROWS, (False, True), (False, True)):
        if trainings and seeds > 1:
            continue
        prefix = "trainings " if trainings else ""
        asked = ((EQUAL, f"{prefix}worse"), (EQUAL, "worse by Holm"), (WORSE, f"{prefix}good"))
        cells = [cell(lacks, what, settings, seeds, rows, skewed) for lacks, what in asked for settings in _SETTINGS]
        of = f"1, of {'these trainings' if trainings else 'settings'}" if seeds == 1 else seeds
        yield f"| {of} | {rows} | {'skewed' if skewed else 'normal'} | {' | '.join(cells)} |"
    yield ""
    yield from power(counts)


def power(counts: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """How often one of the settings that are truly worse is said to be, and one that truly equals the best to be as good."""
    yield "| settings | rows | noise | worse by 2 margins is told | by 5 | equal is told to be as good |"
    yield "|" + "---|" * 6
    for settings, rows, noise in product(_SETTINGS, _ROWS, _NOISES[1:]):
        cells = []
        for lack in (*_DIFFERENCES, 0.0):
            found = counts.get(key(_of_power(settings, rows, noise, lack)))
            told = "worse" if lack else "good"
            # Of equal ones, each is as often the best, which is not said to be as good.
            asked = SWEEPS * (settings - 1) * (1 if lack else (settings - 1) / settings)
            cells.append("–" if found is None else f"{100 * found.get(f'told {told} by {lack:g}', 0) / asked:.0f} %")
        yield f"| {settings} | {rows} | {noise} | {' | '.join(cells)} |"


def main() -> None:
    """Make what is missing, or print the tables."""
    if sys.argv[1] == "--tables":
        print("\n".join(tables(read([Path(name) for name in sys.argv[2:]]))))
        return
    part, parts = (int(word) for word in (sys.argv[2:] or ("1", "1")))
    make(Path(sys.argv[1]), list(designs())[part - 1 :: parts])


if __name__ == "__main__":
    main()
