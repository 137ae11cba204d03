"""Lanes: what each namespace gets of their threads, whose requests they know, and what has a lane of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from fastapi import Depends, FastAPI
from fastapi.routing import APIRoute
from starlette.types import Message, Receive, Scope, Send
from support.waiting import let_others_run

from registry.door.request_bodies import StrictBodies
from registry.errors import Unavailable
from registry.http import bodies
from registry.http.lanes import Lane, answering
from registry.http.rights import Rights
from registry.http.routes import answered, apart, room
from registry.pools import Pool
from registry.principal import LOCAL, Principal, Role

POOL = Pool("tests of lanes", waits="tests", at_once="1", item="a test", share="by turns", kept=False)


def of(*namespaces: str) -> Principal:
    return Principal("ci", dict.fromkeys(namespaces, Role.WRITER), "-".join(namespaces))


async def forever() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


class Work:
    """What threads do until they may end."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self._guard = threading.Lock()
        self.begun: list[str] = []

    def __call__(self, name: str) -> None:
        with self._guard:
            self.begun.append(name)
        assert self.go.wait(30)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(60):
            while len(self.begun) < count:
                await asyncio.sleep(0.001)
        # Nothing more has begun once the loop has gone on for a while.
        await let_others_run(20)
        assert len(self.begun) == count


@contextmanager
def held(work: Work) -> Iterator[None]:
    try:
        yield
    finally:
        work.go.set()


def test_a_push_comes_in_however_many_completions_are_verified() -> None:
    async def run() -> None:
        work = Work()
        with held(work):
            busy = [
                asyncio.create_task(apart(work, lane="handing in", holder=who, name=who))
                for who in ("ana", "ana", "ana", "ben", "ben", "cid")
            ]
            await work.until(3)
            assert sorted(work.begun) == ["ana", "ana", "ben"]
            assert await apart(lambda: "pushed") == "pushed"
            assert await apart(lambda: "compared", lane="reading long") == "compared"
            assert await answered(lambda: "answered") == "answered"
        await asyncio.gather(*busy)

    asyncio.run(run())


def test_large_bodies_are_parsed_by_turns() -> None:
    async def run() -> None:
        work = Work()

        async def parse(who: str, token: str) -> None:
            with answering(Principal("ci", {who: Role.WRITER}, token), forever):
                await bodies.sized(bodies.APART_BYTES + 1, work, who)

        with held(work):
            busy = [asyncio.create_task(parse("ana", f"t{number}")) for number in range(4)]
            busy += [asyncio.create_task(parse("ben", "other"))]
            await work.until(1)
        await asyncio.gather(*busy)
        assert work.begun == ["ana", "ana", "ben", "ana", "ana"]

    asyncio.run(run())


def test_who_pays_is_the_namespace_of_the_caller_that_has_least() -> None:
    async def run() -> None:
        lane, go, given = Lane(POOL, at_once=2), asyncio.Event(), list[str]()

        async def use(*namespaces: str) -> None:
            with answering(of(*namespaces), forever):
                async with lane.turn():
                    given.append("-".join(namespaces))
                    await go.wait()

        busy = [asyncio.create_task(use("ana")) for _ in range(4)]
        await let_others_run()
        # It pays for itself with ben, which has none; and so comes before ana's others.
        busy.append(asyncio.create_task(use("ana", "ben")))
        await let_others_run()
        go.set()
        await asyncio.gather(*busy)
        assert given == ["ana", "ana", "ana-ben", "ana", "ana"]

    asyncio.run(run())


def test_a_caller_who_leaves_while_waiting_is_not_served() -> None:
    async def run() -> None:
        lane, work, gone = Lane(POOL, at_once=1), Work(), asyncio.Event()

        async def receive() -> Message:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def use(name: str) -> None:
            with answering(of("ana"), receive):
                await lane.run(work, name)

        with held(work):
            first = asyncio.create_task(use("first"))
            await work.until(1)
            second = asyncio.create_task(use("second"))
            await let_others_run()
            gone.set()
            with pytest.raises(Unavailable, match="has left"):
                await second
        await first
        assert work.begun == ["first"]

    asyncio.run(run())


def test_without_tokens_there_are_no_turns_and_no_deadlines() -> None:
    async def run() -> None:
        lane, order = Lane(POOL, at_once=1, waiting=1, wait_s=0.0), list[int]()

        async def use(number: int) -> None:
            with answering(LOCAL, forever):
                await lane.run(order.append, number)

        await asyncio.gather(*map(use, range(9)))
        assert order == list(range(9))

    asyncio.run(run())


def test_views_that_ask_the_database_take_turns_and_leave_connections_to_others() -> None:
    work, router, given = {"ana": Work(), "ben": Work()}, room("/slow", "jobs"), list[str]()

    async def has_turn(who: str) -> None:
        given.append(who)

    # FastAPI asks what a view depends on once it has its turn, and in the loop: threads begin in any order.
    @router.get("/{who}", dependencies=[Depends(has_turn)])
    def slow(who: str) -> dict[str, str]:
        work[who](who)
        return {}

    routes = FastAPI(routes=router.routes)
    rights = Rights([route for route in router.routes if isinstance(route, APIRoute)])

    async def with_caller(scope: Scope, receive: Receive, send: Send) -> None:
        who = scope["path"].rpartition("/")[2]
        scope["principal"] = Principal("ci", {who: Role.READER}, who)
        await StrictBodies(routes, rights=rights)(scope, receive, send)

    async def run() -> None:
        transport = httpx.ASGITransport(with_caller)
        async with httpx.AsyncClient(transport=transport, base_url="http://registry", timeout=30) as client:
            with held(work["ben"]):
                with held(work["ana"]):
                    busy = [asyncio.create_task(client.get("/api/v1/slow/ana")) for _ in range(40)]
                    await work["ana"].until(10)
                    others = [asyncio.create_task(client.get("/api/v1/slow/ben")) for _ in range(2)]
                    await work["ben"].until(1)
                    assert given == ["ana"] * 10 + ["ben"]
                answers = await asyncio.gather(*busy)
                # The second of ben's had the first turn that was given: it didn't wait for those that had come before it.
                assert given == ["ana"] * 10 + ["ben"] * 2 + ["ana"] * 30
            answers += await asyncio.gather(*others)
        assert {answer.status_code for answer in answers} == {200}

    asyncio.run(run())
