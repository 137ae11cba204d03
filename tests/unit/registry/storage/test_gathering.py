"""Blobs that come in are gathered to chunks, and hold little together however many there are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from support.waiting import let_others_run

from registry.storage.protocol import CHUNK_BYTES
from registry.storage.views import Gathering

PIECE = b"p" * (CHUNK_BYTES // 16)


class Sent:
    """A blob whose pieces come one by one."""

    def __init__(self) -> None:
        self.pieces: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def stream(self) -> AsyncIterator[bytes]:
        while (piece := await self.pieces.get()) is not None:
            yield piece


def test_a_blob_alone_comes_in_whole_chunks_and_nothing_is_lost() -> None:
    async def run() -> list[int]:
        sent, gathering = Sent(), Gathering()
        for piece in [PIECE] * 40 + [b"end", None]:
            sent.pieces.put_nowait(piece)
        found = [len(chunk) async for chunk in gathering.chunks(sent.stream())]
        assert gathering.held_bytes == 0
        return found

    assert asyncio.run(run()) == [CHUNK_BYTES, CHUNK_BYTES, CHUNK_BYTES // 2 + 3]


def test_many_that_come_slowly_hold_no_more_together_than_a_few() -> None:
    async def run() -> None:
        gathering, blobs = Gathering(4 * CHUNK_BYTES), [Sent() for _ in range(64)]
        written = 0

        async def write(blob: Sent) -> None:
            nonlocal written
            async for chunk in gathering.chunks(blob.stream()):
                written += len(chunk)

        tasks = [asyncio.create_task(write(blob)) for blob in blobs]
        for _ in range(15):
            for blob in blobs:
                blob.pieces.put_nowait(PIECE)
            await let_others_run(4)
            assert gathering.held_bytes <= 4 * CHUNK_BYTES
        # Each has sent nearly a chunk, and is far from its end.
        assert written >= 64 * 15 * len(PIECE) - 4 * CHUNK_BYTES
        for task in tasks[:32]:
            task.cancel()
        for blob in blobs[32:]:
            blob.pieces.put_nowait(None)
        await asyncio.wait(tasks)
        assert gathering.held_bytes == 0

    asyncio.run(run())


@pytest.mark.parametrize("at", [0, 3])
def test_what_is_given_up_is_not_counted_any_more(at: int) -> None:
    async def run() -> None:
        gathering = Gathering()

        async def broken() -> AsyncIterator[bytes]:
            for _ in range(at):
                yield PIECE
            raise ConnectionResetError

        with pytest.raises(ConnectionResetError):
            async for _ in gathering.chunks(broken()):
                pass
        assert gathering.held_bytes == 0

    asyncio.run(run())
