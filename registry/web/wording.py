"""What templates say of plain values, in the words of other rooms.

>>> tag_filter("language", "python 3")
'tag[language] = "python 3"'
"""

from __future__ import annotations

import shlex

from registry.search.fields import write_value
from sdk.schemas import promotion_words
from sdk.schemas.catalog import VersionView


def tag_filter(key: str, value: str) -> str:
    """Return the filter that finds what has a tag."""
    return f"tag[{key}] = {write_value(value)}"


def quoted(text: str) -> str:
    """Return a text as a shell takes it for one argument."""
    return shlex.quote(text)


def source_of(version: VersionView) -> str:
    """Return how a version came to be, in one word."""
    if version.kind == "merged":
        return "merged"
    if any(parent.relation == "combined-from" for parent in version.parents):
        return "combined"
    return "pushed" if version.job is None else "trained"


SHOWN = {
    "tag_filter": tag_filter,
    "quoted": quoted,
    "source_of": source_of,
    "words": promotion_words,
}
