"""The page has the tables that the code has."""

from __future__ import annotations

from pathlib import Path

from sdk.lora.compatibility.tables import markdown

PAGE = Path(__file__).resolve().parents[5] / "docs" / "compatibility.md"


def test_the_page_has_the_tables() -> None:
    written = PAGE.read_text().partition("<!-- tables -->\n")[2]
    assert written == markdown(), "write them anew: python -m sdk.lora.compatibility.tables"
