"""A version as a notebook shows it."""

from __future__ import annotations

from sdk.formats.html_tables import facts, page, sentence
from sdk.notebook.rows import row_of
from sdk.schemas.catalog import VersionBrief, VersionView
from sdk.schemas.version_facts import facts_of


def version_page(known: VersionView | VersionBrief) -> str:
    """Return a version as a table of what is known of it: in brief, as a search found it, or in full."""
    if isinstance(known, VersionBrief):
        more = sentence("This is what the search found; version.info asks for the rest.")
        return page(facts(known.ref, [(name, value) for name, value in row_of(known).items() if value]), more)
    return page(facts(known.ref, facts_of(known, None, size=_size)))


def _size(count: float) -> str:
    """Return for example "12.3 MB", in decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
