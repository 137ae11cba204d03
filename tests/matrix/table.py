"""The tables in docs/models.md, docs/merging.md and docs/training-options.md, from what `make matrix` found; run as a program it writes
them down.

What each case found lies in `build/matrix`, and summaries of it in `results.json`, `merges.json` and `variants.json` beside this file. A table
of which nothing was found stays as it is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from support.families import DTYPES, FAMILIES, TARGETS, Case, Found, whole_product
from support.merges import FAMILIES as MERGED
from support.merges import variants
from support.variants import FAMILIES as VARIED

ROOT = Path(__file__).resolve().parents[2]
FOUND = ROOT / "build" / "matrix"
RESULTS = Path(__file__).with_name("results.json")
MERGES = Path(__file__).with_name("merges.json")
VARIANTS = Path(__file__).with_name("variants.json")
PAGE = ROOT / "docs" / "models.md"
MERGING_PAGE = ROOT / "docs" / "merging.md"
VARIANTS_PAGE = ROOT / "docs" / "training-options.md"
BEGIN, END = "<!-- families: written by make matrix -->\n", "<!-- end of families -->\n"


def keep(found: Found) -> None:
    """Keep what a case found."""
    FOUND.mkdir(parents=True, exist_ok=True)
    (FOUND / f"{found.case}.json").write_text(json.dumps(asdict(found)))


def keep_walked(family: str) -> None:
    """Keep that a family went through the command line."""
    FOUND.mkdir(parents=True, exist_ok=True)
    (FOUND / f"cli {family}.json").write_text(json.dumps({"cli": family}))


def keep_merged(cell: tuple[str, str, str, int], last_digits: float) -> None:
    """Keep that a merge of (family, variant, type, files) was right, and its largest error, in last digits of a 16-bit type."""
    FOUND.mkdir(parents=True, exist_ok=True)
    said = {"merged": cell, "last_digits": last_digits}
    (FOUND / f"merged {' '.join(map(str, cell))}.json").write_text(json.dumps(said))


def keep_varied(name: str, found: Found) -> None:
    """Keep what a case of a variant found."""
    FOUND.mkdir(parents=True, exist_ok=True)
    (FOUND / f"variant {name} {found.case}.json").write_text(json.dumps({"variant": name, **asdict(found)}))


def varied(found: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return, by variant and family, over what it was trained and how far loss and merge were from plain PEFT's."""
    by_variant: dict[str, Any] = {}
    for each in found:
        if "variant" in each:
            case = Case(**each["case"])
            errors = {error: float(f"{each[error]:.1e}") for error in ("loss_error", "merge_error")}
            by_variant.setdefault(each["variant"], {})[case.family] = {
                "method": case.method,
                "dtype": case.dtype,
                **errors,
            }
    return dict(sorted(by_variant.items()))


def varied_table(results: dict[str, Any]) -> str:
    """Return the table of variants as the page has it."""
    lines = [f"| | {' | '.join(VARIED)} |", "|---" * (len(VARIED) + 1) + "|"]
    for name, row in results.items():
        cells = [
            f"{one['method']}, {one['dtype']}: {one['loss_error']:.0e}, {one['merge_error']:.0e}"
            if (one := row.get(family))
            else ""
            for family in VARIED
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def merges(found: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return, by family and variant, how many merges were right, and the largest of their errors."""
    by_family: dict[str, Any] = {family: {} for family in MERGED}
    for each in found:
        if "merged" in each:
            family, variant, *_ = each["merged"]
            row = by_family[family].setdefault(variant, {"right": 0, "last_digits": 0.0})
            row["right"] += 1
            row["last_digits"] = round(max(row["last_digits"], each["last_digits"]), 2)
    return by_family


def merges_table(results: dict[str, Any]) -> str:
    """Return the table of merges as the page has it."""
    names = list(dict.fromkeys(name for family in MERGED for name in variants(family)))
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for family, row in results.items():
        cells = [f"{row[name]['right']}: {row[name]['last_digits']:.2f}" if name in row else "" for name in names]
        lines.append(f"| {family} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def summary(found: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return, by family, how many cases were right, the modules of each preset, and the largest errors by dtype."""
    by_family: dict[str, Any] = {
        family: {"cases": 0, "modules": {}, "loss_error": {}, "merge_error": {}, "cli": False} for family in FAMILIES
    }
    for each in found:
        if "cli" in each:
            by_family[each["cli"]]["cli"] = True
            continue
        if "merged" in each or "variant" in each:
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


def shown(page: Path) -> str:
    """Return the table that a page has."""
    return page.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]


def show(page: Path, lines: str) -> None:
    """Put a table into a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    page.write_text(f"{before}{BEGIN}{lines}{END}{rest.partition(END)[2]}", encoding="utf-8")


def main() -> int:
    """Write the summaries and the pages' tables."""
    found = [json.loads(path.read_text()) for path in sorted(FOUND.glob("*.json"))]
    kinds = {"merged" if "merged" in each else "variant" if "variant" in each else "family" for each in found}
    for kind, path, page, results, written in (
        ("family", RESULTS, PAGE, summary(found), table),
        ("merged", MERGES, MERGING_PAGE, merges(found), merges_table),
        ("variant", VARIANTS, VARIANTS_PAGE, varied(found), varied_table),
    ):
        if kind not in kinds:
            continue
        path.write_text(json.dumps(results, indent=1) + "\n")
        show(page, written(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
