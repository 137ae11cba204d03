"""Every queue keeps the one contract: it says that there is work, and a listener that is away stops nobody."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
import redis
from support.waiting import wait_until

from registry.queue import NoQueue, Queue, local, open_queue
from registry.queue.broker import TASK, CeleryQueue
from registry.queue.local import ASKED_FILE, LOCK_FILE, RUNNER_MODULE, LocalQueue
from sdk.process_starts import process_started_at
from workers.entry import hints
from workers.node.shutdown import Shutdown


def messages(url: str, queue: str) -> list[dict[str, Any]]:
    with redis.Redis.from_url(url) as client:
        return [json.loads(raw) for raw in client.lrange(queue, 0, -1)]


class TestAway:
    """Whoever cannot be told is not told: the job is in the table, and `announce` never raises."""

    @pytest.fixture(params=["none", "refused", "silent", "unknown host", "wrong password", "no folder"])
    def away(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Queue]:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            make: dict[str, Callable[[], Queue]] = {
                "none": NoQueue,
                "refused": lambda: CeleryQueue("redis://127.0.0.1:1/0", timeout_s=0.3),
                "silent": lambda: CeleryQueue(f"redis://127.0.0.1:{port}/0", timeout_s=0.3),
                "unknown host": lambda: CeleryQueue("redis://nobody.invalid/0", timeout_s=0.3),
                "wrong password": lambda: CeleryQueue(self._other_password(request), timeout_s=0.3),
                "no folder": lambda: LocalQueue(self._file(tmp_path)),
            }
            yield make[request.param]()

    @staticmethod
    def _other_password(request: pytest.FixtureRequest) -> str:
        parts = urlsplit(request.getfixturevalue("valkey_url"))
        return urlunsplit(parts._replace(netloc=f":wrong@127.0.0.1:{parts.port}"))

    @staticmethod
    def _file(tmp_path: Path) -> Path:
        path = tmp_path / "file"
        path.touch()
        return path

    def test_announcing_never_raises_and_takes_little_time(self, away: Queue, caplog: pytest.LogCaptureFixture) -> None:
        began = time.monotonic()
        with caplog.at_level(logging.WARNING):
            away.announce("0123456789ab", "gpu")
            away.revive()
        assert time.monotonic() - began < 5
        if not isinstance(away, NoQueue):
            assert "0123456789ab" in caplog.text
            assert "wrong" not in caplog.text.lower()


class TestCelery:
    def test_a_message_is_the_id_on_the_queue_of_the_job(self, empty_valkey_url: str) -> None:
        queue = open_queue(empty_valkey_url)
        queue.announce("job-t", "gpu")
        queue.announce("job-e", "gpu")
        queue.announce("job-m", "cpu")
        gpu, cpu = messages(empty_valkey_url, "gpu"), messages(empty_valkey_url, "cpu")
        assert {message["headers"]["task"] for message in gpu + cpu} == {TASK}
        assert sorted(message["headers"]["argsrepr"] for message in gpu) == ["['job-e']", "['job-t']"]
        assert [message["headers"]["argsrepr"] for message in cpu] == ["['job-m']"]
        assert {message["headers"]["ignore_result"] for message in gpu + cpu} == {True}
        assert {message["content-type"] for message in gpu + cpu} == {"application/json"}

    def test_a_message_is_all_that_is_left_in_the_broker(self, empty_valkey_url: str) -> None:
        queue = open_queue(empty_valkey_url)
        queue.announce("job", "cpu")
        queue.revive()
        with redis.Redis.from_url(empty_valkey_url) as client:
            # No result, and no state of the task.
            assert {key.decode() for key in client.scan_iter()} - {"_kombu.binding.cpu"} == {"cpu"}
            assert client.llen("cpu") == 1

    def test_workers_and_registry_agree_on_names(self) -> None:
        assert hints.TASK == TASK


class TestLocal:
    @contextmanager
    def environment(self, name: str, value: str) -> Iterator[None]:
        os.environ[name] = value
        try:
            yield
        finally:
            del os.environ[name]

    def test_a_runner_is_started_by_name_in_a_session_of_its_own(self, tmp_path: Path) -> None:
        queue = LocalQueue(tmp_path)
        with self.environment("ADAPTERCTL_TOKEN", "actl_secret"):
            queue.announce("job", "gpu")
        (process,) = queue._started
        assert os.getsid(process.pid) == process.pid
        command = Path(f"/proc/{process.pid}/cmdline")
        # Between fork and exec the child still shows our own command line.
        wait_until(lambda: RUNNER_MODULE in command.read_text(), timeout_s=10)
        assert command.read_text().split("\0")[1:3] == ["-m", RUNNER_MODULE]
        # Whoever asks while that one starts, or works, starts no other.
        for ask in (partial(queue.announce, "another", "gpu"), queue.revive, LocalQueue(tmp_path).revive):
            ask()
        assert queue._started == [process]
        given = Path(f"/proc/{process.pid}/environ").read_text()
        assert f"ADAPTERCTL_URL=local:{tmp_path}" in given.split("\0")
        # Folders and hub token are those of who submits.
        assert {"ADAPTER_WORKER_SHARED_PATHS=/", "ADAPTER_WORKER_HUB_REPOSITORIES=*"} <= set(given.split("\0"))
        assert "actl_secret" not in given
        # A registry that is closed meanwhile takes its queue along, which is no reason for a warning.
        pid = process.pid
        del queue, process
        (process,) = [each for each in local._RUNNERS if each.pid == pid]
        # There is no job, so it looks once and ends well.
        assert process.wait(60) == 0, (tmp_path / "logs" / "runner.log").read_text()
        assert (tmp_path / "registry.sqlite3").exists()

    def test_an_expected_job_s_runner_waits_for_it_and_ends_with_who_expects_it(self, tmp_path: Path) -> None:
        queue = LocalQueue(tmp_path)
        with queue.expecting(), LocalQueue(tmp_path).expecting():
            (process,) = queue._started
            wait_until((tmp_path / "registry.sqlite3").exists, timeout_s=60)
            # It has the lock, so that a job starts no other; it looks as soon as there is one.
            queue.announce("job", "cpu")
            assert queue._started == [process]
            assert process.wait(60) == 0
        with queue.expecting(helped=True):
            (process,) = queue._started
            environ = Path(f"/proc/{process.pid}/environ")
            # It is empty until the program is executed.
            wait_until(environ.read_text, timeout_s=60)
            assert "ADAPTERCTL_HELPER=1" in environ.read_text().split("\0")
        assert process.wait(60) == 0
        program = (
            "import sys; from pathlib import Path; from registry.queue import local\n"
            f"queue = local.LocalQueue(Path({str(tmp_path)!r})); queue.expecting().__enter__()\n"
            "print(queue._started[0].pid, flush=True); sys.stdin.read()"
        )
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen([sys.executable, "-c", program], text=True, **pipes) as expecting:
            runner = int(expecting.stdout.readline())
            expecting.kill()
        wait_until(lambda: process_started_at(runner) is None, timeout_s=60)
        assert "rror" not in (tmp_path / "logs" / "runner.log").read_text()

    def test_a_job_that_comes_as_the_runner_ends_is_seen_by_it(self, tmp_path: Path) -> None:
        from workers.entry import local_runner

        queue = LocalQueue(tmp_path)
        jobs, done = ["first"], []

        class OfJobs:
            """A worker that is announced a job after its last look, three times over."""

            def sweep(self) -> None:
                pass

            def work_once(self, _hint: str | None) -> bool:
                done.extend(jobs)
                found = bool(jobs)
                jobs.clear()
                if not found and len(done) < 4:
                    jobs.append("another")
                    queue.announce("another", "gpu")
                return found

        worker: Any = OfJobs()
        with (tmp_path / LOCK_FILE).open("ab") as given:
            fcntl.flock(given, fcntl.LOCK_EX)
            lock = os.dup(given.fileno())
        assert local_runner._work(tmp_path, worker, Shutdown(grace_s=1.0), lock=lock) == 0
        assert done == ["first", "another", "another", "another"]
        assert queue._started == []

    def test_runner_and_registry_look_at_the_same_files(self) -> None:
        from workers.entry import local_runner

        assert (local_runner.LOCK_FILE, local_runner.ASKED_FILE) == (LOCK_FILE, ASKED_FILE)
        assert local_runner.__name__ == RUNNER_MODULE
