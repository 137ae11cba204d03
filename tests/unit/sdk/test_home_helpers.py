"""Helpers of folders: who starts one, who asks it, how it ends, and what becomes of a command whose helper is no use. All of
them are real processes, in a runtime folder of their own.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from support import processes
from support.adapters import base_registration
from support.shells import PATIENT

from registry.app.embedded import open_embedded
from registry.queue.local import ASKED_FILE, LOCK_FILE
from sdk import home_helpers
from sdk.api.helped import HelpedTransport
from sdk.api.transport import Transport
from sdk.client import Client
from sdk.config import Config
from sdk.errors import Unavailable
from sdk.file_locks import locked
from sdk.home_helpers import (
    BUILD_HEADER,
    RUNNER_HEADER,
    HelperPlace,
    await_helper,
    begin_helper,
    build,
    greet,
    helpers,
    place_of,
    start_helper,
)
from sdk.schemas.catalog import BaseView

NOBODY = 65534
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")


def wait_for(holds: Callable[[], Any], seconds: float = 60) -> None:
    deadline_s = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


class Desk:
    """A folder with a registry, commands over it, and a runtime folder for its helper."""

    def __init__(self, folder: Path, runtime: Path) -> None:
        self.home = folder / "home"
        self.env = processes.environment(
            ADAPTERCTL_URL=f"local:{self.home}",
            ADAPTERCTL_CACHE=str(folder / "cache"),
            HOME=str(folder),
            XDG_RUNTIME_DIR=str(runtime),
        )
        del self.env["ADAPTERCTL_HELPER"]
        with closing(Client(f"local:{self.home}")) as client:
            client.aliases.protect("*", "production")

    @property
    def place(self) -> HelperPlace:
        place = place_of(self.home)
        assert place is not None
        return place

    def run(self, *args: str, **env: str) -> str:
        done = processes.finished(processes.BIN / "adapterctl", *args, env={**self.env, **env}, check=True)
        return done.stdout

    def start(self) -> int:
        """Start the helper; return its process once it answers."""
        assert start_helper(self.place)
        return self.wait()

    def wait(self) -> int:
        wait_for(lambda: greet(self.place) is not None)
        (helper,) = [one for one in helpers() if one.home == str(self.home)]
        return helper.pid

    def kill(self) -> None:
        for helper in helpers():
            if helper.home == str(self.home):
                os.kill(helper.pid, signal.SIGKILL)
                wait_for(lambda helper=helper: not helper.is_alive)


@pytest.fixture(scope="module", autouse=True)
def runtime() -> Iterator[Path]:
    """Not a folder of pytest, whose names are too long for sockets."""
    with tempfile.TemporaryDirectory(prefix="helpers-", dir="/tmp") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)
        home_helpers.end_helpers()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, runtime: Path) -> Desk:
    return Desk(tmp_path_factory.mktemp("shared"), runtime)


@pytest.fixture
def desk(tmp_path: Path, runtime: Path) -> Iterator[Desk]:
    made = Desk(tmp_path, runtime)
    yield made
    made.kill()


def test_a_command_leaves_a_helper_which_answers_the_next_one_alike(shared: Desk) -> None:
    commands = (["audit"], ["jobs", "list"])
    here = [shared.run(*command, "--format", "json", ADAPTERCTL_HELPER="0") for command in commands]
    assert not shared.place.lock.exists()
    shared.run("list")
    shared.wait()
    assert [shared.run(*command, "--format", "json") for command in commands] == here
    assert len([one for one in helpers() if one.home == str(shared.home)]) == 1
    # A command that is helped imports neither the registry nor its libraries.
    program = (
        "import sys; from sdk.cli import cli; cli.main(['list', '--format', 'json'], standalone_mode=False); "
        "print(sorted({'registry', 'fastapi', 'sqlalchemy', 'rich', 'yaml', 'numpy'} & set(sys.modules)))"
    )
    done = processes.finished(sys.executable, "-c", program, env=shared.env, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_only_its_owner_can_reach_it_or_read_its_files(shared: Desk) -> None:
    shared.run("list")
    shared.wait()
    place = shared.place
    assert stat.S_IMODE(place.runtime.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in place.runtime.iterdir()} == {0o600}
    assert len(os.fsencode(place.socket)) <= 100


def test_its_process_has_no_token_and_no_password(shared: Desk) -> None:
    secret = "secret-of-a-test"
    shared.kill()
    given = dict.fromkeys(("ADAPTERCTL_TOKEN", "ADAPTERCTL_SIGNING_PASSWORD", "HF_TOKEN"), secret)
    shared.run("list", **given)
    environment = Path(f"/proc/{shared.wait()}/environ").read_bytes()
    assert secret.encode() not in environment


def test_status_lists_it_and_down_ends_it(shared: Desk) -> None:
    shared.run("list")
    pid = shared.wait()
    (part,) = [one for one in json.loads(shared.run("status", "--format", "json")) if one["pid"] == pid]
    assert (part["part"], part["state"]) == (f"helper of {shared.home}", "ready")
    assert f"helper of {shared.home}" in json.loads(shared.run("down", "--format", "json"))["ended"]
    assert greet(shared.place) is None
    assert list(shared.place.runtime.iterdir()) == []


def test_a_script_neither_starts_nor_asks_one(shared: Desk) -> None:
    program = "import sdk, sys; sdk.adapters(); print('fastapi' in sys.modules)"
    shared.kill()
    assert processes.finished(sys.executable, "-c", program, env=shared.env, check=True).stdout == "True\n"
    assert not shared.place.socket.exists()
    shared.start()
    assert processes.finished(sys.executable, "-c", program, env=shared.env, check=True).stdout == "True\n"
    asked = {**shared.env, "ADAPTERCTL_HELPER": "1"}
    assert processes.finished(sys.executable, "-c", program, env=asked, check=True).stdout == "False\n"


def unanswered_within(place: HelperPlace, seconds: float) -> bool:
    """Whether a greeting that nobody answers was given up in this time."""
    began = time.monotonic()
    assert greet(place) is None
    return time.monotonic() - began < seconds


def test_one_that_hangs_or_was_killed_is_stepped_over_at_once(desk: Desk) -> None:
    pid = desk.start()
    os.kill(pid, signal.SIGSTOP)
    # However busy the machine is, one of several takes no longer than it should.
    wait_for(lambda: unanswered_within(desk.place, 0.2))
    # Nobody starts another one meanwhile, and the command does without.
    assert json.loads(desk.run("list", "--format", "json")) == []
    assert not start_helper(desk.place)
    os.kill(pid, signal.SIGKILL)
    # It is gone a moment before the last of its threads, which still holds the lock.
    with locked(desk.place.lock, timeout_s=30):
        pass
    assert desk.place.socket.exists()
    wait_for(lambda: unanswered_within(desk.place, 0.05))
    desk.run("list")
    assert desk.wait() != pid


def test_two_that_are_started_together_are_one(desk: Desk) -> None:
    started: list[bool] = []
    threads = [threading.Thread(target=lambda: started.append(start_helper(desk.place))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(started) == [False, False, False, True]


def test_it_ends_with_its_folder(desk: Desk) -> None:
    pid = desk.start()
    shutil.rmtree(desk.home)
    wait_for(lambda: not any(helper.pid == pid for helper in helpers()), 10)


def test_a_schema_of_another_release_is_left_to_commands(desk: Desk) -> None:
    import sqlite3

    desk.start()
    with closing(sqlite3.connect(desk.home / "registry.sqlite3")) as database, database:
        (present,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    assert greet(desk.place) is None
    done = processes.finished(processes.BIN / "adapterctl", "list", env=desk.env)
    assert done.returncode != 0
    assert "9999" in done.stderr
    with closing(sqlite3.connect(desk.home / "registry.sqlite3")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = ?", (present,))
    wait_for(lambda: greet(desk.place) is not None)


def test_it_ends_when_nobody_asks(desk: Desk) -> None:
    program = "import sys, registry.app.home_helper as helper; helper.IDLE_S = 0.5; helper.main()"
    with locked(desk.place.lock) as lock:
        command = [sys.executable, "-c", program, str(desk.home), desk.place.key, str(lock)]
        process = subprocess.Popen(command, pass_fds=(lock,), env=desk.env)
    try:
        wait_for(lambda: greet(desk.place) is not None)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
    assert not desk.place.socket.exists()


def test_another_build_has_another_helper(shared: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    before = shared.place
    monkeypatch.setattr(home_helpers, "build", lambda: "of-tomorrow")
    assert shared.place.key != before.key


@contextmanager
def answering(path: Path, answer: bytes) -> Iterator[list[bytes]]:
    """Somebody who listens at a socket, and sends the same bytes to whoever asks."""
    asked: list[bytes] = []
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as listener:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    asked.append(connection.recv(65536))
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield asked
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)
    path.unlink(missing_ok=True)


def test_an_answer_of_another_build_is_none(desk: Desk) -> None:
    for said, holds in ((build(), True), ("of-tomorrow", False)):
        answer = f"HTTP/1.1 204 No Content\r\n{BUILD_HEADER}: {said}\r\n\r\n".encode()
        with answering(desk.place.socket, answer) as asked:
            if holds:
                wait_for(lambda: greet(desk.place) is not None)
            else:
                wait_for(lambda asked=asked: greet(desk.place) is not None or len(asked) >= 3)
                assert greet(desk.place) is None
    with answering(desk.place.socket, b"\x00\xff" * 20_000):
        assert greet(desk.place) is None


class TestWhatAHelperLeavesUnanswered:
    """It is killed in the middle: nobody knows what it has done."""

    @pytest.fixture
    def here(self) -> list[str]:
        return []

    @pytest.fixture
    def client(self, desk: Desk, here: list[str]) -> Iterator[httpx.Client]:
        def handle(request: httpx.Request) -> httpx.Response:
            here.append(request.method)
            return httpx.Response(200, json=[])

        transport = HelpedTransport(desk.place, lambda: httpx.MockTransport(handle))
        with answering(desk.place.socket, b""), httpx.Client(transport=transport, base_url="http://helper") as client:
            yield client

    def test_a_read_is_repeated_here(self, client: httpx.Client, here: list[str]) -> None:
        assert client.get("/api/v1/adapters").json() == []
        assert here == ["GET"]

    def test_a_change_with_a_key_is_repeated_here(self, client: httpx.Client, here: list[str]) -> None:
        client.post("/api/v1/jobs", headers={"Idempotency-Key": "k"})
        assert here == ["POST"]

    def test_another_change_is_said(self, client: httpx.Client, here: list[str]) -> None:
        with pytest.raises(Unavailable, match="see whether the change was made"):
            client.post("/api/v1/aliases")
        assert here == []


# httpcore leaves a socket that couldn't be connected to the collector, which the test calls so that no later one sees it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_one_that_is_gone_before_it_is_asked_is_no_loss(desk: Desk) -> None:
    transport = HelpedTransport(desk.place, lambda: httpx.MockTransport(lambda _: httpx.Response(204)))
    with httpx.Client(transport=transport, base_url="http://helper") as client:
        assert client.post("/api/v1/aliases").status_code == 204
    gc.collect()


def test_the_command_starts_the_runner_that_a_helper_asks_for(desk: Desk) -> None:
    answer = f"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{RUNNER_HEADER}: 1\r\n\r\n".encode()
    transport = HelpedTransport(desk.place, lambda: httpx.MockTransport(lambda _: httpx.Response(500)))
    # Whoever has the lock is the runner.
    with locked(desk.home / LOCK_FILE), answering(desk.place.socket, answer):
        with httpx.Client(transport=transport, base_url="http://helper") as client:
            assert client.get("/").status_code == 200
        assert (desk.home / ASKED_FILE).exists()


def test_a_shell_is_offered_what_the_helper_knows_and_nobody_has_seen(desk: Desk) -> None:
    asked = {"_ADAPTERCTL_COMPLETE": "fish_complete", "_ADAPTERCTL_LINE": "adapterctl train x --base base-of"}

    def offered(**env: str) -> list[str]:
        done = processes.finished(sys.executable, "-c", PATIENT, env={**desk.env, **asked, **env}, check=True)
        assert done.stderr == ""
        return [row.split("\t")[1] for row in done.stdout.splitlines() if "base-of-helpers" in row]

    with closing(Client(f"local:{desk.home}")) as client:
        client.transport.call("POST", "/bases", BaseView, body=base_registration(name="base-of-helpers"))
    assert offered() == []
    # It starts none.
    assert greet(desk.place) is None
    desk.start()
    assert offered(ADAPTERCTL_HELPER="0") == []
    assert offered() == ["base-of-helpers"]


def test_an_answer_for_a_shell_takes_no_runner_from_a_command(desk: Desk) -> None:
    from registry.app.home_helper import AskedRunner, Helper

    queue = AskedRunner()
    app = open_embedded(desk.home, queue=queue)
    queue.revive()
    with closing(app.state.services.db):
        client = TestClient(Helper(app, app.state.services, desk.place, queue))
        assert RUNNER_HEADER not in client.get("/api/v1/whoami", headers={RUNNER_HEADER: "0"}).headers
        assert RUNNER_HEADER in client.get("/api/v1/whoami").headers


def test_what_is_logged_has_no_values() -> None:
    from registry.app.home_helper import _NoValues

    try:
        raise ValueError("a prompt")
    except ValueError:
        record = logging.LogRecord("registry", logging.ERROR, "", 0, "unexpected error", (), sys.exc_info())
    logged = _NoValues("%(message)s").format(record)
    assert "ValueError" in logged
    assert "a prompt" not in logged


def test_a_folder_that_cannot_be_written_to_or_is_not_there_has_none(
    tmp_path: Path, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert place_of(tmp_path / "nowhere") is None
    assert place_of(tmp_path) is None
    with monkeypatch.context() as patch:
        # Root may write to any folder, but not below what is mounted to be read.
        patch.setattr(os, "access", lambda *_, **__: False)
        found = place_of(desk.home)
    assert found is None


def test_a_runtime_folder_that_others_may_enter_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="helpers-", dir="/tmp") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        own = Path(folder) / "adapterctl"
        assert home_helpers.runtime_folder() == own
        own.chmod(0o755)
        assert home_helpers.runtime_folder() != own
        own.rmdir()
        own.symlink_to(tmp_path)
        assert home_helpers.runtime_folder() != own


@as_root
def test_the_folder_of_another_user_has_none(desk: Desk) -> None:
    os.chown(desk.home, NOBODY, NOBODY)
    assert place_of(desk.home) is None
    os.chown(desk.home, 0, 0)


@as_root
def test_nobody_is_answered_by_or_answers_another_user(desk: Desk) -> None:
    place = desk.place
    answer = f"HTTP/1.1 204 No Content\r\n{BUILD_HEADER}: {build()}\r\n\r\n"
    listening = (
        f"import os, socket; s = socket.socket(socket.AF_UNIX); s.bind({str(place.socket)!r}); os.setuid({NOBODY}); s.listen(); "
        f"print(flush=True); c, _ = s.accept(); c.recv(9999); c.sendall({answer.encode()!r})"
    )
    # The listener's identity is that of the process that called listen.
    with subprocess.Popen([sys.executable, "-c", listening], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert greet(place) is None
        process.kill()
    place.socket.unlink()
    desk.start()
    asking = (
        f"import os, socket; s = socket.socket(socket.AF_UNIX); fd = os.open('/', os.O_RDONLY); os.setuid({NOBODY}); "
        f"s.connect({str(place.socket)!r}); s.sendall(b'GET /healthz HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'); print(s.recv(99))"
    )
    # Even if everybody could reach it.
    place.runtime.parent.chmod(0o755)
    place.runtime.chmod(0o755)
    place.socket.chmod(0o666)
    try:
        done = subprocess.run([sys.executable, "-c", asking], capture_output=True, text=True, check=False)
        assert "200" not in done.stdout
        assert "b''" in done.stdout or "Error" in done.stderr
        assert "Permission" not in done.stderr
    finally:
        place.runtime.chmod(0o700)


def test_a_transport_of_a_script_opens_the_folder_itself(desk: Desk) -> None:
    transport = Transport(Config(f"local:{desk.home}"))
    transport.call("GET", "/adapters", dict)
    assert transport.unhelped is None
    transport.close()


def test_one_that_is_only_starting_is_waited_for_by_a_command_with_a_job_and_by_its_runner(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ADAPTERCTL_HELPER", raising=False)
    assert begin_helper(desk.home)
    config = Config(f"local:{desk.home}")
    with closing(Transport(config, is_command=True)) as command:
        assert isinstance(command._of_folder(config, desk.home), HelpedTransport)
    # It answers already, so no other is started.
    started = len(home_helpers._STARTED)
    assert begin_helper(desk.home)
    assert len(home_helpers._STARTED) == started
    desk.kill()
    assert begin_helper(desk.home)
    # Another process than the one that started it.
    monkeypatch.setattr(home_helpers, "is_started_here", lambda place: False)
    monkeypatch.setenv("ADAPTERCTL_HELPER", "1")
    with closing(Transport(config)) as runner:
        runner.awaits_helper = True
        assert isinstance(runner._of_folder(config, desk.home), HelpedTransport)


def test_one_that_ends_before_it_answers_is_waited_for_no_longer(desk: Desk) -> None:
    before_s = time.monotonic()
    assert await_helper(desk.place) is None
    assert time.monotonic() - before_s < 5
