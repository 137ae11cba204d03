"""A part is started when what it needs is ready, comes back when it dies, and waits longer the oftener it dies."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.fixtures import Limits
from support.processes import SLEEP
from support.waiting import wait_until

from sdk.stack import keeper as keeping
from sdk.stack.errors import ServerError
from sdk.stack.keeper import Keeper, PartState
from sdk.stack.local_process import LocalProcess


class Program(LocalProcess):
    """A process that answers while there is a file, or always."""

    name = "program"

    def __init__(self, directory: Path, code: str = SLEEP, *, answers_while: Path | None = None) -> None:
        super().__init__(directory)
        self._code = code
        self._answers_while = answers_while

    def _prepare(self) -> None:
        pass

    def _command(self) -> list[str]:
        return [sys.executable, "-c", self._code]

    def _healthy(self) -> bool:
        return self._answers_while is None or self._answers_while.exists()


@pytest.fixture
def keep() -> Iterator[Callable[..., Keeper]]:
    """A function that starts a keeper, which is ended after the test."""
    keepers: list[Keeper] = []

    def start(process: LocalProcess, **options: object) -> Keeper:
        keepers.append(Keeper(process, **options))  # type: ignore[arg-type]
        keepers[-1].start()
        return keepers[-1]

    yield start
    for keeper in keepers:
        keeper.end()
        keeper.join(30)
        assert not keeper.is_alive()


def test_a_killed_part_comes_back_at_once_and_is_told(tmp_path: Path, keep: Callable[..., Keeper]) -> None:
    program = Program(tmp_path)
    keeper = keep(program)
    wait_until(lambda: keeper.is_ready)
    killed = program.pid
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: keeper.is_ready and program.pid not in (None, killed))
    assert (keeper.report.restarts, keeper.report.failures) == (1, 1)
    assert keeper.report.message == "program was killed by SIGKILL"


def test_one_that_always_ends_is_tried_ever_less_often(
    tmp_path: Path, keep: Callable[..., Keeper], limits: Limits
) -> None:
    limits(keeping, _FIRST_PAUSE_S=0.01)
    missing = tmp_path / "missing"
    keeper = keep(Program(tmp_path, "raise SystemExit(3)", answers_while=missing))
    wait_until(lambda: keeper.report.failures >= 4)
    report = keeper.report
    assert report.restarts == report.failures
    pause_s = 0.01 * 2 ** (report.failures - 2)
    assert report.message == (
        f"program ended with status 3 while starting; {report.failures} times in a row; trying again in {pause_s:.1f} s"
    )


def test_a_part_waits_for_what_it_needs(tmp_path: Path, keep: Callable[..., Keeper]) -> None:
    sign = tmp_path / "sign"
    first = keep(Program(tmp_path / "first", answers_while=sign))
    second_program = Program(tmp_path / "second")
    second = keep(second_program, needs=[first])
    wait_until(lambda: first.report.state is PartState.STARTING)
    wait_until(lambda: second.report.message == "waiting for program")
    assert second_program.pid is None
    sign.touch()
    wait_until(lambda: second.is_ready)


def test_what_comes_then_is_done_once_and_tried_again(tmp_path: Path, keep: Callable[..., Keeper]) -> None:
    calls = []

    def then() -> None:
        calls.append(len(calls))
        if len(calls) == 1:
            raise ServerError("the schema is locked\nby somebody")

    program = Program(tmp_path)
    keeper = keep(program, then=then)
    wait_until(lambda: keeper.is_ready)
    assert calls == [0, 1]
    assert keeper.report.message == "the schema is locked"
    os.kill(program.pid or 0, signal.SIGKILL)
    wait_until(lambda: keeper.is_ready and keeper.report.restarts == 2)
    assert calls == [0, 1]


def test_one_that_falls_silent_is_ended_and_started_again(
    tmp_path: Path, keep: Callable[..., Keeper], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_ASK_EVERY_S", "_ASK_SILENT_EVERY_S", "_LONGEST_SILENCE_S"):
        monkeypatch.setattr(keeping, name, 0.3)
    sign = tmp_path / "sign"
    sign.touch()
    program = Program(tmp_path, answers_while=sign)
    keeper = keep(program)
    wait_until(lambda: keeper.is_ready)
    silent = program.pid
    sign.unlink()
    wait_until(lambda: keeper.report.failures == 1)
    assert "did not answer for" in keeper.report.message
    sign.touch()
    wait_until(lambda: keeper.is_ready)
    assert program.pid not in (None, silent)


def test_the_end_of_a_keeper_is_the_end_of_its_part(tmp_path: Path, keep: Callable[..., Keeper]) -> None:
    program = Program(tmp_path)
    keeper = keep(program)
    wait_until(lambda: keeper.is_ready)
    keeper.end()
    keeper.join(30)
    assert keeper.report.state is PartState.STOPPED
    assert program.pid is None


def test_a_second_keeper_adopts_what_the_first_one_started(tmp_path: Path, keep: Callable[..., Keeper]) -> None:
    left = Program(tmp_path)
    left.start()
    pid = left.pid
    adopting = Program(tmp_path)
    keeper = keep(adopting)
    wait_until(lambda: keeper.is_ready)
    assert adopting.pid == pid
    assert keeper.report.restarts == 0
    keeper.end()
    keeper.join(30)
    assert left.pid is None
    left.stop()


def test_a_long_log_is_put_aside(tmp_path: Path, limits: Limits) -> None:
    limits("sdk.stack.local_process", _LONGEST_LOG_BYTES=10)
    program = Program(tmp_path)
    program.log_path.write_text("a line of an earlier run\n")
    program.start()
    program.stop()
    assert program.log_path.read_text() == ""
    assert program.log_path.with_name("program.log.1").read_text() == "a line of an earlier run\n"
