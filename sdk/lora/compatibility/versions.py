"""Versions of engines, each written in the engine's own way: 0.33.0, v0.33.0-rc2, 0.8.5.post1, b11549.

>>> parse("v0.33.0-rc2", "ollama"), parse("0.8.5.post1", "vllm"), parse("b11549", "llama.cpp")
((0, 33, 0), (0, 8, 5), (11549,))
"""

from __future__ import annotations

import re
from typing import TypeAlias

#: Numbers that can be compared; a release candidate and a post-release count as their release.
Number: TypeAlias = tuple[int, ...]

_RELEASE = re.compile(
    r"v?(\d{1,5}(?:\.\d{1,5}){1,3})(?:[.-]?(?:rc|a|b|alpha|beta|post|dev)\.?\d{1,5})?(?:\+[a-z0-9.]{1,40})?",
    re.ASCII,
)
_BUILD = re.compile(r"b?(\d{3,6})", re.ASCII)
_PARTS = 3


class UnknownVersion(ValueError):  # noqa: N818 - the tree of errors reads as words
    """Not a version of an engine; the message shows what one looks like."""


def parse(text: str, engine: str) -> Number:
    """Return the number of a version of an engine. Raises UnknownVersion if the text isn't one."""
    if engine == "llama.cpp":
        if found := _BUILD.fullmatch(text):
            return (int(found[1]),)
        raise UnknownVersion(f"{text[:80]!a} is not a version of llama.cpp; give the number of a build, as b11549")
    if found := _RELEASE.fullmatch(text):
        return tuple((*map(int, found[1].split(".")), 0, 0)[: max(_PARTS, found[1].count(".") + 1)])
    raise UnknownVersion(f"{text[:80]!a} is not a version of {engine}; give one as 0.33.0")
