"""Signed promotion at the command line, over HTTP: by somebody who promotes, for somebody who reads."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support import processes
from support.adapters import base_registration, save_adapter
from support.command_line import CommandLine
from support.keys import Pair, make_key
from support.registries import World, served

from registry.principal import Role

pytestmark = pytest.mark.slow

SECTION = (
    (Path(__file__).resolve().parents[2] / "docs" / "promoting.md").read_text().partition("\n## Signed aliases\n")[2]
)
REF = "code-review@production"


class Desks(NamedTuple):
    """Two machines before one registry."""

    world: World
    signer: CommandLine
    reader: CommandLine
    keys: Pair

    def pull(self, *more: str) -> tuple[str, ...]:
        """A pull of the reader's that asks for a statement."""
        return ("pull", REF, *more, "--require-signed-alias", str(self.keys.public))


@pytest.fixture
def desks(tmp_path: Path) -> Iterator[Desks]:
    with served(tmp_path / "world") as world:
        world.admin.bases.register(base_registration())
        for seed in (1, 2):
            world.writer.push(save_adapter(tmp_path / f"adapter-{seed}", seed), "code-review", base="tiny")
        at = {}
        for role in (Role.PROMOTER, Role.READER):
            folder = tmp_path / role.value
            folder.mkdir()
            at[role] = CommandLine(folder, url=world.url, token=world.token(role), cwd=folder)
        yield Desks(world, at[Role.PROMOTER], at[Role.READER], make_key(tmp_path / "promoter", "KEY"))


def test_a_reader_gets_what_is_signed_and_nothing_else(desks: Desks, tmp_path: Path) -> None:
    target = desks.reader.folder / "out"
    sign = ("--sign", "KEY.pem")
    assert "has no signed statement" not in desks.signer.ok("promote", "code-review@v1", "production")
    said = desks.reader.refused(7, *desks.pull("-o", "./out"))
    assert "has no signed statement" in said
    assert not target.exists()

    renewed = desks.signer.json("promote", "code-review@v1", "production", *sign, "--renew")
    assert desks.reader.json(*desks.pull("-o", "./out"))["digest"] == renewed["digest"]
    assert desks.reader.ok("verify", "./out")

    # It moves without a signature.
    desks.signer.ok("promote", "code-review@v2", "production")
    said = desks.signer.refused(4, "promote", "code-review@v1", "production", *sign, "--renew")
    assert "names code-review@v2 since move" in said
    before = (target / "adapter_model.safetensors").read_bytes()
    for more in (("-o", "./out"), ("--base", "tiny")):
        assert "wait until the last move is signed" in desks.reader.refused(7, *desks.pull(*more))
    assert (target / "adapter_model.safetensors").read_bytes() == before
    # Offline nobody sees that it has moved.
    assert desks.reader.json(*desks.pull("--offline"))["digest"] == renewed["digest"]

    assert desks.signer.ok("promote", "code-review@v2", "production", *sign) == "code-review@v2"
    for more in (("-o", "./out"), ("--base", "tiny"), ("--offline",)):
        assert desks.reader.json(*desks.pull(*more))["digest"] != renewed["digest"], more
    other = make_key(tmp_path / "other").public
    assert desks.reader.refused(7, "pull", REF, "--offline", "--require-signed-alias", str(other))

    # What was seen is on the reader's disk; another one has seen nothing.
    (seen,) = (desks.reader.folder / "cache" / "aliases").rglob("*.json")
    newer = json.loads(seen.read_text())
    seen.write_text(json.dumps({**newer, "move": newer["move"] + 1}))
    said = desks.reader.refused(7, *desks.pull("-o", "./new"))
    assert f"but this client has seen move {newer['move'] + 1}" in said
    assert str(seen) in said
    assert not (desks.reader.folder / "new").exists()


def test_the_commands_of_the_section(desks: Desks) -> None:
    place = desks.signer
    env = {**place.env, "PATH": f"{processes.BIN}{os.pathsep}{place.env['PATH']}"}
    blocks = dict(re.findall(r"<!-- run: ([\w-]+) -->\n```sh\n(.*?)```", SECTION, re.DOTALL))
    assert set(blocks) == {"promote-signed", "promote-renew", "pull-signed-alias", "pull-signed-offline"}
    for name, commands in blocks.items():
        done = processes.finished("bash", "-euc", commands, env=env, cwd=place.folder, timeout_s=120)
        assert done.returncode == 0, (name, done.stderr)
