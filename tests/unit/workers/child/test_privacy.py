"""The child can't read the worker's environment, which holds its token; the worker still reads what it has to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import processes
from support.processes import environment
from support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows environments")

#: A worker and its child as an ordinary user, and what each could read. Root, which may read everything, becomes nobody.
PROGRAM = """
import ctypes, json, os, signal, subprocess, sys, time
from pathlib import Path
from sdk.stack.identity import Identity
from workers.child import process as group
from workers.child.privacy import keep_to_itself

if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    # As a process is that this user has started.
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)


def read_by_child(name):
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = "secret" if b"hunter2" in Path(f"/proc/{os.getppid()}/{name}").read_bytes() else "nothing"
        except OSError as error:
            said = type(error).__name__
        os.write(writes, said.encode())
        os._exit(0)
    os.waitpid(child, 0)
    return os.read(reads, 100).decode()


def kept(marked):
    # One that was left behind in the session of a process that is gone, which keeps its environment to itself.
    reads, writes = os.pipe()
    leader = os.fork()
    if leader == 0:
        os.setsid()
        left = os.fork()
        if left == 0:
            keep_to_itself()
            os.write(writes, b"x")
            time.sleep(60)
            os._exit(0)
        time.sleep(60)
        os._exit(0)
    os.read(reads, 1)
    ours = Identity.of(leader, "mark" if marked else "")
    os.kill(leader, signal.SIGKILL)
    os.waitpid(leader, 0)
    other = Identity(leader, ours.started_at + "0", ours.mark)
    killed = [other.kill_rest(), ours.kill_rest()]
    if not marked:
        os.killpg(leader, signal.SIGKILL)
    return killed


before = read_by_child("environ")
keep_to_itself()
after = read_by_child("environ")
said = {
    "before": before,
    "after": after,
    "cgroup": len(Path("/proc/self/cgroup").read_text()) > 0,
    "status": len(Path("/proc/self/status").read_text()) > 0,
    "files": len(os.listdir("/proc/self/fd")) > 2,
    "child": subprocess.run(["/bin/sh", "-c", "exit 3"], close_fds=True, start_new_session=True).returncode,
    "alive": group.is_group_alive(os.getpgid(0)),
    "kept": kept(True),
    "unmarked": kept(False),
}
print(json.dumps(said))
"""


def test_an_ordinary_users_child_reads_nothing_of_its_worker() -> None:
    env = {**environment(), "ADAPTERCTL_TOKEN": "hunter2", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = processes.finished(sys.executable, "-c", PROGRAM, env=env, timeout_s=60)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    assert (said["before"], said["after"]) == ("secret", "PermissionError")
    assert (said["cgroup"], said["status"], said["files"], said["alive"], said["child"]) == (True, True, True, True, 3)
    # The stack still finds what a killed worker left behind, and nobody else's.
    assert said["kept"] == [0, 1]
    assert said["unmarked"] == [0, 0]


@pytest.mark.parametrize(
    ("command", "broker"),
    [
        (("workers.entry.cli", "start"), None),
        (("workers.entry.cli", "start"), "redis://127.0.0.1:1/0"),
        (("workers.entry.local_runner",), None),
    ],
    ids=["worker", "worker with a broker", "runner"],
)
def test_each_worker_keeps_its_environment_to_itself(
    command: tuple[str, ...], broker: str | None, tmp_path: Path
) -> None:
    # What a process keeps to itself belongs to root and its group, whoever runs it.
    module, *words = command
    place = f"local:{tmp_path / 'home'}" if module == "workers.entry.local_runner" else "http://127.0.0.1:1"
    env = environment(ADAPTERCTL_URL=place, ADAPTERCTL_CACHE=str(tmp_path / "cache"), HOME=str(tmp_path))
    env |= {} if broker is None else {"REGISTRY_BROKER_URL": broker}
    start = f"from {module} import main\nimport time, workers.child.privacy\n"
    if module == "workers.entry.local_runner":
        # It ends as soon as there is no work.
        start += "import workers.entry.local_runner as local\nlocal._work = lambda *given: time.sleep(60)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{start}main()", *words],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        group=65534 if os.geteuid() == 0 else None,
        start_new_session=True,
    )
    try:
        wait_until(lambda: _belongs_to_root(process.pid) or process.poll() is not None, timeout_s=60)
        assert process.poll() is None, process.stderr and process.stderr.read()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()


def _belongs_to_root(pid: int) -> bool:
    status = Path(f"/proc/{pid}/environ").stat()
    return (status.st_gid if os.geteuid() == 0 else status.st_uid) == 0
