"""Tokens, quotas, the audit trail and logins at the command line."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from e2e.access.helpers import Desk

pytestmark = pytest.mark.slow


class TestTokens:
    def test_the_secret_stands_alone_and_works(self, desk: Desk) -> None:
        done = desk.run("token", "create", "ci-review", "--role", "writer", "--namespace", "team", "--days", "9")
        secret = done.stdout.strip()
        assert re.fullmatch(r"actl_[\w-]{43}", secret)
        assert secret not in done.stderr
        assert "ci-review: writer in team, until " in done.stderr
        facts = desk.ok("whoami", ADAPTERCTL_TOKEN=secret).splitlines()[1:]
        assert [facts[0], facts[2]] == ["name\tci-review", "roles\twriter in team"]
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
            (["--role", "king"], "--role can't be 'king'; use reader"),
            (["--grant", "team=king"], "'team=king' is not a grant"),
            (["--grant", "team"], "'team' is not a grant"),
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
        (cells,) = [line.split("\t") for line in desk.ok("token", "list").splitlines() if made["id"] in line]
        assert cells[:5] == [made["id"], "gone", "-=reader, team=writer", "active", ""]
        assert made["id"] in desk.ok("token", "list", "--format", "table")
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
        assert [line.split("\t") for line in done.stdout.splitlines()[1:]] == [[ours["id"], "ours", "writer", "true"]]
        assert f"adapterctl token revoke {both['id']}" in done.stderr
        assert "still work here: " in done.stderr
        shown = desk.json("token", "revoke", "--namespace", "shut", "--yes")
        assert [(one["token"], one["revoked"]) for one in shown["lost"]] == [(both["id"], False)]
        assert (shown["kept"], shown["everywhere"] > 0) == (None, True)
        assert "open" in desk.ok("whoami", ADAPTERCTL_TOKEN=both["secret"])
        told = desk.ok("audit", "--namespace", "shut", "--action", "token.*")
        assert f"\tboth\t{both['id']}\t" in told
        by_token = desk.json("audit", "--token", both["id"])
        assert [(entry["action"], entry["subject"]) for entry in by_token] == [("token.revoke", ours["id"])]


class TestQuotas:
    def test_what_is_left_out_stays(self, desk: Desk, versions: str) -> None:
        before = desk.json("quota", "show", "team")
        size, records = before["versions_bytes"], before["records_bytes"]
        desk.ok("quota", "set", "team", "--max-jobs", "none")
        shown = desk.ok("quota", "set", "team", "--max-adapters", "3", "--max-bytes", "10GB")
        assert [tuple(part.strip() for part in line.split("\t")) for line in shown.splitlines()] == [
            ("namespace", "team"),
            ("adapters", "1 of 3"),
            ("size", f"{size} B of 10000000000 B"),
            ("versions", f"{size} B"),
            ("datasets", "0 B"),
            ("bases", "0 B"),
            ("merged models", "0 B"),
            ("checkpoints", "0 B"),
            ("scores by row", "0 B"),
            ("reserved", "0 B"),
            ("records", f"{records} B of {before['max_record_bytes']} B"),
            ("jobs", "0, no limit"),
        ]
        # A namespace for which nobody has set any has the default ones.
        assert desk.ok("quota", "show", "other").splitlines()[:4] == [
            "namespace\tother",
            "limits\tthe default for namespaces without limits of their own",
            "adapters\t0 of 10000",
            "size\t0 B of 1000000000000 B",
        ]
        assert desk.json("quota", "set", "team", "--max-jobs", "0")["max_adapters"] == 3
        now = desk.json("quota", "set", "team", "--max-bytes", "none", "--max-adapters", "none")
        assert (now["max_adapters"], now["max_bytes"], now["max_jobs"]) == (None, None, 0)
        assert desk.json("quota", "show", "team") == now
        desk.ok("quota", "set", "team", "--max-jobs", "none")
        assert desk.json("quota", "set", "--max-bytes", "500MB")["max_bytes"] == 500_000_000
        assert desk.json("quota", "set", "-", "--max-bytes", "1234")["max_bytes"] == 1234
        assert desk.json("quota", "set", "-", "--max-record-bytes", "2GB")["max_record_bytes"] == 2_000_000_000
        desk.ok("quota", "set", "-", "--max-record-bytes", "none")
        desk.ok("quota", "set", "-", "--max-bytes", "none")
        assert desk.json("quota", "show")["namespace"] == "-"

    @pytest.mark.parametrize(
        ("args", "status", "said"),
        [
            (["team"], 2, "there is nothing to set"),
            (["team", "--max-bytes", "much"], 2, "10GB, 500MB or plain bytes"),
            (["team", "--max-bytes", "-1"], 2, "is not a limit"),
            (["team", "--max-bytes", "9999TB"], 0, ""),
            (["team", "--max-bytes", "99999999999TB"], 2, "--max-bytes"),
            (["team", "--max-jobs", "1.5"], 2, "a whole number"),
            (["a/b", "--max-jobs", "1"], 2, "is not a namespace"),
        ],
    )
    def test_what_is_no_limit_is_refused(self, desk: Desk, args: list[str], status: int, said: str) -> None:
        if status == 0:
            assert desk.json("quota", "set", *args)["max_bytes"] == 9999 * 10**12
            desk.ok("quota", "set", "team", "--max-bytes", "none")
        else:
            assert said in desk.refused(status, "quota", "set", *args)


class TestAudit:
    def test_the_table_says_who_changed_what(self, desk: Desk, versions: str) -> None:
        desk.ok("alias", "set", versions, "audited", "v1")
        desk.ok("alias", "set", versions, "audited", "v2", "--reason", "better")
        subject = f"{versions}@audited"
        header, last, first = (line.split("\t") for line in desk.ok("audit", "--subject", subject).splitlines())
        assert header[:6] == ["time", "by", "token", "action", "subject", "change"]
        assert [last[1], *last[3:6]] == ["ops", "alias.set", subject, "v1→v2, reason better"]
        assert first[5] == "-→v1"
        drawn = desk.ok("audit", "--subject", subject, "--format", "table").splitlines()
        assert all(len(line) <= 80 for line in drawn)
        assert re.search(rf"ops  .*alias\.set  {subject}", drawn[1]), drawn[1]
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


class TestLogin:
    def test_a_token_is_kept_and_says_who_it_is(self, desk: Desk) -> None:
        made = desk.client.tokens.create("ci-review", {"team": "writer", "-": "reader"}, replace=True)
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
        [
            ("actl_guess\n", 5, "unknown, expired or revoked"),
            ("", 2, "no token"),
            ("two words", 2, "copy all of it again"),
        ],
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
        status, _, shown = desk.at_a_terminal(
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


def test_every_list_is_empty_as_an_empty_list(desk: Desk, versions: str, tmp_path: Path) -> None:
    home = {"ADAPTERCTL_URL": f"local:{tmp_path / 'empty'}"}
    for args in (["alias", "protected"], ["token", "list"], ["audit"]):
        assert desk.ok(*args, "--format", "json", **home) == "[]"
        done = desk.run(*args, **home)
        assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)
        assert desk.ok(*args, "--no-header", **home) == ""
        assert len(done.stderr.splitlines()) == 1
