"""A process that an engine runs in, what its client says once it was ended, and where its files lie."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from sdk.file_locks import locked_if_free
from sdk.gateway.engines import private_folder
from sdk.gateway.engines.child import EngineProcess
from sdk.gateway.engines.private_folder import PrivateFolder


def test_a_request_to_an_engine_that_was_ended_fails_as_one_to_a_dead_engine_does(tmp_path: Path) -> None:
    async def body() -> None:
        process = await asyncio.create_subprocess_exec("sleep", "60", start_new_session=True)
        child = EngineProcess(process, PrivateFolder(str(tmp_path)), tmp_path / "engine.sock")
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
        child = EngineProcess(process, PrivateFolder(str(tmp_path)), socket)
        server = await asyncio.start_unix_server(answer, socket)
        assert await child.answers()
        assert not drops
        server.close()
        process.kill()
        await process.wait()
        assert not await child.answers()
        await child.end()

    asyncio.run(body())


def test_a_killed_process_s_private_folder_is_removed_by_the_next_and_a_living_one_s_is_not(tmp_path: Path) -> None:
    code = "import sys, time; from sdk.gateway.engines.private_folder import PrivateFolder; "
    code += "f = PrivateFolder(sys.argv[1]); (f.path / 'a').touch(); print(f.path, flush=True); time.sleep(60)"
    folders = []
    others = [subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for other in others:
            assert other.stdout is not None
            folders.append(Path(other.stdout.readline().decode().strip()))
        others[0].kill()
        others[0].wait()
        strange = tmp_path / "adapterctl-engine-link"
        strange.symlink_to(folders[1])
        own = PrivateFolder(str(tmp_path))
        assert {*tmp_path.iterdir()} == {folders[1], strange, own.path}
        assert (folders[1] / "a").exists()
        # Some systems remove what is old; it is made again, and is locked as before.
        own.path.rmdir()
        assert own.path.is_dir()
        PrivateFolder(str(tmp_path)).close()
        assert own.path.is_dir()
        own.close()
        assert {*tmp_path.iterdir()} == {folders[1], strange}
    finally:
        for other in others:
            other.kill()
            other.communicate()


def test_private_folders_that_others_remove_in_the_same_moment_leave_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(path: Path, **how: bool) -> Any:
        path.rmdir()
        return locked_if_free(path, **how)

    made: list[str] = []

    def taken(**how: Any) -> str:
        made.append(mkdtemp(**how))
        if len(made) == 1:
            Path(made[0]).rmdir()
        return made[-1]

    mkdtemp = tempfile.mkdtemp
    (tmp_path / "adapterctl-engine-left").mkdir()
    monkeypatch.setattr(private_folder, "locked_if_free", gone)
    monkeypatch.setattr(tempfile, "mkdtemp", taken)
    own = PrivateFolder(str(tmp_path))
    assert [path for path in tmp_path.iterdir() if path.is_file()] == []
    assert [*tmp_path.iterdir()] == [own.path] == [Path(made[1])]
    own.close()
