"""Every change is written down, and stays written down: over SQLite and over PostgreSQL."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from support.adapters import digest
from support.people import furnish, new_adapter, submit, training
from support.registries import World

from registry.principal import SYSTEM, Role
from sdk.client import Client
from sdk.errors import Conflict, NotAllowed, NotFound


@dataclass
class Day:
    """A day's work in a namespace of its own, and what the trail must say of it."""

    space: str
    began: datetime
    noon: datetime
    expected: list[tuple[str, str, Any, Any]]


@pytest.fixture(scope="module")
def day(people: World, tmp_path_factory: pytest.TempPathFactory) -> Day:
    space, tmp_path = f"day-{uuid.uuid4().hex[:12]}", tmp_path_factory.mktemp("day")
    secret = people.services.tokens.create(name="ana", grants={"*": Role.ADMIN}, who=SYSTEM).secret
    ana = Client(people.url, secret, cache=tmp_path / "cache")
    began = datetime.now(UTC)
    name, base = f"{space}/a", digest("tiny: base")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n')
    data = ana.datasets.add(rows, namespace=space)
    v1, v2, v3 = (ana.push(new_adapter(tmp_path), name, base="tiny") for _ in range(3))
    ana.versions.annotate(v1.ref, description="good", tags={"a": "b"}, note="seen")
    ana.set_alias(name, "production", 1)
    ana.set_alias(name, "production", 2, expect=1, reason="better")
    ana.rollback(name, "production", reason="worse")
    noon = datetime.now(UTC)
    ana.aliases.protect(name, "production")
    ana.aliases.unprotect(name, "production")
    ana.aliases.remove(name, "production", reason="done")
    ana.versions.archive(v2.ref, reason="old")
    ana.versions.restore(v2.ref)
    ana.versions.delete(v3.ref, reason="bad")
    ana.quotas.set(space, max_jobs=1)
    job = submit(ana, training(name, data.digest))
    ana.jobs.cancel(job.id)
    ana.datasets.remove(data.digest)
    ana.close()

    def published(version: Any) -> dict[str, Any]:
        return {"digest": version.digest, "base": base, "job": None}

    expected = [
        ("dataset.register", data.digest, None, {"name": "rows.jsonl"}),
        ("version.publish", v1.ref, None, published(v1)),
        ("version.publish", v2.ref, None, published(v2)),
        ("version.publish", v3.ref, None, published(v3)),
        (
            "version.annotate",
            v1.ref,
            {"description": "", "tags": {}},
            {"description": "good", "tags": {"a": "b"}, "note": "seen"},
        ),
        ("alias.set", f"{name}@production", {"number": None}, {"number": 1, "reason": ""}),
        ("alias.set", f"{name}@production", {"number": 1}, {"number": 2, "reason": "better"}),
        ("alias.rollback", f"{name}@production", {"number": 2}, {"number": 1, "reason": "worse"}),
        ("alias.protect", f"{name}@production", None, None),
        ("alias.unprotect", f"{name}@production", None, None),
        ("alias.remove", f"{name}@production", {"number": 1}, {"number": None, "reason": "done"}),
        ("version.archive", v2.ref, {"state": "ready"}, {"state": "archived", "reason": "old"}),
        ("version.restore", v2.ref, {"state": "archived"}, {"state": "ready", "reason": ""}),
        ("version.delete", v3.ref, {"state": "ready"}, {"state": "deleted", "reason": "bad"}),
        (
            "quota.set",
            space,
            # Those of a namespace for which nobody has set any.
            {"max_adapters": 10_000, "max_bytes": 10**12, "max_jobs": 10_000, "max_record_bytes": 2**30},
            {"max_adapters": None, "max_bytes": None, "max_jobs": 1, "max_record_bytes": None},
        ),
        ("job.submit", job.id, None, {"kind": "training", "about": name}),
        ("job.cancel", job.id, {"state": "queued"}, None),
        ("dataset.remove", data.digest, {"name": "rows.jsonl"}, None),
    ]
    return Day(space, began, noon, expected)


def told(entries: list[Any]) -> list[tuple[str, str, Any, Any]]:
    """Entries in the order of their happening."""
    return [(entry.action, entry.subject, entry.before, entry.after) for entry in reversed(entries)]


class TestAudit:
    def test_every_change_of_a_day_is_there_in_order_with_before_and_after(self, admin: Client, day: Day) -> None:
        entries = admin.audit(namespace=day.space)
        assert told(entries) == day.expected
        assert {(entry.actor, entry.namespace) for entry in entries} == {("ana", day.space)}
        assert len({entry.token for entry in entries}) == 1
        times = [entry.at for entry in reversed(entries)]
        assert times == sorted(times)
        assert day.began - timedelta(seconds=1) < times[0] < day.noon
        assert [entry.id for entry in entries] == sorted((entry.id for entry in entries), reverse=True)

    def test_filters(self, admin: Client, day: Day) -> None:
        name, space = f"{day.space}/a", day.space
        kinds = [entry[0] for entry in day.expected]
        alias = [entry for entry in day.expected if entry[0].startswith("alias.")]
        assert told(admin.audit(namespace=space, action="alias.*")) == alias
        assert told(admin.audit(namespace=space, action="alias.set")) == [e for e in alias if e[0] == "alias.set"]
        # A star stands at the end or is none.
        assert admin.audit(namespace=space, action="alias*") == admin.audit(namespace=space, action="*.set") == []
        of_adapter = [entry for entry in day.expected if entry[1].startswith(f"{name}@")]
        assert told(admin.audit(subject=name)) == of_adapter
        assert told(admin.audit(subject=f"{name}@v2")) == [e for e in day.expected if e[1] == f"{name}@v2"]
        # A part of a name is none, and neither is a pattern.
        assert admin.audit(subject=name[:-1]) == admin.audit(subject=f"{day.space}%") == []
        assert told(admin.audit(namespace=space, actor="ana")) == day.expected
        assert admin.audit(namespace=space, actor="an") == []
        assert told(admin.audit(namespace=space, until=day.noon)) == day.expected[:8]
        assert told(admin.audit(namespace=space, since=day.noon)) == day.expected[8:]
        assert told(admin.audit(namespace=space, since=day.began, until=day.noon, action="version.*")) == [
            entry for entry in day.expected[:8] if entry[0].startswith("version.")
        ]
        # Another zone's clock shows the same moment.
        east = day.noon.astimezone(datetime.strptime("+0530", "%z").tzinfo)
        assert told(admin.audit(namespace=space, since=east)) == day.expected[8:]
        assert [entry.action for entry in admin.audit(namespace=space, limit=3)] == kinds[:-4:-1]

    def test_pages_follow_each_other(self, people: World, day: Day) -> None:
        seen: list[str] = []
        cursor: str | None = None
        while True:
            query: dict[str, Any] = {"namespace": day.space, "limit": 5} | ({"cursor": cursor} if cursor else {})
            page = people.http.get("/api/v1/audit", params=query).json()
            seen += [entry["action"] for entry in page["items"]]
            cursor = page["next"]
            if cursor is None:
                break
        assert seen == [entry[0] for entry in reversed(day.expected)]

    @pytest.mark.parametrize(
        "query",
        [
            {"since": "yesterday"},
            # Without a zone it could be any of 26 moments.
            {"since": "2026-01-01"},
            {"until": "2026-01-01T00:00:00"},
            {"since": "0001-01-01T00:00:00+14:00"},
            {"until": "9999-12-31T23:59:59-14:00"},
            {"cursor": "nonsense"},
            {"limit": "0"},
        ],
        ids=str,
    )
    def test_what_is_no_filter_is_refused(self, people: World, query: dict[str, str]) -> None:
        answer = people.http.get("/api/v1/audit", params=query)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid")

    def test_what_is_refused_leaves_no_trail(
        self, acting: Callable[..., Client], admin: Client, space: str, tmp_path: Path, rows: Path
    ) -> None:
        place = furnish(admin, space, tmp_path, rows)
        writer = acting(**{space: Role.WRITER})
        before = admin.audit(namespace=space)
        for error, act in (
            (Conflict, lambda: admin.set_alias(place.name, "staging", 2, expect=2)),
            (NotFound, lambda: admin.set_alias(place.name, "staging", 9)),
            (NotAllowed, lambda: writer.set_alias(place.name, "production", 2)),
            (Conflict, lambda: admin.versions.archive(f"{place.name}@v1")),
            (NotFound, lambda: admin.aliases.unprotect(place.name, "nothing")),
        ):
            with pytest.raises(error):
                act()
        # Neither does what changes nothing.
        admin.aliases.protect(f"{space}/*", "production")
        admin.versions.restore(f"{place.name}@v2")
        assert admin.audit(namespace=space) == before

    def test_the_database_itself_refuses_to_change_it(self, people: World, admin: Client, day: Day) -> None:
        engine = people.services.db.engine
        verbs = ["UPDATE audit_entries SET actor = 'nobody'", "DELETE FROM audit_entries"]
        statements = [*verbs, *(f"{verb} WHERE pk = 1" for verb in verbs)]
        if engine.dialect.name == "postgresql":
            statements.append("TRUNCATE audit_entries")
        for statement in statements:
            with pytest.raises(DBAPIError, match="only appended to"), engine.begin() as connection:
                connection.execute(text(statement))
        assert told(admin.audit(namespace=day.space)) == day.expected

    def test_no_secret_is_in_it(self, admin: Client, space: str) -> None:
        made = admin.tokens.create("ci", {space: "writer"})
        admin.tokens.revoke(made.id)
        entries = admin.audit(subject=made.id)
        assert [entry.action for entry in entries] == ["token.revoke", "token.create"]
        assert made.secret not in json.dumps([entry.model_dump(mode="json") for entry in entries])
