"""What a training's supervising process asks a registry at rungs, over real HTTP, and what it hands down to the child."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from support.waiting import wait_until

from sdk.client import Client
from sdk.schemas.sweeps import RungAnswer
from workers.child.protocol import ReachedRung, answer_file
from workers.kinds.attempt import Attempt
from workers.kinds.rungs import RungAnswers, wait_s


class Registry(ThreadingHTTPServer):
    """Answers one request after the other as it is told to, the last answer from then on."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        #: A status, and what is answered with it.
        self.answers: list[tuple[int, dict[str, Any]]] = []
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))

    def __enter__(self) -> Registry:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Registry

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, body))
        answers = self.server.answers
        status, answer = answers.pop(0) if len(answers) > 1 else answers[0]
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


GOES_ON, ENDS = (200, {"goes_on": True}), (200, {"goes_on": False})


def refusal(status: int, code: str) -> tuple[int, dict[str, Any]]:
    return status, {"error": {"code": code, "message": f"it is {code}", "param": None}}


@dataclass
class Desk:
    """What an attempt has."""

    client: Client
    folder: Path
    assignment: Any = field(default_factory=lambda: SimpleNamespace(job="j1", attempt=3))
    logged: list[str] = field(default_factory=list)
    lost: bool = False

    @property
    def lease(self) -> Desk:
        return self

    def log(self, message: str) -> None:
        self.logged.append(message)

    def lose(self) -> None:
        self.lost = True

    def answer(self, rung: int) -> bool | None:
        path = self.folder / answer_file(rung)
        return RungAnswer.model_validate_json(path.read_bytes()).goes_on if path.exists() else None


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as registry:
        yield registry


@pytest.fixture
def desk(registry: Registry, tmp_path: Path) -> Iterator[Desk]:
    client = Client(registry.url, "adr_token", cache=tmp_path / "cache")
    (tmp_path / "attempt").mkdir()
    yield Desk(client, tmp_path / "attempt")
    client.close()


@pytest.fixture
def rungs(desk: Desk) -> Iterator[RungAnswers]:
    with RungAnswers(cast(Attempt, desk), again_s=0.05) as rungs:
        yield rungs


def test_an_answer_is_handed_down_and_not_asked_for_again(registry: Registry, desk: Desk, rungs: RungAnswers) -> None:
    registry.answers = [GOES_ON, ENDS]
    rungs.reached(ReachedRung(number=0, step=3, loss=2.5))
    wait_until(lambda: desk.answer(0) is not None, lambda: f"{registry.asked}")
    # As the child does that comes after one that was killed.
    rungs.reached(ReachedRung(number=0, step=3, loss=2.5))
    rungs.reached(ReachedRung(number=1, step=12, loss=2.25))
    wait_until(lambda: desk.answer(1) is not None, lambda: f"{registry.asked}")
    assert (desk.answer(0), desk.answer(1)) == (True, False)
    assert registry.asked == [
        ("/api/v1/jobs/j1/rungs", {"attempt": 3, "rung": rung, "step": step, "loss": loss})
        for rung, step, loss in ((0, 3, 2.5), (1, 12, 2.25))
    ]
    assert desk.logged == []


def test_a_registry_that_is_away_is_asked_again_and_that_is_said_once(
    registry: Registry, desk: Desk, rungs: RungAnswers
) -> None:
    registry.answers = [refusal(503, "unavailable")] * 4 + [ENDS]
    rungs.reached(ReachedRung(number=0, step=3, loss=2.5))
    wait_until(lambda: desk.answer(0) is False, lambda: f"{registry.asked}")
    assert len(registry.asked) == 5
    (said,) = desk.logged
    assert said.startswith("whether the training continues after step 3 is asked again later: ")


@pytest.mark.parametrize(
    "refused", [refusal(404, "not_found"), refusal(409, "conflict"), refusal(422, "invalid_input")]
)
def test_without_an_answer_the_training_goes_on(
    registry: Registry, desk: Desk, rungs: RungAnswers, refused: tuple[int, dict[str, Any]]
) -> None:
    registry.answers = [refused]
    for rung in (0, 1):
        rungs.reached(ReachedRung(number=rung, step=3, loss=2.5))
    wait_until(lambda: desk.answer(1) is not None, lambda: f"{registry.asked}")
    assert (desk.answer(0), desk.answer(1)) == (True, True)
    (said,) = desk.logged
    assert said.startswith("the training continues after step 3, since its sweep gives no answer: ")


def test_an_attempt_that_is_stale_is_dropped(registry: Registry, desk: Desk, rungs: RungAnswers) -> None:
    registry.answers = [refusal(409, "stale_attempt")]
    rungs.reached(ReachedRung(number=0, step=3, loss=2.5))
    wait_until(lambda: desk.lost, lambda: f"{registry.asked}")
    assert desk.answer(0) is None


def test_nobody_waits_longer_than_a_heartbeat_takes() -> None:
    assert (wait_s(4.0), wait_s(60.0)) == (1.0, 5.0)
