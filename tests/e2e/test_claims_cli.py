"""A version goes from one registry to another through the real program, and its past goes along as claimed."""

from __future__ import annotations

import json

import pytest
from support import calls, registries
from support.adapters import base_registration, save_adapter, use_of
from support.command_line import CommandLine
from support.people import training

from sdk.client import Client

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """A registry with a version that a job made, and commands before it."""
    folder = tmp_path_factory.mktemp("node")
    with registries.embedded(folder / "home") as world:
        world.admin.bases.register(base_registration())
        (folder / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
        rows = world.writer.datasets.add(folder / "rows.jsonl", name="reviews")
        world.writer.call("POST", "/jobs", dict, body=training("sql", rows.digest))
        held = calls.hold(world.worker)
        made = calls.publication(
            world.worker,
            save_adapter(folder / "made"),
            "sql",
            dataset=use_of(rows.digest),
            training={"optimizer": "adamw", "lr": 0.0002},
            metrics={"loss": 1.25},
        )
        calls.complete(world.worker, held, version=made)
    with Client(f"local:{folder / 'other'}", cache=folder / "pusher") as other:
        other.bases.register(base_registration())
    return CommandLine(folder)


def test_version_goes_into_another_registry_with_what_this_one_told(node: CommandLine) -> None:
    pulled, other = node.folder / "pulled", f"local:{node.folder / 'other'}"
    node.ok("pull", "sql@v1", "-o", str(pulled))
    assert json.loads((pulled / ".adapterctl" / "about.json").read_bytes())["registry"] == "local:home"
    assert node.ok("verify", str(pulled)).startswith("whole: 2 files, sha256:")
    pushed = node.run("push", str(pulled), "team/sql", "--base", "tiny", ADAPTERCTL_URL=other)
    assert (pushed.returncode, pushed.stdout) == (0, "team/sql@v1\n"), pushed.stderr
    assert "what local:home recorded is kept as claimed; see: adapterctl show team/sql@v1" in pushed.stderr
    shown = node.ok("show", "team/sql@v1", ADAPTERCTL_URL=other)
    assert "of sql@v1; not verified: nothing is decided by it" in shown
    assert "reviews@v1, 1 rows" in shown
    document = node.json("show", "team/sql@v1", ADAPTERCTL_URL=other)
    assert (document["training"], document["claimed"]["about"]["training"]["lr"]) == (None, 0.0002)
    assert (document["claimed"]["state"], document["claimed"]["registry"]) == ("claimed", "local:home")
    # The same bytes go back and forth, and whoever wants sends them alone.
    bare = node.run("push", str(pulled), "team/bare", "--base", "tiny", "--no-claims", ADAPTERCTL_URL=other)
    assert (bare.returncode, bare.stdout) == (0, "team/bare@v1\n")
    assert "claimed" not in bare.stderr
    assert node.json("show", "team/bare@v1", ADAPTERCTL_URL=other)["claimed"] is None
