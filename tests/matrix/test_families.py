"""Families × methods × targets × dtypes × files: pairwise in every run, all of them in `make matrix`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from matrix import table
from support.families import FAMILIES, Case, pairwise, uncovered, walk, whole_product
from support.merges import FAMILIES as MERGED
from support.merges import variants
from support.soak import MATRIX

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_every_pair_of_values_is_met() -> None:
    assert list(uncovered(pairwise())) == []


@pytest.mark.parametrize("case", whole_product() if MATRIX else pairwise(), ids=str)
def test_what_is_trained_is_what_plain_peft_loads_and_what_is_merged(case: Case, tmp_path: Path) -> None:
    found = walk(case, tmp_path)
    if MATRIX:
        table.keep(found)


def test_the_page_shows_what_was_found() -> None:
    results = json.loads(table.RESULTS.read_text())
    assert list(results) == list(FAMILIES)
    assert table.shown(table.PAGE) == table.table(results)


def test_the_page_on_merging_shows_what_was_found() -> None:
    results = json.loads(table.MERGES.read_text())
    assert list(results) == list(MERGED)
    assert all(results[family].keys() == variants(family).keys() for family in MERGED)
    assert table.shown(table.MERGING_PAGE) == table.merges_table(results)
