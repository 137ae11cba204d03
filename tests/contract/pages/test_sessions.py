"""Sessions of pages over both databases: how they begin and end, what they cost, and what becomes of codes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta

import httpx
import pytest
from contract.pages.conftest import ONE_DATABASE
from sqlalchemy import select, update
from support import registries
from support.page_readers import csrf_of
from support.registries import World
from support.statements import sent

from registry.access.read_only.service import TRUST_S as SWITCH_TRUST_S
from registry.db.types import utc_now
from registry.errors import Unauthenticated
from registry.principal import LOCAL, SYSTEM, Role
from registry.web.sessions.gate import TRUST_S
from registry.web.sessions.models import SignInCode, WebSession
from registry.web.sessions.service import IDLE, MOST_SESSIONS, Sessions
from sdk.client import Client

ADAPTERS, SIGN_IN, CODE = "/ui/adapters", "/ui/sign-in", "/ui/code"
Visit = Callable[..., httpx.Client]


@pytest.fixture
def visit(people: World) -> Iterator[Visit]:
    """Return a function that opens a browser without a script, signed in with a token if one is given."""
    opened: list[httpx.Client] = []

    def open_browser(token: str | None = None) -> httpx.Client:
        browser = httpx.Client(base_url=people.url, headers={"Origin": people.url}, timeout=30)
        opened.append(browser)
        if token is not None:
            assert browser.post(SIGN_IN, data={"token": token}).status_code == 303
        return browser

    yield open_browser
    for browser in opened:
        browser.close()


def shows(browser: httpx.Client) -> bool:
    return browser.get(ADAPTERS).status_code == 200


@ONE_DATABASE
def test_page_is_shown_to_who_has_signed_in_and_leads_others_to_the_form(people: World, visit: Visit) -> None:
    led = visit().get(f"{ADAPTERS}?namespace=team")
    assert (led.status_code, led.headers["Location"]) == (303, "/ui/sign-in?next=%2Fui%2Fadapters%3Fnamespace%3Dteam")
    browser = visit(people.token(Role.READER))
    assert shows(browser)
    assert "some reader" in browser.get(ADAPTERS).text


@ONE_DATABASE
def test_wrong_token_is_refused_without_being_shown(visit: Visit) -> None:
    answer = visit().post(SIGN_IN, data={"token": "actl_wrong-and-secret", "next": "/ui/jobs"})
    assert answer.status_code == 401
    assert "wrong-and-secret" not in answer.text
    assert "Set-Cookie" not in answer.headers
    assert 'name="next" value="/ui/jobs"' in answer.text


def test_session_ends_within_a_second_of_its_token(people: World, visit: Visit) -> None:
    secret = people.token(Role.READER)
    browser = visit(secret)
    assert shows(browser)
    token_id = people.services.tokens.check(secret).token_id
    assert token_id is not None
    people.services.tokens.revoke(token_id, who=SYSTEM)
    time.sleep(TRUST_S)
    assert not shows(browser)


def test_roles_of_a_session_are_those_that_its_token_has_now(people: World, visit: Visit) -> None:
    browser = visit(people.token(Role.READER))
    digest = _last_session(people)
    before = people.services.sessions.standing([digest])[digest]
    assert before.grants == {"*": Role.READER}
    assert people.services.sessions.standing([digest, "0" * 64]) == {digest: before}
    assert shows(browser)


def test_sign_out_ends_the_session_for_whoever_has_its_cookie(people: World, visit: Visit) -> None:
    browser = visit(people.token(Role.READER))
    thief = visit()
    thief.cookies.update(browser.cookies)
    assert shows(thief)
    assert browser.post("/ui/sign-out", data={"csrf": csrf_of(browser)}).headers["Location"] == SIGN_IN
    assert not browser.cookies
    assert not shows(thief)


@ONE_DATABASE
def test_sign_out_without_the_session_s_own_form_is_refused(people: World, visit: Visit) -> None:
    browser, other = visit(people.token(Role.READER)), visit(people.token(Role.READER))
    for csrf in ("", csrf_of(other), "é"):
        assert browser.post("/ui/sign-out", data={"csrf": csrf}).status_code == 403
    assert shows(browser)


def test_signing_in_again_ends_the_session_before_and_makes_another_secret(people: World, visit: Visit) -> None:
    browser = visit(people.token(Role.READER))
    (fixed,) = browser.cookies.values()
    thief = visit()
    thief.cookies.update(browser.cookies)
    assert browser.post(SIGN_IN, data={"token": people.token(Role.READER)}).status_code == 303
    assert fixed not in browser.cookies.values()
    time.sleep(TRUST_S)
    assert not shows(thief)
    assert shows(browser)


def test_idle_session_ends_and_a_used_one_is_noted_once_a_minute(people: World, visit: Visit) -> None:
    browser = visit(people.token(Role.READER))
    assert shows(browser)
    digest = _last_session(people)
    _seen_before(people, digest, timedelta(minutes=2))
    time.sleep(TRUST_S)
    with sent(people.services.db) as statements:
        assert shows(browser)
    assert sum("UPDATE web_sessions" in each.sql for each in statements) == 1
    time.sleep(TRUST_S)
    with sent(people.services.db) as statements:
        assert shows(browser)
    assert not [each for each in statements if "UPDATE web_sessions" in each.sql]
    _seen_before(people, digest, IDLE + timedelta(minutes=1))
    time.sleep(TRUST_S)
    assert not shows(browser)


def test_gate_takes_one_statement_and_none_when_it_has_just_asked(people: World, visit: Visit) -> None:
    browser = visit(people.token(Role.READER))
    counted = []
    for wait_s in (TRUST_S, 0.0):
        time.sleep(wait_s)
        with sent(people.services.db) as statements:
            assert browser.get("/ui/no-such-page").status_code == 404
        counted.append(len(statements))
    assert counted == [1, 0]


def test_tokens_sessions_are_bounded_and_the_oldest_ends(people: World) -> None:
    secret = people.token(Role.READER)
    first = people.services.sessions.begin(secret)
    for _ in range(MOST_SESSIONS):
        last = people.services.sessions.begin(secret)
    token_id = people.services.tokens.check(secret).token_id
    with people.services.db.read() as session:
        kept = session.scalars(select(WebSession.secret_sha256).where(WebSession.token_id == token_id)).all()
    assert len(kept) == MOST_SESSIONS
    assert people.services.sessions.check(last).who.token_id == token_id
    assert first not in kept


def test_ended_sessions_and_old_codes_are_removed_by_expiry(people: World) -> None:
    sessions, secret = people.services.sessions, people.token(Role.READER)
    who = people.services.tokens.check(secret)
    ended, stays = sessions.begin(secret), sessions.begin(secret)
    sessions.end(ended)
    sessions.code(who=who)
    with people.services.db.write() as session:
        session.execute(update(SignInCode).values(created_at=utc_now() - timedelta(days=2)))
    assert people.services.expiry.run()["sessions"] >= 2
    with people.services.db.read() as session:
        assert session.scalars(select(SignInCode.code_sha256)).all() == []
    assert sessions.check(stays).who == who


def test_failed_sign_ins_of_an_address_are_limited_and_right_tokens_are_not(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with ExitStack() as stack:
        world = stack.enter_context(registries.served(tmp_path_factory.mktemp("limited"), failed_logins_per_minute=3))
        browser = stack.enter_context(httpx.Client(base_url=world.url, headers={"Origin": world.url}))
        failed = [browser.post(SIGN_IN, data={"token": f"wrong {number}"}) for number in range(5)]
        assert [each.status_code for each in failed] == [401, 401, 401, 429, 429]
        assert int(failed[-1].headers["Retry-After"]) > 0
        # The same allowance as for the API.
        refused = browser.get("/api/v1/whoami", headers={"Authorization": "Bearer wrong 9"})
        assert refused.status_code == 429
        guessed = browser.post(CODE, data={"code": "guessed"})
        assert (guessed.status_code, guessed.headers["Content-Type"][:9]) == (429, "text/html")
        assert browser.post(SIGN_IN, data={"token": world.token(Role.READER)}).status_code == 303
        assert shows(browser)


def test_pages_count_against_the_rate_of_their_token(tmp_path_factory: pytest.TempPathFactory) -> None:
    with ExitStack() as stack:
        world = stack.enter_context(registries.served(tmp_path_factory.mktemp("rate"), rate_limit_per_s=1.0))
        browser = stack.enter_context(httpx.Client(base_url=world.url, headers={"Origin": world.url}))
        browser.post(SIGN_IN, data={"token": world.token(Role.READER)})
        answers = [browser.get(ADAPTERS) for _ in range(4)]
        assert answers[0].status_code == 200
        assert answers[-1].status_code == 429
        assert answers[-1].headers["Content-Type"].startswith("text/html")


def test_code_signs_in_once_as_who_asked_for_it(people: World, visit: Visit, acting: Callable[..., Client]) -> None:
    code = people.writer.tokens.sign_in_code().code
    browser = visit()
    # Whoever only looks at the address uses nothing up.
    assert browser.get(CODE, params={"code": code}).status_code == 200
    assert (
        browser.get(CODE, params={"code": code}, headers={"Sec-Fetch-Site": "cross-site"}).text.count("data-submits")
        == 0
    )
    assert browser.post(CODE, data={"code": code}).headers["Location"] == ADAPTERS
    assert "some writer" in browser.get(ADAPTERS).text
    # A form that is sent twice changes nothing.
    assert browser.post(CODE, data={"code": code}).status_code == 303
    assert shows(browser)


def test_code_that_somebody_else_used_first_says_so_and_ends_what_they_have(people: World, visit: Visit) -> None:
    code = people.writer.tokens.sign_in_code().code
    thief, owner = visit(), visit()
    assert thief.post(CODE, data={"code": code}).status_code == 303
    assert shows(thief)
    late = owner.post(CODE, data={"code": code})
    assert late.status_code == 401
    assert "was used already" in late.text
    time.sleep(TRUST_S)
    assert not shows(thief)
    assert not shows(owner)


def test_code_of_more_than_a_minute_ago_is_refused(people: World, visit: Visit) -> None:
    code = people.writer.tokens.sign_in_code().code
    with people.services.db.write() as session:
        session.execute(update(SignInCode).values(created_at=utc_now() - timedelta(seconds=61)))
    assert visit().post(CODE, data={"code": code}).status_code == 401
    assert visit().post(CODE, data={"code": "unknown"}).status_code == 401


@ONE_DATABASE
def test_code_and_session_of_one_start_are_nothing_to_the_next(people: World) -> None:
    services = people.services
    first, second = (Sessions(services.db, services.tokens, wants_token=False, wants_code=True) for _ in range(2))
    code = first.code(who=LOCAL).code
    with pytest.raises(Unauthenticated, match="unknown"):
        second.begin_by_code(code)
    secret = first.begin_by_code(code)
    assert first.check(secret).who == LOCAL
    for other in (second, services.sessions):
        with pytest.raises(Unauthenticated, match="has ended"):
            other.check(secret)
    with pytest.raises(Unauthenticated, match="adapterctl ui"):
        first.begin("a token")


def test_read_only_registry_is_looked_at_and_ended_sessions_can_begin_again(people: World, visit: Visit) -> None:
    browser = visit(people.token(Role.READER))
    digest = _last_session(people)
    people.services.read_only.turn_on(reason="moving the database", who=SYSTEM)
    try:
        _seen_before(people, digest, timedelta(minutes=2))
        time.sleep(max(TRUST_S, SWITCH_TRUST_S))
        assert shows(browser)
        with people.services.db.read() as session:
            seen_at = session.scalar(select(WebSession.seen_at).where(WebSession.secret_sha256 == digest))
        assert seen_at is not None
        assert utc_now() - seen_at > timedelta(minutes=1)
        assert shows(visit(people.token(Role.READER)))
        assert visit().post(CODE, data={"code": people.writer.tokens.sign_in_code().code}).status_code == 303
        refused = browser.post("/ui/anything", data={"csrf": "x"})
        assert (refused.status_code, "moving the database" in refused.text) == (503, True)
        assert browser.post("/ui/sign-out", data={"csrf": csrf_of(browser)}).status_code == 303
    finally:
        people.services.read_only.turn_off(who=SYSTEM)


def _last_session(people: World) -> str:
    with people.services.db.read() as session:
        found = session.scalar(select(WebSession.secret_sha256).order_by(WebSession.created_at.desc()).limit(1))
    assert found is not None
    return found


def _seen_before(people: World, digest: str, ago: timedelta) -> None:
    with people.services.db.write() as session:
        session.execute(update(WebSession).where(WebSession.secret_sha256 == digest).values(seen_at=utc_now() - ago))
