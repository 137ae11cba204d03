"""Whether a generated text is code: it is parsed, never run."""

from __future__ import annotations

import ast
import platform
import re
import textwrap
import warnings

#: A fence of Markdown on a line of its own, with the language of what follows.
_FENCE = re.compile(r"^( {0,3}+)(`{3,}+|~{3,}+)[ \t]*+([^\s`]*+)[^\n`]*+$", re.MULTILINE)
#: Names of the language.
_PYTHON = re.compile(r"(?:\{?\.?py(?:thon)?(?:[23](?:\.[0-9]+)*)?\}?)?")
#: Longer texts aren't answers, and deeply nested ones may crash the parser and the process.
_MOST_CHARACTERS = 200_000

#: The release whose grammar is used.
GRAMMAR = ".".join(platform.python_version_tuple()[:2])


def code_parses(answer: str) -> float:
    """Return 1 for an answer that is Python and parses, else 0.

    If an answer has fenced blocks, they are the code: each must be named as Python, or have no name, and parse. An
    unclosed block continues to the end. An empty text isn't code.

    An answer that is indented as a whole counts as a block taken out of its context.

    >>> code_parses("return x + 1"), code_parses("Here it is:\\n```python\\nx = 1\\n```"), code_parses("```sql\\nx\\n```")
    (1.0, 1.0, 0.0)
    """
    blocks = _fenced(answer) or [("", textwrap.dedent(answer))]
    code = [text for _, text in blocks]
    return float(
        all(_PYTHON.fullmatch(language) for language, _ in blocks)
        and any(map(str.strip, code))
        and all(map(_parses, code))
    )


def _fenced(text: str) -> list[tuple[str, str]]:
    """Return the language and the text of each fenced block, without the blanks with which its fence begins."""
    blocks: list[tuple[str, str]] = []
    opened: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if opened is None:
            opened = fence
        elif fence[2].startswith(opened[2]) and not fence[3]:
            blocks.append((opened[3].lower(), _inside(opened, text[opened.end() + 1 : fence.start()])))
            opened = None
    if opened is not None:
        blocks.append((opened[3].lower(), _inside(opened, text[opened.end() + 1 :])))
    return blocks


def _inside(fence: re.Match[str], text: str) -> str:
    """As in Markdown, each line loses up to as many blanks as its fence has."""
    return re.sub(rf"^ {{1,{len(fence[1])}}}", "", text, flags=re.MULTILINE) if fence[1] else text


def _parses(text: str) -> bool:
    if len(text) > _MOST_CHARACTERS:
        return False
    try:
        with warnings.catch_warnings():
            # Warnings about escapes that a later Python refuses.
            warnings.simplefilter("ignore")
            ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
