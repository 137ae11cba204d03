"""The rows of `adapterctl example`: functions of the Python standard library, made once and kept in `sdk/examples`.

    python examples/rows.py sdk/examples

The sources are parsed and never imported. The rows in the repository were made with Python 3.11; another release has other
functions.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import sysconfig
from collections.abc import Iterable
from itertools import zip_longest
from pathlib import Path
from typing import Any

TRAIN_ROWS = 320
#: A comparison gives a verdict from some dozens of rows on.
HELDOUT_ROWS = 64
#: Characters of a function's source: short rows train in minutes on two cores.
MOST_CHARACTERS = 420
#: Packages that are told apart by what their functions look like.
LABELS = ("asyncio", "email", "tkinter")
MOST_OF_A_LABEL = 74


def _functions() -> list[tuple[str, str, str]]:
    """Return (module, source, first line of its docstring) of each function, in an order that mixes modules."""
    path = Path(__file__).parent / "docstrings" / "dataset.py"
    spec = importlib.util.spec_from_file_location("docstrings_dataset", path)
    assert spec is not None
    assert spec.loader is not None
    dataset = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(dataset)
    begin, end = dataset.INSTRUCTION.split("{source}")
    found, bodies = [], set()
    for _, module, body, prompt, line in sorted(dataset._functions(Path(sysconfig.get_path("stdlib")))):
        source = prompt.removeprefix(begin).removesuffix(end)
        if body not in bodies and len(source) <= MOST_CHARACTERS and source.isascii() and line.isascii():
            bodies.add(body)
            found.append((module, source, line))
    return [(module, source, line) for module, source, line in found if not _is_odd(line)]


def _is_odd(line: str) -> bool:
    """Whether a first line is none: doctests, headings, the beginning of a longer sentence."""
    return not line[0].isupper() or line[-1] != "." or ">>>" in line or "<" in line


def _held_out(module: str) -> bool:
    return sum(module.encode()) % 5 == 0


def _split(rows: Iterable[tuple[str, dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Put each module into one of the files."""
    parts: dict[str, list[dict[str, Any]]] = {"heldout.jsonl": [], "train.jsonl": []}
    for module, row in rows:
        parts["heldout.jsonl" if _held_out(module) else "train.jsonl"].append(row)
    return {"heldout.jsonl": parts["heldout.jsonl"][:HELDOUT_ROWS], "train.jsonl": parts["train.jsonl"][:TRAIN_ROWS]}


def _wordy(line: str) -> str:
    """Say the same as people do who are paid by the word."""
    return f"This function can be used in order to {line[0].lower()}{line[1:-1]}, as needed by the caller."


def _labelled(functions: list[tuple[str, str, str]]) -> dict[str, list[dict[str, Any]]]:
    """Put some functions of each package into both files: here a whole module can't be held out."""
    by_label = [
        [{"text": source, "label": label} for module, source, _ in functions if module.split("/")[0] == label]
        for label in LABELS
    ]
    mixed = [row for rows in zip_longest(*(rows[:MOST_OF_A_LABEL] for rows in by_label)) for row in rows if row]
    return {"heldout.jsonl": mixed[:HELDOUT_ROWS], "train.jsonl": mixed[HELDOUT_ROWS:]}


def _drop_near(train: Path, heldout: Path) -> None:
    """Leave out of the rows to learn what nearly repeats another row: a check of the data finds fault with it."""
    import sdk

    while found := sdk.datasets.check(str(train), eval_data=str(heldout)).findings:
        # A pair names its later row last; of one over both files it is the row to learn.
        near = {int(example.rows[-1].removeprefix("line ")) for finding in found for example in finding.examples}
        rows = train.read_text(encoding="utf-8").splitlines(keepends=True)
        train.write_text("".join(row for line, row in enumerate(rows, 1) if line not in near), encoding="utf-8")


def make(out: Path) -> None:
    """Write both files of each example below `out`."""
    functions = _functions()
    asks = "Write the first line of the docstring of this Python function.\n\n{}\n\nDocstring:\n"
    examples = {
        "docstrings": [
            (module, {"prompt": asks.format(source), "completion": line}) for module, source, line in functions
        ],
        "preferences": [
            (module, {"prompt": asks.format(source), "chosen": line, "rejected": _wordy(line)})
            for module, source, line in functions
        ],
    }
    files = {name: _split(rows) for name, rows in examples.items()}
    for name, parts in {**files, "labels": _labelled(functions)}.items():
        for file, part in parts.items():
            path = out / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
        train, heldout = (out / name / file for file in ("train.jsonl", "heldout.jsonl"))
        _drop_near(train, heldout)
        print(
            *(f"{len(path.read_text(encoding='utf-8').splitlines())} rows: {path}" for path in (train, heldout)),
            sep="\n",
        )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/rows.py FOLDER")
    make(Path(sys.argv[1]))
