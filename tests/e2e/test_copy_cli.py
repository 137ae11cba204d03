"""`adapterctl copy` through the real program: the same bytes and past under another name, and nothing sent."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.adapters import base_registration, save_adapter
from support.command_line import CommandLine

from sdk.client import Client

pytestmark = pytest.mark.slow


@pytest.fixture
def node(tmp_path: Path) -> CommandLine:
    with Client(f"local:{tmp_path / 'home'}", cache=tmp_path / "pusher") as client:
        client.bases.register(base_registration())
        for seed in (1, 2):
            client.push(save_adapter(tmp_path / f"adapter-{seed}", seed), "sql", base="tiny", tags={"seed": str(seed)})
        client.set_alias("sql", "production", 1)
    return CommandLine(tmp_path)


def test_a_copy_has_the_bytes_and_the_past_of_its_version(node: CommandLine) -> None:
    copied = node.run("copy", "sql@production", "team/sql", "--tag", "of=sql")
    assert (copied.stdout, copied.stderr) == ("team/sql@v1\n", "team/sql@v1 is a copy of sql@v1\n")
    old, new = (node.json("show", ref) for ref in ("sql@v1", "team/sql@v1"))
    assert new["digest"] == old["digest"]
    assert new["tags"] == {"seed": "1", "of": "sql"}
    # What serves users is moved by hand.
    assert new["aliases"] == []
    assert "sql@v1" in node.ok("lineage", "team/sql@v1")


def test_all_versions_are_copied_oldest_first_and_the_old_ones_stay(node: CommandLine) -> None:
    copied = node.run("copy", "sql", "team/sql", "--all")
    assert copied.stdout == "team/sql@v1\nteam/sql@v2\n"
    assert "the old versions stay; move their aliases with: adapterctl promote team/sql@vN ALIAS" in copied.stderr
    assert node.ok("versions", "sql", "--format", "quiet").split() == ["sql@v2", "sql@v1"]
    assert "--all copies versions as they are" in node.refused(2, "copy", "sql", "b", "--all", "--tag", "a=b")
    assert "sql@v9" in node.refused(3, "copy", "sql@v9", "b")
