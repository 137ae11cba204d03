"""Lays out help so that nothing is broken at a hyphen: options, names and examples in it can be copied."""

from __future__ import annotations

from collections.abc import Iterable

import click

#: Stands for a hyphen while lines are filled, since `textwrap` breaks at hyphens; nothing else writes it.
_HYPHEN = "\ue02d"


class WholeWords(click.HelpFormatter):
    """Click's formatter, which breaks lines only at spaces."""

    def write(self, string: str) -> None:
        super().write(string.replace(_HYPHEN, "-"))

    def write_text(self, text: str) -> None:
        super().write_text(text.replace("-", _HYPHEN))

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        whole = [(first.replace("-", _HYPHEN), second.replace("-", _HYPHEN)) for first, second in rows]
        super().write_dl(whole, col_max, col_spacing)
