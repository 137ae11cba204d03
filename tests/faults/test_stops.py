"""What the registry stands on is stopped, and goes on later: every route answers or refuses in time, and then all is well."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from faults.stops import DEADLINE_S, Answer, Ask, Pulse, Standing, standing
from support.workplace import wait_until

from registry.settings import Settings
from sdk.errors import Unavailable

pytestmark = [pytest.mark.alone, pytest.mark.slow, pytest.mark.soak]

#: Longer than a registry takes to notice that something answers again.
PAUSE_S = 1.2


@pytest.fixture(scope="module")
def stack() -> Iterator[Standing]:
    with standing() as found:
        yield found


def explain(answers: list[Answer]) -> str:
    return "\n".join(f"{one.took_s:5.1f} s {one.status} {one.ask.name}: {one.text[:200]}" for one in answers)


def check(answers: list[Answer], pulse: Pulse) -> None:
    """Everybody was served or refused in time, and said why; nobody was told that the registry is at fault."""
    assert answers[0].took_s < DEADLINE_S, explain(answers)
    assert {one.status for one in answers} & {0, 500, 502, 504} == set(), explain(answers)
    for one in answers:
        if one.status == 503:
            assert int(one.headers["retry-after"]) >= 1, one
    assert pulse.answers
    assert {one.status for one in pulse.answers} == {200}
    # On a machine that has other things to do, no slower than with as many requests while all was well.
    assert pulse.slowest_s() < max(1.0, 2 * pulse.usual_s)


def is_well(stack: Standing) -> bool:
    return stack.ask(Ask("readyz", "GET", "/readyz")).status == 200


def check_that_all_is_well(stack: Standing, pids: list[int]) -> None:
    wait_until(lambda: is_well(stack), lambda: stack.ask(Ask("readyz", "GET", "/readyz")).text)
    time.sleep(PAUSE_S)
    answers: list[Answer] = []

    def all_answer() -> bool:
        # Each process finds out by itself, once somebody asks it for what was stopped, which has to catch up first.
        answers[:] = stack.ask_all([*(Ask("readyz", "GET", "/readyz") for _ in range(16)), *stack.every_route()])
        return all(one.status < 500 for one in answers)

    def takes_a_push() -> bool:
        # The process that answers may not have asked for the store's bytes since.
        try:
            stack.push("team/afterwards")
        except Unavailable:
            return False
        return True

    wait_until(all_answer, lambda: explain([one for one in answers if one.status >= 500]), timeout_s=DEADLINE_S)
    wait_until(takes_a_push, lambda: "no push is taken", timeout_s=DEADLINE_S)
    assert processes(stack) == pids


def processes(stack: Standing) -> list[int]:
    from support.workplace import descendants

    return sorted(descendants(stack.registry.pid or 0))


def test_nobody_waits_for_longer_than_ten_seconds_by_default() -> None:
    settings = Settings(database_url="sqlite://", storage_url="file:///nowhere")
    timeouts = settings.timeouts
    assert timeouts.statement_s < timeouts.deadline_s
    assert timeouts.connect_s + timeouts.deadline_s < 10
    assert settings.storage_deadline_s < 10
    # All that one request asks of it.
    assert settings.broker_timeout_s <= 1


def test_the_database_is_stopped(stack: Standing) -> None:
    pids, asks = processes(stack), stack.every_route()
    waiting = Ask("events", "GET", f"/api/v1/jobs/{stack.job}/events?after=1000&wait_s=5")
    with Pulse(stack, stack.usual_s) as pulse, stack.stopped(stack.postgres):
        # Those that come first find out, those that come later are told; two for each thread that could be held up.
        first = stack.ask_all([*asks, waiting])
        began = time.monotonic()
        later = stack.ask_all([*asks, waiting])
        assert time.monotonic() - began < DEADLINE_S / 2
        ready = stack.ask(Ask("readyz", "GET", "/readyz"))
    check(first, pulse)
    check(later, pulse)
    needing = [one for one in later if one.ask.target.startswith("/api/v1/")]
    assert {one.status for one in needing} == {503}, explain(needing)
    assert (ready.status, "database" in ready.text) == (503, True)
    assert ready.took_s < 3
    check_that_all_is_well(stack, pids)


def test_the_store_is_stopped(stack: Standing) -> None:
    pids, asks = processes(stack), stack.every_route()
    reaching = [
        Ask("publish a new one", "POST", "/api/v1/versions", stack.sent("team/late").model_dump_json().encode()),
        *(
            Ask("send in parts", "POST", "/api/v1/uploads", stack.large_upload().model_dump_json().encode())
            for _ in range(24)
        ),
        Ask("collect", "POST", "/api/v1/gc", b'{"dry_run": false, "grace_hours": 0}'),
    ]
    known = stack.client.get("mine/kept@v1").info
    again = {"adapter": "team/again", "manifest": known.manifest, "lora": known.lora}
    body = type(stack.sent("team/x")).model_validate(again).model_dump_json().encode()
    with Pulse(stack, stack.usual_s) as pulse, stack.stopped(stack.seaweed):
        first: list[Answer] = []
        asking = threading.Thread(target=lambda: first.extend(stack.ask_all([*asks, *reaching])))
        asking.start()
        # Beside those that wait for the store, what needs none of it goes on: a collection holds nobody up.
        others = [
            stack.ask(Ask("publish what is stored", "POST", "/api/v1/versions", body)),
            stack.ask(Ask("resolve", "GET", "/api/v1/resolve?ref=mine/kept@production&x=1")),
            stack.ask(Ask("list", "GET", "/api/v1/adapters")),
        ]
        asking.join()
        later = stack.ask_all([*asks, *reaching])
        ready = stack.ask(Ask("readyz", "GET", "/readyz"))
    check(first, pulse)
    check(later, pulse)
    assert [one.status for one in others] == [201, 200, 200], explain(others)
    assert max(one.took_s for one in others) < 4, explain(others)
    refused = [one for one in later if one.ask in reaching]
    assert {one.status for one in refused} == {503}, explain(refused)
    assert (ready.status, "bucket" in ready.text or "storage" in ready.text) == (503, True)
    check_that_all_is_well(stack, pids)


def test_the_broker_is_stopped(stack: Standing) -> None:
    pids, asks = processes(stack), stack.every_route()
    example = next(ask for ask in asks if ask.name == "submit_job").body
    assert example is not None
    with Pulse(stack, stack.usual_s) as pulse, stack.stopped(stack.valkey):
        first = stack.ask_all([*asks, *(Ask("submit", "POST", "/api/v1/jobs", example) for _ in range(10))])
        # A job is taken in all the same.
        rows = stack.folder / "rows.jsonl"
        job = stack.client.submit_training("mine/kept", base="tiny", data=rows, rank=2).id
        ready = stack.ask(Ask("readyz", "GET", "/readyz"))
    check(first, pulse)
    assert all(one.status < 500 for one in first), explain(first)
    assert ready.status == 200
    assert stack.client.jobs.view(job).state == "queued"
    check_that_all_is_well(stack, pids)
