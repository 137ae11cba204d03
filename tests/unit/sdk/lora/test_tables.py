"""The pages have the tables that the code makes."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from sdk.lora.compatibility import tables as compatibility
from sdk.lora.planning import tables as planning

DOCS = Path(__file__).resolve().parents[4] / "docs"


@pytest.mark.parametrize(("module", "page"), [(planning, "planning.md"), (compatibility, "compatibility.md")])
def test_the_page_has_the_tables(module: ModuleType, page: str) -> None:
    written = (DOCS / page).read_text().partition("<!-- tables -->\n")[2]
    assert written == module.markdown(), f"write them anew: python -m {module.__name__}"
