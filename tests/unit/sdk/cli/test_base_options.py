"""Wherever a command takes the name of a base, it can be said whose base is meant."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from sdk.cli import cli as adapterctl_cli
from sdk.errors import InvalidInput
from sdk.pushing.given_base import GivenBase, given_base, given_base_if_any

#: Commands that take the bare name of a base.
_BARE = {"base fix", "base rm", "base show"}


def _commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


def _takes_a_name(path: str, command: click.Command) -> bool:
    """Whether a command has a `--base` that may be a name, and not only a folder; or takes `base:NAME`."""
    given = [one for one in command.params if "--base" in one.opts]
    shown = (command.help or "") + "".join(one.metavar or "" for one in command.params)
    return path in _BARE or "base:" in shown or any(one.metavar != "DIR" for one in given)


def test_each_command_that_takes_the_name_of_a_base_says_whose_it_is() -> None:
    found = {path: command for path, command in _commands(adapterctl_cli) if _takes_a_name(path, command)}
    assert found.keys() >= {
        "push",
        "plan",
        "train",
        "pull",
        "export",
        "data preview",
        "data check",
        "eval",
        "compare",
        "report",
        "lineage",
        *_BARE,
    }
    for path, command in found.items():
        options = {name for one in command.params for name in one.opts}
        assert {"--base-namespace", "--published"} <= options, path


class TestGiven:
    def test_a_folder_has_no_namespace(self) -> None:
        for how in ({"namespace": "team"}, {"published": True}):
            with pytest.raises(InvalidInput, match="is a folder, and base_namespace and published") as caught:
                GivenBase("./tiny", **how)  # type: ignore[arg-type]
            assert caught.value.param in ("base_namespace", "published")

    def test_both_are_refused_and_so_is_one_without_a_base(self) -> None:
        with pytest.raises(InvalidInput, match="give base_namespace or published"):
            given_base("tiny", "team", True)
        with pytest.raises(InvalidInput, match="give the base too"):
            given_base_if_any(None, None, True)
        assert given_base_if_any(None, None, None) is None
        assert given_base_if_any("tiny", "team", False) == GivenBase("tiny", "team")
