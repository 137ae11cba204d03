"""The entrance of the API: nobody without a token is listened to, and nobody is listened to too often."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send
from support.clocks import Clock
from support.fixtures import Limits

from registry.access import caller_limits as failures_module
from registry.access.authentication import TRUST_S, Gatekeeper
from registry.access.caller_limits import CallerLimits, FailedLogins
from registry.access.secret_digests import secret_digest
from registry.access.tokens import Tokens
from registry.db.database import Database
from registry.principal import LOCAL, Principal, Role

BLOBS = "/api/v1/blobs"


class Counting(Tokens):
    """Real tokens, and how often the database was asked."""

    def __init__(self, db: Database) -> None:
        super().__init__(db)
        self.asked = 0

    def check(self, secret: str | None) -> Principal:
        self.asked += 1
        return super().check(secret)


class Answer:
    """What came back, and whom the application behind the entrance was told of."""

    def __init__(self) -> None:
        self.principal: Principal | None = None
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""

    @property
    def code(self) -> str:
        return json.loads(self.body)["error"]["code"]


class Entrance:
    """A gatekeeper before an application that says who came in."""

    def __init__(self, tokens: Tokens | None, *, rate: float = 0.0) -> None:
        self.clock = Clock(1000.0)
        self.answer = Answer()
        limits = CallerLimits(rate_limit_per_s=rate, clock=self.clock)
        self.gatekeeper = Gatekeeper(self.app, tokens=tokens, limits=limits, clock=self.clock)

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.answer.principal = scope.get("principal")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"in"})

    def ask(
        self,
        secret: str | None = None,
        path: str = "/api/v1/whoami",
        *,
        header: bytes | None = None,
        client: str = "192.0.2.7",
    ) -> Answer:
        """Send a request whose body never ends: whoever waits for it waits until the test's patience ends."""
        self.answer = Answer()
        given = header if header is not None or secret is None else f"Bearer {secret}".encode()
        headers = [] if given is None else [(b"authorization", given)]
        scope: dict[str, Any] = {
            "type": "http",
            "method": "POST",
            "path": path,
            "headers": headers,
            "client": (client, 1),
        }

        async def receive() -> Message:
            await asyncio.sleep(0)
            return {"type": "http.request", "body": b"x" * 1000, "more_body": True}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.answer.status = message["status"]
                self.answer.headers = {key.decode(): value.decode() for key, value in message["headers"]}
            else:
                self.answer.body += message["body"]

        async def run() -> None:
            await asyncio.wait_for(self.gatekeeper(scope, receive, send), 20)

        asyncio.run(run())
        return self.answer


@pytest.fixture
def tokens(db: Database) -> Counting:
    return Counting(db)


def secret_of(tokens: Tokens, name: str = "ci") -> str:
    return tokens.create(name=name, grants={"team": Role.WRITER}, who=LOCAL).secret


def test_who_has_a_token_comes_in_as_its_holder(tokens: Counting) -> None:
    answer = Entrance(tokens).ask(secret_of(tokens))
    assert (answer.status, answer.body) == (200, b"in")
    assert (answer.principal.name, answer.principal.grants) == ("ci", {"team": Role.WRITER})


@pytest.mark.parametrize(
    "header",
    [None, b"", b"Bearer", b"Bearer ", b"Bearer actl_guess", b"Basic YTpi", b"actl_guess", b"Bearer \xff\xfe", b"\xff"],
)
def test_without_a_valid_token_nothing_of_a_request_is_read(tokens: Counting, header: bytes | None) -> None:
    secret_of(tokens)
    entrance = Entrance(tokens)
    answer = entrance.ask(header=header)
    assert (answer.status, answer.code) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.principal is None


def test_the_scheme_is_told_apart_without_case(tokens: Counting) -> None:
    assert Entrance(tokens).ask(header=f"bEARER  {secret_of(tokens)} ".encode()).status == 200


def test_without_tokens_everybody_is_the_local_user() -> None:
    assert Entrance(None).ask().principal == LOCAL


def test_signed_paths_and_what_is_no_api_are_let_through(tokens: Counting) -> None:
    entrance = Entrance(tokens)
    for path in (f"{BLOBS}/0123", "/healthz", "/docs"):
        answer = entrance.ask(path=path)
        assert (answer.status, answer.principal) == (200, None)
    # What only begins like them is not.
    for path in (f"{BLOBS}", f"{BLOBS}x/0123", "/api/v1/", "/api/v1/whoami"):
        assert entrance.ask(path=path).status == 401
    assert tokens.asked == 4


def test_the_metrics_want_a_token_as_the_api_does(tokens: Counting) -> None:
    entrance = Entrance(tokens)
    assert entrance.ask(path="/metrics").status == 401
    assert entrance.ask(secret_of(tokens), path="/metrics").status == 200


class TestTrust:
    def test_an_answer_of_the_database_is_believed_for_a_moment(self, tokens: Counting) -> None:
        assert TRUST_S < 1
        entrance, secret = Entrance(tokens), secret_of(tokens)
        for _ in range(5):
            assert entrance.ask(secret).status == 200
            entrance.clock.now += TRUST_S / 6
        assert tokens.asked == 1
        entrance.clock.now += TRUST_S / 6
        assert entrance.ask(secret).status == 200
        assert tokens.asked == 2

    def test_a_refusal_is_never_believed(self, tokens: Counting) -> None:
        entrance = Entrance(tokens)
        for _ in range(3):
            assert entrance.ask("actl_guess").status == 401
        assert tokens.asked == 3


class TestRate:
    def test_more_than_a_burst_is_refused_and_refills(self, tokens: Counting) -> None:
        entrance, secret = Entrance(tokens, rate=2), secret_of(tokens)
        assert [entrance.ask(secret).status for _ in range(5)] == [200, 200, 200, 200, 429]
        refused = entrance.ask(secret)
        assert (refused.code, refused.principal) == ("rate_limited", None)
        assert "2 requests per second" in json.loads(refused.body)["error"]["message"]
        wait_s = int(refused.headers["retry-after"])
        assert wait_s == 1
        # Who waits as long as was said comes in again, for as many requests as have refilled.
        entrance.clock.now += wait_s
        assert [entrance.ask(secret).status for _ in range(3)] == [200, 200, 429]
        # Waiting long fills the bucket and no more.
        entrance.clock.now += 1000
        assert [entrance.ask(secret).status for _ in range(5)] == [200, 200, 200, 200, 429]

    def test_a_slow_rate_says_how_long_to_wait(self, tokens: Counting) -> None:
        entrance, secret = Entrance(tokens, rate=0.1), secret_of(tokens)
        assert entrance.ask(secret).status == 200
        refused = entrance.ask(secret)
        assert refused.status == 429
        wait_s = int(refused.headers["retry-after"])
        assert 10 <= wait_s <= 11
        entrance.clock.now += 9
        assert entrance.ask(secret).status == 429
        entrance.clock.now += wait_s - 9
        assert entrance.ask(secret).status == 200

    def test_each_token_has_a_rate_of_its_own(self, tokens: Counting) -> None:
        entrance = Entrance(tokens, rate=1)
        mine, other = secret_of(tokens), secret_of(tokens, "other")
        assert [entrance.ask(mine).status for _ in range(3)] == [200, 200, 429]
        assert entrance.ask(other).status == 200

    def test_who_has_no_token_spends_nobodys_requests(self, tokens: Counting) -> None:
        entrance, secret = Entrance(tokens, rate=1), secret_of(tokens)
        for _ in range(10):
            assert entrance.ask("actl_guess").status == 401
        assert entrance.ask(secret).status == 200

    def test_signed_paths_are_not_counted(self, tokens: Counting) -> None:
        entrance, secret = Entrance(tokens, rate=1), secret_of(tokens)
        for _ in range(10):
            assert entrance.ask(path=f"{BLOBS}/0123").status == 200
        assert entrance.ask(secret).status == 200


class TestFailures:
    """Twenty wrong tokens of one address are answered at once; what fails beyond costs patience, and what is right never."""

    def fail(
        self, entrance: Entrance, times: int, *, client: str = "192.0.2.7", prefix: str = "actl_guess"
    ) -> list[int]:
        return [entrance.ask(f"{prefix}{number}", client=client).status for number in range(times)]

    def test_more_wrong_tokens_than_a_minute_has_are_429(self, tokens: Counting) -> None:
        entrance = Entrance(tokens)
        assert self.fail(entrance, 22) == [401] * 20 + [429] * 2
        refused = entrance.ask("actl_another")
        assert (refused.status, refused.code) == (429, "rate_limited")
        assert "wrong tokens" in json.loads(refused.body)["error"]["message"]
        assert 1 <= int(refused.headers["retry-after"]) <= 4
        # It refills, one in three seconds.
        entrance.clock.now += 3
        assert self.fail(entrance, 2, prefix="actl_more") == [401, 429]

    def test_a_right_token_is_let_in_however_many_failed_beside_it(self, tokens: Counting) -> None:
        entrance, secret, fresh = Entrance(tokens), secret_of(tokens), secret_of(tokens, "fresh")
        self.fail(entrance, 50)
        for right in (secret, fresh):
            assert entrance.ask(right).status == 200
        entrance.clock.now += TRUST_S
        self.fail(entrance, 50)
        assert entrance.ask(secret).status == 200

    def test_the_same_wrong_token_is_not_looked_up_again(self, tokens: Counting) -> None:
        entrance = Entrance(tokens)
        self.fail(entrance, 20)
        assert entrance.ask("actl_worn").status == 429
        asked = tokens.asked
        assert {entrance.ask("actl_worn").status for _ in range(10)} == {429}
        assert tokens.asked == asked

    def test_no_other_address_pays_for_it(self, tokens: Counting) -> None:
        entrance = Entrance(tokens)
        self.fail(entrance, 30)
        assert self.fail(entrance, 3, client="192.0.2.8") == [401] * 3

    def test_the_addresses_of_one_machine_are_one(self, tokens: Counting) -> None:
        entrance = Entrance(tokens)
        answers = [entrance.ask(f"actl_{number}", client=f"2001:db8::{number:x}").status for number in range(22)]
        assert answers[-2:] == [429, 429]
        assert entrance.ask("actl_x", client="2001:db8:0:1::1").status == 401

    def test_no_token_at_all_is_no_failure(self, tokens: Counting) -> None:
        entrance = Entrance(tokens)
        assert {entrance.ask().status for _ in range(30)} == {401}
        assert entrance.ask("actl_guess").status == 401

    def test_look_ups_after_too_many_failures_are_made_one_at_a_time(self, tokens: Counting) -> None:
        entrance = Entrance(tokens)
        self.fail(entrance, 20)
        at_once, most = 0, 0
        ask = tokens.check

        def check(secret: str | None) -> Principal:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            try:
                return ask(secret)
            finally:
                at_once -= 1

        tokens.check = check  # type: ignore[method-assign]
        scope = {"type": "http", "method": "GET", "path": "/api/v1/whoami", "client": ("192.0.2.7", 1)}
        statuses: list[int] = []

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        async def receive() -> Message:
            raise AssertionError

        async def run() -> None:
            headers = [[(b"authorization", f"Bearer actl_many{number}".encode())] for number in range(40)]
            await asyncio.gather(*(entrance.gatekeeper({**scope, "headers": each}, receive, send) for each in headers))

        asyncio.run(run())
        assert statuses == [429] * 40
        assert most == 1

    def test_the_last_wrong_tokens_are_remembered_and_a_sound_digest_is_none_of_them(self) -> None:
        clock = Clock(1000.0)
        failures = FailedLogins(per_minute=20, clock=clock)
        digests = [secret_digest(f"actl_{number}") for number in range(40)]
        for digest in digests:
            failures.note("192.0.2.7", digest)
        assert [failures.has_failed("192.0.2.7", digest) for digest in digests] == [False] * 8 + [True] * 32
        # Bytes of two that stand one behind the other belong to no token.
        assert not failures.has_failed("192.0.2.7", digests[38][16:32] + digests[39][:16] + "0" * 32)
        failures.note("192.0.2.7", digests[9])
        assert failures.has_failed("192.0.2.7", digests[8])
        failures.note("192.0.2.7", digests[0])
        assert [failures.has_failed("192.0.2.7", digests[number]) for number in (0, 8, 9)] == [True, False, True]

    def test_what_is_remembered_takes_little_and_ends(self, limits: Limits) -> None:
        limits(failures_module, _ADDRESSES=1000)
        clock = Clock(1000.0)
        failures = FailedLogins(per_minute=20, clock=clock)
        digests = [secret_digest(f"actl_{number}") for number in range(33)]
        tracemalloc.start()
        try:
            for number in range(1100):
                for digest in digests:
                    failures.note(f"2001:db8:{number:x}:0000::/64", digest)
            assert tracemalloc.get_traced_memory()[0] < 1.6 * 2**20
            clock.now += 60
            failures.note("192.0.2.7", digests[0])
            assert tracemalloc.get_traced_memory()[0] < 2**17
        finally:
            tracemalloc.stop()
        assert failures.wait_s("2001:db8:1:0000::/64") == 0
        assert failures._addresses.keys() == {"192.0.2.7"}

    def test_a_failure_is_told_without_the_token(self, tokens: Counting, caplog: pytest.LogCaptureFixture) -> None:
        entrance = Entrance(tokens)
        secret = "actl_" + "Xy7" * 14
        for number, wrong in enumerate((secret, "hunter2-which-is-a-password")):
            entrance.ask(wrong, client=f"198.51.100.{number}")
        assert "address=198.51.100.0" in caplog.text
        assert "actl_Xy7X" in caplog.text
        assert secret[:12] not in caplog.text
        assert "hunter2" not in caplog.text
