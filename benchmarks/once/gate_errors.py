"""How often gates let through what they should not, and hold back what is as good, over made rows:
`PYTHONPATH=tests python -m benchmarks.once.gate_errors OUT.jsonl`.

Appends a line for each design to OUT.jsonl; lines that are there already are not made again. With OUT.jsonl 1 2 it makes every
second one, from the first. With `--tables FILE…` it prints what the files have as the tables of benchmarks/RESULTS.md, and with
`--small` how often the end that is taken from the rows alone is too low for a tenth version, of 100,000 draws.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import product
from math import sqrt
from pathlib import Path

from support.gate_rows import DEVIATIONS, SCORES, Design, counted, ends_below

from sdk.statistics.gates import tried_alpha

DRAWS = 2_000
_ROWS = (30, 100, 1000)
_FAIR = ("normal", "tokens", "tokens, more in long rows", "t(3)", "yes or no")
_HARD = ("skewed harm", "skewed gain", "10 % differ", "10 % differ, bounded", "rare large harm")
#: Margins in deviations: where the share that differs bounds what a difference can be, it is smaller.
_MARGINS = {"yes or no": (0.2, 0.5), "10 % differ, bounded": (0.25,)}
#: With small alphas, so many draws are made.
_MANY = 100_000
#: The alpha of the first version on some rows, if others may follow.
_FIRST = tried_alpha(0.05, 1)
#: By how many margins each of ten versions is worse than the one before.
_STEPS = (0.15, 0.26, 0.51, 1.01)


def designs() -> Iterator[Design]:
    """Every question, those with bars first."""
    for kind, rows in product(_FAIR, _ROWS):
        yield from (Design("not worse", kind, rows, margin=margin) for margin in _margins(kind))
    for kind, rows, tries in product(_FAIR, _ROWS[:2], (1, 10)):
        yield Design("not worse", kind, rows, worse=0.0, tries=tries)
    for kind, rows in product(_FAIR, _ROWS[:2]):
        yield Design("not worse", kind, rows, worse=0.0, alpha=_FIRST)
    for rows in _ROWS:
        yield Design("any of ten", "normal", rows)
        yield Design("any of ten", "t(3)", rows)
    for kind, rows in product(_HARD, _ROWS):
        yield from (Design("not worse", kind, rows, margin=margin) for margin in _margins(kind))
    for kind, rows in product(SCORES, _ROWS):
        yield Design("score", kind, rows)
    for rows, fresh, step in product((100, 30), (False, True), _STEPS):
        yield Design("ten in a row", "normal", rows, worse=step, fresh=fresh)
    for kind, rows, tries in product(_HARD, _ROWS[:2], (1, 10)):
        yield Design("not worse", kind, rows, worse=0.0, margin=_margins(kind)[-1], tries=tries)
    for kind, rows in product((*_FAIR, *_HARD), _ROWS[:2]):
        yield Design("not worse", kind, rows, margin=_margins(kind)[-1], tries=10)


def _cost(design: Design) -> int:
    """Exact answers to many rows take longest, then many versions at once."""
    return 2 if design.kind == "yes or no" and design.rows >= 1000 else int(design.asked.startswith(("any", "ten")))


def _margins(kind: str) -> Sequence[float]:
    return _MARGINS.get(kind, (0.5,))


def key(design: Design) -> str:
    """What a line is found by."""
    return json.dumps(asdict(design), sort_keys=True)


def make(out: Path, wanted: Sequence[Design]) -> None:
    """Append the lines that are missing."""
    there = read([out]) if out.exists() else {}
    for design in wanted:
        if key(design) not in there:
            line = {"design": asdict(design), "draws": DRAWS, "counts": counted(design, draws=DRAWS)}
            with out.open("a") as lines:
                print(json.dumps(line), file=lines)


def read(files: Sequence[Path]) -> dict[str, Mapping[str, int]]:
    """The counts of every line, by its design."""
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return {json.dumps(line["design"], sort_keys=True): line["counts"] for line in lines}


def shown(counts: Mapping[str, Mapping[str, int]], design: Design, *, least: bool = False) -> str:
    """The share that got through in %, and what it is at most, or at `least`, with two standard errors."""
    found = counts.get(key(design))
    if found is None:
        return "–"
    share = found.get("passed", 0) / DRAWS
    error = 2 * sqrt(share * (1 - share) / DRAWS)
    unknown = f"; {100 * found['unknown'] / DRAWS:.1f} unknown" if found.get("unknown") else ""
    return (
        f"{100 * share:.2f} ({'≥' if least else '≤'} {100 * (share - error if least else share + error):.2f}{unknown})"
    )


def tables(counts: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """The tables of RESULTS.md."""
    heads = [f"{rows} rows" for rows in _ROWS]
    yield from _head("worse by exactly the margin", "margin", *heads, *(f"tenth on {head}" for head in heads[:2]))
    for kind in DEVIATIONS:
        for margin in _margins(kind):
            cells = [shown(counts, Design("not worse", kind, rows, margin=margin)) for rows in _ROWS]
            cells += [shown(counts, Design("not worse", kind, rows, margin=margin, tries=10)) for rows in _ROWS[:2]]
            yield _line(kind, f"{margin:g} σ", *cells)
    yield ""
    asked = ((0.05, 1, "α = 5 %"), (_FIRST, 1, "first"), (0.05, 10, "tenth"))
    columns = [(f"{name}, {rows} rows", alpha, tries, rows) for alpha, tries, name in asked for rows in _ROWS[:2]]
    yield from _head("as good", "margin", *(name for name, *_ in columns))
    for kind in DEVIATIONS:
        margin = _margins(kind)[-1]
        cells = [
            shown(
                counts, Design("not worse", kind, rows, worse=0.0, margin=margin, alpha=alpha, tries=tries), least=True
            )
            for _, alpha, tries, rows in columns
        ]
        yield _line(kind, f"{margin:g} σ", *cells)
    yield ""
    yield from _head("a score that is its limit", *heads)
    for kind in SCORES:
        yield _line(kind, *(shown(counts, Design("score", kind, rows)) for rows in _ROWS))
    yield ""
    yield from _head("any of ten that are worse by the margin, on the same rows", *heads)
    for kind in ("normal", "t(3)"):
        yield _line(kind, *(shown(counts, Design("any of ten", kind, rows)) for rows in _ROWS))
    yield ""
    yield from _head(
        "each of ten is worse by", "100 rows, the same", "fresh each time", "30 rows, the same", "fresh each time"
    )
    for step in _STEPS:
        cells = [
            shown(counts, Design("ten in a row", "normal", rows, worse=step, fresh=fresh))
            for rows, fresh in product((100, 30), (False, True))
        ]
        yield _line(f"{step:g} margins", *cells)


def _head(*names: str) -> Iterator[str]:
    yield _line(*names)
    yield "|" + "---|" * len(names)


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def small() -> Iterator[str]:
    """How often the end is too low for the tenth version on the same rows, in % and in multiples of its alpha."""
    alpha = tried_alpha(0.05, 10)
    yield from _head(f"the end is too low (α = {100 * alpha:.3f} %)", "30 rows", "100 rows")
    for kind in ("normal", "tokens", "tokens, more in long rows", "t(3)", "skewed harm"):
        found = [ends_below(kind, rows, alpha, draws=_MANY) / _MANY for rows in _ROWS[:2]]
        yield _line(kind, *(f"{100 * one:.3f} ({one / alpha:.1f} α)" for one in found))


def main() -> None:
    """Make what is missing, or print the tables."""
    if sys.argv[1] == "--small":
        for line in small():
            print(line, flush=True)
        return
    if sys.argv[1] == "--tables":
        print("\n".join(tables(read([Path(name) for name in sys.argv[2:]]))))
        return
    part, parts = (int(word) for word in (sys.argv[2:] or ("1", "1")))
    make(Path(sys.argv[1]), sorted(designs(), key=_cost)[part - 1 :: parts])


if __name__ == "__main__":
    main()
