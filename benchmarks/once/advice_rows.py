"""Rows that tiny bases can learn something from, and the ways to spoil them, for `benchmarks.once.advice`."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

Row = dict[str, Any]

_COLOURS = ["red", "green", "blue", "grey", "black", "white"]
_THINGS = ["apple", "sky", "coal", "snow", "leaf", "rose", "sea", "ash", "night", "milk", "grass", "brick"]
_NAMES = ["Ann", "Bob", "Cleo", "Dan", "Eve", "Finn", "Gus", "Ida"]
_PLACES = ["Rome", "Oslo", "Lima", "Bern", "Kyiv", "Cork"]
_GOOD, _BAD = ["fine", "great", "lovely", "quick", "clean"], ["poor", "slow", "broken", "dirty", "late"]
_LETTERS = "abcdefghij"


def _sum(rng: random.Random) -> Row:
    one, other = rng.randrange(10), rng.randrange(10)
    return {"prompt": f"{one} + {other} = ", "completion": str(one + other)}


def _colour(rng: random.Random) -> Row:
    thing = rng.randrange(len(_THINGS))
    asked = rng.choice(["what colour is {}? ", "{} is ", "colour of {}: ", "name the colour of {}. "])
    return {"prompt": asked.format(_THINGS[thing]), "completion": _COLOURS[thing % len(_COLOURS)]}


def _record(rng: random.Random) -> Row:
    name, age, place = rng.choice(_NAMES), rng.randrange(20, 60), rng.choice(_PLACES)
    asked = rng.choice(["{n}, {a}, of {p}", "{n} of {p} is {a}", "from {p}: {n} ({a})"])
    return {
        "prompt": asked.format(n=name, a=age, p=place) + " -> ",
        "completion": f'{{"name":"{name}","age":{age},"in":"{place}"}}',
    }


def _copy(rng: random.Random) -> Row:
    word = "".join(rng.choice(_LETTERS) for _ in range(rng.randrange(2, 6)))
    return {"prompt": f"copy {word}: ", "completion": word}


def _sorted(rng: random.Random) -> Row:
    word = [rng.choice(_LETTERS[:6]) for _ in range(3)]
    return {"prompt": f"sort {''.join(word)}: ", "completion": "".join(sorted(word))}


def _label(rng: random.Random) -> Row:
    good = rng.random() < 0.5
    word = rng.choice(_GOOD if good else _BAD)
    return {
        "text": f"the {rng.choice(_THINGS)} was {word} in {rng.choice(_PLACES)}",
        "label": "good" if good else "bad",
    }


def _pair(rng: random.Random) -> Row:
    word = rng.choice(_COLOURS)
    return {
        "prompt": f"colour {rng.randrange(100)} is ",
        "chosen": word,
        "rejected": word.upper() + "!" * rng.randrange(1, 4),
    }


def _texts(paths: list[Path]) -> Callable[[random.Random], Row]:
    whole = "\n".join(path.read_text(encoding="utf-8") for path in paths)

    def piece(rng: random.Random) -> Row:
        start = rng.randrange(len(whole) - 120)
        return {"text": whole[start : start + rng.randrange(60, 120)].strip() or "empty"}

    return piece


_DOCS = Path(__file__).resolve().parents[2] / "docs"
#: What the bases have read, and other texts in the same style.
READ = _texts([_DOCS / name for name in ("registry.md", "jobs.md", "data.md", "deploy.md", "python.md")])
#: One row of a dataset; "text" and "licence" are pieces of real texts.
DATASETS: dict[str, Callable[[random.Random], Row]] = {
    "sums": _sum,
    "colours": _colour,
    "records": _record,
    "copies": _copy,
    "sorted": _sorted,
    "text": _texts([_DOCS / "evaluation.md", _DOCS / "merging.md"]),
    "licence": _texts([Path("/usr/share/common-licenses/GPL-3"), Path("/usr/share/common-licenses/Artistic")]),
    "labels": _label,
    "pairs": _pair,
}
#: Datasets whose rows have an answer of which every token depends on the prompt.
WITH_ANSWERS = ["sums", "colours", "copies", "sorted"]


def rows_of(dataset: str, count: int, seed: str) -> list[Row]:
    """Return so many rows."""
    rng = random.Random(f"{dataset} {seed}")  # noqa: S311 - the same rows each time
    return [DATASETS[dataset](rng) for _ in range(count)]


def shuffled_answers(rows: list[Row], rng: random.Random) -> list[Row]:
    """Give each row the answer of another one; of pairs, prefer either answer at random."""
    if "chosen" in rows[0]:
        return [
            row | ({"chosen": row["rejected"], "rejected": row["chosen"]} if rng.random() < 0.5 else {}) for row in rows
        ]
    key = "label" if "label" in rows[0] else "completion"
    answers = [row[key] for row in rows]
    rng.shuffle(answers)
    return [row | {key: answer} for row, answer in zip(rows, answers, strict=True)]


def broken_run(rows: list[Row], rng: random.Random) -> list[Row]:
    """Spoil 3 to 8 of the rows, one after the other, as where a part of a file was read in another encoding."""
    count = rng.randrange(3, 9)
    start = rng.randrange(len(rows) - count)

    def spoilt(row: Row) -> Row:
        key = "text" if "text" in row else "completion"
        length = max(rng.randrange(8, 30), len(row[key]))
        return row | {key: "".join(chr(rng.randrange(0xA1, 0x250)) for _ in range(length))}

    return [spoilt(row) if start <= at < start + count else row for at, row in enumerate(rows)]
