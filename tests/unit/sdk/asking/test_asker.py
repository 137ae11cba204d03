"""Asking a program that ends, refuses or breaks off. Answers of real programs are in tests/e2e/test_asking.py."""

from __future__ import annotations

import json
import os
import signal
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from sdk.asking import asker as asking
from sdk.asking import programs as programs_of_engines
from sdk.asking import residents as resident_programs
from sdk.asking.asker import AnswerPiece, Asker
from sdk.asking.programs import BegunProgram, EngineBase
from sdk.asking.prompts import Prompt, Sampling
from sdk.asking.residents import Resident, end_residents
from sdk.asking.target import AskTarget
from sdk.config import Config
from sdk.errors import InvalidInput, NotFound, Unavailable
from sdk.process_starts import process_started_at
from sdk.pulling.cache import Cache
from sdk.worker_program import PARENT_VARIABLE

BASE = EngineBase("tiny", "0" * 64, "/base", 1, None, None)
BARE = AskTarget("base:tiny", BASE)
DONE = b"data: [DONE]\n\n"


def _event(**said: Any) -> bytes:
    return b"data: " + json.dumps(said).encode() + b"\n\n"


def _error(code: str, message: str, param: str | None = None) -> bytes:
    return json.dumps({"error": {"code": code, "message": message, "param": param}}).encode()


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


#: From a request's route and body to status and body.
Answer = Callable[[str, dict[str, Any]], tuple[int, bytes]]


class Programs:
    """Servers on Unix sockets that answer as a test says, and the programs that the cache has of them."""

    def __init__(self, cache: Cache, stack: ExitStack) -> None:
        self.cache, self._stack = cache, stack
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="asker-")))
        self.started: list[int | None] = []

    def serve(self, answer: Answer) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self._send(*answer(self.path, body))

            def do_GET(self) -> None:
                self._send(*answer(self.path, {}))

            def _send(self, status: int, content: bytes) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(content)

            def address_string(self) -> str:
                return "socket"

            def log_message(self, *_: Any) -> None:
                pass

        path = str(self.folder / f"s{len(list(self.folder.iterdir()))}")
        server = self._stack.enter_context(_Server(path, Handler))
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        self._stack.callback(thread.join)
        self._stack.callback(server.shutdown)
        return path

    def resident(self, path: str) -> Resident:
        """Note a ready program, of this process, at a socket."""
        started_at = process_started_at(os.getpid()) or ""
        made = Resident(BASE.key, os.getpid(), started_at, path, BASE, 300.0, 0.0)
        folder = self.cache.engines / BASE.key
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "resident.json").write_text(json.dumps({**vars(made), "base": vars(BASE)}))
        (folder / "printed").write_text('{"ready": {}}\n')
        return made

    def asker(self) -> Asker:
        def reach() -> Any:
            raise AssertionError("the registry is asked")

        made = Asker(reach, config=Config("local:/nowhere"), cache=self.cache)
        self._stack.callback(made.close)
        return made


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    with ExitStack() as stack:
        yield Programs(Cache(tmp_path), stack)


def _answered(programs: Programs, target: AskTarget = BARE) -> asking.RunningAnswer:
    return programs.asker().ask(target, Prompt("hi"), Sampling())


def test_thoughts_and_texts_are_told_apart(programs: Programs) -> None:
    chunks = [
        _event(choices=[{"delta": {"role": "assistant"}}]),
        _event(choices=[{"delta": {"reasoning_content": "hm"}}]),
        _event(choices=[{"delta": {"content": "yes"}}]),
        _event(choices=[{"delta": {}, "finish_reason": "stop"}]),
        _event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 2}),
        DONE,
    ]
    programs.resident(programs.serve(lambda _route, _body: (200, b": comment\n\n" + b"".join(chunks))))
    answer = _answered(programs)
    assert list(answer) == [AnswerPiece("hm", is_reasoning=True), AnswerPiece("yes")]
    found = answer.generation
    assert (found.completion, found.stop, found.reasoning) == ("yes", "stop", "hm")
    assert answer.usage.completion_tokens == 2


def test_an_answer_that_breaks_off_is_an_error_and_keeps_what_came(programs: Programs) -> None:
    programs.resident(programs.serve(lambda _route, _body: (200, _event(choices=[{"text": "half"}]))))
    answer = _answered(programs)
    with pytest.raises(Unavailable, match="ended before its answer did; run the same command again"):
        list(answer)
    assert (answer.generation.completion, answer.generation.stop) == ("half", "cancelled")


def test_a_program_that_is_about_to_end_is_replaced(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    programs.resident(programs.serve(lambda _route, _body: (503, _error("ending", "this program is about to end"))))
    other = programs.serve(
        lambda _route, _body: (200, _event(choices=[{"text": "yes", "finish_reason": "stop"}]) + DONE)
    )
    leaving = []

    def start(_cache: Cache, base: EngineBase, **given: Any) -> Resident:
        leaving.append(given["leaving"])
        return Resident(base.key, 1, "", other, base, 300.0, 0.0)

    monkeypatch.setattr(asking, "start_resident", start)
    assert list(_answered(programs)) == [AnswerPiece("yes")]
    assert leaving == [os.getpid()]


def test_an_answer_is_cut_to_what_the_context_has_left(programs: Programs) -> None:
    asked: list[dict[str, Any]] = []

    def answer(route: str, body: dict[str, Any]) -> tuple[int, bytes]:
        if route == "/health":
            return 200, b'{"context_tokens": 100}'
        asked.append(body)
        if body["max_tokens"] == 256:
            return 400, _error("context_length_exceeded", "The prompt is too long.", "max_tokens")
        if not body.get("stream"):
            return 200, b'{"usage": {"prompt_tokens": 90}}'
        return 200, _event(choices=[{"text": "yes", "finish_reason": "length"}]) + DONE

    programs.resident(programs.serve(answer))
    assert list(_answered(programs)) == [AnswerPiece("yes")]
    assert [body["max_tokens"] for body in asked] == [256, 1, 10]


@pytest.mark.parametrize(
    ("status", "code", "param", "error"),
    [
        (400, "context_length_exceeded", "prompt", InvalidInput),
        (400, "not_rendered", "messages", InvalidInput),
        (404, "model_not_found", "model", NotFound),
        (429, "queue_full", None, Unavailable),
        (500, "internal", None, Unavailable),
    ],
)
def test_what_a_program_refuses_is_one_of_our_errors(
    programs: Programs, status: int, code: str, param: str | None, error: type[Exception]
) -> None:
    programs.resident(programs.serve(lambda _route, _body: (status, _error(code, "It can't be; try less.", param))))
    with pytest.raises(error, match=r"^it can't be; try less$"):
        _answered(programs)


def test_messages_without_a_template_are_refused_in_words_of_the_command(programs: Programs) -> None:
    refused = _error("no_template", "Send the text to /v1/completions.", "messages")
    programs.resident(programs.serve(lambda _route, _body: (400, refused)))
    with pytest.raises(InvalidInput, match=r"has a chat template.*leave out chat=$"):
        _answered(programs)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[BegunProgram]:
    """Have askers begin programs that are ready as soon as they are told what they are to hold; return these."""
    text = "import sys, time; sys.stdin.readline() or sys.exit(); print('{\"ready\": {}}', flush=True); time.sleep(600)"
    monkeypatch.setattr(programs_of_engines, "program_command", lambda _module: [sys.executable, "-c", text])
    monkeypatch.setattr(programs_of_engines, "missing_libraries", lambda _names: [])
    monkeypatch.setattr("sdk.asking.finding.find_target", lambda target, *_args, **_options: target)
    made: list[BegunProgram] = []

    class Noted(BegunProgram):
        def __init__(self, folder: Path, *, stays: bool) -> None:
            super().__init__(folder, stays=stays)
            made.append(self)

    for module in (asking, resident_programs, programs_of_engines):
        monkeypatch.setattr(module, "BegunProgram", Noted)
    return made


def _asker(cache: Cache, reach: Callable[[], Any] = lambda: BARE, **given: Any) -> Asker:
    return Asker(reach, config=Config("local:/nowhere"), cache=cache, **given)


@pytest.mark.parametrize("keeps", [True, False])
def test_a_program_begins_while_the_registry_is_asked_and_is_the_one_that_answers(
    keeps: bool, begun: list[BegunProgram], tmp_path: Path
) -> None:
    running: list[bool] = []

    def reach() -> AskTarget:
        running.extend(program.child.poll() is None for program in begun)
        return BARE

    cache = Cache(tmp_path)
    with closing(_asker(cache, reach, keeps=keeps)) as asker:
        for _ in range(2):
            target = asker.target("sql@v1")
        asker.ready(target)
        assert running == [True, True]
    (program,) = begun
    assert [one.pid for one in end_residents(cache)] == ([program.child.pid] if keeps else [])
    assert program.child.wait(10) == -signal.SIGTERM
    assert not list(cache.engines.glob("*/printed"))


@pytest.mark.parametrize("keeps", [True, False])
def test_a_begun_program_ends_if_nothing_is_asked_of_it(
    keeps: bool, begun: list[BegunProgram], programs: Programs
) -> None:
    def refuse(*_: object) -> Any:
        raise NotFound("it isn't there; see: adapterctl list")

    cache = programs.cache
    with closing(_asker(cache, refuse, keeps=keeps)) as asker:
        with pytest.raises(NotFound):
            asker.target("sql@v1")
        assert begun[-1].child.returncode is not None
    with closing(_asker(cache, keeps=keeps, on_start=refuse)) as asker:
        target = asker.target("sql@v1")
        with pytest.raises(NotFound):
            asker.ready(target)
        assert begun[-1].child.returncode is not None
    with closing(_asker(cache, keeps=keeps)) as asker:
        asker.target("sql@v1")
    assert begun[-1].child.returncode is not None
    with closing(_asker(cache, keeps=keeps)) as asker:
        target = asker.target("sql@v1")
        # Another command has started one meanwhile.
        programs.resident(programs.serve(lambda _route, _body: (200, b"{}")))
        asker.ready(target)
        assert begun[-1].child.returncode is not None
    with closing(_asker(cache, keeps=keeps)) as asker:
        # Something runs, and may be what a ref that nobody has asked about needs.
        asker.target("sql@v2")
    assert len(begun) == 4
    assert not [program.folder for program in begun if program.folder.exists()]


def test_a_begun_program_ends_if_another_command_is_quicker(
    begun: list[BegunProgram], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Resident(BASE.key, os.getpid(), "", "/nowhere", BASE, 300.0, 0.0)
    monkeypatch.setattr(asking, "start_resident", lambda *_args, **_given: other)
    with closing(_asker(Cache(tmp_path))) as asker:
        asker.ready(asker.target("sql@v1"))
        assert begun[0].child.returncode is not None
        assert not begun[0].folder.exists()


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="this system has no /proc")
@pytest.mark.parametrize("keeps", [True, False])
def test_a_begun_program_ends_with_its_command_by_the_system_only_if_it_is_not_to_stay(
    keeps: bool, begun: list[BegunProgram], tmp_path: Path
) -> None:
    with closing(_asker(Cache(tmp_path), keeps=keeps)) as asker:
        asker.target("sql@v1")
        given = Path(f"/proc/{begun[0].child.pid}/environ").read_bytes()
        assert (f"{PARENT_VARIABLE}={os.getpid()}".encode() in given.split(b"\0")) is not keeps


def test_asking_imports_no_event_loop_and_no_logging() -> None:
    # Each of them takes a warm answer's first byte a tenth further away.
    code = (
        "import sys, sdk.cli.commands.generate, sdk.asking.asker, sdk.asking.prompts, sdk.cli.support.asking;"
        " print([name for name in ('asyncio', 'logging', 'httpx', 'pydantic') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
