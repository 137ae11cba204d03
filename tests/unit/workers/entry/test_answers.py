"""Whatever a registry answers, a worker goes on asking; what it does not understand, it gives back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.answering import Handler, answering
from support.fixtures import Limits

from sdk.api import work
from sdk.client import Client
from sdk.schemas.advice import Advice
from sdk.schemas.work import ClaimRequest, Heartbeat
from sdk.version import VERSION
from workers.entry import runner, service
from workers.entry.runner import Worker
from workers.node.machine import worker_info
from workers.node.shutdown import Shutdown
from workers.settings import WorkerSettings


@dataclass
class Registry:
    """Answers claims one after the other as it is told, all else with nothing, and then ends the worker."""

    #: Of the worker, which is to end once it has heard all.
    shutdown: Shutdown = field(default_factory=lambda: Shutdown(grace_s=1.0))
    claims: list[tuple[int, str, bytes]] = field(default_factory=list)
    #: What it was sent on other paths.
    posted: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    url: str = ""
    knows_advice: bool = True

    def answer(self, path: str, body: bytes) -> tuple[int, str, bytes]:
        if path != "/api/v1/jobs/claim":
            self.posted.append((path, json.loads(body)))
            if "advice" in self.posted[-1][1] and not self.knows_advice:
                return error("invalid", 422)
            return 200, "application/json", b"null"
        if self.claims:
            return self.claims.pop(0)
        self.shutdown.ask()
        return 204, "application/json", b""


@pytest.fixture
def registry() -> Iterator[Registry]:
    found = Registry()

    class Answers(Handler):
        def do_POST(self) -> None:
            status, kind, content = found.answer(self.path, self.body())
            self.answer(status, content, Content_Type=kind)

    with answering(Answers) as server:
        found.url = server.url
        yield found


@pytest.fixture
def shutdown(registry: Registry) -> Shutdown:
    return registry.shutdown


@pytest.fixture
def worker(
    registry: Registry, shutdown: Shutdown, monkeypatch: pytest.MonkeyPatch, limits: Limits, tmp_path: Path
) -> Iterator[Worker]:
    monkeypatch.setenv("ADAPTERCTL_URL", registry.url)
    monkeypatch.setenv("ADAPTERCTL_TOKEN", "secret")
    monkeypatch.setenv("ADAPTERCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ADAPTER_WORKER_NAME", "gpu-1")
    limits(runner, _ASK_AGAIN_S=(0.001,))
    limits(service, _LONGEST_PAUSE_S=0.01)
    worker = Worker(WorkerSettings.from_env(), shutdown)
    yield worker
    worker.end()


def assignment(**changed: Any) -> dict[str, Any]:
    request = {"kind": "merge", "ref": "code-review@v1", "spec": {"onto": "auto", "dtype": "auto"}}
    return {"job": "3f1c2a9b7d20", "attempt": 4, "lease_s": 60.0, "request": request, **changed}


def of_json(value: Any, status: int = 200) -> tuple[int, str, bytes]:
    return status, "application/json", json.dumps(value).encode()


def error(code: str, status: int) -> tuple[int, str, bytes]:
    return of_json({"error": {"code": code, "message": "no", "param": None}}, status)


@pytest.mark.parametrize(
    "odd",
    [
        of_json([]),
        of_json(5),
        of_json({}),
        of_json({"job": 5, "attempt": 1}),
        of_json({"job": "../../etc", "attempt": 1}),
        of_json({"job": "3f1c", "attempt": True}),
        (200, "application/json", b"\xff\xfe{"),
        (200, "application/json", b"[" * 100_000),
        (200, "text/html", b"<html>hello</html>"),
        (500, "text/plain", b"Internal Server Error"),
        error("internal", 500),
        error("of_tomorrow", 418),
        error("unauthenticated", 401),
        error("forbidden", 403),
        error("not_found", 404),
        error("invalid", 422),
        error("conflict", 409),
        error("rate_limited", 429),
    ],
)
def test_no_answer_ends_a_worker(
    worker: Worker, shutdown: Shutdown, registry: Registry, odd: tuple[int, str, bytes]
) -> None:
    registry.claims = [odd] * 4
    service.ask(worker, shutdown, every_s=0.001)
    assert registry.claims == []
    assert registry.posted == []


@pytest.mark.parametrize(
    "changed",
    [
        {"request": {"kind": "distillation", "teacher": "x@v1"}},
        {"request": {"kind": "merge", "ref": "code-review@v1", "spec": {"onto": "of_tomorrow"}}},
        {"request": {"kind": "merge", "ref": "no ref"}},
        {"request": None},
        {"lease_s": "long"},
        {"targets": [{"label": "x"}]},
    ],
)
def test_what_is_not_understood_is_given_back_once_each_time(
    worker: Worker, shutdown: Shutdown, registry: Registry, changed: dict[str, Any]
) -> None:
    registry.claims = [of_json(assignment(**changed))] * 2
    service.ask(worker, shutdown, every_s=0.001)
    assert [path for path, _ in registry.posted] == ["/api/v1/jobs/3f1c2a9b7d20/fail"] * 2
    said = registry.posted[0][1]
    assert (said["attempt"], said["reason"]) == (4, "unsupported")
    assert said["message"].startswith(f"the worker gpu-1 ({VERSION}) does not understand it: ")
    assert said["message"].endswith("; upgrade the workers")


@pytest.mark.parametrize("given", [{}, {"of_tomorrow": 1}])
def test_fields_of_a_newer_registry_are_passed_over(worker: Worker, registry: Registry, given: dict[str, Any]) -> None:
    request = {**assignment()["request"], **given}
    registry.claims = [of_json(assignment(request=request, **given))]
    client = Client()
    held = work.claim(client.transport, ClaimRequest(worker=worker_info(WorkerSettings.from_env(), client.cache)))
    client.close()
    assert (held.job, held.attempt, held.request.kind) == ("3f1c2a9b7d20", 4, "merge")


def test_a_claim_that_is_misunderstood_is_answered_all_the_same(worker: Worker, registry: Registry) -> None:
    registry.claims = [of_json(assignment(request={"kind": "distillation"}))]
    with pytest.raises(work.NotUnderstoodError):
        worker._ask(None)
    assert worker._unanswered is None


@pytest.mark.parametrize(
    "fault", [RuntimeError("a fault of ours"), OSError(28, "No space left on device"), RecursionError()]
)
def test_a_fault_outside_of_any_job_ends_no_worker(
    worker: Worker, shutdown: Shutdown, registry: Registry, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    faults = [fault, fault]
    real: Callable[..., Any] = work.claim

    def odd(*given: Any, **named: Any) -> Any:
        if faults:
            raise faults.pop()
        return real(*given, **named)

    monkeypatch.setattr(work, "claim", odd)
    service.ask(worker, shutdown, every_s=0.001)
    assert faults == []


def test_a_heartbeat_that_is_answered_oddly_is_sent_again(worker: Worker, registry: Registry) -> None:
    from workers.lease.heartbeat import Lease

    client = Client()
    registry.claims = [of_json(assignment())]
    held = work.claim(client.transport, ClaimRequest(worker=worker_info(WorkerSettings.from_env(), client.cache)))
    assert held is not None
    lease = Lease(client, held, claimed_at=0.0)
    # "null" is not a reply to a heartbeat.
    assert lease._send(within_s=1.0) is False
    assert [Heartbeat.model_validate(body).attempt for _, body in registry.posted] == [4]
    client.close()


def test_an_older_registry_that_refuses_advice_gets_the_lines_of_that_beat(worker: Worker, registry: Registry) -> None:
    from workers.lease.heartbeat import Lease

    client = Client()
    registry.claims = [of_json(assignment())]
    held = work.claim(client.transport, ClaimRequest(worker=worker_info(WorkerSettings.from_env(), client.cache)))
    assert held is not None
    registry.knows_advice = False
    lease = Lease(client, held, claimed_at=0.0)
    lease.log("the last words")
    lease.note_advice([Advice(rule="warmup", message="it is long")])
    lease.flush()
    beats = [Heartbeat.model_validate(body) for _, body in registry.posted]
    assert [[event.message for event in beat.events] for beat in beats] == [["the last words"]] * 2
    assert [len(beat.advice) for beat in beats] == [1, 0]
    client.close()
