"""How long `adapterctl data check` takes, what it finds of planted faults, and the memory it needs.

    python -m benchmarks.once.auditing [ROWS] [--header]

The rows are prompts and completions of random words. A hundredth of them each repeats an earlier row, repeats it in another
spelling, nearly repeats it, contradicts it, lacks its completion, has an odd character or is held out. Processor seconds
are those of one process. With --header, all rows begin with the same 120 characters.

Its figures in docs/data.md and RESULTS.md are of 2026-11-27.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sdk.rows.audit import audit_rows
from sdk.rows.grams import GRAM

PLANTED = (
    "exact_duplicate",
    "normalised_duplicate",
    "near_duplicate",
    "near_duplicate",
    "conflict",
    "empty",
    "control_characters",
    "held_out_exact",
    "held_out_normalised",
    "held_out_near",
)
LETTERS = "abcdefghijklmnopqrstuvwxyz"
HEADER = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    " ### Instruction: "
)


def write_rows(folder: Path, rows: int, *, words: int = 20, seed: int = 0, header: str = "") -> dict[str, int]:
    """Write `rows.jsonl` and `held.jsonl`, and return how many faults of each kind are in them."""
    draw = random.Random(seed)  # noqa: S311 - planted faults
    vocabulary = ["".join(draw.choices(LETTERS, k=draw.randint(2, 9))) for _ in range(20_000)]
    counts = dict.fromkeys(PLANTED, 0)
    with (folder / "rows.jsonl").open("w") as out, (folder / "held.jsonl").open("w") as held:
        for number in range(rows - rows * len(PLANTED) // 100):
            row = {
                "prompt": " ".join(draw.choices(vocabulary, k=words)),
                "completion": " ".join(draw.choices(vocabulary, k=words // 2)),
            }
            _write(out, row, header)
            if number % 100 < len(PLANTED):
                kind = PLANTED[number % 100]
                counts[kind] += 1
                _write(held if kind.startswith("held_out") else out, planted(row, kind, draw, vocabulary), header)
    return counts


def _write(file: Any, row: dict[str, str], header: str) -> None:
    row = {**row, "prompt": header + row["prompt"]}
    file.write(json.dumps(row, ensure_ascii=False) + "\n")


def planted(row: dict[str, str], kind: str, draw: random.Random, vocabulary: list[str]) -> dict[str, str]:
    """Return a row with a fault of a kind."""
    if kind.endswith("exact") or kind == "exact_duplicate":
        return row
    if kind.startswith(("normalised", "held_out_normalised")):
        return {key: text.upper().replace(" ", "  ", 1) for key, text in row.items()}
    if kind == "conflict":
        return {**row, "completion": " ".join(draw.choices(vocabulary, k=10))}
    if kind == "empty":
        return {**row, "completion": " "}
    if kind == "control_characters":
        return {"prompt": " ".join(draw.choices(vocabulary, k=20)), "completion": "a\u200bb" + draw.choice(vocabulary)}
    return next(near for near in _edited(row, draw, vocabulary) if near_index(row, near) >= 0.8)


def _edited(row: dict[str, str], draw: random.Random, vocabulary: list[str]) -> Iterator[dict[str, str]]:
    """Yield copies with one word, or by and by fewer words, replaced."""
    for changes in (3, 2, 2, 1, 1, 1, 1, 1, 1, 1):
        words = row["prompt"].split()
        for place in draw.sample(range(len(words)), changes):
            words[place] = draw.choice(vocabulary)
        yield {**row, "prompt": " ".join(words)}
    yield {**row, "prompt": row["prompt"] + "s"}


def near_index(one: dict[str, str], other: dict[str, str]) -> float:
    """Return the Jaccard index of two rows, of words or of 13-grams: which of them, the first word of the row says."""
    texts = [f"{row['prompt']}\n{row['completion']}" for row in (one, other)]
    if len(one["prompt"].split()[0]) % 2:
        parts = [set(text.split()) for text in texts]
    else:
        parts = [{text[at : at + GRAM] for at in range(len(text) - GRAM + 1)} for text in texts]
    return len(parts[0] & parts[1]) / len(parts[0] | parts[1])


def measure(rows: int, *, words: int = 20, header: str = "") -> dict[str, Any]:
    """Return seconds, memory and the share that was found, of an audit in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        counts = write_rows(folder, rows, words=words, header=header)
        done = subprocess.run(
            [sys.executable, __file__, "--audit", scratch], check=True, capture_output=True, text=True
        )
        found = json.loads(done.stdout)
        size_bytes = (folder / "rows.jsonl").stat().st_size
    shares = {kind: round(found["found"].get(kind, 0) / count, 4) for kind, count in counts.items()}
    return {
        "rows": rows, "bytes": size_bytes, "cpu_s": found["cpu_s"], "wall_s": found["wall_s"],
        "peak_bytes": found["peak_bytes"], "complete": found["complete"], "found": shares,
    }  # fmt: skip


def _audit(folder: Path) -> dict[str, Any]:
    cpu, wall = time.process_time(), time.monotonic()
    audit = audit_rows(folder / "rows.jsonl", label="rows.jsonl", held_out=folder / "held.jsonl")
    return {
        "cpu_s": round(time.process_time() - cpu, 1),
        "wall_s": round(time.monotonic() - wall, 1),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "complete": audit.complete,
        "found": {finding.kind: finding.rows for finding in audit.findings},
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--audit"]:
        print(json.dumps(_audit(Path(sys.argv[2]))))
    else:
        asked = [int(argument) for argument in sys.argv[1:] if argument != "--header"] or [1_000_000]
        print(json.dumps(measure(asked[0], header=HEADER if "--header" in sys.argv else ""), indent=1))
