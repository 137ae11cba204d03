"""What is remembered of exact refs."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from sdk.asking.memory import Memory
from sdk.asking.programs import EngineBase
from sdk.asking.target import AskTarget
from sdk.config import Config
from sdk.pulling.cache import Cache

BASE = EngineBase("tiny", "0" * 64, "/base", 1, None, {"method": "nf4"})
TARGET = AskTarget("a@v1", BASE, "1" * 64, "/a", conversations=True, stop_ids=(3, 5), day="2026-11-26")


class Clock:
    """Seconds that a test sets."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _memory(folder: Path, clock: Clock, *, token: str | None = "t1", dtype: str | None = None) -> Memory:
    return Memory(Cache(folder), Config("https://registry.example", token), dtype, clock=clock)


def test_an_exact_ref_is_known_for_five_minutes(tmp_path: Path, clock: Clock) -> None:
    memory = _memory(tmp_path, clock)
    memory.remember("a@v1", TARGET)
    assert memory.recall("a@v1") == TARGET
    clock.now_s += 299
    assert memory.recall("a@v1") == TARGET
    clock.now_s += 2
    assert memory.recall("a@v1") is None
    # A clock that was set back makes nothing valid for longer.
    clock.now_s = 0
    assert memory.recall("a@v1") is None


@pytest.mark.parametrize("ref", ["a", "a@latest", "a@production", "sweep:1/2", "base:tiny"])
def test_a_ref_that_may_move_is_not_remembered(tmp_path: Path, clock: Clock, ref: str) -> None:
    memory = _memory(tmp_path, clock)
    memory.remember(ref, TARGET)
    assert memory.recall(ref) is None


def test_other_tokens_and_precisions_know_nothing_of_it(tmp_path: Path, clock: Clock) -> None:
    _memory(tmp_path, clock).remember("a@v1", TARGET)
    assert _memory(tmp_path, clock, token="t2").recall("a@v1") is None
    assert _memory(tmp_path, clock, dtype="bfloat16").recall("a@v1") is None
    (written,) = (tmp_path / "engines" / "refs").iterdir()
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    assert "t1" not in written.name


def test_a_damaged_memory_is_none(tmp_path: Path, clock: Clock) -> None:
    memory = _memory(tmp_path, clock)
    memory.remember("a@v1", TARGET)
    (written,) = (tmp_path / "engines" / "refs").iterdir()
    for content in ("", "{}", '{"found_s": 1000, "target": {"ref": 1}}', "[]"):
        written.write_text(content)
        assert memory.recall("a@v1") is None
