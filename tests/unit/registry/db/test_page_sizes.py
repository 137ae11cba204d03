"""How many rows a page has if rows may be long."""

from __future__ import annotations

import pytest

from registry.db.paging import MOST_PAGE_BYTES, fitting


@pytest.mark.parametrize(
    ("sizes", "rows"),
    [
        ([], 9),
        ([100] * 9, 9),
        ([MOST_PAGE_BYTES // 2] * 9, 2),
        ([MOST_PAGE_BYTES // 2 + 1] * 9, 1),
        # A row that is longer than a page is a page.
        ([3 * MOST_PAGE_BYTES, 1], 1),
        ([1, 3 * MOST_PAGE_BYTES, 1], 1),
    ],
)
def test_a_page_has_as_many_rows_as_fit_and_at_least_one(sizes: list[int], rows: int) -> None:
    assert fitting(sizes, 9) == rows
