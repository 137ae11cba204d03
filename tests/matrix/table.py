"""The table of families in docs/models.md, from what `make matrix` found; run as a program it writes both down.

What each case found lies in `build/matrix`, and a summary of it in `results.json` beside this file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from support.families import DTYPES, FAMILIES, TARGETS, Case, Found, whole_product

ROOT = Path(__file__).resolve().parents[2]
FOUND = ROOT / "build" / "matrix"
RESULTS = Path(__file__).with_name("results.json")
PAGE = ROOT / "docs" / "models.md"
BEGIN, END = "<!-- families: written by make matrix -->\n", "<!-- end of families -->\n"


def keep(found: Found) -> None:
    """Keep what a case found."""
    FOUND.mkdir(parents=True, exist_ok=True)
    (FOUND / f"{found.case}.json").write_text(json.dumps(asdict(found)))


def keep_walked(family: str) -> None:
    """Keep that a family went through the command line."""
    FOUND.mkdir(parents=True, exist_ok=True)
    (FOUND / f"cli {family}.json").write_text(json.dumps({"cli": family}))


def summary(found: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return, by family, how many cases were right, the modules of each preset, and the largest errors by dtype."""
    by_family: dict[str, Any] = {
        family: {"cases": 0, "modules": {}, "loss_error": {}, "merge_error": {}, "cli": False} for family in FAMILIES
    }
    for each in found:
        if "cli" in each:
            by_family[each["cli"]]["cli"] = True
            continue
        case, row = Case(**each["case"]), by_family[each["case"]["family"]]
        row["cases"] += 1
        row["modules"][case.targets] = each["modules"]
        for error in ("loss_error", "merge_error"):
            row[error][case.dtype] = float(f"{max(each[error], row[error].get(case.dtype, 0.0)):.1e}")
    return by_family


def table(results: dict[str, Any]) -> str:
    """Return the table as the page has it."""
    lines = [
        "| family | right | qv | attention | all-linear | loss: float32 | bfloat16 | float16 | merged: float32 | bfloat16 | float16 | command line |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    of_each = len(whole_product()) // len(FAMILIES)
    for family, row in results.items():
        cells = [family, f"{row['cases']} of {of_each}"]
        cells += [str(row["modules"].get(preset, "")) for preset in TARGETS]
        cells += [f"{row[error][dtype]:.0e}" for error in ("loss_error", "merge_error") for dtype in DTYPES]
        cells.append("yes" if row["cli"] else "no")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def shown() -> str:
    """Return the table that the page has."""
    return PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]


def main() -> int:
    """Write the summary and the page's table."""
    results = summary(json.loads(path.read_text()) for path in sorted(FOUND.glob("*.json")))
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}{table(results)}{END}{rest.partition(END)[2]}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
