"""Reasons of attempts that ended."""

from __future__ import annotations

import re
from pathlib import Path

import workers
from registry.jobs.retries import counted_as
from workers.pipelines.errors import Reason


def test_every_reason_that_a_worker_gives_is_counted_by_its_name() -> None:
    sources = "".join(path.read_text() for path in Path(workers.__path__[0]).rglob("*.py"))
    given = {*Reason, *re.findall(r'(?:AttemptFailed\(\s*|reason=)"([a-z_]+)"', sources)}
    assert {"crashed", "disk_full", "data"} <= given
    assert {reason for reason in given if counted_as(reason) != reason} == set()


def test_all_others_are_one() -> None:
    assert [counted_as(reason) for reason in (None, "a" * 40, "oomm")] == ["", "other", "other"]
