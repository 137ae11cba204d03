"""Families × variants of LoRA: trained, judged, scored, merged, and read by plain PEFT. All of them in `make matrix`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from matrix import table
from support.families import DTYPES, METHODS, Case, walk
from support.soak import MATRIX
from support.variants import BIASED, FAMILIES, token_of, variants

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def _cells() -> list[tuple[Case, str]]:
    """Return each variant with one family, or with all; families, methods and precisions take turns."""
    found = []
    for number, name in enumerate(variants("GPT-2", 0, "qlora")):
        able = [family for family in FAMILIES if name in variants(family, 0, "qlora")]
        chosen = able if MATRIX else [able[number % len(able)]]
        for turn, family in enumerate(chosen):
            method = METHODS[(number + turn) % 2] if name in variants(family, 0) else "qlora"
            dtype = DTYPES[(number // 2 + turn) % 2]
            found.append((Case(family, method, "attention", dtype, 1), name))  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize(("case", "name"), _cells(), ids=str)
def test_what_is_trained_is_what_plain_peft_loads_and_what_is_merged(case: Case, name: str, tmp_path: Path) -> None:
    found = walk(case, tmp_path, lambda base: variants(case.family, token_of(base), case.method)[name])
    if MATRIX:
        table.keep_varied(name, found)


def test_the_page_shows_what_was_found() -> None:
    results = json.loads(table.VARIANTS.read_text())
    assert results.keys() == {name for family in BIASED for name in variants(family, 0, "qlora")}
    assert table.shown(table.VARIANTS_PAGE) == table.varied_table(results)


def test_every_family_and_every_variant_is_met() -> None:
    cells = _cells()
    assert {case.family for case, _ in cells} == set(FAMILIES)
    assert {name for _, name in cells} == {name for family in BIASED for name in variants(family, 0, "qlora")}
