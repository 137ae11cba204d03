"""The commands that shells complete are those that there are."""

from __future__ import annotations

from support.command_tree import written

from sdk.cli.completing.command_tree import FILE


def test_file_says_what_the_commands_say() -> None:
    assert FILE.read_text() == written(), "write it anew: PYTHONPATH=tests python -m support.command_tree"
