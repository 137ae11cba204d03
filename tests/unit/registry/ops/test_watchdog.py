"""What the watchdog takes for silence, each in a process of its own, since it ends the process."""

from __future__ import annotations

import sys

import pytest
from support import processes

PROGRAM = """
import asyncio, re, time
from contextlib import asynccontextmanager
from registry.ops.server_process import watched

@asynccontextmanager
async def lifespan(app):
    {starting}
    yield "state"
    {ending}

async def serve():
    async with watched(lifespan, silent_s={silent_s})("app") as state:
        assert state == "state"
        {serving}
    time.sleep({after_s})

asyncio.run(serve())
print("ended by itself")
"""
PYTHON = "while True: pass"
C = "re.match('(a+)+b', 'a' * 64)"
ASLEEP = "time.sleep(60)"
#: Longer than the loop may be silent where that ends no process: on a busy machine it may get no turn for a while.
LONG_S = 2.4
LONG, IDLE = f"time.sleep({LONG_S})", f"await asyncio.sleep({LONG_S})"


def run(
    *, starting: str = "pass", serving: str, ending: str = "pass", after_s: float = 0, silent_s: float = 0.4
) -> tuple[int, str]:
    program = PROGRAM.format(starting=starting, serving=serving, ending=ending, after_s=after_s, silent_s=silent_s)
    done = processes.finished(sys.executable, "-c", program, timeout_s=30)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("serving", [PYTHON, C, ASLEEP])
def test_process_whose_loop_is_silent_is_ended_and_says_where_it_was(serving: str) -> None:
    code, said = run(serving=serving)
    assert code == 1
    assert "Timeout (0:00:00.400000)!" in said
    assert "in serve" in said


def test_process_that_hangs_as_it_ends_is_ended() -> None:
    assert run(serving="pass", ending=ASLEEP)[0] == 1


def test_idle_loop_long_start_and_what_follows_the_end_are_no_silence() -> None:
    assert run(starting=LONG, serving=IDLE, after_s=LONG_S, silent_s=2) == (0, "ended by itself\n")


def test_silence_is_allowed_where_the_setting_says_so() -> None:
    assert run(serving="time.sleep(0.6)", silent_s=0) == (0, "ended by itself\n")
