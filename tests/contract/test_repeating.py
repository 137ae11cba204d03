"""A change that is sent again, by somebody who lost its answer, makes nothing twice: by nature, by `expect`, or by a key."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from sqlalchemy import func, select
from support import calls, databases, processes
from support.adapters import base_registration, digest
from support.people import bare_http, new_adapter
from support.registries import World

from registry.access.keys import KeyedRequest, _key
from registry.access.models import Token
from registry.access.secret_digests import secret_digest
from registry.access.tokens import Tokens
from registry.app.pages import PAGE_ROOMS, routes_of_pages
from registry.catalog.models import Origin, Version
from registry.catalog.versions.lifecycle import VersionState
from registry.db.database import Database
from registry.jobs.models import Job
from registry.principal import SYSTEM, Role
from sdk.client import Client
from sdk.schemas.catalog import Publication
from sdk.version import API

#: How many send one request at once.
MANY = 16

#: Why each route that writes may be called again with what was sent before.
BY_KEY = {
    "submit_job": "the key finds the job that it made",
    "retry_job": "the key finds the job that it made",
    "submit_sweep": "the key finds the sweep that it made",
    "claim_job": "the key finds the job that it was given, as long as it is held",
    "create_token": "the key finds the token that it made, and gives it another secret",
}
#: By what the sender says it has seen: the field of the body without which it is refused, or with which it is.
BY_EXPECT = {
    "rollback_alias": "expect",
    "hold_job": "attempt",
    "record_checkpoint": "attempt",
    "append_points": "serial",
    "reach_rung": "attempt",
    "release_job": "attempt",
    "complete_job": "attempt",
    "fail_job": "attempt",
}
BY_NATURE = {
    "register_base": "the fingerprint finds the base",
    "remove_base": "what is removed stays removed",
    "fix_base": "it sets values",
    "publish_version": "the digest finds the version, and what is in its lineage is not added again",
    "copy_version": "the digest finds the copy",
    "annotate_version": "it sets values, and a note that its author has just written is not added again",
    "archive_version": "an archived version stays archived",
    "restore_version": "a restored version stays so",
    "delete_version": "a deleted version is not found again",
    "release_version": "what was released is in no quarantine, and is refused",
    "move_alias": "it names the same version again; with `expect` it is refused instead",
    "give_approval": "what the token has given, and still stands, is returned again",
    "withdraw_approval": "what was withdrawn stays so",
    "record_served_probe": "what a token measured takes the place of what it measured before",
    "record_probe": "the replay of a token takes the place of the one before",
    "remove_alias": "what is removed is not found again; with `expect` a later one of that name stays",
    "check_promotion": "it moves nothing, and by the same inputs the decision is the same",
    "set_policy": "the document that stands makes no version; with `expect` an older one is refused",
    "remove_policy": "what is removed is not found again",
    "protect_alias": "a protection is there once",
    "unprotect_alias": "what is lifted is not found again",
    "begin_upload": "a second session ends by itself, and blobs are found by digest",
    "ask_parts": "it only says where to send them",
    "register_dataset": "the digest finds the dataset",
    "remove_dataset": "what is removed stays removed",
    "cancel_job": "a cancelled job stays cancelled",
    "pause_sweep": "a paused sweep stays paused",
    "resume_sweep": "one that runs goes on",
    "cancel_sweep": "a cancelled sweep stays cancelled",
    "publish_checkpoint": "the digest finds the version",
    "greet": "it says again that the worker is there",
    "leave": "it says again that the worker has gone",
    "create_sign_in_code": "another code that nobody uses is worth nothing after a minute",
    "revoke_namespace": "roles that are gone stay gone",
    "revoke_token": "a revoked token stays revoked",
    "set_quota": "it sets values",
    "set_retention": "it sets values",
    "clear_retention": "what is cleared stays clear",
    "collect_garbage": "what is gone is not collected again",
    "sign_manifest": "the signature of a key takes the place of the one before",
    "get_standing": "it only says what a token may do",
    "state_alias": "the statement of a key takes the place of the one before, and of the same one",
    "put_blob": "the digest finds the blob",
}

#: The forms of pages.
OF_PAGES = {
    "sign_in": "each time another session, and each ends with its token",
    "sign_in_by_code": "a code counts once: whoever comes second ends the session of the first",
    "sign_out": "a session that has ended stays so",
    "check_promotion": "it decides and moves nothing",
    "promote": "the form says what the alias named when its reader saw it",
    "roll_back": "the form says what the alias named when its reader saw it",
    "approve": "an approval is there once",
    "withdraw": "what is withdrawn stays so",
    "archive": "an archived version stays so",
    "restore": "a version that is ready stays so",
    "cancel_job_here": "a cancelled job stays so",
    "retry_job_here": "the form has a key, which finds the job that it made",
    "pause_sweep_here": "a paused sweep stays so",
    "let_sweep_go_here": "a sweep that goes on does so",
    "cancel_sweep_here": "a cancelled sweep stays so",
    "save_report": "it changes nothing, and the audit trail says each time that rows were given out",
}


@pytest.fixture(scope="module")
def world(people: World) -> World:
    return people


@pytest.fixture
def key() -> str:
    return str(uuid.uuid4())


def push(client: Client, tmp_path: Path, name: str) -> str:
    return client.push(new_adapter(tmp_path), name, base="tiny").ref


def publication(client: Client, tmp_path: Path, name: str, *, extra_bytes: int = 0, **said: Any) -> dict[str, Any]:
    """Upload an adapter, with one more file of zeros where asked for, and return what is to be said of it."""
    folder = new_adapter(tmp_path)
    if extra_bytes:
        with (folder / "notes.txt").open("wb") as file:
            file.truncate(extra_bytes)
    return calls.publication(client, folder, name, **said).model_dump(mode="json")


def send(http: httpx.Client, method: str, path: str, body: Any, key: str | None = None) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return http.request(method, f"/api/v1{path}", json=body, headers=headers)


def at_once(
    world: World, method: str, path: str, body: Any, key: str | None = None, *, client: Client | None = None
) -> list[httpx.Response]:
    """Send one request of an admin or a client from many threads, each over a connection of its own, at the same moment."""
    barrier = threading.Barrier(MANY)
    token = world.token(Role.ADMIN) if client is None else client.config.token or ""

    def one() -> httpx.Response:
        with httpx.Client(base_url=world.url, headers={"Authorization": f"Bearer {token}"}, timeout=60) as http:
            barrier.wait()
            return send(http, method, path, body, key)

    with ThreadPoolExecutor(MANY) as pool:
        return [done.result() for done in [pool.submit(one) for _ in range(MANY)]]


def error_of(answer: httpx.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status_code, error["message"], error["param"]


USED = (409, "this idempotency key was used for another request; use a new key", "idempotency_key")


class TestEveryRoute:
    def test_each_that_writes_says_why_repeating_it_is_harmless(self, world: World) -> None:
        routes = [route for route in world.app.routes if isinstance(route, APIRoute) and route.path.startswith(API)]
        writing = {route.name: route for route in routes if (route.methods or set()) - {"GET", "HEAD"}}
        assert Counter([*BY_KEY, *BY_EXPECT, *BY_NATURE]) == Counter(list(writing))
        keyed = {
            name
            for name, route in writing.items()
            if any(dependency.call is _key for dependency in route.dependant.dependencies)
        }
        assert keyed == set(BY_KEY)
        pages = [route for room in PAGE_ROOMS for route in routes_of_pages(room)]
        forms = [route.name for route in pages if (route.methods or set()) - {"GET", "HEAD"}]
        assert sorted(forms) == sorted(OF_PAGES)
        for name, field in BY_EXPECT.items():
            body = writing[name].body_field
            assert body.field_info.annotation.model_fields[field].is_required(), name


class TestKeys:
    @pytest.mark.parametrize("bad", [b"", b"x" * 201, b"tab\there", b"\xc3\xa9"])
    def test_no_other_text_is_a_key(self, world: World, bad: bytes) -> None:
        for path in ("/tokens", "/jobs/none/retry"):
            answer = world.http.post(f"/api/v1{path}", json=token_body("ci"), headers=[(b"Idempotency-Key", bad)])
            assert (answer.status_code, answer.json()["error"]["param"]) == (422, "idempotency_key")

    def test_two_keys_are_refused(self, world: World) -> None:
        headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
        answer = world.http.post("/api/v1/tokens", json=token_body("ci"), headers=headers)
        assert (answer.status_code, answer.json()["error"]["param"]) == (422, "idempotency_key")

    @pytest.mark.parametrize("good", ["a", "x" * 200, '!"#$ ~'])
    def test_printable_text_is_a_key(self, world: World, good: str) -> None:
        body = token_body(f"ci-{uuid.uuid4().hex}")
        made = [send(world.http, "POST", "/tokens", body, good).json()["id"] for _ in range(2)]
        assert made[0] == made[1]
        with world.services.db.write() as session:
            session.delete(session.scalars(select(KeyedRequest).where(KeyedRequest.key == good)).one())

    def test_a_route_that_needs_none_ignores_it(self, world: World, key: str) -> None:
        blobs = {"blobs": [{"sha256": "0" * 64, "size_bytes": 1}]}
        answers = [send(world.http, "POST", "/uploads", blobs, key) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [201, 201]
        assert world.http.get("/api/v1/bases", headers={"Idempotency-Key": key}).status_code == 200
        assert kept_of(world, key) == 0


def kept_of(world: World, key: str) -> int:
    with world.services.db.read() as session:
        query = select(func.count()).select_from(KeyedRequest).where(KeyedRequest.key == key)
        return session.scalar(query) or 0


def failed_job(world: World, tmp_path: Path) -> str:
    path = tmp_path / f"rows-{uuid.uuid4().hex}.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n')
    data = world.writer.datasets.add(path).digest
    base = {"id": "tiny", "fingerprint": digest("tiny: base")}
    body = {"request": {"kind": "training", "adapter": "a", "base": base, "data": data}}
    job: str = world.http.post("/api/v1/jobs", json=body).json()["id"]
    world.admin.jobs.cancel(job)
    return job


def retries_of(world: World, job: str) -> int:
    with world.services.db.read() as session:
        return session.scalar(select(func.count()).select_from(Job).where(Job.retry_of == job)) or 0


class TestRetry:
    def test_its_key_gives_the_same_new_job(self, world: World, key: str, tmp_path: Path) -> None:
        job, other = failed_job(world, tmp_path), failed_job(world, tmp_path)
        made = [world.admin.jobs.retry(job, idempotency_key=key).id for _ in range(3)]
        assert len(set(made)) == 1
        # Also once it has ended.
        world.admin.jobs.cancel(made[0])
        assert world.admin.jobs.retry(job, idempotency_key=key).id == made[0]
        assert retries_of(world, job) == 1
        with bare_http(world.url, world.admin.config.token or "") as http:
            assert error_of(send(http, "POST", f"/jobs/{other}/retry", None, key)) == USED
        assert world.admin.jobs.retry(job).id != world.admin.jobs.retry(job).id
        assert (retries_of(world, job), retries_of(world, other)) == (3, 0)

    def test_many_at_once_are_given_one_job(self, world: World, key: str, tmp_path: Path) -> None:
        job = failed_job(world, tmp_path)
        answers = at_once(world, "POST", f"/jobs/{job}/retry", None, key)
        assert Counter(answer.status_code for answer in answers) == {201: MANY}
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert retries_of(world, job) == 1


def token_body(name: str, **changed: Any) -> dict[str, Any]:
    return {"name": name, "grants": [{"namespace": "team", "role": "reader"}], **changed}


def works(world: World, secret: str) -> bool:
    status = httpx.get(f"{world.url}/api/v1/whoami", headers={"Authorization": f"Bearer {secret}"}).status_code
    assert status in (200, 401)
    return status == 200


class TestToken:
    def test_its_key_gives_the_same_token_with_another_secret(self, world: World, key: str) -> None:
        body = token_body(f"ci-{key}")
        first, second = (send(world.http, "POST", "/tokens", body, key) for _ in range(2))
        assert (first.status_code, second.status_code) == (201, 201)
        assert {**first.json(), "secret": ""} == {**second.json(), "secret": ""}
        assert [works(world, answer.json()["secret"]) for answer in (first, second)] == [False, True]
        # Without the key, the name is taken.
        assert send(world.http, "POST", "/tokens", body).status_code == 409
        for changed in ({"days": 3}, {"grants": [{"namespace": "team", "role": "writer"}]}):
            assert error_of(send(world.http, "POST", "/tokens", {**body, **changed}, key)) == USED
        assert [works(world, answer.json()["secret"]) for answer in (first, second)] == [False, True]

    def test_a_replacement_is_not_replaced_again(self, world: World, key: str) -> None:
        body = token_body(f"ci-{key}", replace=True, overlap_hours=5)
        earlier = send(world.http, "POST", "/tokens", token_body(f"ci-{key}")).json()
        made = [send(world.http, "POST", "/tokens", body, key).json() for _ in range(2)]
        assert made[0]["id"] == made[1]["id"]
        assert works(world, earlier["secret"])
        assert made[1]["expires_at"] is None

    def test_one_that_has_ended_is_not_brought_back(self, world: World, key: str) -> None:
        body = token_body(f"ci-{key}")
        made = send(world.http, "POST", "/tokens", body, key).json()
        world.services.tokens.revoke(made["id"], who=SYSTEM)
        status, message, param = error_of(send(world.http, "POST", "/tokens", body, key))
        assert (status, param) == (409, "idempotency_key")
        assert "no longer in use" in message

    def test_a_key_is_of_one_token_and_of_what_it_may_do(self, world: World, key: str) -> None:
        made = []
        for namespace in ("*", "team", "*"):
            caller = world.services.tokens.create(
                name=f"boss of {namespace} {uuid.uuid4().hex}", grants={namespace: Role.ADMIN}, who=SYSTEM
            )
            body = token_body(f"ci-{uuid.uuid4().hex}")
            with bare_http(world.url, caller.secret) as http:
                made.append(send(http, "POST", "/tokens", body, key).json()["id"])
        assert len(set(made)) == 3

    def test_no_secret_is_kept(self, world: World, key: str) -> None:
        made = send(world.http, "POST", "/tokens", token_body(f"ci-{key}"), key).json()
        with world.services.db.read() as session:
            (row,) = session.scalars(select(KeyedRequest).where(KeyedRequest.key == key)).all()
        assert row.body == made["id"]

    def test_many_at_once_make_one_token_and_one_secret_that_works(self, world: World, key: str) -> None:
        answers = at_once(world, "POST", "/tokens", token_body(f"ci-{key}"), key)
        assert Counter(answer.status_code for answer in answers) == {201: MANY}
        assert len({answer.json()["id"] for answer in answers}) == 1
        digests = {secret_digest(answer.json()["secret"]) for answer in answers}
        assert len(digests) == MANY
        with world.services.db.read() as session:
            (token,) = session.scalars(select(Token).where(Token.name == f"ci-{key}")).all()
        assert token.secret_sha256 in digests


class TestAlias:
    def test_a_rollback_says_what_it_has_seen_and_goes_back_once(self, world: World, name: str, tmp_path: Path) -> None:
        for number in (1, 2, 3):
            push(world.writer, tmp_path, name)
            world.writer.set_alias(name, "production", number)
        body = {"adapter": name, "alias": "production"}
        assert error_of(send(world.http, "POST", "/aliases/rollback", body))[::2] == (422, "expect")
        answers = [send(world.http, "POST", "/aliases/rollback", {**body, "expect": 3}) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 409]
        assert "names v2, not v3" in answers[1].json()["error"]["message"]
        # The client says what it sees.
        assert world.writer.rollback(name, "production").number == 1
        assert [move.kind for move in world.writer.aliases.history(name)] == ["rollback"] * 2 + ["set"] * 3

    def test_of_many_rollbacks_at_once_one_moves_it(self, world: World, name: str, tmp_path: Path) -> None:
        for number in (1, 2, 3):
            push(world.writer, tmp_path, name)
            world.writer.set_alias(name, "production", number)
        body = {"adapter": name, "alias": "production", "expect": 3}
        answers = at_once(world, "POST", "/aliases/rollback", body)
        assert Counter(answer.status_code for answer in answers) == {200: 1, 409: MANY - 1}
        assert len(world.writer.aliases.history(name)) == 4

    def test_a_removal_is_undone_by_a_rollback_from_nothing(self, world: World, name: str, tmp_path: Path) -> None:
        push(world.writer, tmp_path, name)
        world.writer.set_alias(name, "production", 1)
        world.writer.aliases.remove(name, "production")
        assert world.writer.rollback(name, "production").number == 1
        body = {"adapter": name, "alias": "production", "expect": 0}
        assert send(world.http, "POST", "/aliases/rollback", body).status_code == 409

    def test_many_moves_at_once_leave_it_where_each_wanted_it(self, world: World, name: str, tmp_path: Path) -> None:
        push(world.writer, tmp_path, name)
        body = {"adapter": name, "alias": "production", "number": 1}
        assert {answer.status_code for answer in at_once(world, "PUT", "/aliases", body)} == {200}
        assert {move.to_number for move in world.writer.aliases.history(name, "production")} == {1}
        answers = at_once(world, "PUT", "/aliases", {**body, "alias": "staging", "expect": 0})
        assert Counter(answer.status_code for answer in answers) == {200: 1, 409: MANY - 1}
        assert len(world.writer.aliases.history(name, "staging")) == 1


def origins_of(world: World, body: dict[str, Any]) -> int:
    found = Publication.model_validate(body).manifest.digest
    with world.services.db.read() as session:
        query = select(func.count()).select_from(Origin).join(Version, Version.pk == Origin.version_pk)
        return session.scalar(query.where(Version.digest == found)) or 0


class TestVersion:
    def test_a_publication_that_is_sent_again_adds_nothing(self, world: World, name: str, tmp_path: Path) -> None:
        body = publication(world.writer, tmp_path, name, metrics={"loss": 1.5}, training={"text": "Grüße", "lr": 0.1})
        other = {**body, "metrics": {"loss": 2.5}}
        with bare_http(world.url, world.writer.config.token or "") as http:
            answers = [send(http, "POST", "/versions", body) for _ in range(3)]
            assert [answer.status_code for answer in answers] == [201] * 3
            assert [answer.json()["existing"] for answer in answers] == [False, True, True]
            assert origins_of(world, body) == 1
            # What was made otherwise is another making, once.
            for sent in (other, other, body):
                assert send(http, "POST", "/versions", sent).json()["existing"]
            assert origins_of(world, body) == 2
        assert [version.number for version in world.writer.versions(name)] == [1]

    def test_many_at_once_make_one_version(self, world: World, name: str, tmp_path: Path) -> None:
        body = publication(world.writer, tmp_path, name)
        answers = at_once(world, "POST", "/versions", body, client=world.writer)
        assert Counter(answer.status_code for answer in answers) == {201: MANY}
        assert Counter(answer.json()["existing"] for answer in answers) == {False: 1, True: MANY - 1}
        assert [version.number for version in world.writer.versions(name)] == [1]
        assert origins_of(world, body) == 1

    def test_a_note_is_written_once(self, world: World, name: str, tmp_path: Path) -> None:
        push(world.writer, tmp_path, name)
        answers = at_once(world, "PATCH", "/version", {"ref": f"{name}@v1", "note": "once — Grüße"})
        assert Counter(answer.status_code for answer in answers) == {200: MANY}
        for note in ("again", "again", "once — Grüße"):
            world.admin.versions.annotate(f"{name}@v1", note=note)
        notes = [note.text for note in world.writer.get(f"{name}@v1").info.notes]
        assert sorted(notes) == sorted(["once — Grüße", "again", "once — Grüße"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", databases.KINDS)
def test_a_publication_whose_server_was_killed_is_sent_again_to_another(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
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
            client.bases.register(base_registration())
            # Its bytes take so long to read that the server dies in the midst of it.
            body = publication(client, tmp_path, "bench", extra_bytes=300 * 1024 * 1024)
            dying = pool.submit(send, http, "POST", "/versions", body)
            # It is pending for a moment only, so `wait_until` rests too long between two looks.
            deadline = time.monotonic() + 30
            while True:
                with db.read() as session:
                    if session.scalars(select(Version.pk).where(Version.state == VersionState.PENDING)).first():
                        break
                assert time.monotonic() < deadline
                time.sleep(0.01)
            first.kill()
            with pytest.raises(httpx.HTTPError):
                dying.result(30)
        with processes.serving(port, env=env, log=log):
            processes.wait_until_healthy(url, log=log)
            done, again = (send(http, "POST", "/versions", body) for _ in range(2))
            assert (done.status_code, done.json()["existing"], done.json()["version"]["number"]) == (201, False, 1)
            assert (again.status_code, again.json()["existing"], again.json()["version"]["number"]) == (201, True, 1)
            assert [version.number for version in client.versions("bench")] == [1]
            with db.read() as session:
                assert session.scalar(select(func.count()).select_from(Origin)) == 1
