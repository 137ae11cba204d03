"""A request with a key is run once, however often and by how many at once it is sent, and whoever dies meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.responses import JSONResponse, Response
from sqlalchemy import select, update
from starlette.types import Receive, Scope, Send
from support import databases, processes, registries
from support.adapters import base_registration, digest, save_adapter
from support.registries import World
from support.workplace import wait_until

from registry.access.tokens import Tokens
from registry.db.database import Database
from registry.http.idempotency.middleware import MAX_ANSWER_BYTES, MOST_WAITING, AnswerOnce
from registry.http.idempotency.models import KeyedRequest
from registry.http.idempotency.service import LONG_BYTES, MOST_LONG, Answer, Keyed, Turn
from registry.principal import SYSTEM, Principal, Role
from registry.settings import Settings
from sdk.client import Client
from sdk.pushing.pack import pack_adapter
from sdk.schemas.catalog import Publication

#: Each adapter of the run has bytes of its own.
SEEDS = itertools.count(1_300_000)
#: How many send one request at once.
MANY = 16


@pytest.fixture(scope="module", params=databases.KINDS)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp(request.param)
    with ExitStack() as stack:
        url = stack.enter_context(databases.new_database(request.param, folder, request))
        storage = (folder / "artifacts").as_uri()
        found = stack.enter_context(registries.served(folder, database_url=url, storage_url=storage))
        found.admin.register_base(base_registration())
        yield found


@pytest.fixture
def name() -> str:
    """The name of an adapter that no other test has."""
    return f"adapter-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def key() -> str:
    return str(uuid.uuid4())


def push(client: Client, tmp_path: Path, name: str) -> str:
    seed = next(SEEDS)
    return client.push(save_adapter(tmp_path / f"adapter-{seed}", seed), name, base="tiny").ref


def publication(client: Client, tmp_path: Path, name: str, *, extra_bytes: int = 0) -> dict[str, Any]:
    """Upload an adapter, with one more file of zeros where asked for, and return what is to be said of it."""
    seed = next(SEEDS)
    folder, staging = save_adapter(tmp_path / f"adapter-{seed}", seed), tmp_path / f"staging-{seed}"
    staging.mkdir()
    if extra_bytes:
        with (folder / "notes.txt").open("wb") as file:
            file.truncate(extra_bytes)
    package = pack_adapter(
        folder, base_id="tiny", base_revision="0" * 40, base_fingerprint=digest("tiny: base"), staging=staging
    )
    upload = client.upload(package.sources, "uploading")
    body = Publication(adapter=name, upload=upload, manifest=package.manifest, lora=package.lora)
    return body.model_dump(mode="json")


def send(http: httpx.Client, method: str, path: str, body: Any, key: str, **params: str) -> httpx.Response:
    return http.request(method, f"/api/v1{path}", json=body, params=params, headers={"Idempotency-Key": key})


def at_once(url: str, token: str, method: str, path: str, body: Any, key: str) -> list[httpx.Response]:
    """Send one request from many threads, each over a connection of its own, at the same moment."""
    barrier = threading.Barrier(MANY)

    def one() -> httpx.Response:
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=60) as http:
            barrier.wait()
            return send(http, method, path, body, key)

    with ThreadPoolExecutor(MANY) as pool:
        return [done.result() for done in [pool.submit(one) for _ in range(MANY)]]


def replayed(answer: httpx.Response) -> bool:
    return answer.headers.get("idempotency-replayed") == "true"


#: A body that can be sent as often as one likes.
BASE = base_registration().model_dump(mode="json")


def rows_of(world: World, key: str) -> list[tuple[int | None, str | None]]:
    with world.services.db.read() as session:
        rows = session.scalars(select(KeyedRequest).where(KeyedRequest.key == key))
        return [(row.status, row.body) for row in rows]


def make_old(db: Database, key: str, age: timedelta) -> None:
    """Let a request look as if nobody had said for so long that it is worked on."""
    with db.write() as session:
        began = session.scalars(select(KeyedRequest.created_at).where(KeyedRequest.key == key)).one()
        session.execute(update(KeyedRequest).where(KeyedRequest.key == key).values(created_at=began - age))


class TestSameAnswer:
    def test_byte_for_byte_and_once(self, world: World, name: str, tmp_path: Path) -> None:
        push(world.writer, tmp_path, name)
        push(world.writer, tmp_path, name)
        alias = {"adapter": name, "alias": "production"}
        requests: list[tuple[str, str, Any, int]] = [
            ("POST", "/bases", BASE, 201),
            ("PUT", "/aliases", {**alias, "number": 1}, 200),
            ("PATCH", "/version", {"ref": f"{name}@v1", "note": "once — Grüße"}, 200),
            ("POST", "/aliases/remove", alias, 204),
            # So are refusals: what is asked again is answered as it was.
            ("PUT", "/aliases", {**alias, "number": 99}, 404),
            ("PUT", "/aliases", {**alias, "number": "1"}, 422),
            ("PUT", "/aliases", {**alias, "number": 1, "expect": 2}, 409),
        ]
        for method, path, body, status in requests:
            key = str(uuid.uuid4())
            first, second, third = (send(world.http, method, path, body, key) for _ in range(3))
            assert (first.status_code, replayed(first)) == (status, False), first.text
            for again in (second, third):
                assert (again.status_code, again.content, replayed(again)) == (status, first.content, True)
                for header in ("content-type", "content-length"):
                    assert again.headers.get(header) == first.headers.get(header)
        assert len(world.writer.alias_history(name)) == 2
        assert len(world.writer.get(f"{name}@v1").info.notes) == 1

    def test_without_a_key_or_with_another_it_is_another_request(self, world: World) -> None:
        blobs = {"blobs": [{"sha256": "0" * 64, "size_bytes": 1}]}
        ids = {send(world.http, "POST", "/uploads", blobs, str(uuid.uuid4())).json()["id"] for _ in range(2)}
        ids |= {world.http.post("/api/v1/uploads", json=blobs).json()["id"] for _ in range(2)}
        assert len(ids) == 4

    def test_a_key_is_of_one_request(self, world: World, key: str) -> None:
        limits = {"max_jobs": 7}
        assert send(world.http, "PUT", "/quotas", limits, key, namespace="team").status_code == 200
        for method, path, body, params in (
            ("PUT", "/quotas", {"max_jobs": 8}, {"namespace": "team"}),
            ("PUT", "/quotas", limits, {"namespace": "other"}),
            ("PUT", "/aliases", limits, {"namespace": "team"}),
            ("POST", "/quotas", limits, {"namespace": "team"}),
        ):
            answer = send(world.http, method, path, body, key, **params)
            assert answer.status_code == 409
            assert answer.json()["error"] == {
                "code": "conflict",
                "message": "this idempotency key was used for another request; use a new key",
                "param": "idempotency_key",
            }
        assert replayed(send(world.http, "PUT", "/quotas", limits, key, namespace="team"))
        assert (
            world.http.get("/api/v1/quotas", params={"namespace": "other"}).json()["max_jobs"]
            == Settings.default_max_jobs
        )

    def test_a_key_is_of_one_caller_and_of_what_it_may_do(self, world: World, key: str) -> None:
        answers = []
        for name, namespace, role in (
            ("alice", "*", Role.WRITER),
            ("bob", "*", Role.WRITER),
            ("alice", "team", Role.WRITER),
            ("alice", "team", Role.READER),
            # A name proves nothing: another token called so, with the same rights, is another caller.
            ("alice", "*", Role.WRITER),
        ):
            token = world.services.tokens.create(name=name, grants={namespace: role}, replace=True, who=SYSTEM).secret
            with httpx.Client(base_url=world.url, headers={"Authorization": f"Bearer {token}"}) as http:
                answers.append(send(http, "POST", "/bases", BASE, key))
        assert [answer.status_code for answer in answers] == [201, 201, 201, 403, 201]
        assert [replayed(answer) for answer in answers] == [False] * 5
        # Whoever lacks the right is refused before the body is read, so nothing is kept for them.
        assert len(rows_of(world, key)) == 4


class TestKeys:
    @pytest.mark.parametrize("bad", [b"", b"x" * 201, b"tab\there", b"\xc3\xa9"])
    def test_what_is_no_key_is_refused(self, world: World, bad: bytes) -> None:
        for path in ("/uploads", "/jobs", "/tokens"):
            answer = world.http.post(f"/api/v1{path}", json={}, headers=[(b"Idempotency-Key", bad)])
            assert (answer.status_code, answer.json()["error"]["param"]) == (422, "idempotency_key")

    def test_two_keys_are_refused(self, world: World) -> None:
        headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
        answer = world.http.post("/api/v1/uploads", json={}, headers=headers)
        assert (answer.status_code, answer.json()["error"]["param"]) == (422, "idempotency_key")

    @pytest.mark.parametrize("good", ["a", "x" * 200, '!"#$ ~'])
    def test_what_is_a_key_is_taken(self, world: World, good: str) -> None:
        assert [replayed(send(world.http, "POST", "/bases", BASE, good)) for _ in range(2)] == [False, True]

    def test_places_to_send_to_are_not_kept(self, world: World, key: str) -> None:
        blobs = {"blobs": [{"sha256": "0" * 64, "size_bytes": 1}]}
        answers = [send(world.http, "POST", "/uploads", blobs, key) for _ in range(2)]
        assert [(answer.status_code, replayed(answer)) for answer in answers] == [(201, False), (201, False)]
        assert answers[0].json()["id"] != answers[1].json()["id"]
        assert rows_of(world, key) == []

    def test_secrets_are_not_kept(self, world: World, key: str) -> None:
        body = {"name": key[:20], "grants": [{"namespace": "team", "role": "reader"}]}
        answer = send(world.http, "POST", "/tokens", body, key)
        assert (answer.status_code, answer.json()["error"]["param"]) == (422, "idempotency_key")
        assert "secret" in answer.json()["error"]["message"]
        assert key[:20] not in {token["name"] for token in world.http.get("/api/v1/tokens").json()}
        assert rows_of(world, key) == []

    def test_jobs_keep_their_key_themselves(self, world: World, key: str, tmp_path: Path) -> None:
        path = tmp_path / "rows.jsonl"
        path.write_text('{"prompt": "a", "completion": "b"}\n')
        data = world.writer.add_data(path).digest
        base = {"id": "tiny", "fingerprint": digest("tiny: base")}
        body = {"request": {"kind": "training", "adapter": "a", "base": base, "data": data}}
        first, second = (send(world.http, "POST", "/jobs", body, key) for _ in range(2))
        assert (first.status_code, second.status_code) == (201, 201)
        assert first.json()["id"] == second.json()["id"]
        assert rows_of(world, key) == []

    def test_reading_takes_no_key(self, world: World, key: str) -> None:
        answer = world.http.get("/api/v1/bases", headers={"Idempotency-Key": key})
        assert (answer.status_code, replayed(answer), rows_of(world, key)) == (200, False, [])

    def test_what_the_gatekeeper_or_the_check_of_bodies_refuses_uses_no_key_up(self, world: World, key: str) -> None:
        url, good = f"{world.url}/api/v1/bases", json.dumps(BASE).encode()
        assert httpx.post(url, content=good, headers={"Idempotency-Key": key}).status_code == 401
        headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
        assert world.http.post("/api/v1/bases", content=b'{"a": NaN}', headers=headers).status_code == 422
        assert rows_of(world, key) == []
        assert world.http.post("/api/v1/bases", content=good, headers=headers).status_code == 201


class TestManyAtOnce:
    def test_an_alias_moves_once(self, world: World, name: str, key: str, tmp_path: Path) -> None:
        push(world.writer, tmp_path, name)
        body = {"adapter": name, "alias": "production", "number": 1}
        answers = at_once(world.url, world.token(Role.ADMIN), "PUT", "/aliases", body, key)
        assert Counter(answer.status_code for answer in answers) == {200: MANY}
        assert len({answer.content for answer in answers}) == 1
        assert sum(not replayed(answer) for answer in answers) == 1
        assert len(world.writer.alias_history(name, "production")) == 1

    def test_a_note_is_written_once_and_a_version_published_once(
        self, world: World, name: str, key: str, tmp_path: Path
    ) -> None:
        token = world.writer.config.token or ""
        body = publication(world.writer, tmp_path, name)
        answers = at_once(world.url, token, "POST", "/versions", body, key)
        assert Counter(answer.status_code for answer in answers) == {201: MANY}
        # All are told of the making: without the key fifteen of them would find it existing.
        assert {answer.json()["existing"] for answer in answers} == {False}
        assert [version.number for version in world.writer.versions(name)] == [1]
        note = {"ref": f"{name}@v1", "note": "once"}
        answers = at_once(world.url, token, "PATCH", "/version", note, f"{key}-note")
        assert Counter(answer.status_code for answer in answers) == {200: MANY}
        assert len(world.writer.get(name).info.notes) == 1


App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Behind:
    """An application that counts how often it is asked and answers what it is told to; where it is held, once it is let go."""

    def __init__(self, *answers: Response | Exception, held: bool = False) -> None:
        self.asked = 0
        self._answers = answers
        self._may_answer = threading.Event()
        if not held:
            self.let_go()

    def let_go(self) -> None:
        """Answer whoever asked, and whoever will."""
        self._may_answer.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        assert message == {"type": "http.request", "body": b"{}", "more_body": False}
        answer = self._answers[min(self.asked, len(self._answers) - 1)]
        self.asked += 1
        until = time.monotonic() + 60
        while not self._may_answer.is_set():
            assert time.monotonic() < until, "nobody lets it go"
            await asyncio.sleep(0.01)
        if isinstance(answer, Exception):
            raise answer
        await answer(scope, receive, send)


def ask(app: App, key: str) -> httpx.Response:
    """Send a request."""
    return asyncio.run(_ask(app, key))


async def _ask(app: App, key: str, who: str = "somebody") -> httpx.Response:
    async def known(scope: Scope, receive: Receive, send: Send) -> None:
        scope["principal"] = Principal(who, {"*": Role.WRITER})
        await app(scope, receive, send)

    transport = httpx.ASGITransport(known, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://in-process", timeout=60) as client:
        return await client.post("/api/v1/x", content=b"{}", headers={"Idempotency-Key": key})


def once(world: World, behind: Behind, **times: float) -> AnswerOnce:
    return AnswerOnce(behind, keyed=world.services.keyed, **times)


@pytest.fixture
def asking() -> Iterator[Callable[[App, str], Future[httpx.Response]]]:
    """Sends requests that are waited for later."""
    with ThreadPoolExecutor(2) as pool:
        yield lambda app, key: pool.submit(ask, app, key)


Asking = Callable[[App, str], Future[httpx.Response]]


class TestWhileItIsWorkedOn:
    def test_the_second_waits_for_the_answer_of_the_first(self, world: World, key: str, asking: Asking) -> None:
        behind = Behind(JSONResponse({"n": 1}), held=True)
        first = asking(once(world, behind), key)
        wait_for(lambda: behind.asked == 1)
        second = asking(once(world, behind), key)
        with pytest.raises(TimeoutError):
            second.result(0.2)
        behind.let_go()
        assert (first.result().content, second.result().content, behind.asked) == (b'{"n":1}', b'{"n":1}', 1)
        assert (replayed(first.result()), replayed(second.result())) == (False, True)

    def test_the_second_is_told_where_that_takes_too_long(self, world: World, key: str, asking: Asking) -> None:
        behind = Behind(JSONResponse({"n": 1}), held=True)
        first = asking(once(world, behind), key)
        wait_for(lambda: behind.asked == 1)
        second = ask(once(world, behind, timeout_s=0.3), key)
        behind.let_go()
        assert (first.result().status_code, second.status_code, behind.asked) == (200, 409, 1)
        assert "still in progress" in second.json()["error"]["message"]
        assert replayed(ask(once(world, behind), key))

    def test_a_caller_has_no_more_waiting_than_it_leaves_to_others(self, world: World, key: str) -> None:
        behind = Behind(JSONResponse({"n": 1}), held=True)
        app = once(world, behind, timeout_s=60, look_s=0.5)

        async def run() -> None:
            first = asyncio.create_task(_ask(app, key))
            while behind.asked == 0:
                await asyncio.sleep(0.01)
            tasks = [asyncio.create_task(_ask(app, key)) for _ in range(MOST_WAITING // 2 + 3)]
            told, waiting = await asyncio.wait(tasks, timeout=30, return_when=asyncio.FIRST_COMPLETED)
            while len(told) < 3:
                more, waiting = await asyncio.wait(waiting, timeout=30, return_when=asyncio.FIRST_COMPLETED)
                told |= more
            assert {task.result().status_code for task in told} == {409}
            # Somebody else's request with a key of theirs is not turned away.
            other = [asyncio.create_task(_ask(app, key, "else")) for _ in range(2)]
            while behind.asked < 2:
                await asyncio.sleep(0.01)
            behind.let_go()
            answers = await asyncio.gather(first, *waiting, *other)
            assert {answer.status_code for answer in answers} == {200}

        asyncio.run(run())
        assert behind.asked == 2

    def test_the_second_runs_it_where_the_first_failed(self, world: World, key: str, asking: Asking) -> None:
        behind = Behind(JSONResponse({}, 503), JSONResponse({"n": 2}), held=True)
        first = asking(once(world, behind), key)
        wait_for(lambda: behind.asked == 1)
        second = asking(once(world, behind), key)
        with pytest.raises(TimeoutError):
            second.result(0.1)
        behind.let_go()
        assert (first.result().status_code, second.result().status_code, behind.asked) == (503, 200, 2)

    def test_one_that_takes_long_says_all_the_while_that_it_lives(self, world: World, key: str, asking: Asking) -> None:
        behind = Behind(JSONResponse({"n": 1}), held=True)
        signs = set()
        began = time.monotonic()
        answer = asking(once(world, behind, life_s=0.2), key)

        def said(count: int) -> bool:
            with world.services.db.read() as session:
                signs.update(session.scalars(select(KeyedRequest.created_at).where(KeyedRequest.key == key)))
            return len(signs) >= count

        wait_for(lambda: said(5))
        took = timedelta(seconds=time.monotonic() - began)
        behind.let_go()
        assert timedelta(seconds=0.6) < max(signs) - min(signs) < took + timedelta(seconds=0.1)
        # The answer is kept under the last sign.
        assert (answer.result().json(), rows_of(world, key)) == ({"n": 1}, [(200, '{"n":1}')])

    def test_an_abandoned_one_is_run_again_and_the_latecomer_changes_nothing(
        self, world: World, key: str, asking: Asking
    ) -> None:
        late = Behind(JSONResponse({"by": "the late"}), held=True)
        next_one = Behind(JSONResponse({"by": "the next"}), held=True)
        first = asking(once(world, late), key)
        wait_for(lambda: late.asked == 1)
        assert ask(once(world, next_one, timeout_s=0.1), key).status_code == 409
        make_old(world.services.db, key, timedelta(seconds=61))
        taking_over = asking(once(world, next_one), key)
        wait_for(lambda: next_one.asked == 1)
        # It still gets its own answer, but the request is no longer its own.
        late.let_go()
        assert first.result().json() == {"by": "the late"}
        assert rows_of(world, key) == [(None, None)]
        next_one.let_go()
        assert taking_over.result().json() == {"by": "the next"}
        assert ask(once(world, next_one), key).json() == {"by": "the next"}
        assert (late.asked, next_one.asked) == (1, 1)


def wait_for(there: Callable[[], bool]) -> None:
    wait_until(there, lambda: "it does not happen", timeout_s=30)


class TestWhatIsKept:
    @pytest.mark.parametrize("status", [500, 503, 429, 405, 307])
    def test_answers_that_may_be_others_the_next_time_are_not(self, world: World, key: str, status: int) -> None:
        behind = Behind(JSONResponse({"n": 1}, status), JSONResponse({"n": 2}))
        app = once(world, behind)
        assert ask(app, key).status_code == status
        assert rows_of(world, key) == []
        assert [ask(app, key).json() for _ in range(2)] == [{"n": 2}] * 2

    def test_a_fault_is_not(self, world: World, key: str) -> None:
        behind = Behind(RuntimeError("a fault"), JSONResponse({"n": 2}))
        app = once(world, behind)
        assert ask(app, key).status_code == 500
        assert rows_of(world, key) == []
        assert ask(app, key).json() == {"n": 2}

    @pytest.mark.parametrize(("longer", "kept"), [(0, True), (1, False)])
    def test_nor_are_long_ones(self, world: World, key: str, longer: int, kept: bool) -> None:
        text = "x" * (MAX_ANSWER_BYTES - 2 + longer)
        behind = Behind(JSONResponse(text))
        answers = [ask(once(world, behind), key) for _ in range(2)]
        assert [answer.json() == text for answer in answers] == [True, True]
        assert (len(rows_of(world, key)), behind.asked) == ((1, 1) if kept else (0, 2))

    def test_of_the_long_ones_of_a_caller_the_newest_are(self, world: World) -> None:
        keyed = world.services.keyed
        callers = [str(uuid.uuid4()) for _ in range(2)]

        def answer(owner: str, size_bytes: int) -> Keyed:
            request = Keyed(owner, str(uuid.uuid4()), "digest")
            turn = keyed.begin(request)
            assert isinstance(turn, Turn)
            keyed.finish(turn, Answer(200, "x" * size_bytes))
            return request

        other, short = answer(callers[1], LONG_BYTES + 1), answer(callers[0], LONG_BYTES)
        long = [answer(callers[0], LONG_BYTES + 1) for _ in range(MOST_LONG + 3)]
        kept = [isinstance(keyed.look(request), Answer) for request in (other, short, *long)]
        assert kept == [True, True, *[False] * 3, *[True] * MOST_LONG]


@pytest.mark.slow
@pytest.mark.parametrize("kind", databases.KINDS)
def test_a_request_whose_server_was_killed_is_run_again_by_another(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    key = str(uuid.uuid4())
    with ExitStack() as stack:
        database_url = stack.enter_context(databases.new_database(kind, tmp_path, request))
        db = Database(database_url)
        stack.callback(db.close)
        db.upgrade()
        token = Tokens(db).create(name="ops", grants={"*": Role.ADMIN}, who=SYSTEM).secret
        env = processes.environment(
            REGISTRY_DATABASE_URL=database_url, REGISTRY_STORAGE_URL=(tmp_path / "artifacts").as_uri()
        )
        port, log = processes.free_port(), tmp_path / "server.log"
        url = f"http://127.0.0.1:{port}"
        http = stack.enter_context(httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=60))
        with processes.serving(port, env=env, log=log) as first, ThreadPoolExecutor(1) as pool:
            processes.wait_until_healthy(url, log=log)
            client = Client(url, token, cache=tmp_path / "cache")
            stack.callback(client.close)
            client.register_base(base_registration())
            # Its bytes take so long to read that the server dies in the midst of it.
            body = publication(client, tmp_path, "bench", extra_bytes=300 * 1024 * 1024)
            dying = pool.submit(send, http, "POST", "/versions", body, key)
            deadline = time.monotonic() + 30
            while True:
                with db.read() as session:
                    if session.scalars(select(KeyedRequest.key)).first() is not None:
                        break
                assert time.monotonic() < deadline
                time.sleep(0.01)
            first.kill()
            with pytest.raises(httpx.HTTPError):
                dying.result(30)
        with processes.serving(port, env=env, log=log):
            processes.wait_until_healthy(url, log=log)
            # Nobody knows yet that it died.
            assert send(http, "POST", "/versions", body, key).status_code == 409
            make_old(db, key, timedelta(seconds=61))
            done = send(http, "POST", "/versions", body, key)
            assert (done.status_code, replayed(done), done.json()["version"]["number"]) == (201, False, 1)
            again = send(http, "POST", "/versions", body, key)
            assert (replayed(again), again.content) == (True, done.content)
            assert [version.number for version in client.versions("bench")] == [1]
