"""Represents a program below whoever started it: asks for a fork that runs it, passes SIGTERM on to it, and ends as it ends; if this
process ends, so does the fork. It ends with a process that the environment names, as the program would.
"""

import json
import os
import select
import signal
import socket
import sys
from contextlib import suppress

PARENT_VARIABLE = "ADAPTERCTL_PARENT"
address, *command = sys.argv[1:]
with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
    connection.connect(address)
    socket.send_fds(connection, [b"0"], [0, 1, 2])
    connection.sendall(json.dumps({"command": command, "env": dict(os.environ), "cwd": os.getcwd()}).encode())
    connection.shutdown(socket.SHUT_WR)
    with connection.makefile("r") as answers:
        pid = int(answers.readline())
        signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGTERM))
        if PARENT_VARIABLE in os.environ:
            # It may be gone already.
            with suppress(ProcessLookupError):
                parent = os.pidfd_open(int(os.environ[PARENT_VARIABLE]))
                readable, _, _ = select.select([connection, parent], [], [])
                if connection not in readable:
                    os._exit(1)
        status = int(answers.readline())
if status < 0:
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
