"""A process that an engine runs in, and what its client says once it was ended."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from sdk.gateway.engines.child import EngineProcess


def test_a_request_to_an_engine_that_was_ended_fails_as_one_to_a_dead_engine_does(tmp_path: Path) -> None:
    async def body() -> None:
        process = await asyncio.create_subprocess_exec("sleep", "60", start_new_session=True)
        child = EngineProcess(process, tmp_path / "private", tmp_path / "private" / "engine.sock")
        # A route that was given before the engine was found dead, and is used after that.
        client = child.client
        await child.end()
        with pytest.raises(httpx.ConnectError):
            await client.post("/v1/completions", json={})
        with pytest.raises(httpx.ConnectError):
            await client.send(client.build_request("POST", "/v1/completions"), stream=True)

    asyncio.run(body())


def test_a_busy_engine_that_drops_a_connection_is_not_taken_for_gone(tmp_path: Path) -> None:
    drops = 2

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal drops
        if drops:
            drops -= 1
        else:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
        writer.close()

    async def body() -> None:
        socket = tmp_path / "engine.sock"
        process = await asyncio.create_subprocess_exec("sleep", "60", start_new_session=True)
        child = EngineProcess(process, tmp_path / "private", socket)
        server = await asyncio.start_unix_server(answer, socket)
        assert await child.answers()
        assert not drops
        server.close()
        process.kill()
        await process.wait()
        assert not await child.answers()
        await child.end()

    asyncio.run(body())
