"""Refusals are all counted, and told in few lines."""

from __future__ import annotations

import pytest
from support.clocks import Clock

from registry.app.services import Services
from registry.http.refusals import Refusals
from registry.monitoring.service import Metrics


def test_each_whom_it_is_about_is_told_of_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    refusals = Refusals(clock=clock)
    for number in range(300):
        refusals.note("log_in", f"{number % 3}", "from %s", number % 3)
    assert [record.getMessage() for record in caplog.records] == ["from 0", "from 1", "from 2"]
    assert refusals.drain() == {"log_in": 300}
    caplog.clear()
    clock.now += 5
    refusals.note("log_in", "0", "from %s", 0)
    assert [record.getMessage() for record in caplog.records] == [
        "297 more refusals of the kind log_in were not logged one by one",
        "from 0",
    ]


def test_however_many_they_are_about_the_lines_are_few(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals(clock=Clock())
    for number in range(10_000):
        refusals.note("malformed", f"{number}", "from %s", number)
    refusals.note("forbidden", "0", "another kind")
    assert len(caplog.records) == 11


def test_what_was_counted_is_kept_for_all_processes(services: Services) -> None:
    refusals = Refusals(clock=Clock())
    metrics: Metrics = services.metrics
    for _ in range(2):
        refusals.note("too_slow", "a", "slow")
        metrics.add_refusals(refusals.drain())
    shown = metrics.exposition().decode()
    assert 'adapterctl_requests_refused_total{why="too_slow"} 2.0' in shown
    assert 'adapterctl_requests_refused_total{why="log_in"} 0.0' in shown


def test_what_could_not_be_kept_is_counted_later() -> None:
    refusals = Refusals(clock=Clock())
    refusals.note("too_slow", "a", "slow")
    drained = refusals.drain()
    refusals.note("too_slow", "a", "slow")
    refusals.restore(drained)
    assert refusals.drain() == {"too_slow": 2}
