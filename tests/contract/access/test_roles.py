"""What each role may, and how long."""

from __future__ import annotations

import socket
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from contract.access.helpers import SOON_S
from support import processes
from support.calls import claim
from support.databases import new_database
from support.people import Place, bare_http, furnish, submit, training
from support.registries import World

from registry.access.tokens import Tokens
from registry.db.database import Database
from registry.errors import Forbidden
from registry.errors import Unauthenticated as Revoked
from registry.http import rights
from registry.http.refusals import Refusals
from registry.principal import SYSTEM, Principal, Role
from sdk.client import Client
from sdk.errors import AdapterctlError, NotAllowed, NotFound, Unauthenticated

# Tokens.


class TestRevocation:
    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
    def test_a_revoked_token_fails_within_a_second_on_every_server_process(
        self, kind: str, request: pytest.FixtureRequest, tmp_path: Path
    ) -> None:
        with ExitStack() as stack:
            database_url = stack.enter_context(new_database(kind, tmp_path, request))
            db = Database(database_url)
            stack.callback(db.close)
            db.upgrade()
            env = processes.environment(
                REGISTRY_DATABASE_URL=database_url, REGISTRY_STORAGE_URL=(tmp_path / "artifacts").as_uri()
            )
            urls = []
            for n in range(2):
                port, log = processes.free_port(), tmp_path / f"server-{n}.log"
                stack.enter_context(processes.serving(port, env=env, log=log))
                urls.append((f"http://127.0.0.1:{port}", log))
            for url, log in urls:
                processes.wait_until_healthy(url, log=log)
            tokens = Tokens(db)
            victim = tokens.create(name="ci", grants={"*": Role.READER}, who=SYSTEM)
            admin = tokens.create(name="ops", grants={"*": Role.ADMIN}, who=SYSTEM)
            clients = [stack.enter_context(bare_http(url, victim.secret)) for url, _ in urls]
            revoker = Client(urls[0][0], admin.secret)
            stack.callback(revoker.close)

            # Both processes know the token well when it is revoked, and are asked all the while.
            seen: list[list[tuple[float, float, int]]] = [[], []]
            stop = threading.Event()

            def keep_asking(n: int) -> None:
                while not stop.wait(0.02):
                    began = time.monotonic()
                    status = clients[n].get("/api/v1/whoami").status_code
                    seen[n].append((began, time.monotonic(), status))

            with ThreadPoolExecutor(2) as pool:
                asking = [pool.submit(keep_asking, n) for n in range(2)]
                time.sleep(0.7)
                asked = time.monotonic()
                revoker.tokens.revoke(victim.id)
                revoked = time.monotonic()
                time.sleep(SOON_S + 0.7)
                stop.set()
                for done in asking:
                    done.result()
            for answers in seen:
                before = {status for _, ended, status in answers if ended < asked}
                after = {status for began, _, status in answers if began > revoked + SOON_S}
                assert before == {200}
                # Whoever goes on with it is told to wait, too.
                assert after
                assert after <= {401, 429}

    def test_a_token_of_a_namespace_is_made_listed_and_revoked_by_its_admin(
        self, people: World, acting: Callable[..., Client], space: str
    ) -> None:
        ours = acting(**{space: Role.ADMIN})
        made = ours.tokens.create("two", {space: "writer"}, days=3)
        assert made.secret.startswith("actl_")
        assert [token.id for token in ours.tokens() if token.name == "two" and token.expires_at] == [made.id]
        for grants in ({"*": "reader"}, {"-": "reader"}, {space: "reader", "other": "reader"}):
            with pytest.raises(NotAllowed):
                ours.tokens.create("three", grants)
        made_client = Client(people.url, made.secret)
        who = made_client.tokens.whoami()
        assert (who.name, [(grant.namespace, grant.role) for grant in who.grants]) == ("two", [(space, "writer")])
        ours.tokens.revoke(made.id)
        time.sleep(SOON_S)
        with pytest.raises(Unauthenticated):
            made_client.tokens.whoami()
        made_client.close()

    def test_a_body_that_never_ends_is_not_waited_for(self, people: World) -> None:
        parts = urlsplit(people.url)
        head = (
            f"POST /api/v1/versions HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer actl_guess\r\n"
            "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        with socket.create_connection((parts.hostname, parts.port or 80), timeout=20) as connection:
            connection.sendall(head.encode() + b"1\r\n{\r\n")
            # The rest never comes.
            answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 401 ")


# Roles, by namespace.

READ = set(Role)


WRITE = {Role.WRITER, Role.PROMOTER, Role.ADMIN}


PROMOTE = {Role.PROMOTER, Role.ADMIN}


WORK = {Role.WORKER, Role.ADMIN}


ADMIN = {Role.ADMIN}


NOBODY: set[Role] = set()


#: What is done, by whom it may be done in a namespace, and how.
ACTIONS: dict[str, tuple[set[Role], Callable[[Client, Place], object]]] = {
    "read": (READ, lambda client, place: client.get(f"{place.name}@v1")),
    "read aliases": (READ, lambda client, place: client.aliases.history(place.name)),
    "read quota": (READ, lambda client, place: client.quotas.get(place.space)),
    "push": (WRITE, lambda client, place: place.push(client)),
    "submit": (WRITE, lambda client, place: submit(client, training(place.name, place.data))),
    "cancel": (WRITE, lambda client, place: client.jobs.cancel(place.job)),
    "alias": (WRITE, lambda client, place: client.set_alias(place.name, "beta", 1)),
    "annotate": (WRITE, lambda client, place: client.versions.annotate(f"{place.name}@v1", note="seen")),
    "archive": (WRITE, lambda client, place: client.versions.archive(f"{place.name}@v2")),
    "restore": (WRITE, lambda client, place: client.versions.restore(f"{place.name}@v2")),
    "promote": (PROMOTE, lambda client, place: client.set_alias(place.name, "production", 1)),
    "roll back": (PROMOTE, lambda client, place: client.rollback(place.name, "production", expect=2)),
    "remove a protected alias": (PROMOTE, lambda client, place: client.aliases.remove(place.name, "production")),
    "protect": (ADMIN, lambda client, place: client.aliases.protect(place.name, "stable")),
    "unprotect": (ADMIN, lambda client, place: client.aliases.unprotect(f"{place.space}/*", "production")),
    "set a rule": (ADMIN, lambda client, place: client.retention.set(place.name, keep_last=9)),
    "read a rule": (READ, lambda client, place: client.retention(place.name)),
    "clear a rule": (ADMIN, lambda client, place: client.retention.clear(place.name)),
    "delete": (ADMIN, lambda client, place: client.versions.delete(f"{place.name}@v2")),
    "give out": (ADMIN, lambda client, place: client.tokens.create(f"new {uuid.uuid4().hex}", {place.space: "reader"})),
    "give out everywhere": (
        NOBODY,
        lambda client, place: client.tokens.create(f"new {uuid.uuid4().hex}", {"*": "reader"}),
    ),
    "set a quota": (NOBODY, lambda client, place: client.quotas.set(place.space, max_jobs=1000)),
    "collect garbage": (
        NOBODY,
        lambda client, place: client.retention.gc(dry_run=True),
    ),
}


#: Whose answer depends on the namespace, where that is not whoever may do it in theirs.
ASKED_WHERE = {
    # The base is looked up first, in the adapter's namespace.
    "push": READ,
    "promote": WRITE,
    "roll back": WRITE,
    "remove a protected alias": WRITE,
    "set a quota": ADMIN,
    "give out": NOBODY,
}


def prepare(admin: Client, place: Place, action: str) -> None:
    """Do what has to go before an action."""
    if action == "cancel":
        place.job = submit(admin, training(place.name, place.data)).id
    if action == "restore":
        admin.versions.archive(f"{place.name}@v2")
    if action == "roll back":
        admin.set_alias(place.name, "production", 2)


def outcome(client: Client, place: Place, action: str) -> str:
    """Try it; return "done", or the code of what it was refused with."""
    try:
        ACTIONS[action][1](client, place)
    except AdapterctlError as error:
        return str(error.code)
    return "done"


@pytest.fixture
def ours(admin: Client, space: str, tmp_path: Path, rows: Path) -> Place:
    return furnish(admin, space, tmp_path, rows)


@pytest.fixture
def foreign(admin: Client, space: str, tmp_path: Path, rows: Path) -> Place:
    return furnish(admin, f"x-{space}", tmp_path, rows)


class TestRoles:
    @pytest.mark.parametrize("role", list(Role))
    def test_in_ones_own_namespace_and_in_a_foreign_one(
        self, acting: Callable[..., Client], admin: Client, space: str, ours: Place, foreign: Place, role: Role
    ) -> None:
        client = acting(**{space: role})
        at_home, abroad = {}, {}
        for action in ACTIONS:
            prepare(admin, ours, action)
            at_home[action] = outcome(client, ours, action)
            prepare(admin, foreign, action)
            before = admin.audit(namespace=foreign.space)
            abroad[action] = outcome(client, foreign, action)
            assert admin.audit(namespace=foreign.space) == before, action
        assert at_home == {name: "done" if role in allowed else "forbidden" for name, (allowed, _) in ACTIONS.items()}
        # Whom the role alone stops is told so; everybody else learns that there is nothing there.
        assert abroad == {
            name: "not_found" if role in ASKED_WHERE.get(name, allowed) else "forbidden"
            for name, (allowed, _) in ACTIONS.items()
        }

    def test_whom_a_role_stops_is_told_in_the_log_and_counted(
        self,
        acting: Callable[..., Client],
        space: str,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        refusals = Refusals()
        monkeypatch.setattr(rights, "REFUSALS", refusals)
        reader = acting(**{space: Role.READER})
        with caplog.at_level("WARNING"), pytest.raises(NotAllowed):
            reader.bases.fix("tiny", namespace=space, id="other")
        (told,) = [record.getMessage() for record in caplog.records if "refused " in record.getMessage()]
        assert "POST '/api/v1/base/fix'" in told
        assert str(reader.tokens.whoami().token) in told
        assert reader.config.token not in told
        assert refusals.drain() == {"forbidden": 1}

    @pytest.mark.parametrize("role", list(Role))
    def test_a_role_everywhere_holds_in_every_namespace(
        self, acting: Callable[..., Client], admin: Client, ours: Place, role: Role
    ) -> None:
        client = acting(**{"*": role})
        seen = {}
        for action in ACTIONS:
            prepare(admin, ours, action)
            seen[action] = outcome(client, ours, action)
        # What nobody of a namespace may do, an admin of all may.
        assert seen == {
            name: "done" if role in (allowed or ADMIN) else "forbidden" for name, (allowed, _) in ACTIONS.items()
        }

    @pytest.mark.parametrize("role", list(Role))
    def test_a_worker_claims_only_within_its_namespace(
        self, acting: Callable[..., Client], admin: Client, space: str, ours: Place, foreign: Place, role: Role
    ) -> None:
        hidden = submit(admin, training(foreign.name, foreign.data))
        client = acting(**{space: role})
        if role not in WORK:
            with pytest.raises(NotAllowed, match="role of: admin, worker"):
                claim(client)
        else:
            assert claim(client) is None
            job = submit(admin, training(ours.name, ours.data))
            held = claim(client)
            assert held.job == job.id
        with pytest.raises(NotFound):
            client.jobs.view(hidden.id)
        assert hidden.id not in {job.id for job in client.jobs()}
        for action in (lambda: client.jobs.cancel(hidden.id), lambda: client.jobs.events(hidden.id)):
            with pytest.raises((NotFound, NotAllowed)):
                action()
        admin.jobs.cancel(hidden.id)

    @pytest.mark.usefixtures("ours", "foreign")
    @pytest.mark.parametrize("role", list(Role))
    def test_the_trail_is_read_only_by_admins_and_only_of_their_namespaces(
        self, acting: Callable[..., Client], space: str, role: Role
    ) -> None:
        client = acting(**{space: role})
        if role in ADMIN:
            assert {entry.namespace for entry in client.audit(limit=1000)} == {space}
            assert client.audit(namespace=f"x-{space}") == client.audit(subject=f"x-{space}/a") == []
        else:
            with pytest.raises(NotAllowed):
                client.audit()
            with pytest.raises(NotAllowed):
                client.tokens()

    def test_lists_hold_only_what_may_be_seen(
        self, acting: Callable[..., Client], admin: Client, space: str, tmp_path: Path, rows: Path
    ) -> None:
        ours = furnish(admin, space, tmp_path, rows)
        rows.write_text('{"prompt": "of others", "completion": "b"}\n')
        foreign = furnish(admin, f"x-{space}", tmp_path, rows)
        client = acting(**{space: Role.ADMIN})
        assert [view.adapter for view in client.adapters()] == [ours.name]
        assert client.adapters(namespace=foreign.space) == client.adapters(prefix=foreign.space) == []
        assert [view.digest for view in client.datasets()] == [ours.data]
        assert {view.scope for view in client.aliases.protected()} == {f"{space}/*"}
        bare = acting(**{"-": Role.READER})
        assert all("/" not in view.adapter for view in bare.adapters())


class TestRevokedWhileAsking:
    """Who is asking was looked up before their token was revoked: it counts no more all the same."""

    @pytest.fixture
    def stale(self, people: World, space: str) -> Principal:
        made = people.services.tokens.create(name="eve", grants={space: Role.ADMIN}, who=SYSTEM)
        found = people.services.tokens.check(made.secret)
        people.services.tokens.revoke(made.id, who=SYSTEM)
        return found

    def test_nobody_makes_a_token(self, people: World, space: str, stale: Principal) -> None:
        with pytest.raises(Revoked, match="revoked"):
            people.services.tokens.create(name="eve-2", grants={space: Role.ADMIN}, who=stale)
        assert [token.name for token in people.services.tokens.list(who=SYSTEM) if token.name == "eve-2"] == []

    def test_nobody_revokes_one(self, people: World, space: str, stale: Principal) -> None:
        ours = people.services.tokens.create(name="ana", grants={space: Role.READER}, who=SYSTEM)
        with pytest.raises(Revoked):
            people.services.tokens.revoke(ours.id, who=stale)
        with pytest.raises(Revoked):
            people.services.tokens.revoke_namespace(space, who=stale)
        assert people.services.tokens.check(ours.secret).name == "ana"

    def test_nobody_gives_a_role_out_that_they_have_no_more(self, people: World, space: str) -> None:
        tokens, other = people.services.tokens, f"other-{space}"
        made = tokens.create(name="eve", grants={space: Role.ADMIN, other: Role.ADMIN}, who=SYSTEM)
        before = tokens.check(made.secret)
        tokens.revoke_namespace(space, who=SYSTEM)
        with pytest.raises(Forbidden):
            tokens.create(name="eve-2", grants={space: Role.READER}, who=before)
        with pytest.raises(Forbidden):
            tokens.revoke_namespace(space, who=before)
        assert tokens.create(name="eve-2", grants={other: Role.READER}, who=before).created_by == "eve"

    def test_of_a_token_that_makes_others_while_it_is_revoked_none_is_left(self, people: World, space: str) -> None:
        """Each that it makes is there before it is revoked, or is not made."""
        tokens = people.services.tokens
        eve = tokens.check(tokens.create(name="eve", grants={space: Role.ADMIN}, who=SYSTEM).secret)

        def make(number: int) -> None:
            with suppress(Revoked):
                tokens.create(name=f"eve-{number}", grants={space: Role.ADMIN}, who=eve)

        with ThreadPoolExecutor(4) as pool:
            made = [pool.submit(make, number) for number in range(24)]
            tokens.revoke_namespace(space, who=SYSTEM)
            for one in made:
                one.result()
        left = [token for token in tokens.list(who=SYSTEM) if token.revoked_at is None]
        assert [token.name for token in left if space in {grant.namespace for grant in token.grants}] == []
