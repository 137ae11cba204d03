"""The commands that a page of the documentation shows for a test to run: the block after `<!-- run: NAME -->`."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def block(page: str, name: str) -> str:
    """Return the text of a block of a page in `docs/`."""
    (text,) = re.findall(
        rf"<!-- run: {re.escape(name)} -->\n```(?:sh|python)\n(.*?)```", (DOCS / page).read_text(), re.DOTALL
    )
    return str(text)


def commands(page: str, name: str) -> list[list[str]]:
    """Return the words of each command in a block; those of a pipe in one list, with `|` between."""
    lines = block(page, name).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def with_options(words: list[str], **options: object) -> list[str]:
    """Return a command with other values of options, which are added where it has none."""
    changed = list(words)
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if option in changed:
            changed[changed.index(option) + 1] = str(value)
        else:
            changed += [option, str(value)]
    return changed
