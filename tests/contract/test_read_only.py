"""The switch for emergencies, over both databases: reads go on, jobs that run are kept, and nothing else is changed."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update
from support.fixtures import Limits
from support.people import bare_http
from support.registries import World
from support.working import Held, line
from support.workplace import wait_until

from registry.access.models import AuditEntry, ReadOnlyRow
from registry.access.read_only.service import TRUST_S, ReadOnlySwitch
from registry.app import reporting
from registry.db.counters import Counter
from registry.db.types import utc_now
from registry.http.refusals import Refusals
from registry.jobs.models import Job, Worker
from registry.principal import LOCAL, SYSTEM, Role
from sdk.client import Client
from sdk.errors import ReadOnly, Unauthenticated


@pytest.fixture
def held(people: World, acting: Callable[..., Client], space: str, rows: Path, tmp_path: Path) -> Iterator[Held]:
    acting(**{space: Role.WRITER}).submit_training(f"{space}/a", base="tiny", data=rows, rank=2)
    yield Held.claim(acting(**{space: Role.WORKER}), tmp_path)
    with people.services.db.write() as session:
        session.execute(update(Worker).values(seen_at=utc_now() - timedelta(days=30)))
        session.execute(update(Job).where(Job.namespace == space).values(state="failed", lease_until_s=None))


@pytest.fixture
def on(people: World) -> Iterator[Callable[[], None]]:
    """Turn it on, as another process does, and wait until this one knows."""
    # As the command line does it: another object over the same database.
    switch = ReadOnlySwitch(people.services.db)

    def turn_on() -> None:
        switch.turn_on(reason="moving the database", who=SYSTEM)
        wait_until(people.services.read_only.reason, timeout_s=5 * TRUST_S)

    yield turn_on
    switch.turn_off(who=SYSTEM)
    people.services.read_only._asked_at = float("-inf")


def test_reads_go_on_and_every_change_is_refused_with_the_reason(
    people: World, on: Callable[[], None], admin: Client
) -> None:
    on()
    assert admin.bases()
    with bare_http(people.url, admin.config.token or "") as http:
        document = people.app.openapi()
        for path, operations in document["paths"].items():
            for method in set(operations) - {"get"}:
                answer = http.request(method, path.replace("{", "").replace("}", ""), json={})
                if path.endswith(("/heartbeat", "/revoke", "/sign-in-codes")):
                    assert answer.status_code != 503
                    continue
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "read_only"), path
                assert "moving the database" in answer.json()["error"]["message"]
                assert answer.headers["retry-after"]
        for path in ("/healthz", "/readyz", "/metrics", "/api/v1/whoami", "/api/v1/jobs", "/api/v1/audit"):
            assert http.get(path).status_code == 200, path
        assert http.put("/api/v1/blobs/x", content=b"x").status_code == 503
    with pytest.raises(ReadOnly, match="read-only off"):
        admin.quotas.set("team", max_jobs=1)


def test_a_job_that_is_held_is_kept_and_none_is_queued_again(people: World, on: Callable[[], None], held: Held) -> None:
    on()
    held.report(line("still here"))
    with pytest.raises(ReadOnly):
        held.fail("data", "no")
    with people.services.db.write() as session:
        # As if its worker had fallen silent.
        session.execute(update(Job).where(Job.id == held.job).values(lease_until_s=1.0))
    assert people.services.reconciler.sweep()["requeued"] == 0
    assert people.services.jobs.get(held.job, who=LOCAL).state == "running"


def test_it_is_over_when_it_is_turned_off_and_both_are_in_the_trail(people: World, admin: Client) -> None:
    switch = people.services.read_only
    switch.turn_on(reason="a drill", who=SYSTEM)
    with pytest.raises(ReadOnly):
        admin.quotas.set("team", max_jobs=1)
    switch.turn_off(who=SYSTEM)
    switch.turn_off(who=SYSTEM)
    admin.quotas.set("team", max_jobs=1)
    with people.services.db.read() as session:
        query = select(AuditEntry.action).where(AuditEntry.action.like("readonly.%")).order_by(AuditEntry.pk)
        assert session.scalars(query).all()[-2:] == ["readonly.set", "readonly.clear"]


def test_the_setting_of_a_process_goes_before_the_switch(people: World) -> None:
    forced = ReadOnlySwitch(people.services.db, forced=True)
    with pytest.raises(Exception, match="REGISTRY_READ_ONLY is set"):
        forced.require_off()


def test_rights_can_still_be_taken_away(
    people: World, on: Callable[[], None], acting: Callable[..., Client], admin: Client, space: str
) -> None:
    stranger, thief = acting(**{space: Role.WRITER}), acting(**{space: Role.ADMIN})
    on()
    admin.tokens.revoke(thief.tokens.whoami().token or "")
    assert admin.tokens.revoke_namespace(space).lost
    for client in (stranger, thief):
        # A process may take a second to notice.
        wait_until(lambda: is_refused(client), lambda: "a token that was revoked is taken")  # noqa: B023


def is_refused(client: Client) -> bool:
    try:
        client.tokens.whoami()
    except Unauthenticated:
        return True
    return False


def test_what_is_refused_meanwhile_is_counted_once_it_is_over(
    people: World, on: Callable[[], None], limits: Limits
) -> None:
    limits(reporting, KEEP_REFUSALS_S=0.02)
    services = people.services
    # Not this process's own: any other registry that it serves counts those as its own.
    refusals = Refusals()

    def count_for_a_while() -> float:
        async def run() -> None:
            async with reporting.reporting(refusals, services, reports=True):
                await asyncio.sleep(0.3)

        asyncio.run(run())
        with services.db.read() as session:
            return session.get_one(Counter, ("refused", json.dumps({"why": "too_large"}))).value

    refusals.note("too_large", "somebody", "refused")
    before = count_for_a_while()
    on()
    refusals.note("too_large", "somebody", "refused")
    assert count_for_a_while() == before
    services.read_only.turn_off(who=SYSTEM)
    wait_until(lambda: count_for_a_while() != before, lambda: "what was refused is not counted")
    assert count_for_a_while() == before + 1


def test_two_may_turn_it_on_at_once(people: World, on: Callable[[], None]) -> None:
    switch = people.services.read_only
    second = threading.Thread(target=switch.turn_on, kwargs={"reason": "the second", "who": SYSTEM})
    with people.services.db.write() as session:
        session.add(ReadOnlyRow(id=1, reason="the first", set_by="ana", since=utc_now()))
        session.flush()
        second.start()
        time.sleep(0.5)
        assert second.is_alive()
    second.join()
    on()
    with people.services.db.read() as session:
        query = select(AuditEntry).where(AuditEntry.action == "readonly.set").order_by(AuditEntry.pk.desc())
        last, before = session.scalars(query.limit(2)).all()
        assert (before.before, before.after) == ({"reason": "the first"}, {"reason": "the second"})
        assert last.before == {"reason": "the second"}
