"""`adapterctl up` with everything real: two stacks on one machine, parts and supervisors that are killed, ends and returns."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from support import pages, processes, small_llama
from support.adapters import save_adapter
from support.tiny import save_llama
from support.waiting import wait_until

from registry.principal import Role
from sdk.client import Client

pytestmark = pytest.mark.slow

#: For whatever a loaded machine takes; a part's own limits are far below.
PATIENCE_S = 240
PARTS = ("postgres", "valkey", "seaweedfs", "registry")
SECRET_KEYS = {"password", "secret_key", "internal_key", "admin", "worker", "token"}


@dataclass
class Home:
    """A stack's home, and `adapterctl` for it."""

    folder: Path
    document: dict[str, Any] = field(default_factory=dict)

    def run(self, *command: str, exit_code: int = 0) -> str:
        """Run a command on this home; return its stdout."""
        done = processes.run("adapterctl", *command, env=self.env, timeout_s=PATIENCE_S)
        assert done.returncode == exit_code, f"{done.stdout}\n{done.stderr}\n{self.explain()}"
        return done.stdout

    @property
    def env(self) -> dict[str, str]:
        """A user with this home, who uses its registry as an admin once it is up."""
        given = {"ADAPTERCTL_STACK_HOME": str(self.folder), "ADAPTERCTL_CACHE": str(self.folder.parent / "cache")}
        if self.document:
            given |= {"ADAPTERCTL_URL": self.document["url"], "ADAPTERCTL_TOKEN": self.document["token"]}
        return processes.environment(**given)

    def begin(self, workers: int) -> subprocess.Popen[bytes]:
        """Start `up` beside the test."""
        command = [str(processes.BIN / "adapterctl"), "up", "--workers", str(workers), "--format", "json"]
        with (self.folder.parent / "up.out").open("wb") as out, (self.folder.parent / "up.err").open("wb") as err:
            return subprocess.Popen(command, env=self.env, stdout=out, stderr=err)

    def finish(self, begun: subprocess.Popen[bytes]) -> None:
        """Wait for `up` and keep what it printed."""
        assert begun.wait(PATIENCE_S) == 0, (self.folder.parent / "up.err").read_text() + self.explain()
        self.document = json.loads((self.folder.parent / "up.out").read_text())

    def status(self) -> dict[str, dict[str, Any]]:
        """Each part as it is now."""
        return {row["part"]: row for row in json.loads(self.run("status", "--format", "json"))}

    def wait(self, what: str, holds: Callable[[dict[str, dict[str, Any]]], bool]) -> dict[str, dict[str, Any]]:
        """Wait until something holds of the parts; return them."""

        def there() -> dict[str, dict[str, Any]] | None:
            parts = self.status()
            return parts if holds(parts) else None

        return wait_until(there, lambda: f"{what} did not come: {self.status()}\n{self.explain()}") or {}

    def explain(self) -> str:
        """The ends of all logs."""
        return "\n".join(f"{path}:\n{path.read_text()[-1500:]}" for path in sorted(self.folder.rglob("*.log")))

    def processes(self) -> list[int]:
        """Every process whose command line names the home, or that one of those has started."""
        return [pid for pid, line in command_lines().items() if str(self.folder) in line]

    def secrets(self) -> set[str]:
        """Every secret that the home keeps."""
        found = set()
        for path in self.folder.rglob("*.json"):
            if path.parent.name != "data" and path.is_file():
                kept = json.loads(path.read_text())
                found |= {value for key, value in kept.items() if key in SECRET_KEYS}
        return found


def command_lines() -> dict[int, str]:
    """Every process of the machine with its command line."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
    # One that has ended and was not yet reaped has none.
    return {pid: line for pid, line in found.items() if line}


def is_ready(parts: dict[str, dict[str, Any]]) -> bool:
    return all(part["state"] == "ready" for part in parts.values())


def pids(parts: dict[str, dict[str, Any]]) -> dict[str, int]:
    return {name: part["pid"] for name, part in parts.items()}


@pytest.fixture(scope="module")
def homes() -> Iterator[tuple[Home, Home]]:
    """Two stacks that were started at the same time: one with a worker, one with none."""
    # Not pytest's tmp_path: that one is closed to the unprivileged user as whom root's PostgreSQL runs.
    root = Path(tempfile.mkdtemp(prefix="adapterctl-up-"))
    root.chmod(0o711)
    made = []
    for name in ("one", "two"):
        (root / name).mkdir(mode=0o711)
        made.append(Home(root / name / "home"))
    try:
        begun = [home.begin(workers) for home, workers in zip(made, (1, 0), strict=True)]
        for home, process in zip(made, begun, strict=True):
            home.finish(process)
        yield made[0], made[1]
    finally:
        for ending in [subprocess.Popen([str(processes.BIN / "adapterctl"), "down"], env=home.env) for home in made]:
            ending.wait(PATIENCE_S)
        shutil.rmtree(root)


@pytest.fixture(scope="module")
def one(homes: tuple[Home, Home]) -> Home:
    return homes[0]


@pytest.fixture(scope="module")
def two(homes: tuple[Home, Home]) -> Home:
    return homes[1]


def test_what_is_printed_is_kept_for_the_owner_and_opens_the_registry(one: Home) -> None:
    assert set(one.document) == {"url", "token", "file", "services"}
    assert set(one.document["services"]) == {"database_url", "broker_url", "s3_endpoint_url"}
    kept = one.folder / "stack.json"
    assert one.document["file"] == str(kept)
    whole = json.loads(kept.read_text())
    assert (whole["url"], whole["token"]) == (one.document["url"], one.document["token"])
    assert not [secret for secret in one.secrets() - {whole["token"]} if secret in json.dumps(one.document)]
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    who = json.loads(one.run("whoami", "--format", "json"))
    assert who["grants"] == [{"namespace": "*", "role": "admin"}]
    # A file travels to the S3 store by a URL that the registry signed, and its row into the database.
    rows = one.folder.parent / "rows.jsonl"
    rows.write_text('{"prompt": "1", "completion": "2"}\n')
    assert json.loads(one.run("data", "add", str(rows), "--format", "json"))["rows"] == 1


def test_the_table_shows_each_part_and_fits_a_terminal(one: Home) -> None:
    lines = one.run("status", "--format", "table").splitlines()
    assert lines[0].split() == ["PART", "STATE", "PORT", "PID", "UPTIME", "RESTARTS"]
    assert [line.split()[0] for line in lines[1:]] == ["supervisor", *PARTS, "worker-1"]
    assert max(map(len, lines)) <= 80
    assert one.run("status", "--format", "quiet") == "ready\n"


def test_no_secret_is_on_a_command_line_or_in_a_log(one: Home) -> None:
    secrets = one.secrets()
    # Of PostgreSQL, Valkey and SeaweedFS; and two tokens.
    assert len(secrets) == 6
    lines = command_lines()
    assert {part["pid"] for part in one.status().values()} <= set(lines)
    assert not [line for line in lines.values() if any(secret in line for secret in secrets)]
    logs = one.run("logs", "--lines", "100000")
    assert {"registry", "worker-1", "supervisor"} <= {line.split()[0] for line in logs.splitlines()}
    assert not [secret for secret in secrets if secret in logs]
    for path in one.folder.rglob("*"):
        if path.suffix in (".json", ".log", ".conf", ".toml") and "data" not in path.parts:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_stacks_side_by_side_share_nothing(one: Home, two: Home) -> None:
    ports = [{part["port"] for part in home.status().values() if part["port"]} for home in (one, two)]
    assert len(ports[0]) == len(ports[1]) == 4
    assert not ports[0] & ports[1]
    assert not one.secrets() & two.secrets()
    strange = {"Authorization": f"Bearer {one.document['token']}"}
    assert httpx.get(f"{two.document['url']}/api/v1/whoami", headers=strange).status_code == 401
    assert set(two.status()) == {"supervisor", *PARTS}


def test_parts_that_are_killed_come_back_with_their_data(one: Home) -> None:
    before = one.wait("the start", is_ready)
    killed = {name: part["pid"] for name, part in before.items() if name != "supervisor"}
    for pid in killed.values():
        os.kill(pid, signal.SIGKILL)
    after = one.wait(
        "the return", lambda parts: is_ready(parts) and all(parts[name]["pid"] != killed[name] for name in killed)
    )
    assert {name: after[name]["port"] for name in after} == {name: before[name]["port"] for name in before}
    assert all(after[name]["restarts"] >= 1 for name in killed)
    assert after["supervisor"]["pid"] == before["supervisor"]["pid"]
    # Once a part has run for a while, `status` no longer says what ended it; the log does.
    assert re.search(r"valkey .*was killed by SIGKILL", one.run("logs", "supervisor", "--lines", "100000"))
    assert len(json.loads(one.run("data", "list", "--format", "json"))) == 1


def test_up_again_changes_nothing(one: Home) -> None:
    before = one.wait("the start", is_ready)
    assert json.loads(one.run("up", "--format", "json")) == one.document
    assert pids(one.status()) == pids(before)


def test_up_names_what_it_did_not_start_and_a_shell_takes_its_lines(one: Home) -> None:
    done = processes.run("adapterctl", "up", "--format", "env", env=one.env, timeout_s=PATIENCE_S)
    assert "running already, and not started again: supervisor, postgres, " in done.stderr
    assert "not started: a gateway that serves versions; start one with: adapterctl up --serve REF\n" in done.stderr
    script = f'{done.stdout}\necho "$ADAPTERCTL_URL $ADAPTERCTL_TOKEN"'
    shown = subprocess.run(["sh", "-c", script], env={}, capture_output=True, text=True, check=True).stdout
    assert shown == f"{one.document['url']} {one.document['token']}\n"


def test_command_without_a_url_says_which_registry_it_reads_beside_a_stack(one: Home, tmp_path: Path) -> None:
    bare = {**one.env, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "ADAPTERCTL_URL": ""}
    done = processes.run("adapterctl", "list", env=bare)
    url = one.document["url"]
    assert done.stderr.startswith(
        f"this reads the registry in {tmp_path}/.adapterctl; a stack runs at {url}: use it with: adapterctl login {url}\n"
    )
    assert "a stack runs" not in processes.run("adapterctl", "list", env=one.env).stderr


def test_push_where_the_token_may_not_write_names_where_it_may(one: Home, tmp_path: Path) -> None:
    token = one.run("token", "create", "team-writer", "--grant", "team=writer", "--format", "quiet").split()[-1]
    save_adapter(tmp_path / "adapter", 1)
    save_llama(tmp_path / "base")
    for name in ("nope", "other/nope"):
        asked = ("push", str(tmp_path / "adapter"), name, "--base", str(tmp_path / "base"))
        done = processes.run("adapterctl", *asked, env={**one.env, "ADAPTERCTL_TOKEN": token})
        assert done.returncode == 3
        assert done.stderr.endswith("; this token may write in team: name it team/nope\n")


def test_what_a_killed_supervisor_left_is_adopted_or_ended(one: Home) -> None:
    before = one.wait("the start", is_ready)
    os.kill(before["supervisor"]["pid"], signal.SIGKILL)
    os.kill(before["registry"]["pid"], signal.SIGKILL)
    alone = one.wait("the kill", lambda parts: parts["registry"]["pid"] is None)
    assert {name: part["state"] for name, part in alone.items()} == {
        "supervisor": "stopped",
        "registry": "stopped",
        **dict.fromkeys(("postgres", "valkey", "seaweedfs", "worker-1"), "unwatched"),
    }
    # The registry's server processes outlive their parent, and hold the port until somebody ends them.
    assert json.loads(one.run("up", "--workers", "0", "--format", "json")) == one.document
    after = one.wait("the worker's end", lambda parts: "worker-1" not in parts)
    assert is_ready(after)
    kept = ("postgres", "valkey", "seaweedfs")
    assert {name: after[name]["pid"] for name in kept} == {name: before[name]["pid"] for name in kept}
    assert after["registry"]["pid"] not in (None, before["registry"]["pid"])
    assert len(json.loads(one.run("data", "list", "--format", "json"))) == 1


def test_down_ends_one_stack_whole_and_its_data_stays(one: Home, two: Home) -> None:
    before = two.status()
    assert two.run("down", "--format", "quiet").split() == ["registry", "valkey", "seaweedfs", "postgres"]
    assert two.run("status", "--format", "quiet") == "stopped\n"
    assert not set(pids(before).values()) & set(command_lines())
    assert two.processes() == []
    assert one.run("status", "--format", "quiet") == "ready\n"
    assert two.run("down", "--format", "json") == json.dumps({"home": str(two.folder), "ended": []}) + "\n"


def test_a_port_that_is_taken_is_told_and_nothing_stays_running(two: Home) -> None:
    port = json.loads((two.folder / "valkey" / "valkey.json").read_text())["port"]
    with socket.create_server(("127.0.0.1", port)):
        done = processes.run("adapterctl", "up", "--format", "json", env=two.env, timeout_s=PATIENCE_S)
    assert (done.returncode, done.stdout) == (9, "")
    told = json.loads(done.stderr.splitlines()[-1])["error"]["message"]
    assert told.startswith(f"valkey does not start: another program listens on port {port}")
    assert str(two.folder / "valkey" / "valkey.log") in told
    assert two.run("status", "--format", "quiet") == "stopped\n"
    assert two.processes() == []
    # Once the port is free it is what it was, with the same address and the same token.
    assert json.loads(two.run("up", "--format", "json")) == two.document
    assert json.loads(two.run("whoami", "--format", "json"))["name"] == "admin"


def test_what_is_served_beside_it_is_asked_by_its_key_and_by_the_registry_s_tokens(two: Home) -> None:
    folder = two.folder.parent
    base = small_llama.write_base(folder / "tiny-llama")
    with closing(Client(two.document["url"], two.document["token"], cache=folder / "cache")) as admin:
        admin.push(small_llama.write_adapter(folder / "made", base), "code-review", base=base)
        admin.set_alias("code-review", "production", version=1)
        tokens = {
            name: admin.tokens.create(name, grants={space: Role.READER})
            for name, space in (("reader", "-"), ("stranger", "elsewhere"))
        }
    ((_adapterctl, *words),) = pages.commands("serving.md", "up")
    gateway = json.loads(two.run(*words, "--format", "json"))["gateway"]
    with httpx.Client(timeout=60) as http:

        def listed(secret: str) -> httpx.Response:
            return http.get(f"{gateway['url']}/models", headers={"Authorization": f"Bearer {secret}"})

        def lists() -> bool:
            # A gateway whose engine has ended is started again, and its port is closed meanwhile.
            with suppress(httpx.TransportError):
                return listed(gateway["key"]).status_code == 200
            return False

        wait_until(lists, two.explain)
        asked = {"model": "base:tiny-llama", "prompt": "one two", "max_tokens": 2}
        answer = http.post(
            f"{gateway['url']}/completions", json=asked, headers={"Authorization": f"Bearer {gateway['key']}"}
        )
        assert (answer.status_code, answer.json()["usage"]["completion_tokens"]) == (200, 2), answer.text
        models = {each["id"]: each["adapterctl"] for each in listed(tokens["reader"].secret).json()["data"]}
        # Nothing that nobody has measured is served, and it is said what to do.
        assert "verify code-review@v1 --probe --record" in models["code-review@production"]["reason"]
        assert [
            each["id"] for each in listed(tokens["stranger"].secret).json()["data"] if "code-review" in each["id"]
        ] == []
        with closing(Client(two.document["url"], two.document["token"])) as admin:
            admin.tokens.revoke(tokens["reader"].id)
        wait_until(lambda: listed(tokens["reader"].secret).status_code == 401, two.explain)
    assert two.status()["gateway"]["state"] == "ready"
    two.run("up", "--no-serve", "--format", "json")
    two.wait("the gateway's end", lambda parts: "gateway" not in parts)
