"""How long signatures take to be made, and how long 100,000 evaluation rows take against a million training rows.

    python -m benchmarks.once.contamination --rows 1000000 --held-out 100000

Rows are prompts and answers of random words, some 200 characters; 1 in 20 held-out rows is a training row, as it is, in other
spelling, or with a word changed.

Its figures in docs/evaluation.md and RESULTS.md are of 2026-11-27.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sdk.rows.contamination import rows_among
from sdk.rows.signature_file import SignatureFile, make_signatures


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--held-out", type=int, default=100_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), given.rows, given.held_out), indent=2))


def measure(folder: Path, rows: int, held_out: int) -> dict[str, float]:
    """Return the figures, with units in their names."""
    data, held = folder / "rows.jsonl", folder / "held.jsonl"
    chosen = random.Random(1)  # noqa: S311 - the same rows each time
    words = ["".join(chosen.choices("abcdefghijklmnopqrstuvwxyz", k=chosen.randint(2, 9))) for _ in range(20_000)]
    _write(data, (_row(chosen, words) for _ in range(rows)))
    with data.open() as file:
        planted = [json.loads(line) for line, _ in zip(file, range(held_out // 20), strict=False)]
    for number, row in enumerate(planted):
        if number % 3 == 1:
            row["prompt"] = row["prompt"].upper() + "  "
        elif number % 3 == 2:
            row["completion"] += " indeed"
    _write(held, [*planted, *(_row(chosen, words) for _ in range(held_out - len(planted)))])
    found: dict[str, float] = {"data_bytes": data.stat().st_size}
    for path in (data, held):
        begun = time.perf_counter()
        make_signatures(path, path.with_suffix(".sig"))
        found[f"making_{path.stem}_s"] = time.perf_counter() - begun
    found["signatures_bytes"] = data.with_suffix(".sig").stat().st_size
    begun = time.perf_counter()
    among = rows_among(SignatureFile(held.with_suffix(".sig")), [SignatureFile(data.with_suffix(".sig"))])
    found["checking_s"] = time.perf_counter() - begun
    return found | {"planted": len(planted)} | {name: int(rows.sum()) for name, rows in among._asdict().items()}


def _row(chosen: random.Random, words: list[str]) -> dict[str, str]:
    return {"prompt": " ".join(chosen.choices(words, k=12)), "completion": " ".join(chosen.choices(words, k=18))}


def _write(path: Path, rows: Iterator[dict[str, str]] | list[dict[str, str]]) -> None:
    with path.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
