"""Aliases and people at the command line, against a real server: what is printed, what is said, how it exits."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from support import processes
from support.adapters import base_registration, save_adapter
from support.registries import World, served

from registry.catalog.models import Version
from registry.catalog.versions.lifecycle import VersionState
from registry.catalog.versions.present import refresh_document
from registry.principal import SYSTEM, Role
from sdk.client import Client

pytestmark = pytest.mark.slow

NAME = "team/code-review"
COLUMNS = 80


@dataclass
class Desk:
    """A terminal's environment before a registry, with an admin's token."""

    world: World
    folder: Path
    token: str
    client: Client

    @property
    def env(self) -> dict[str, str]:
        """What the commands see."""
        return processes.environment(
            ADAPTERCTL_URL=self.world.url,
            ADAPTERCTL_TOKEN=self.token,
            ADAPTERCTL_CACHE=str(self.folder / "cache"),
            HOME=str(self.folder),
            XDG_CONFIG_HOME=str(self.folder / "config"),
        )

    @property
    def profile(self) -> Path:
        """What `login` writes."""
        return self.folder / "config/adapterctl/profile.json"

    def run(self, *args: str, stdin: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command without a terminal."""
        done = subprocess.run(
            [str(processes.BIN / "adapterctl"), *args],
            env={**self.env, **env},
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return done

    def ok(self, *args: str, **env: str) -> str:
        """Run a command that works; return its output without the last line feed. Tables fit 80 columns."""
        done = self.run(*args, **env)
        assert done.returncode == 0, done.stderr
        if "json" not in args:
            assert all(len(line) <= COLUMNS for line in done.stdout.splitlines()), done.stdout
        return done.stdout.removesuffix("\n")

    def json(self, *args: str) -> Any:
        """Run a command that works; return the one document that it printed."""
        return json.loads(self.ok(*args, "--format", "json"))

    def refused(self, status: int, *args: str, **env: str) -> str:
        """Run a command that fails with `status`; return the one line that it said."""
        done = self.run(*args, **env)
        assert (done.returncode, done.stdout) == (status, ""), done.stderr
        (line,) = done.stderr.splitlines()
        return line

    def at_a_terminal(self, *args: str, typed: str, asks: str, **env: str) -> tuple[int, str]:
        """Run a command on a terminal, type an answer to its question; return its status and all that was shown."""
        master, slave = pty.openpty()
        process = subprocess.Popen(
            [str(processes.BIN / "adapterctl"), *args],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**self.env, **env, "TERM": "dumb"},
            start_new_session=True,
        )
        os.close(slave)
        shown = b""
        answered = False
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                piece = os.read(master, 4096)
            except OSError:
                break
            if not piece:
                break
            shown += piece
            if not answered and asks.encode() in shown:
                os.write(master, typed.encode() + b"\n")
                answered = True
        status = process.wait(20)
        os.close(master)
        return status, shown.decode()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("people-cli")
    database = f"sqlite:///{folder / 'registry.sqlite3'}"
    with served(folder, database_url=database, storage_url=(folder / "artifacts").as_uri()) as found:
        found.admin.register_base(base_registration())
        yield found


@pytest.fixture
def desk(world: World, tmp_path: Path) -> Iterator[Desk]:
    made = world.services.tokens.create(name="ops", grants={"*": Role.ADMIN}, replace=True, who=SYSTEM)
    client = Client(world.url, made.secret, cache=tmp_path / "other-cache")
    yield Desk(world, tmp_path, made.secret, client)
    client.close()


@pytest.fixture(scope="module")
def versions(world: World, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An adapter with three versions."""
    folder = tmp_path_factory.mktemp("adapters")
    for seed in (1, 2, 3):
        world.writer.push(save_adapter(folder / str(seed), seed), NAME, base="tiny", tags={"language": "python"})
    return NAME


class TestAliases:
    def test_a_day_of_an_alias(self, desk: Desk, versions: str) -> None:
        name = versions
        assert desk.ok("alias", "set", name, "production", "v1", "--expect", "0") == f"{name}@v1"
        assert desk.ok("promote", f"{name}@v2", "production", "--expect", "v1", "--reason", "better") == f"{name}@v2"
        assert desk.ok("promote", name, "production") == f"{name}@v3"
        done = desk.run("rollback", name, "production", "--reason", "v3 repeats itself")
        assert (done.stdout, done.stderr) == (f"{name}@v2\n", f"{name}@production names {name}@v2\n")
        assert "names v2, not v3" in desk.refused(4, "rollback", name, "production", "--expect", "v3")
        assert desk.ok("rollback", name, "production", "--expect", "v2") == f"{name}@v1"
        assert "named no version before" in desk.refused(4, "rollback", name, "production")
        assert "names v1, not v3" in desk.refused(4, "promote", f"{name}@v2", "production", "--expect", "v3")

        header, *lines = desk.ok("alias", "history", name, "production").splitlines()
        assert header.split() == ["MOVED", "AT", "KIND", "FROM", "TO", "MOVED", "BY", "REASON"]
        assert [re.split(r"\s{2,}", line)[1:4] for line in lines] == [
            ["rollback", "v2", "v1"],
            ["rollback", "v3", "v2"],
            ["set", "v2", "v3"],
            ["set", "v1", "v2"],
            ["set", "-", "v1"],
        ]
        assert "v3 repeats itself" in lines[1]
        moves = desk.json("alias", "history", name)
        assert [(move["alias"], move["from_number"], move["to_number"]) for move in moves][:2] == [
            ("production", 2, 1),
            ("production", 3, 2),
        ]
        assert set(moves[0]) == {
            "adapter",
            "alias",
            "kind",
            "from_number",
            "to_number",
            "reason",
            "moved_by",
            "moved_at",
        }
        view = desk.json("promote", f"{name}@v2", "production")
        assert (view["ref"], view["number"], view["protected"], view["moved_by"]) == (f"{name}@v2", 2, False, "ops")

    def test_one_is_taken_away_only_when_it_was_said_so(self, desk: Desk, versions: str) -> None:
        desk.ok("alias", "set", versions, "old", "v1")
        assert "--yes" in desk.refused(2, "alias", "rm", versions, "old")
        assert "names v1" in desk.refused(4, "alias", "rm", versions, "old", "--expect", "v2", "--yes")
        assert "old" in desk.ok("alias", "list", versions, "--format", "quiet").splitlines()
        assert desk.ok("alias", "rm", versions, "old", "--yes", "--expect", "v1") == ""
        assert "alias list" in desk.refused(3, "alias", "rm", versions, "old", "--yes")
        desk.ok("alias", "set", versions, "old", "v1")
        assert desk.json("alias", "rm", versions, "old", "--yes") == {
            "adapter": versions,
            "alias": "old",
            "removed": True,
        }

    def test_at_a_terminal_it_asks(self, desk: Desk, versions: str) -> None:
        desk.ok("alias", "set", versions, "asked", "v1")
        rm = ("alias", "rm", versions, "asked")
        status, shown = desk.at_a_terminal(*rm, typed="n", asks="[y/N]")
        assert status == 130
        assert f"take {versions}@asked away?" in shown
        assert "asked" in desk.ok("alias", "list", versions, "--format", "quiet").splitlines()
        assert desk.at_a_terminal(*rm, typed="y", asks="[y/N]")[0] == 0
        assert "asked" not in desk.ok("alias", "list", versions, "--format", "quiet").splitlines()

    def test_protection(self, desk: Desk, versions: str) -> None:
        writer = desk.world.token(Role.WRITER, namespace="team")
        promoter = desk.world.token(Role.PROMOTER, namespace="team")
        desk.ok("alias", "set", versions, "guarded", "v1")
        assert desk.ok("alias", "protect", "team/*", "guarded") == "team/*@guarded"
        assert "team/*@guarded" in desk.ok("alias", "protected", "--format", "quiet").splitlines()
        table = desk.ok("alias", "list", versions)
        assert re.search(rf"guarded +{versions}@v1 +yes ", table), table
        move = ("alias", "set", versions, "guarded", "v2")
        assert "only a promoter moves it" in desk.refused(5, *move, ADAPTERCTL_TOKEN=writer)
        assert desk.ok(*move, ADAPTERCTL_TOKEN=promoter) == f"{versions}@v2"
        assert "admin" in desk.refused(5, "alias", "unprotect", "team/*", "guarded", ADAPTERCTL_TOKEN=promoter)
        assert desk.json("alias", "unprotect", "team/*", "guarded")["protected"] is False
        assert "alias protected" in desk.refused(3, "alias", "unprotect", "team/*", "guarded")
        assert desk.ok(*move, ADAPTERCTL_TOKEN=writer) == f"{versions}@v2"


class TestTokens:
    def test_the_secret_stands_alone_and_works(self, desk: Desk) -> None:
        done = desk.run("token", "create", "ci-review", "--role", "writer", "--namespace", "team", "--days", "9")
        secret = done.stdout.strip()
        assert re.fullmatch(r"actl_[\w-]{43}", secret)
        assert secret not in done.stderr
        assert "ci-review: writer in team, until " in done.stderr
        facts = desk.ok("whoami", ADAPTERCTL_TOKEN=secret).splitlines()[1:]
        assert [facts[0], facts[2]] == ["name      ci-review", "roles     writer in team"]
        assert facts[1].split()[1] in done.stderr
        assert desk.ok("whoami", "--format", "quiet", ADAPTERCTL_TOKEN=secret) == "ci-review"

    def test_roles_by_namespace(self, desk: Desk) -> None:
        made = desk.json("token", "create", "ana", "--grant", "team=promoter", "--grant", "-=reader")
        assert made["grants"] == [
            {"namespace": "-", "role": "reader"},
            {"namespace": "team", "role": "promoter"},
        ]
        assert "promoter in team, reader in -" in desk.ok("whoami", ADAPTERCTL_TOKEN=made["secret"])
        everywhere = desk.json("token", "create", "gpu", "--role", "worker")
        assert everywhere["grants"] == [{"namespace": "*", "role": "worker"}]
        several = desk.json("token", "create", "x", "--role", "reader", "--namespace", "a", "--namespace", "-")
        assert [grant["namespace"] for grant in several["grants"]] == ["-", "a"]

    @pytest.mark.parametrize(
        ("args", "said"),
        [
            ([], "give --role ROLE, or --grant NS=ROLE"),
            (["--role", "king"], "'king' is not one of"),
            (["--grant", "team=king"], "'team=king' is no grant"),
            (["--grant", "team"], "'team' is no grant"),
            (["--grant", "a=reader", "--grant", "a=writer"], "twice"),
            (["--grant", "a=reader", "--role", "reader"], "leave out --role"),
            (["--grant", "a=reader", "--namespace", "a"], "leave out --role"),
            (["--role", "reader", "--namespace", "Team"], "write 'team'"),
            (["--role", "reader", "--days", "0"], "--days"),
        ],
    )
    def test_what_means_no_token_is_refused(self, desk: Desk, args: list[str], said: str) -> None:
        assert said in desk.refused(2, "token", "create", "nobody", *args)
        assert "nobody" not in {token.name for token in desk.client.tokens()}

    def test_they_are_listed_and_revoked(self, desk: Desk) -> None:
        made = desk.json("token", "create", "gone", "--grant", "team=writer", "--grant", "-=reader")
        row = next(line for line in desk.ok("token", "list").splitlines() if made["id"] in line)
        # Names of others may be long, and what is granted gives way to them.
        cells = re.split(r"\s{2,}", row)
        assert cells[:2] + cells[3:] == [made["id"], "gone", "never", "active"]
        assert "-=reader, team=writer".startswith(cells[2].rstrip("…"))
        assert made["id"] in desk.ok("token", "list", "--format", "quiet").splitlines()
        assert made["secret"] not in json.dumps(desk.json("token", "list"))
        desk.ok("whoami", ADAPTERCTL_TOKEN=made["secret"])
        assert desk.ok("token", "revoke", made["id"]) == made["id"]
        time.sleep(1)
        assert "revoked" in desk.refused(5, "whoami", ADAPTERCTL_TOKEN=made["secret"])
        (gone,) = [row for row in desk.json("token", "list") if row["id"] == made["id"]]
        assert gone["state"] == "revoked"
        assert gone["grants"] == [{"namespace": "-", "role": "reader"}, {"namespace": "team", "role": "writer"}]
        assert "token list" in desk.refused(3, "token", "revoke", "nobody")

    def test_one_takes_the_place_of_another(self, desk: Desk) -> None:
        make = ("token", "create", "nightly", "--role", "writer", "--namespace", "night")
        first = desk.json(*make)
        assert "--replace" in desk.refused(4, *make)
        assert "add --replace" in desk.refused(2, *make, "--overlap-hours", "1")
        second = desk.json(*make, "--replace", "--overlap-hours", "1")
        assert {row["id"]: row["state"] for row in desk.json("token", "list")}[first["id"]] == "active"
        third = desk.json(*make, "--replace")
        states = {row["id"]: row["state"] for row in desk.json("token", "list")}
        assert [states[token["id"]] for token in (first, second, third)] == ["revoked", "revoked", "active"]

    def test_a_whole_namespace_is_shut(self, desk: Desk) -> None:
        ours = desk.json("token", "create", "ours", "--role", "writer", "--namespace", "shut")
        both = desk.json("token", "create", "both", "--grant", "shut=admin", "--grant", "open=reader")
        assert "--yes" in desk.refused(2, "token", "revoke", "--namespace", "shut")
        assert "say which" in desk.refused(2, "token", "revoke")
        done = desk.run("token", "revoke", "--namespace", "shut", "--yes", ADAPTERCTL_TOKEN=both["secret"])
        assert [re.split(r"\s{2,}", line.strip()) for line in done.stdout.splitlines()[1:]] == [
            [ours["id"], "ours", "writer", "yes"]
        ]
        assert f"adapterctl token revoke {both['id']}" in done.stderr
        assert "act here still: " in done.stderr
        shown = desk.json("token", "revoke", "--namespace", "shut", "--yes")
        assert [(one["token"], one["revoked"]) for one in shown["lost"]] == [(both["id"], False)]
        assert (shown["kept"], shown["everywhere"] > 0) == (None, True)
        assert "open" in desk.ok("whoami", ADAPTERCTL_TOKEN=both["secret"])
        told = desk.ok("audit", "--namespace", "shut", "--action", "token.*")
        assert f"both ({both['id'][:8]})" in told
        by_token = desk.json("audit", "--token", both["id"])
        assert [(entry["action"], entry["subject"]) for entry in by_token] == [("token.revoke", ours["id"])]

    def test_an_admin_of_a_namespace_gives_out_only_there(self, desk: Desk) -> None:
        admin = desk.world.token(Role.ADMIN, namespace="team")
        desk.ok("token", "create", "ci", "--role", "reader", "--namespace", "team", ADAPTERCTL_TOKEN=admin)
        for where in ("other", "-", "*"):
            desk.refused(5, "token", "create", "ci", "--role", "reader", "--namespace", where, ADAPTERCTL_TOKEN=admin)


class TestQuotas:
    def test_what_is_left_out_stays(self, desk: Desk, versions: str) -> None:
        size = desk.json("quota", "show", "team")["versions_bytes"]
        desk.ok("quota", "set", "team", "--max-jobs", "none")
        shown = desk.ok("quota", "set", "team", "--max-adapters", "3", "--max-bytes", "10GB")
        assert shown.splitlines() == [
            "namespace        team",
            "adapters         1 of 3",
            f"size             {size / 1000:.1f} kB of 10.0 GB",
            f"  versions       {size / 1000:.1f} kB",
            "  datasets       0 B",
            "  bases          0 B",
            "  merged models  0 B",
            "  checkpoints    0 B",
            "  reserved       0 B",
            "jobs             0, no limit",
        ]
        # A namespace for which nobody has set any has the default ones.
        assert desk.ok("quota", "show", "other").splitlines()[:4] == [
            "namespace        other",
            "limits           those of all without limits of their own",
            "adapters         0 of 10000",
            "size             0 B of 1.0 TB",
        ]
        assert desk.json("quota", "set", "team", "--max-jobs", "0")["max_adapters"] == 3
        now = desk.json("quota", "set", "team", "--max-bytes", "none", "--max-adapters", "none")
        assert (now["max_adapters"], now["max_bytes"], now["max_jobs"]) == (None, None, 0)
        assert desk.json("quota", "show", "team") == now
        desk.ok("quota", "set", "team", "--max-jobs", "none")
        assert desk.json("quota", "set", "--max-bytes", "500MB")["max_bytes"] == 500_000_000
        assert desk.json("quota", "set", "-", "--max-bytes", "1234")["max_bytes"] == 1234
        desk.ok("quota", "set", "-", "--max-bytes", "none")
        assert desk.json("quota", "show")["namespace"] == "-"

    @pytest.mark.parametrize(
        ("args", "status", "said"),
        [
            (["team"], 2, "there is nothing to set"),
            (["team", "--max-bytes", "much"], 2, "10GB, 500MB or plain bytes"),
            (["team", "--max-bytes", "-1"], 2, "is no limit"),
            (["team", "--max-bytes", "9999TB"], 0, ""),
            (["team", "--max-bytes", "99999999999TB"], 2, "max_bytes"),
            (["team", "--max-jobs", "1.5"], 2, "a whole number"),
            (["a/b", "--max-jobs", "1"], 2, "is no namespace"),
        ],
    )
    def test_what_is_no_limit_is_refused(self, desk: Desk, args: list[str], status: int, said: str) -> None:
        if status == 0:
            assert desk.json("quota", "set", *args)["max_bytes"] == 9999 * 10**12
            desk.ok("quota", "set", "team", "--max-bytes", "none")
        else:
            assert said in desk.refused(status, "quota", "set", *args)

    def test_only_an_admin_of_all_sets_one(self, desk: Desk) -> None:
        admin = desk.world.token(Role.ADMIN, namespace="team")
        desk.ok("quota", "show", "team", ADAPTERCTL_TOKEN=admin)
        desk.refused(5, "quota", "set", "team", "--max-jobs", "9", ADAPTERCTL_TOKEN=admin)
        desk.refused(3, "quota", "show", "other", ADAPTERCTL_TOKEN=admin)


class TestAudit:
    def test_the_table_says_who_changed_what(self, desk: Desk, versions: str) -> None:
        desk.ok("alias", "set", versions, "audited", "v1")
        desk.ok("alias", "set", versions, "audited", "v2", "--reason", "better")
        subject = f"{versions}@audited"
        header, last, first = desk.ok("audit", "--subject", subject).splitlines()
        assert header.split() == ["TIME", "ACTOR", "ACTION", "SUBJECT", "CHANGE"]
        assert re.search(rf"  ops \([0-9a-f]{{8}}\)  alias\.set  {versions}@aud\S+  v1→v2, reas", last), last
        assert first.endswith("-→v1")
        documents = desk.json("audit", "--subject", subject)
        assert [(entry["before"], entry["after"]) for entry in documents] == [
            ({"number": 1}, {"number": 2, "reason": "better"}),
            ({"number": None}, {"number": 1, "reason": ""}),
        ]

    def test_filters(self, desk: Desk, versions: str) -> None:
        desk.ok("alias", "set", versions, "filtered", "v1")
        desk.ok("quota", "set", "team", "--max-jobs", "7")
        desk.ok("quota", "set", "team", "--max-jobs", "none")
        kinds = {entry["action"].partition(".")[0] for entry in desk.json("audit", "--action", "alias.*")}
        assert kinds == {"alias"}
        assert len(desk.json("audit", "--action", "quota.set", "--limit", "1")) == 1
        assert {entry["namespace"] for entry in desk.json("audit", "--namespace", "team")} == {"team"}
        assert {entry["actor"] for entry in desk.json("audit", "--actor", "ops")} == {"ops"}
        assert desk.json("audit", "--actor", "nobody") == []
        assert desk.json("audit", "--since", "1h") == desk.json("audit", "--until", "2999-01-01")
        assert desk.json("audit", "--until", "2d") == desk.json("audit", "--since", "2999-01-01T12:00+01:00") == []
        ids = desk.ok("audit", "--format", "quiet").splitlines()
        assert ids == sorted(ids, key=int, reverse=True)
        for wrong in ("yesterday", "2d ago", "2026-13-01", "999999w9"):
            assert "12h or 2d" in desk.refused(2, "audit", "--since", wrong)

    def test_whoever_is_no_admin_reads_nothing(self, desk: Desk) -> None:
        assert "admin" in desk.refused(5, "audit", ADAPTERCTL_TOKEN=desk.world.token(Role.PROMOTER))


class TestLogin:
    def test_a_token_is_kept_and_says_who_it_is(self, desk: Desk) -> None:
        made = desk.client.create_token("ci-review", {"team": "writer", "-": "reader"}, replace=True)
        done = desk.run("login", f"{desk.world.url}/", "--token-stdin", stdin=f"{made.secret}\n", ADAPTERCTL_TOKEN="")
        assert done.returncode == 0, done.stderr
        assert done.stdout == "ci-review: writer in team, reader in -\n"
        assert made.secret not in done.stdout + done.stderr
        assert json.loads(desk.profile.read_text()) == {"url": desk.world.url, "token": made.secret}
        assert desk.profile.stat().st_mode & 0o077 == 0
        # From now on it is the one that is used.
        assert desk.ok("whoami", "--format", "quiet", ADAPTERCTL_URL="", ADAPTERCTL_TOKEN="") == "ci-review"

    def test_the_environments_token_will_do(self, desk: Desk) -> None:
        said = desk.json("login", desk.world.url)
        assert (said["name"], said["url"], said["profile"]) == ("ops", desk.world.url, str(desk.profile))
        assert desk.token not in json.dumps(said)

    @pytest.mark.parametrize(
        ("stdin", "status", "said"),
        [("actl_guess\n", 5, "unknown, expired or revoked"), ("", 2, "no token"), ("two words", 2, "copy it again")],
    )
    def test_a_token_that_is_refused_is_not_kept(self, desk: Desk, stdin: str, status: int, said: str) -> None:
        desk.ok("login", desk.world.url)
        before = desk.profile.read_text()
        done = desk.run("login", desk.world.url, "--token-stdin", stdin=stdin)
        assert (done.returncode, done.stdout) == (status, "")
        assert said in done.stderr
        assert "actl_guess" not in done.stderr
        assert desk.profile.read_text() == before

    def test_without_a_terminal_nothing_asks(self, desk: Desk) -> None:
        assert "--token-stdin" in desk.refused(2, "login", desk.world.url, ADAPTERCTL_TOKEN="")
        assert not desk.profile.exists()

    def test_at_a_terminal_it_asks_and_shows_nothing_of_what_is_typed(self, desk: Desk) -> None:
        status, shown = desk.at_a_terminal(
            "login", desk.world.url, typed=desk.token, asks="token:", ADAPTERCTL_TOKEN=""
        )
        assert status == 0, shown
        assert "ops: admin everywhere" in shown
        assert desk.token not in shown

    def test_a_folder_wants_no_token(self, desk: Desk, tmp_path: Path) -> None:
        home = f"local:{tmp_path / 'home'}"
        assert desk.ok("login", home, ADAPTERCTL_TOKEN="") == "local: admin everywhere"
        assert json.loads(desk.profile.read_text()) == {"url": home, "token": None}

    def test_where_nobody_answers_nothing_is_kept(self, desk: Desk) -> None:
        assert "can't be reached" in desk.refused(9, "login", "http://127.0.0.1:1")
        assert not desk.profile.exists()


class TestShow:
    def test_what_is_known_of_a_version_and_what_is_not(self, desk: Desk, versions: str) -> None:
        ref = f"{versions}@v3"
        facts = self.facts(desk, ref)
        assert (facts["method"], facts["quantised"]) == ("unknown", "unknown")
        assert facts["tags"] == "language=python"
        assert facts["created"].endswith(" by some writer")
        assert "training" in facts["not known"]
        assert "notes" not in facts
        desk.client.annotate(ref, note="first")
        desk.client.annotate(ref, note="passed\nthe review")
        assert self.facts(desk, ref)["notes"] == "2, the last by ops: passed the review"

    def test_archived_and_quarantined_versions_say_so(self, desk: Desk, tmp_path: Path) -> None:
        held = desk.client.push(save_adapter(tmp_path / "held", 98), "team/held", base="tiny")
        with desk.world.services.db.write() as session:
            # What a gate does that keeps a version for an admin to look at.
            row = session.scalars(select(Version).where(Version.digest == held.digest)).one()
            row.state, row.number = VersionState.QUARANTINED, None
            refresh_document(session, row)
        facts = self.facts(desk, f"team/held@sha256:{held.digest}")
        assert facts["state"].startswith("quarantined; found by its digest alone")
        version = desk.client.push(save_adapter(tmp_path / "adapter", 99), "team/archived", base="tiny")
        assert self.facts(desk, version.ref)["state"] == "ready"
        desk.client.archive(version.ref)
        assert self.facts(desk, version.ref)["state"].startswith("archived; hidden from lists")

    @staticmethod
    def facts(desk: Desk, ref: str) -> dict[str, str]:
        """What `show` prints, by its first word."""
        return dict(re.split(r"\s{2,}", line, maxsplit=1) for line in desk.run("show", ref).stdout.splitlines())


def test_every_list_is_empty_as_an_empty_list(desk: Desk, versions: str, tmp_path: Path) -> None:
    home = {"ADAPTERCTL_URL": f"local:{tmp_path / 'empty'}"}
    for args in (["alias", "protected"], ["token", "list"], ["audit"]):
        assert desk.ok(*args, "--format", "json", **home) == "[]"
        done = desk.run(*args, **home)
        assert (done.returncode, done.stdout) == (0, "")
        assert len(done.stderr.splitlines()) == 1
