"""Signing at the command line: keys by hand, push and sign, and folders that are verified."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from support import pages, processes
from support.command_line import CommandLine
from support.keys import Pair, make_key
from support.small import write_adapter, write_base

from sdk.client import Client
from sdk.signing import verify

pytestmark = pytest.mark.slow

PASSWORD = "correct horse"


class Desk(CommandLine):
    """A folder with a base and adapters, a registry, and keys."""

    def __init__(self, folder: Path, ours: Pair, theirs: Pair, **env: str) -> None:
        super().__init__(folder, cwd=folder, XDG_CONFIG_HOME=str(folder / "config"), **env)
        self.ours, self.theirs = ours, theirs

    def refused(self, status: int, *args: str, **env: str) -> str:
        """Run a command that exits so; return the one line that it says."""
        said = super().refused(status, *args, **env)
        assert PASSWORD not in said
        return said


def lay_out(folder: Path, **env: str) -> Desk:
    """Write a base, two adapters and two pairs of keys."""
    write_base(folder / "base")
    write_adapter(folder / "adapter")
    write_adapter(folder / "another", value=0.125)
    return Desk(folder, make_key(folder, "ours"), make_key(folder, "theirs", kind="P-384"), **env)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    folder = tmp_path_factory.mktemp("desk")
    desk = lay_out(folder, ADAPTERCTL_URL=f"local:{folder / 'registry'}")
    desk.ok("push", "./adapter", "signed", "--base", "./base", "--sign", "ours.pem")
    desk.ok("push", "./another", "signed", "--base", "./base")
    return desk


def holds(desk: Desk, ref: str, pair: Pair) -> bool:
    """Whether a version is signed; each of its signatures must be the key's."""
    client = Client(desk.env["ADAPTERCTL_URL"], cache=desk.folder / "cache")
    try:
        info = client.get(ref).info
        found = client.signatures(info.digest)
        for signature in found:
            verify(info.manifest, signature.bundle, pair.public)
        return bool(found)
    finally:
        client.close()


class TestPushAndSign:
    def test_push_signs(self, desk: Desk) -> None:
        assert holds(desk, "signed@v1", desk.ours)
        assert not holds(desk, "signed@v2", desk.ours)

    def test_a_tree_is_signed_throughout(self, desk: Desk) -> None:
        for seed in (1, 2):
            write_adapter(desk.folder / f"tree/tree-{seed}", value=seed + 0.5)
        desk.ok("push", "--tree", "./tree", "--base", "./base", "--sign", "ours.pem")
        assert holds(desk, "tree-1@v1", desk.ours)
        assert holds(desk, "tree-2@v1", desk.ours)

    def test_sign_prints_the_keys_id(self, desk: Desk) -> None:
        write_adapter(desk.folder / "fourth", value=0.875)
        ref = desk.ok("push", "./fourth", "later", "--base", "./base")
        shown = desk.ok("sign", ref, "--key", "theirs.pem")
        assert len(shown) == 64
        said = json.loads(desk.ok("sign", ref, "--format", "json", ADAPTERCTL_SIGNING_KEY="theirs.pem"))
        assert said == {"ref": ref, "digest": said["digest"], "key_id": shown}
        assert holds(desk, ref, desk.theirs)

    def test_a_protected_key(self, desk: Desk) -> None:
        make_key(desk.folder, "locked", password=PASSWORD)
        said = desk.refused(2, "sign", "signed@v2", "--key", "locked.pem")
        assert "put it into ADAPTERCTL_SIGNING_PASSWORD" in said
        said = desk.refused(2, "sign", "signed@v2", "--key", "locked.pem", ADAPTERCTL_SIGNING_PASSWORD="wrong")
        assert "can't be opened with this password" in said
        write_adapter(desk.folder / "fifth", value=0.375)
        desk.ok(
            "push",
            "./fifth",
            "locked",
            "--base",
            "./base",
            "--sign",
            "locked.pem",
            ADAPTERCTL_SIGNING_PASSWORD=PASSWORD,
        )

    def test_on_a_terminal_the_password_is_asked_for(self, desk: Desk) -> None:
        make_key(desk.folder, "asked", password=PASSWORD)
        write_adapter(desk.folder / "sixth", value=0.625)
        command = ["push", "./sixth", "asked", "--base", "./base", "--base-revision", "abc", "--sign", "asked.pem"]
        status, data, shown = desk.at_a_terminal(*command, asks="password of", typed=PASSWORD, piped=True)
        assert (status, data) == (0, "asked@v1\n")
        assert PASSWORD not in shown

    def test_what_can_not_sign_leaves_nothing(self, desk: Desk) -> None:
        make_key(desk.folder, "ed", kind="ed25519")
        write_adapter(desk.folder / "never", value=0.0625)
        push = ("push", "./never", "never", "--base", "./base", "--sign")
        assert "there is no key none.pem" in desk.refused(3, *push, "none.pem")
        assert "of the type Ed25519; signatures need EC keys" in desk.refused(2, *push, "ed.pem")
        assert "there is no" in desk.refused(3, "show", "never")
        assert "sign with the private one" in desk.refused(2, "sign", "signed@v1", "--key", "ours.pub.pem")

    def test_without_any_key(self, desk: Desk) -> None:
        assert "give --key, or set ADAPTERCTL_SIGNING_KEY" in desk.refused(2, "sign", "signed@v1")

    def test_what_is_not_there(self, desk: Desk) -> None:
        assert "there is no" in desk.refused(3, "sign", "signed@v9", "--key", "ours.pem")


class TestVerify:
    def test_every_folder_that_is_not_as_signed_exits_with_7(self, desk: Desk) -> None:
        desk.ok("pull", "signed@v1", "-o", "v1", "--verify-with", "ours.pub.pem")
        write_adapter(desk.folder / "second", value=0.4375)
        desk.ok("push", "./second", "signed-too", "--base", "./base", "--sign", "ours.pem")
        desk.ok("pull", "signed-too@v1", "-o", "v2", "--verify-with", "ours.pub.pem")

        def another_signature(folder: Path) -> None:
            path = folder / ".adapterctl/signatures.json"
            path.write_text(path.read_text().replace(r"\"sig\":\"ME", r"\"sig\":\"MF"))

        weights, manifest = "adapter_model.safetensors", ".adapterctl/manifest.json"
        wrongs: dict[str, Callable[[Path], object]] = {
            "another version's files": lambda folder: shutil.copyfile(desk.folder / "v2" / weights, folder / weights),
            "another version's manifest": lambda folder: shutil.copyfile(
                desk.folder / "v2" / manifest, folder / manifest
            ),
            "an altered signature": another_signature,
            "no signature": lambda folder: (folder / ".adapterctl/signatures.json").unlink(),
        }
        for what, spoil in wrongs.items():
            shutil.rmtree(desk.folder / "spoilt", ignore_errors=True)
            shutil.copytree(desk.folder / "v1", desk.folder / "spoilt")
            spoil(desk.folder / "spoilt")
            done = desk.run("verify", "./spoilt", "--verify-with", "ours.pub.pem")
            assert (done.returncode, done.stdout) == (7, ""), (what, done.stdout, done.stderr)


class TestFromAHub:
    def test_without_a_hub_it_is_unavailable(self, desk: Desk) -> None:
        said = desk.refused(9, "push", "hf://org/name@main", "hub", "--base", "./base")
        assert "can't be fetched from the model hub" in said

    def test_hostile_names(self, desk: Desk) -> None:
        assert "write hf://org/name@revision" in desk.refused(2, "push", "hf://../../etc", "hub", "--base", "./base")
        assert "one by one" in desk.refused(2, "push", "--tree", "hf://org/name")


def test_a_server_without_usable_keys_does_not_start(tmp_path: Path) -> None:
    env = processes.environment(
        REGISTRY_DATABASE_URL=f"sqlite:///{tmp_path / 'registry.sqlite3'}",
        REGISTRY_STORAGE_URL=(tmp_path / "artifacts").as_uri(),
        REGISTRY_SIGNING_KEYS=str(tmp_path / "none.pem"),
        REGISTRY_AUTH="none",
    )
    processes.run("adapter-registry", "db", "upgrade", env=env)
    done = processes.run("adapter-registry", "serve", "--port", str(processes.free_port()), env=env)
    assert done.returncode != 0
    assert "REGISTRY_SIGNING_KEYS: there is no key" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_walk_through_of_the_page(tmp_path: Path) -> None:
    """The very commands of docs/artifacts.md, one after another in one folder."""
    desk = lay_out(tmp_path, ADAPTERCTL_URL=f"local:{tmp_path / 'registry'}", BASE="./base")
    desk.env["PATH"] = f"{processes.BIN}{os.pathsep}{desk.env['PATH']}"
    (tmp_path / "adapter").rename(tmp_path / "my-adapter")
    for name in ("keys", "push", "verify", "independent"):
        text = pages.block("artifacts.md", f"signing-{name}")
        done = processes.finished("bash", "-euc", text, env=desk.env, cwd=tmp_path, timeout_s=120)
        assert done.returncode == 0, (name, done.stderr)
    assert stat.S_IMODE((tmp_path / "KEY.pem").stat().st_mode) == 0o600
