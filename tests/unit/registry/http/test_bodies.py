"""What takes time with the size of a body is done beside the event loop, and small ones where they are."""

from __future__ import annotations

import threading

import anyio
import pytest

from registry.errors import Invalid
from registry.http import bodies


def test_a_large_body_is_worked_on_beside_the_loop_and_a_small_one_in_it() -> None:
    async def run() -> None:
        here = threading.get_ident()
        assert await bodies.sized(bodies.APART_BYTES, threading.get_ident) == here
        assert await bodies.sized(bodies.APART_BYTES + 1, threading.get_ident) != here

    anyio.run(run)


def test_the_loop_goes_on_meanwhile_and_few_are_worked_on_at_once() -> None:
    begun, most = [0], [0]
    guard, go = threading.Lock(), threading.Event()

    def work() -> None:
        with guard:
            begun[0] += 1
            most[0] = max(most[0], begun[0])
        assert go.wait(30)
        with guard:
            begun[0] -= 1

    async def run() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(bodies.sized, bodies.APART_BYTES + 1, work)
            while begun[0] == 0:
                await anyio.sleep(0.001)
            # The loop has come as far as this while one of them works.
            go.set()

    anyio.run(run)
    assert (begun[0], most[0]) == (0, bodies.PARSED_AT_ONCE)


def test_a_refusal_beside_the_loop_comes_without_what_it_was_about() -> None:
    def refuse() -> None:
        raise Invalid("no")

    async def run() -> None:
        with pytest.raises(Invalid, match="no") as caught:
            await bodies.sized(bodies.APART_BYTES + 1, refuse)
        assert caught.value.__context__ is None

    anyio.run(run)
