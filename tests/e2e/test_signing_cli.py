"""Signing at the command line: keys by hand, push and sign, verify and pull, and a registry that asks for signatures."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import processes
from support.command_line import CommandLine
from support.keys import Pair, make_key
from support.registries import served
from support.small import write_adapter, write_base

from registry.principal import Role
from sdk.client import Client
from sdk.signing import verify

pytestmark = pytest.mark.slow

PAGE = Path(__file__).resolve().parents[2] / "docs" / "artifacts.md"
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

    def test_by_the_environments_key(self, desk: Desk) -> None:
        write_adapter(desk.folder / "third", value=0.75)
        done = desk.ok(
            "push", "./third", "by-env", "--base", "./base", "--format", "json", ADAPTERCTL_SIGNING_KEY="ours.pem"
        )
        assert json.loads(done)["ref"] == "by-env@v1"
        assert holds(desk, "by-env@v1", desk.ours)

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
        main, beside = pty.openpty()
        process = subprocess.Popen(
            [str(processes.BIN / "adapterctl"), *command],
            env={**desk.env, "TERM": "dumb"},
            cwd=desk.folder,
            stdin=beside,
            stderr=beside,
            stdout=subprocess.PIPE,
        )
        os.close(beside)
        seen = b""
        while b"password of" not in seen:
            seen += os.read(main, 1024)
        os.write(main, f"{PASSWORD}\n".encode())
        out, _ = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, b"asked@v1\n")
        os.close(main)
        assert PASSWORD.encode() not in seen

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


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


class TestVerify:
    def test_right_key_and_other_key_by_ref(self, desk: Desk) -> None:
        desk.ok("verify", "signed@v1", "--verify-with", "ours.pub.pem")
        desk.refused(7, "verify", "signed@v1", "--verify-with", "theirs.pub.pem")
        desk.refused(7, "verify", "signed@v2", "--verify-with", "ours.pub.pem")

    def test_right_key_and_other_key_by_folder(self, desk: Desk) -> None:
        desk.ok("pull", "signed@v1", "-o", "pulled", "--verify-with", "ours.pub.pem")
        desk.ok("verify", "./pulled", "--verify-with", "ours.pub.pem")
        desk.refused(7, "verify", "./pulled", "--verify-with", "theirs.pub.pem")

    def test_every_folder_that_is_not_as_signed_exits_with_7(self, desk: Desk) -> None:
        desk.ok("pull", "signed@v1", "-o", "v1", "--verify-with", "ours.pub.pem")
        write_adapter(desk.folder / "second", value=0.4375)
        desk.ok("push", "./second", "signed-too", "--base", "./base", "--sign", "ours.pem")
        desk.ok("pull", "signed-too@v1", "-o", "v2", "--verify-with", "ours.pub.pem")

        def bundle(change: Callable[[str], str]) -> Callable[[Path], None]:
            def write(folder: Path) -> None:
                path = folder / ".adapterctl/signatures.json"
                (found,) = json.loads(path.read_text())
                path.write_text(json.dumps([{**found, "bundle": change(found["bundle"])}]))

            return write

        def add(name: str) -> Callable[[Path], None]:
            def write(folder: Path) -> None:
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_text("more")

            return write

        theirs = json.loads((desk.folder / "v2/.adapterctl/signatures.json").read_text())[0]["bundle"]
        config, weights = "adapter_config.json", "adapter_model.safetensors"
        wrongs: dict[str, Callable[[Path], None]] = {
            "altered": lambda folder: _flip(folder / weights),
            "added": add("README.md"),
            "added under .github": add(".github/x"),
            "added as .gitattributes": add(".gitattributes"),
            "removed": lambda folder: (folder / config).unlink(),
            "renamed": lambda folder: (folder / config).rename(folder / "Adapter_config.json"),
            "another version's files": lambda folder: shutil.copyfile(desk.folder / f"v2/{weights}", folder / weights),
            "another version's manifest": lambda folder: shutil.copyfile(
                desk.folder / "v2/.adapterctl/manifest.json", folder / ".adapterctl/manifest.json"
            ),
            "another version's signature": bundle(lambda _: theirs),
            "an altered signature": bundle(lambda text: text.replace('"sig":"ME', '"sig":"MF')),
            "no signature": lambda folder: (folder / ".adapterctl/signatures.json").unlink(),
        }
        for what, spoil in wrongs.items():
            shutil.rmtree(desk.folder / "spoilt", ignore_errors=True)
            shutil.copytree(desk.folder / "v1", desk.folder / "spoilt")
            spoil(desk.folder / "spoilt")
            done = desk.run("verify", "./spoilt", "--verify-with", "ours.pub.pem")
            assert (done.returncode, done.stdout) == (7, ""), (what, done.stdout, done.stderr)

    def test_a_pull_that_does_not_verify_leaves_nothing(self, desk: Desk) -> None:
        for ref, key in (("signed@v1", "theirs.pub.pem"), ("signed@v2", "ours.pub.pem")):
            desk.refused(7, "pull", ref, "-o", "not-there", "--verify-with", key)
            assert not (desk.folder / "not-there").exists()


class TestFromAHub:
    def test_without_a_hub_it_is_unavailable(self, desk: Desk) -> None:
        said = desk.refused(9, "push", "hf://org/name@main", "hub", "--base", "./base")
        assert "can't be fetched from the model hub" in said

    def test_hostile_names(self, desk: Desk) -> None:
        assert "write hf://org/name@revision" in desk.refused(2, "push", "hf://../../etc", "hub", "--base", "./base")
        assert "one by one" in desk.refused(2, "push", "--tree", "hf://org/name")


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A server that takes versions by our key only."""
    folder = tmp_path_factory.mktemp("strict")
    desk = lay_out(folder)
    with served(folder / "server", signing_keys=str(desk.ours.public)) as world:
        desk.env |= {"ADAPTERCTL_URL": world.url, "ADAPTERCTL_TOKEN": world.token(Role.WRITER)}
        yield desk


class TestWhereSignaturesAreAskedFor:
    def test_only_ours_are_taken(self, strict: Desk) -> None:
        push = ("push", "./adapter", "code-review", "--base", "./base")
        assert "push again with --sign KEY" in strict.refused(7, *push)
        assert "does not accept" in strict.refused(7, *push, "--sign", "theirs.pem")
        assert "there is no" in strict.refused(3, "show", "code-review")
        assert strict.ok(*push, "--sign", "ours.pem") == "code-review@v1"
        # Another signer may be added to it.
        strict.ok("sign", "code-review@v1", "--key", "theirs.pem")


def test_a_server_without_usable_keys_does_not_start(tmp_path: Path) -> None:
    env = processes.environment(
        REGISTRY_DATABASE_URL=f"sqlite:///{tmp_path / 'registry.sqlite3'}",
        REGISTRY_STORAGE_URL=(tmp_path / "artifacts").as_uri(),
        REGISTRY_SIGNING_KEYS=str(tmp_path / "none.pem"),
        REGISTRY_AUTH="none",
    )
    processes.run("adapter-registry", "db", "upgrade", env=env)
    done = processes.run("adapter-registry", "serve", "--port", str(processes.free_port()), env=env, timeout_s=60)
    assert done.returncode != 0
    assert "REGISTRY_SIGNING_KEYS: there is no key" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_walk_through_of_the_page(tmp_path: Path) -> None:
    """The very commands of docs/artifacts.md, one after another in one folder."""
    desk = lay_out(tmp_path, ADAPTERCTL_URL=f"local:{tmp_path / 'registry'}", BASE="./base")
    desk.env["PATH"] = f"{processes.BIN}{os.pathsep}{desk.env['PATH']}"
    (tmp_path / "adapter").rename(tmp_path / "my-adapter")
    for name in ("keys", "push", "verify", "independent"):
        found = re.search(rf"<!-- run: signing-{name} -->\n```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
        assert found is not None, f"the page shows no commands for signing-{name}"
        done = processes.finished("bash", "-euc", found[1], env=desk.env, cwd=tmp_path, timeout_s=120)
        assert done.returncode == 0, (name, done.stderr)
    assert stat.S_IMODE((tmp_path / "KEY.pem").stat().st_mode) == 0o600
