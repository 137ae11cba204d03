"""Bodies hold what they have sent and no more, make room when they come in slowly, and small ones wait for no large ones."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.types import Message
from support.waiting import let_others_run

from registry.door.incoming_bodies import Body, BodyBudget, Incoming
from registry.errors import RateLimited, RegistryError, TooLarge, TooSlow, Unavailable
from registry.principal import Principal, Role


class NoWait(selectors.DefaultSelector):
    """Waits for nothing: the time that would have been waited has passed at once."""

    passed_s = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.passed_s += timeout or 0
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    """Time passes only while all wait: what a test sees doesn't hang on how busy the machine is."""

    def __init__(self) -> None:
        self._waits = NoWait()
        super().__init__(self._waits)

    def time(self) -> float:
        # No two things happen at the same time.
        self._waits.passed_s += 1e-7
        return self._waits.passed_s


def who(namespace: str, token: str = "") -> Principal:
    return Principal("ci", {namespace: Role.READER}, token or namespace)


def bodies() -> Incoming:
    """Room for 10 small bytes and 100 others, of which one namespace may have 60."""
    small = BodyBudget(total_bytes=10, share_bytes=6, waiting_bytes=5)
    return Incoming(small=small, large=BodyBudget(total_bytes=100, share_bytes=60, waiting_bytes=100), small_bytes=4)


class Client:
    """Sends a body, piece by piece, when it is told to."""

    def __init__(self, all_of_them: Incoming, principal: Principal, *, read_s: float = 120) -> None:
        self._pieces: asyncio.Queue[Message] = asyncio.Queue()
        self.body: Body = all_of_them.begin(principal)
        self.reading = asyncio.create_task(all_of_them.read(self.body, self._pieces.get, most_bytes=80, read_s=read_s))

    async def send(self, size_bytes: int, *, last: bool = False) -> None:
        """Send so many bytes, and give the other side time to take them."""
        self._pieces.put_nowait({"type": "http.request", "body": b"x" * size_bytes, "more_body": not last})
        await let_others_run(5)

    async def came(self) -> int:
        """How many bytes came in. Raises what it was refused with."""
        return len(await self.reading)

    @property
    def is_in(self) -> bool:
        return self.reading.done() and self.reading.exception() is None

    @property
    def error(self) -> BaseException | None:
        return self.reading.exception() if self.reading.done() else None


Connect = Callable[..., Client]


@asynccontextmanager
async def connecting() -> AsyncIterator[Connect]:
    """Clients of one process, all of whose bodies are let go of in the end: then nothing is held."""
    everything, clients = bodies(), list[Client]()

    def connect(principal: Principal, **given: Any) -> Client:
        clients.append(Client(everything, principal, **given))
        return clients[-1]

    try:
        yield connect
    finally:
        for client in clients:
            client.reading.cancel()
            client.body.leave()
            client.body.leave()
        await asyncio.gather(*(client.reading for client in clients), return_exceptions=True)
    for room in (everything._small, everything._large):
        assert (room._taken_bytes, room._waiting_bytes, room._bodies, room._waiting) == (0, 0, {}, {})
        assert not room._by_holder
        assert not room._by_token


def run(test: Callable[[Connect], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with connecting() as connect:
            await test(connect)

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(asyncio.wait_for(whole(), 600))


def test_a_body_holds_what_came_in_and_until_its_request_is_answered() -> None:
    async def test(connect: Connect) -> None:
        client = connect(who("ana"))
        assert client.body.held_bytes == 0
        for sent in (2, 2, 30):
            await client.send(sent)
        assert client.body.held_bytes == 34
        await client.send(1, last=True)
        assert await client.came() == 35
        assert client.body.held_bytes == 35

    run(test)


def test_what_trickles_in_keeps_nobody_out() -> None:
    async def test(connect: Connect) -> None:
        for _ in range(20):
            await connect(who("evil")).send(1)
        sound = connect(who("ana"))
        await sound.send(60, last=True)
        assert sound.is_in

    run(test)


def test_small_bodies_wait_for_no_large_ones() -> None:
    async def test(connect: Connect) -> None:
        for name in ("evil", "evil2"):
            await connect(who(name)).send(50)
        waiting = connect(who("ana"))
        await waiting.send(20)
        assert not waiting.reading.done()
        small = connect(who("ana"))
        await small.send(4, last=True)
        assert small.is_in

    run(test)


def test_what_comes_in_slowly_makes_room_for_others() -> None:
    async def test(connect: Connect) -> None:
        slow = [connect(who(name, f"{name}{number}")) for name in ("evil", "evil2") for number in range(5)]
        for one in slow:
            await one.send(10)
        await grow_slow()
        sound = connect(who("ana"))
        await sound.send(40, last=True)
        assert sound.is_in
        refused = [one.error for one in slow if one.reading.done()]
        # As many as it took, of both.
        assert len(refused) == 4
        assert all(isinstance(error, TooSlow) for error in refused)
        assert len({one.body.holder for one in slow if one.error is not None}) == 2

    run(test)


async def grow_slow() -> None:
    """Let what came in so far be less than should have come in by now."""
    await asyncio.sleep(1.5)


def test_who_holds_more_than_others_gets_nobody_out_of_the_way() -> None:
    async def test(connect: Connect) -> None:
        slow = connect(who("ana"))
        await slow.send(43)
        worked_on = connect(who("evil"))
        await worked_on.send(54, last=True)
        await grow_slow()
        for size_bytes, error in ((5, Unavailable), (7, RateLimited)):
            other = connect(who("evil", "another"))
            await other.send(size_bytes)
            with pytest.raises(error):
                await other.came()
        assert not slow.reading.done()

    run(test)


def test_of_those_that_come_in_slowly_the_slowest_goes() -> None:
    async def test(connect: Connect) -> None:
        await connect(who("ana")).send(45, last=True)
        slow, slowest = connect(who("evil")), connect(who("evil"))
        await slow.send(44)
        await slowest.send(6)
        await grow_slow()
        sound = connect(who("cid"))
        await sound.send(6, last=True)
        assert (sound.is_in, slow.reading.done(), slowest.reading.done()) == (True, False, True)

    run(test)


def test_one_token_of_a_namespace_makes_room_for_another() -> None:
    async def test(connect: Connect) -> None:
        slow = [connect(who("team", "reader")) for _ in range(6)]
        for one in slow:
            await one.send(10)
        await grow_slow()
        sound = connect(who("team", "writer"))
        await sound.send(30, last=True)
        assert sound.is_in

    run(test)


def test_those_that_wait_for_each_other_are_let_in_one_after_another_and_the_youngest_are_refused() -> None:
    async def test(connect: Connect) -> None:
        await connect(who("other")).send(20, last=True)
        clients = [connect(who("team")) for _ in range(6)]

        async def whole(client: Client) -> None:
            for number in range(5):
                await client.send(5, last=number == 4)
            await asyncio.wait([client.reading])
            # Answered.
            client.body.leave()

        await asyncio.gather(*(whole(client) for client in clients))
        came = [client for client in clients if client.is_in]
        assert len(came) >= 2
        assert came == clients[: len(came)]
        assert all(isinstance(client.error, RateLimited) for client in clients[len(came) :])

    run(test)


def test_what_is_worked_on_is_waited_for() -> None:
    async def test(connect: Connect) -> None:
        worked_on = [connect(who(name)) for name in ("ana", "ben")]
        for client in worked_on:
            await client.send(50, last=True)
        waiting = connect(who("cid"))
        await waiting.send(20, last=True)
        assert not waiting.reading.done()
        worked_on[0].body.leave()
        assert await waiting.came() == 20
        too_long = connect(who("dan"))
        await too_long.send(50, last=True)
        with pytest.raises(Unavailable) as caught:
            await too_long.came()
        assert type(caught.value) is Unavailable

    run(test)


def test_nobody_overtakes_who_waits_for_room_that_all_have() -> None:
    async def test(connect: Connect) -> None:
        worked_on = [connect(who(name)) for name in ("ana", "ben")]
        for client in worked_on:
            await client.send(45, last=True)
        large, less = connect(who("cid")), connect(who("dan"))
        await large.send(40, last=True)
        await less.send(6, last=True)
        assert not less.reading.done()
        worked_on[0].body.leave()
        assert await large.came() + await less.came() == 46

    run(test)


def test_pieces_that_wait_are_bounded_too() -> None:
    async def test(connect: Connect) -> None:
        for name in ("ana", "ben"):
            await connect(who(name)).send(50, last=True)
        waiting = [connect(who(f"n{number}")) for number in range(3)]
        for one in waiting:
            await one.send(40)
        assert [one.reading.done() for one in waiting] == [False, False, True]
        assert isinstance(waiting[2].error, Unavailable)

    run(test)


def test_a_body_that_does_not_come_in_or_is_too_long_is_refused() -> None:
    async def test(connect: Connect) -> None:
        slow, long = connect(who("ana"), read_s=0.05), connect(who("ana"))
        await slow.send(3)
        await long.send(81)
        expected: list[tuple[Client, type[RegistryError]]] = [(slow, TooSlow), (long, TooLarge)]
        for client, error in expected:
            with pytest.raises(error):
                await client.came()

    run(test)


def test_a_request_that_is_given_up_while_it_waits_leaves_nothing_behind() -> None:
    async def test(connect: Connect) -> None:
        for name in ("ana", "ben"):
            await connect(who(name)).send(50, last=True)
        waiting = connect(who("cid"))
        await waiting.send(20)
        waiting.reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting.came()
        waiting.body.leave()

    run(test)


async def hold(room: BodyBudget, namespace: str, size_bytes: int) -> Body:
    """Hold what is made of a whole body."""
    body = room.begin(who(namespace), is_whole=True)
    try:
        await room.take(body, size_bytes)
    except BaseException:
        body.leave()
        raise
    return body


def run_in_room(test: Callable[[BodyBudget], Awaitable[None]]) -> None:
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(asyncio.wait_for(test(BodyBudget(total_bytes=100, share_bytes=60)), 600))


def test_a_namespace_has_no_more_than_its_share_and_all_no_more_than_there_is() -> None:
    async def test(room: BodyBudget) -> None:
        await hold(room, "ana", 60)
        with pytest.raises(RateLimited, match="of this namespace"):
            await hold(room, "ana", 1)
        ben = await hold(room, "ben", 40)
        with pytest.raises(Unavailable) as caught:
            await hold(room, "cid", 1)
        assert not isinstance(caught.value, RateLimited)
        ben.leave()
        await hold(room, "cid", 40)

    run_in_room(test)


def test_who_has_no_room_left_of_its_own_holds_nobody_up_and_comes_in_once_there_is_some() -> None:
    async def test(room: BodyBudget) -> None:
        ana, order = await hold(room, "ana", 60), list[str]()

        async def take(namespace: str) -> None:
            await hold(room, namespace, 30)
            order.append(namespace)

        waiting = [asyncio.create_task(take(namespace)) for namespace in ("ana", "ben")]
        await asyncio.wait([waiting[1]])
        assert order == ["ben"]
        ana.leave()
        await asyncio.gather(*waiting)
        assert order == ["ben", "ana"]

    run_in_room(test)


def test_a_value_that_waits_is_not_overtaken_by_a_smaller_one() -> None:
    async def test(room: BodyBudget) -> None:
        ana, _ = await hold(room, "ana", 45), await hold(room, "ben", 45)
        order: list[str] = []

        async def take(namespace: str, size_bytes: int) -> None:
            await hold(room, namespace, size_bytes)
            order.append(namespace)

        waiting = [asyncio.create_task(take("cid", 50)), asyncio.create_task(take("dan", 5))]
        await let_others_run(5)
        assert not order
        ana.leave()
        await asyncio.gather(*waiting)
        assert order == ["cid", "dan"]

    run_in_room(test)


@pytest.mark.parametrize("turns", range(4))
def test_a_cancellation_that_comes_with_the_room_is_none_the_less_one(turns: int) -> None:
    async def test(room: BodyBudget) -> None:
        ana = await hold(room, "ana", 60)
        waiting = asyncio.create_task(hold(room, "ben", 60))
        await let_others_run(3)
        ana.leave()
        await let_others_run(turns)
        has_taken = waiting.done()
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled() is not has_taken
        assert room._by_holder == ({"ben": 60} if has_taken else {})

    run_in_room(test)
