"""How a worker asks for work: a claim whose answer never came is sent again as the same one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fixtures import Limits

from sdk.api import work
from sdk.errors import AdapterctlError, Conflict, Incompatible, RateLimited, Unavailable
from workers.entry import runner
from workers.entry.runner import Worker
from workers.node.shutdown import Shutdown
from workers.settings import WorkerSettings


class Asked:
    """A registry that answers as it is told, and has nothing to do once that is over."""

    def __init__(self, *answers: AdapterctlError) -> None:
        self.answers = list(answers)
        self.keys: list[str | None] = []

    def claim(self, *_: Any, key: str | None = None) -> None:
        self.keys.append(key)
        if self.answers:
            raise self.answers.pop(0)


@pytest.fixture
def shutdown() -> Shutdown:
    return Shutdown(grace_s=1.0)


@pytest.fixture
def worker(shutdown: Shutdown, monkeypatch: pytest.MonkeyPatch, limits: Limits, tmp_path: Path) -> Iterator[Worker]:
    monkeypatch.setenv("ADAPTERCTL_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("ADAPTERCTL_CACHE", str(tmp_path))
    limits(runner, _ASK_AGAIN_S=(0.01, 0.01))
    worker = Worker(WorkerSettings.from_env(), shutdown)
    yield worker
    worker.end()


def asked(monkeypatch: pytest.MonkeyPatch, *answers: AdapterctlError) -> Asked:
    registry = Asked(*answers)
    monkeypatch.setattr(work, "claim", registry.claim)
    return registry


def test_each_claim_has_a_key_of_its_own(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = asked(monkeypatch)
    assert [worker.work_once(), worker.work_once()] == [False, False]
    assert None not in registry.keys
    assert len(set(registry.keys)) == 2


def test_without_an_answer_it_is_the_same_claim(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = asked(monkeypatch, *(Unavailable("the connection broke") for _ in range(4)))
    with pytest.raises(Unavailable):
        worker.work_once()
    assert len(registry.keys) == 3
    assert worker.work_once() is False
    assert (len(registry.keys), len(set(registry.keys))) == (5, 1)
    worker.work_once()
    assert len(set(registry.keys)) == 2


@pytest.mark.parametrize("kind", [Incompatible, RateLimited])
def test_an_answer_that_refuses_ends_the_claim(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, kind: type[AdapterctlError]
) -> None:
    registry = asked(monkeypatch, kind("no"))
    with pytest.raises(kind):
        worker.work_once()
    worker.work_once()
    assert (len(registry.keys), len(set(registry.keys))) == (2, 2)


def test_a_key_that_is_never_answered_is_given_up(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = asked(monkeypatch, *(Conflict("used for another request") for _ in range(3)))
    with pytest.raises(Conflict):
        worker.work_once()
    worker.work_once()
    assert (len(registry.keys), len(set(registry.keys))) == (4, 2)


def test_who_is_to_end_asks_no_more(worker: Worker, shutdown: Shutdown, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = asked(monkeypatch, *(Unavailable("the connection broke") for _ in range(4)))
    monkeypatch.setattr(shutdown, "wait", lambda _seconds: True)
    with pytest.raises(Unavailable):
        worker.work_once()
    assert len(registry.keys) == 1
