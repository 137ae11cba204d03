"""The engine program as a process: what it prints, who may connect, when it ends, and what it leaves behind."""

from __future__ import annotations

import asyncio
import json
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from support.processes import environment
from support.serving_engines import PlayedLoop, answering
from support.waiting import wait_until

from sdk.worker_program import PARENT_VARIABLE
from workers.serving.configuration import EngineConfiguration
from workers.serving.decoding.requests import DecodeQuestion, OnPiece
from workers.serving.door.activity import Activity, unneeded
from workers.serving.door.listening import ListeningSocket
from workers.serving.door.refusals import RequestRefused

CANARY = "canary-7f3a"


def started(configuration: dict[str, Any], folder: Path, **env: str) -> subprocess.Popen[bytes]:
    """The program with everything that it could write to in one folder."""
    folder.mkdir(exist_ok=True)
    variables = {"HOME": str(folder), "TMPDIR": str(folder), "OMP_NUM_THREADS": "1", **env}
    with (folder / "stderr").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "workers.serving"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=folder,
            env=environment(PYTHONPATH=str(Path.cwd()), **variables),
        )
    child.stdin.write(json.dumps(configuration).encode())
    child.stdin.close()
    return child


def line_of(child: subprocess.Popen[bytes]) -> dict[str, Any]:
    with child.stdout:
        found: dict[str, Any] = json.loads(child.stdout.readline())
    return found


def refusal(configuration: dict[str, Any], folder: Path) -> dict[str, Any]:
    child = started(configuration, folder)
    found = line_of(child)
    assert child.wait(60) == 0
    return found


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_program_that_cannot_say_anything_since_the_disk_is_full_does_not_stay() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "workers.serving"],
            input=b"{}\n",
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(PYTHONPATH=str(Path.cwd())),
            check=False,
            timeout=60,
        )
    assert done.returncode != 0
    assert b"No space left on device" in done.stderr


@pytest.fixture
def private(tmp_path: Path) -> Path:
    (folder := tmp_path / "private").mkdir(mode=0o700)
    return folder


def test_program_serves_its_owner_alone_and_leaves_nothing_of_what_it_was_asked(
    base: Path, tmp_path: Path, private: Path
) -> None:
    socket = private / "socket"
    configuration = {"base": str(base), "dtype": None, "quantization": None, "socket": str(socket), "idle_s": 300}
    child = started(configuration, tmp_path / "world")
    ready = line_of(child)["ready"]
    assert (ready["dtype"], ready["pid"], ready["context_tokens"]) == ("float32", child.pid, 256)
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600
    assert "is that of a program that runs" in refusal(configuration, tmp_path / "second")["refused"]
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://engine", timeout=60) as client:
        message = {"role": "user", "content": CANARY}
        asked = {"model": "base", "messages": [message], "max_tokens": 4}
        assert client.post("/v1/chat/completions", json=asked).status_code == 200
        assert client.post("/v1/completions", json={"model": "base", "prompt": CANARY, "echo": True}).status_code == 200
        for bad in (
            {"messages": [{**message, CANARY: 1}]},
            {"messages": CANARY},
            {"stop": [CANARY] * 99},
            {"model": "no"},
        ):
            assert client.post("/v1/chat/completions", json={**asked, **bad}).status_code in (400, 404)
        assert client.post("/v1/completions", content=CANARY).status_code == 400
        with client.stream(
            "POST", "/v1/completions", json={"model": "base", "prompt": CANARY, "max_tokens": 240, "stream": True}
        ) as stream:
            lines = stream.iter_lines()
            assert next(lines)
            child.terminate()
            try:
                rest = list(lines)
            except httpx.RemoteProtocolError:
                rest = []
            # Either it was whole in time, or it doesn't look so.
            assert "data: [DONE]" in rest or not any('"finish_reason":"' in line for line in rest)
    assert child.wait(20) == 0
    assert not socket.exists()
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert tmp_path / "world" / "stderr" in written
    assert [path for path in written if CANARY.encode() in path.read_bytes()] == []


def test_program_ends_with_whoever_started_it(tmp_path: Path, private: Path) -> None:
    configuration = {"base": str(tmp_path), "socket": str(private / "socket")}
    child = started(configuration, tmp_path / "world", **{PARENT_VARIABLE: "1"})
    child.stdout.close()
    assert child.wait(60) == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dtype": "int8"}, "the configuration can't be used"),
        ({"socket": "x" * 200}, "has more than 107 bytes"),
    ],
)
def test_configuration_that_cannot_be_used_is_refused(
    tmp_path: Path, private: Path, changed: dict[str, Any], message: str
) -> None:
    found = refusal({"base": str(tmp_path), "socket": str(private / "socket"), **changed}, tmp_path / "world")
    assert message in found["refused"]
    assert found["reason"] == "spec"


def test_configuration_with_more_than_it_has_is_refused() -> None:
    with pytest.raises(ValidationError, match="template"):
        EngineConfiguration.model_validate({"base": "/base", "socket": "/socket", "template": "x"})


def test_socket_where_others_could_enter_is_refused(private: Path) -> None:
    private.chmod(0o750)
    with pytest.raises(RequestRefused, match="nobody else can enter"):
        ListeningSocket(private / "socket")
    with pytest.raises(RequestRefused, match="lies in a folder that can't be entered"):
        ListeningSocket(Path("/nowhere/socket"))


def test_program_without_a_request_is_unneeded_after_its_time() -> None:
    async def main() -> None:
        activity = Activity()
        with activity.one():
            waiting = asyncio.create_task(unneeded(activity, idle_s=0.2, least_bytes=0))
            await asyncio.sleep(0.5)
            assert not waiting.done()
            assert not activity.ending
        begun = time.monotonic()
        await waiting
        assert 0.1 < time.monotonic() - begun < 5
        assert activity.ending

    asyncio.run(main())


def test_program_is_unneeded_once_nothing_runs_if_memory_is_short() -> None:
    async def main() -> None:
        activity = Activity()
        with activity.one():
            waiting = asyncio.create_task(unneeded(activity, idle_s=60, least_bytes=2**60))
            while not activity.ending:
                await asyncio.sleep(0.01)
            assert not waiting.done()
        await waiting

    asyncio.run(main())


def test_program_that_is_to_stay_is_never_unneeded() -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(unneeded(Activity(), idle_s=None, least_bytes=1), 1.5)

    asyncio.run(main())


class BrokenLoop(PlayedLoop):
    """Fails with what it was asked in its words."""

    def __init__(self) -> None:
        super().__init__(lambda: iter(()))

    def submit(self, question: DecodeQuestion, on_piece: OnPiece) -> Any:
        """Raise."""
        raise KeyError(f"{CANARY} {question.prompt}")


@pytest.mark.parametrize("streams", [False, True])
def test_failure_is_logged_by_its_place_alone(
    base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, streams: bool
) -> None:
    with answering(base, BrokenLoop(), tmp_path) as engine:
        asked = {"model": "base", "prompt": "two", "stream": streams}
        response = engine.post("/v1/completions", **asked)
    captured = capfd.readouterr()
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal")
    assert "KeyError at test_program.py" in captured.err
    assert CANARY not in captured.err + captured.out + caplog.text + response.text


def test_program_that_is_about_to_end_takes_nothing_new(base: Path, tmp_path: Path) -> None:
    with answering(base, BrokenLoop(), tmp_path) as engine:
        engine.activity.ending = True
        response = engine.post("/v1/completions", model="base", prompt="two")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "ending")


@pytest.mark.slow
def test_program_dies_with_its_parent_even_if_that_is_killed(base: Path, private: Path) -> None:
    program = (
        "import json, os, subprocess, sys, time\n"
        f"os.environ[{PARENT_VARIABLE!r}] = str(os.getpid())\n"
        "child = subprocess.Popen([sys.executable, '-P', '-m', 'workers.serving'], stdin=subprocess.PIPE)\n"
        "child.stdin.write(sys.argv[1].encode()); child.stdin.close()\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    socket = private / "socket"
    configuration = json.dumps({"base": str(base), "socket": str(socket)})
    parent = subprocess.Popen(
        [sys.executable, "-c", program, configuration],
        stdout=subprocess.PIPE,
        env=environment(PYTHONPATH=str(Path.cwd())),
    )
    with parent.stdout:
        pid = int(parent.stdout.readline())
    # Bound once it has asked to die with its parent.
    wait_until(socket.exists)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), timeout_s=20)
