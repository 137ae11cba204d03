"""Who is connected to a port of this machine, asked of processes that tell and of those that keep it to themselves."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from support import processes
from support.processes import SLEEP, environment

from sdk.stack.loopback import free_ports, is_connected

CLIENT = """
import socket, sys, time
connected = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print("connected", flush=True)
time.sleep(600)
"""
#: An ordinary user's process and a child of it, which lets nobody look, as a worker does. Root becomes nobody.
ORDINARY = """
import ctypes, json, os, signal, time
import psutil
from sdk.stack.loopback import is_connected
from workers.child.privacy import keep_to_itself

if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    # As a process is that this user has started.
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
reads, writes = os.pipe()
child = os.fork()
if child == 0:
    keep_to_itself()
    os.write(writes, b"x")
    time.sleep(60)
    os._exit(0)
os.read(reads, 1)
try:
    said = is_connected(child, 1)
finally:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
print(json.dumps(said))
"""


@pytest.fixture
def port() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_connection_is_its_process_s_and_goes_to_one_port(port: int) -> None:
    command = [sys.executable, "-c", CLIENT, str(port)]
    client = subprocess.Popen(command, stdout=subprocess.PIPE)
    other = subprocess.Popen([sys.executable, "-c", SLEEP])
    try:
        assert client.stdout.readline() == b"connected\n"
        assert is_connected(client.pid, port)
        assert not is_connected(client.pid, free_ports(1)[0])
        assert not is_connected(other.pid, port)
    finally:
        for process in (client, other):
            process.kill()
            process.communicate()
    assert not is_connected(client.pid, port)


@pytest.mark.skipif(sys.platform != "linux", reason="only there does a worker hide what it has open")
def test_a_process_that_nobody_may_look_at_passes_for_connected() -> None:
    ran = processes.finished(sys.executable, "-c", ORDINARY, env=environment(), timeout_s=120)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert json.loads(ran.stdout) is True
