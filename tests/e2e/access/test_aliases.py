"""Aliases and versions at the command line of a team."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from e2e.access.helpers import Desk
from sqlalchemy import select
from support.adapters import save_adapter

from registry.catalog.models import Version
from registry.catalog.versions.lifecycle import VersionState
from registry.catalog.versions.present import refresh_document
from registry.principal import Role

pytestmark = pytest.mark.slow


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
        assert header.split("\t") == ["alias", "from", "to", "kind", "by", "time", "reason", "decision"]
        assert [line.split("\t")[1:4] for line in lines] == [
            ["v2", "v1", "rollback"],
            ["v3", "v2", "rollback"],
            ["v2", "v3", "set"],
            ["v1", "v2", "set"],
            ["", "v1", "set"],
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
            "move",
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
        status, _, shown = desk.at_a_terminal(*rm, typed="n", asks="[y/N]")
        assert status == 130
        assert f"remove {versions}@asked?" in shown
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
        assert re.search(rf"guarded\t{versions}@v1\ttrue\t", table), table
        move = ("alias", "set", versions, "guarded", "v2")
        assert "only a promoter can move it" in desk.refused(5, *move, ADAPTERCTL_TOKEN=writer)
        assert desk.ok(*move, ADAPTERCTL_TOKEN=promoter) == f"{versions}@v2"
        assert "admin" in desk.refused(5, "alias", "unprotect", "team/*", "guarded", ADAPTERCTL_TOKEN=promoter)
        assert desk.json("alias", "unprotect", "team/*", "guarded")["protected"] is False
        assert "alias protected" in desk.refused(3, "alias", "unprotect", "team/*", "guarded")
        assert desk.ok(*move, ADAPTERCTL_TOKEN=writer) == f"{versions}@v2"


class TestShow:
    def test_what_is_known_of_a_version_and_what_is_not(self, desk: Desk, versions: str) -> None:
        ref = f"{versions}@v3"
        facts = self.facts(desk, ref)
        assert (facts["method"], facts["quantised"]) == ("unknown", "unknown")
        assert facts["tags"] == "language=python"
        assert facts["created"].endswith(" by some writer")
        assert "training" in facts["not known"]
        assert "notes" not in facts
        desk.client.versions.annotate(ref, note="first")
        desk.client.versions.annotate(ref, note="passed\nthe review")
        assert self.facts(desk, ref)["notes"] == "2, the last by ops: passed the review"

    def test_archived_and_quarantined_versions_say_so(self, desk: Desk, tmp_path: Path) -> None:
        held = desk.client.push(save_adapter(tmp_path / "held", 98), "team/held", base="tiny")
        with desk.world.services.db.write() as session:
            # What a gate does that keeps a version for an admin to look at.
            row = session.scalars(select(Version).where(Version.digest == held.digest)).one()
            row.state, row.number = VersionState.QUARANTINED, None
            refresh_document(session, row)
        facts = self.facts(desk, f"team/held@sha256:{held.digest}")
        assert facts["state"].startswith("quarantined; found only by its digest")
        version = desk.client.push(save_adapter(tmp_path / "adapter", 99), "team/archived", base="tiny")
        assert self.facts(desk, version.ref)["state"] == "ready"
        desk.client.versions.archive(version.ref)
        assert self.facts(desk, version.ref)["state"].startswith("archived; hidden from lists")

    @staticmethod
    def facts(desk: Desk, ref: str) -> dict[str, str]:
        """What `show` prints, by its first word."""
        lines = desk.run("show", ref).stdout.partition("\n\n")[0].splitlines()
        return {name: value for name, _, value in (line.partition("\t") for line in lines)}
