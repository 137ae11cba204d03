"""Children: real processes, stopped in order, killed with all that they started, and gone with their worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, cast

import pytest
from support.workplace import is_alive, wait_until

from workers.child.process import LOG_FILE, PARENT_VARIABLE, Child, Ending, WarmChild, end_group, is_group_alive
from workers.child.protocol import INTERRUPTED_STATUS, ORDER_FILE, News
from workers.lease.stop_signal import StopReason

#: Ignores SIGTERM, as its own child does, whose process id it leaves in a file.
STUBBORN = """
import pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
grandchild = subprocess.Popen([sys.executable, "-c", '''
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(600)
'''], stdout=subprocess.PIPE)
grandchild.stdout.readline()
path = pathlib.Path(sys.argv[1]) / "grandchild"
path.with_suffix(".partial").write_text(str(grandchild.pid))
path.with_suffix(".partial").rename(path)
"""
#: Ends as a training does that is told to stop, and says when it can be.
ORDERLY = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def stop(*_):
    (folder / "stopped").touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
(folder / "ready").touch()
time.sleep(600)
"""
WAITS = "time.sleep(600)\n"


class Listener:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.heard: list[News] = []
        self.lines: list[str] = []

    def news(self, news: News) -> None:
        self.heard.append(news)

    def line(self, text: str) -> None:
        self.lines.append(text)


class Watch:
    """Wants the child to stop as soon as a file is there."""

    def __init__(
        self, file: Path | None = None, reason: StopReason = StopReason.CANCELLED, grace_s: float = 600
    ) -> None:
        self._file, self._reason, self._grace_s = file, reason, grace_s

    def reason(self) -> StopReason | None:
        return self._reason if self._file is not None and self._file.exists() else None

    def may_finish(self, asked_s: float) -> bool:
        return asked_s < self._grace_s


def run(folder: Path, code: str, watch: Watch | None = None, listener: Listener | None = None) -> Ending:
    child = Child(folder, program=("-c", code))
    return child.run(folder, listener or Listener(), watch or Watch())


def pid_in(file: Path) -> int:
    return int(file.read_text())


class TestStopping:
    def test_a_child_that_stops_in_order_is_not_killed(self, tmp_path: Path) -> None:
        ending = run(tmp_path, ORDERLY, Watch(tmp_path / "ready"))
        assert ending == Ending(INTERRUPTED_STATUS, StopReason.CANCELLED)
        assert (tmp_path / "stopped").exists()

    def test_one_that_does_not_is_killed_after_its_grace_with_all_that_it_started(self, tmp_path: Path) -> None:
        began = time.monotonic()
        ending = run(tmp_path, STUBBORN + WAITS, Watch(tmp_path / "grandchild", StopReason.TIMEOUT, grace_s=1.0))
        assert ending == Ending(-signal.SIGKILL, StopReason.TIMEOUT)
        assert time.monotonic() - began >= 1.0
        assert not is_alive(pid_in(tmp_path / "grandchild"))

    def test_a_lost_job_gets_no_grace(self, tmp_path: Path) -> None:
        ending = run(tmp_path, ORDERLY, Watch(tmp_path / "ready", StopReason.LOST, grace_s=0))
        assert ending == Ending(-signal.SIGKILL, StopReason.LOST)
        assert not (tmp_path / "stopped").exists()

    def test_what_a_child_leaves_behind_is_ended(self, tmp_path: Path) -> None:
        assert run(tmp_path, STUBBORN) == Ending(0, None)
        assert not is_alive(pid_in(tmp_path / "grandchild"))

    def test_what_a_killed_child_leaves_behind_is_ended(self, tmp_path: Path) -> None:
        code = STUBBORN + "import os\nos.kill(os.getpid(), signal.SIGSEGV)\n"
        assert run(tmp_path, code) == Ending(-signal.SIGSEGV, None)
        assert not is_alive(pid_in(tmp_path / "grandchild"))


class TestGroup:
    def test_one_that_has_ended_and_nobody_waited_for_is_not_alive(self) -> None:
        process = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
        wait_until(lambda: not is_alive(process.pid), lambda: "it goes on")
        # The kernel still knows the group.
        os.killpg(process.pid, 0)
        assert not is_group_alive(process.pid)
        process.wait()
        assert not is_group_alive(process.pid)

    def test_the_end_is_certain(self) -> None:
        process = subprocess.Popen(["sleep", "600"], start_new_session=True)
        assert is_group_alive(process.pid)
        end_group(process.pid)
        assert not is_alive(process.pid)
        process.wait()


class TestListening:
    def test_news_and_lines_arrive(self, tmp_path: Path) -> None:
        progress = {"progress": {"phase": "train", "step": 1}}
        written = {"checkpoint": {"step": 1, "total": 2, "folder": "/x"}}
        code = (
            "import sys\n"
            f"print({json.dumps(progress)!r}); print('no news'); print({json.dumps(written)!r}); print('{{\"prog')\n"
            "print('\\x1b[31mred\\x1b[0m', file=sys.stderr)\n"
        )
        listener = Listener()
        assert run(tmp_path, code, listener=listener).status == 0
        assert [news.model_dump(exclude_none=True, exclude_defaults=True) for news in listener.heard] == [
            progress,
            written,
        ]
        assert listener.lines == ["red"]
        assert (tmp_path / LOG_FILE).read_bytes() == b"\x1b[31mred\x1b[0m\n"

    def test_a_traceback_arrives_whole(self, tmp_path: Path) -> None:
        listener = Listener()
        assert run(tmp_path, "def f():\n    raise ValueError('why')\nf()", listener=listener).status == 1
        assert listener.lines[0] == "Traceback (most recent call last):"
        assert listener.lines[-1] == "ValueError: why"

    def test_one_that_talks_without_end_is_neither_stopped_nor_passed_on(self, tmp_path: Path) -> None:
        listener = Listener()
        code = "import sys\nfor n in range(20000): print('line', n, file=sys.stderr)"
        assert run(tmp_path, code, listener=listener).status == 0
        assert 100 <= len(listener.lines) < 1000
        assert "more lines arrived at once" in listener.lines[-1]
        assert (tmp_path / LOG_FILE).read_text().endswith("line 19999\n")

    def test_no_secret_is_in_its_environment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        secrets = {
            "ADAPTERCTL_TOKEN": "actl_hunter2",
            "ADAPTERCTL_SIGNING_PASSWORD": "hunter2",
            "ADAPTERCTL_SIGNING_KEY": "/hunter2.pem",
            "REGISTRY_BROKER_URL": "redis://:hunter2@broker/0",
            "HF_TOKEN": "hf_hunter2",
            "AWS_SECRET_ACCESS_KEY": "hunter2",
            "WANDB_API_KEY": "hunter2",
            "https_proxy": "http://who:hunter2@proxy:3128",
            "ANYTHING": "postgresql://who:hunter2@host/db",
        }
        for name, value in {**secrets, "HF_HOME": "/models", "OMP_NUM_THREADS": "2"}.items():
            monkeypatch.setenv(name, value)
        listener = Listener()
        code = "import json, os, sys\nfor pair in os.environ.items(): print(*pair, sep='=', file=sys.stderr)"
        assert run(tmp_path, code, listener=listener).status == 0
        said = "\n".join(listener.lines)
        assert "hunter2" not in said
        for line in (
            "HF_HOME=/models",
            "OMP_NUM_THREADS=2",
            "TOKENIZERS_PARALLELISM=false",
            "TORCHDYNAMO_DISABLE=1",
            "GOMP_SPINCOUNT=10000",
            "ONEDNN_PRIMITIVE_CACHE_CAPACITY=64",
            f"{PARENT_VARIABLE}=",
        ):
            assert line in said


def _open_once_read(fifo: Path) -> int:
    """Open a FIFO for writing as soon as somebody reads from it."""
    found: list[int] = []

    def is_read() -> bool:
        try:
            found.append(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return False
        return True

    wait_until(is_read, lambda: "nobody reads it", timeout_s=60)
    return found[0]


class TestDyingWithTheWorker:
    @pytest.mark.parametrize("when", ["as soon as it is started", "while it works"])
    def test_a_killed_worker_takes_its_child_along(self, tmp_path: Path, when: str) -> None:
        # The real child, whose order is never written to the end.
        order = tmp_path / ORDER_FILE
        os.mkfifo(order)
        code = (
            "import pathlib, sys, time\nfrom workers.child.process import Child\n"
            "print(Child(pathlib.Path(sys.argv[1])).pid, flush=True)\ntime.sleep(600)"
        )
        worker = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
        assert worker.stdout is not None
        with worker.stdout, ExitStack() as stack:
            pid = int(worker.stdout.readline())
            if when == "while it works":
                stack.callback(os.close, _open_once_read(order))
            assert is_alive(pid)
            worker.kill()
            worker.wait()
            wait_until(lambda: not is_alive(pid), lambda: f"{pid} goes on", timeout_s=60)

    def test_a_child_outlives_the_thread_that_made_it(self, tmp_path: Path) -> None:
        order = tmp_path / ORDER_FILE
        os.mkfifo(order)
        made: list[Child] = []
        opened: list[int] = []

        def make() -> None:
            made.append(Child(tmp_path))
            # By then it has asked Linux to end it with its parent.
            opened.append(_open_once_read(order))

        thread = threading.Thread(target=make)
        thread.start()
        thread.join(60)
        try:
            time.sleep(0.5)
            assert not made[0].has_ended
        finally:
            made[0].end()
            os.close(opened[0])

    def test_a_child_whose_worker_is_gone_already_ends(self, tmp_path: Path) -> None:
        environment = {**os.environ, PARENT_VARIABLE: "1" if os.getppid() != 1 else "2"}
        command = [sys.executable, "-m", "workers.child.main", str(tmp_path)]
        ended = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False)
        assert ended.returncode == 1
        # It did not so much as look for its order.
        assert ended.stderr == b""


#: Takes its folder as the real child does.
PATIENT = """
import json, os, pathlib, sys
print("imported", file=sys.stderr, flush=True)
warm = len(sys.argv) == 1
line = json.dumps(sys.argv[1]) if not warm else sys.stdin.readline()
if not line: sys.exit(0)
(pathlib.Path(json.loads(line)) / "did").write_text(f"{os.getpid()} {warm}")
"""


class TestWarmChild:
    def carry_out(self, warm_child: WarmChild, folder: Path) -> tuple[int, bool, list[str]]:
        """Return by which process, and whether it waited, and what it said."""
        folder.mkdir()
        listener = Listener()
        assert warm_child.take(folder).run(folder, listener, Watch()).status == 0
        pid, warm = (folder / "did").read_text().split()
        return int(pid), warm == "True", listener.lines

    def test_one_waits_and_is_used_once(self, tmp_path: Path) -> None:
        warm_child = WarmChild(warm=True, program=("-c", PATIENT))
        warm_child.prepare()
        waiting = warm_child._child.pid
        # Another is not made while one waits.
        warm_child.prepare()
        assert warm_child._child.pid == waiting
        # In a folder with a name that a shell would stumble over.
        assert self.carry_out(warm_child, tmp_path / "a\n'b' \u00e9") == (waiting, True, ["imported"])
        pid, warm, _ = self.carry_out(warm_child, tmp_path / "second")
        assert (pid != waiting, warm) == (True, False)
        warm_child.prepare()
        assert self.carry_out(warm_child, tmp_path / "third")[1] is True

    def test_one_that_has_done_its_work_before_it_is_looked_at_has_taken_it(self, tmp_path: Path) -> None:
        warm_child = WarmChild(warm=True, program=("-c", PATIENT))
        warm_child.prepare()
        waiting = warm_child._child
        process = waiting._process

        @contextmanager
        def until_it_has_ended(stdin: IO[bytes]) -> Iterator[IO[bytes]]:
            with stdin:
                yield stdin
            process.wait(60)
            process.stdin = stdin

        assert process.stdin is not None
        process.stdin = cast(IO[bytes], until_it_has_ended(process.stdin))
        assert self.carry_out(warm_child, tmp_path / "only") == (waiting.pid, True, ["imported"])

    def test_a_first_one_is_used_by_the_first_order_or_ended(self, tmp_path: Path) -> None:
        patient = ("-c", PATIENT)
        first = Child(program=patient)
        warm_child = WarmChild(warm=False, program=patient, first=first)
        assert self.carry_out(warm_child, tmp_path / "first") == (first.pid, True, ["imported"])
        assert self.carry_out(warm_child, tmp_path / "second")[1] is False
        unused = Child(program=patient)
        warm_child = WarmChild(warm=False, program=patient, first=unused)
        warm_child.skip_first()
        assert not is_group_alive(unused.pid)
        assert self.carry_out(warm_child, tmp_path / "third")[1] is False

    def test_without_warm_there_is_none(self, tmp_path: Path) -> None:
        warm_child = WarmChild(warm=False, program=("-c", PATIENT))
        warm_child.prepare()
        assert warm_child._child is None
        assert self.carry_out(warm_child, tmp_path / "cold")[1] is False

    def test_one_that_has_died_is_replaced_by_a_cold_one(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        warm_child = WarmChild(warm=True, program=("-c", PATIENT))
        warm_child.prepare()
        os.kill(warm_child._child.pid, signal.SIGKILL)
        wait_until(lambda: warm_child._child is not None and warm_child._child.has_ended, lambda: "it goes on")
        assert self.carry_out(warm_child, tmp_path / "job")[1] is False
        assert "starts cold" in caplog.text

    def test_it_ends_when_it_is_not_wanted(self) -> None:
        warm_child = WarmChild(warm=True, program=("-c", PATIENT))
        warm_child.prepare()
        pid = warm_child._child.pid
        warm_child.end()
        assert not is_alive(pid)
