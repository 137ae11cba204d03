"""Fixtures of every test: real servers from wheels, started when a test first asks."""

from __future__ import annotations

import signal

pytest_plugins = ["support.fixtures"]

# A shell starts what it runs in the background with Ctrl-C ignored, and every process below would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
