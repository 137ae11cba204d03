"""Whether a generated text is code: it parses, and nothing of it is run."""

from __future__ import annotations

import ast
import platform
import re
import warnings

#: A fence of Markdown on a line of its own, with the language of what follows.
_FENCE = re.compile(r"^ {0,3}+(`{3,}+|~{3,}+)[ \t]*+([^\s`]*+)[^\n`]*+$", re.MULTILINE)
#: How the language is called.
_PYTHON = frozenset({"", "python", "python3", "py"})
#: Longer texts are no answers, and the parser of deeply nested ones may take the process down.
_MOST_CHARACTERS = 200_000

#: Whose grammar it is.
GRAMMAR = ".".join(platform.python_version_tuple()[:2])


def code_parses(answer: str) -> float:
    """Return 1 for an answer that is Python and parses, else 0.

    Where an answer has fenced blocks, they are the code: each must be Python by its name, or have none, and parse. A block that
    is not closed goes on to the end. Nothing at all is no code.

    >>> code_parses("return x + 1"), code_parses("Here it is:\\n```python\\nx = 1\\n```"), code_parses("```sql\\nx\\n```")
    (1.0, 1.0, 0.0)
    """
    blocks = _fenced(answer) or [("", answer)]
    code = [text for _, text in blocks]
    return float(
        all(language in _PYTHON for language, _ in blocks) and any(map(str.strip, code)) and all(map(_parses, code))
    )


def _fenced(text: str) -> list[tuple[str, str]]:
    """Return the language and the text of each block between fences."""
    blocks: list[tuple[str, str]] = []
    opened: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if opened is None:
            opened = fence
        elif fence[1].startswith(opened[1]) and not fence[2]:
            blocks.append((opened[2].lower(), text[opened.end() + 1 : fence.start()]))
            opened = None
    if opened is not None:
        blocks.append((opened[2].lower(), text[opened.end() + 1 :]))
    return blocks


def _parses(text: str) -> bool:
    if len(text) > _MOST_CHARACTERS:
        return False
    try:
        with warnings.catch_warnings():
            # Of escapes that a later Python refuses.
            warnings.simplefilter("ignore")
            ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
