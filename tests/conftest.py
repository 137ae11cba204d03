"""Fixtures of every test: real servers from wheels, started when a test first asks."""

from __future__ import annotations

import signal

from support.bytecode import keep_bytecode
from support.temporary import use_memory

use_memory()
keep_bytecode()

import os  # noqa: E402

# Commands of tests leave no process, unless a test asks for it.
os.environ.setdefault("ADAPTERCTL_HELPER", "0")

from hypothesis import HealthCheck, settings  # noqa: E402 - it is compiled, too

pytest_plugins = [
    "support.garbage",
    "support.compiled",
    "support.quick",
    "support.connections",
    "support.servers",
    "support.fixtures",
    "support.parallel",
]

# How long an example takes says nothing on a machine that runs other tests beside it.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

# A shell starts what it runs in the background with Ctrl-C ignored, and every process below would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
