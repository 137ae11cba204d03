"""The page has the tables that plans make."""

from __future__ import annotations

from pathlib import Path

from sdk.lora.planning.tables import markdown

PAGE = Path(__file__).resolve().parents[5] / "docs" / "planning.md"


def test_the_page_has_the_tables() -> None:
    written = PAGE.read_text().partition("<!-- tables -->\n")[2]
    assert written == markdown(), "write them anew: python -m sdk.lora.planning.tables"
