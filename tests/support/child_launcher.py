"""Represents a child below its worker: asks for a fork, passes SIGTERM on to it, and ends as it ends; if this process
ends, so does the fork.
"""

import json
import os
import signal
import socket
import sys

address, *arguments = sys.argv[1:]
with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
    connection.connect(address)
    socket.send_fds(connection, [b"0"], [0, 1, 2])
    connection.sendall(
        json.dumps({"command": ["child", *arguments], "env": dict(os.environ), "cwd": os.getcwd()}).encode()
    )
    connection.shutdown(socket.SHUT_WR)
    with connection.makefile("r") as answers:
        pid = int(answers.readline())
        signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGTERM))
        status = int(answers.readline())
if status < 0:
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
