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
