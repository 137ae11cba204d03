"""The list of jobs over HTTP, as it is and as it changes: who sees what, from when on, and until when."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from contract.pages.conftest import ONE_DATABASE
from support import registries
from support.page_readers import PageReader, csrf_of, signed_in
from support.people import submit, training
from support.registries import World
from support.statements import sent
from support.waiting import wait_until
from support.working import Held, progress

from registry.http.ending import begin_to_end
from registry.jobs.lines import JobFilter, JobLines
from registry.principal import LOCAL, SYSTEM, Role
from registry.web.jobs.feed import TICK_S, JobFeed, JobReader
from sdk.client import Client
from sdk.schemas.jobs import JobView

#: How long a stream is read for what has to come, in seconds.
PATIENCE_S = 30.0
_LIVE = re.compile(r'data-live="([^"]+)"')


class Browser:
    """A browser without a script: one session, pages and streams."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def page(self, path: str = "/ui/jobs") -> str:
        """Load a page."""
        answer = self.http.get(path)
        assert answer.status_code == 200, (answer.status_code, answer.text)
        return answer.text

    def stream_of(self, page: str) -> str:
        """The address of the stream that a page says it has."""
        found = _LIVE.search(page)
        assert found is not None, page
        return unescape(found[1])

    @contextmanager
    def streaming(self, page: str, **headers: str) -> Iterator[Iterator[tuple[str, str]]]:
        """Follow the stream of a page: its messages, as event and data."""
        with self.http.stream("GET", self.stream_of(page), headers=headers) as answer:
            assert answer.status_code == 200, answer.read()
            yield _messages(answer)


def _messages(answer: httpx.Response) -> Iterator[tuple[str, str]]:
    event, data, until = "message", list[str](), time.monotonic() + PATIENCE_S
    for line in answer.iter_lines():
        assert time.monotonic() < until, "it does not come"
        name, _, value = line.partition(": ")
        if name == "event":
            event = value
        elif name == "data":
            data.append(value)
        elif not line and (data or event != "message"):
            yield event, "\n".join(data)
            event, data = "message", []


@pytest.fixture
def browse(people: World) -> Iterator[Callable[..., Browser]]:
    with ExitStack() as stack:

        def open_browser(**grants: Role) -> Browser:
            secret = registries.named_anew(people.services.tokens, "ana", grants, who=LOCAL).secret
            return Browser(stack.enter_context(signed_in(people.url, secret)))

        yield open_browser


@pytest.fixture
def train(acting: Callable[..., Client], rows: Path) -> Callable[[str], JobView]:
    """Return a function that submits a training in a namespace."""
    writers: dict[str, tuple[Client, str]] = {}

    def train(space: str) -> JobView:
        if space not in writers:
            writer = acting(**{space: Role.WRITER})
            writers[space] = (writer, writer.datasets.add(rows, namespace=space).digest)
        writer, data = writers[space]
        return submit(writer, training(f"{space}/a", data))

    return train


Train = Callable[[str], JobView]
Browse = Callable[..., Browser]


def test_job_between_page_and_stream_is_not_missed(browse: Browse, train: Train, space: str) -> None:
    train(space)
    browser = browse(**{space: Role.READER})
    page = browser.page()
    between = train(space)
    assert between.id not in page
    with browser.streaming(page) as messages:
        event, data = next(messages)
    assert event == "message"
    assert f'id="job-{between.id}"' in data


def test_stream_shows_what_happens_and_what_is_no_longer_listed(
    browse: Browse, train: Train, space: str, acting: Callable[..., Client], tmp_path: Path
) -> None:
    first = train(space)
    browser = browse(**{space: Role.READER})
    with (
        browser.streaming(browser.page()) as all_of_it,
        browser.streaming(browser.page("/ui/jobs?state=queued")) as waiting,
    ):
        held = Held.claim(acting(**{space: Role.WORKER}), tmp_path)
        assert held.job == first.id
        held.report(progress(step=3, total=12))
        seen = next(data for _, data in all_of_it if "3/12 steps" in data)
        gone = next(data for _, data in waiting if "state-running" in data)
    assert "state-running" in seen
    assert "data-gone" not in seen
    assert "data-gone" in gone
    held.fail()


def test_reader_gets_nothing_of_other_namespaces(browse: Browse, train: Train, space: str) -> None:
    other = f"{space}-x"
    mine, browser = train(space), browse(**{space: Role.READER})
    seen = ""
    with browser.streaming(browser.page()) as messages:
        train(other)
        own = train(space)
        while own.id not in seen:
            seen += next(messages)[1]
    assert other not in seen + browser.page()
    assert mine.id in browser.page()


def test_lost_right_reloads_the_list_without_the_names(people: World, browse: Browse, train: Train, space: str) -> None:
    other = f"{space}-x"
    mine, theirs = train(space), train(other)
    browser = browse(**{space: Role.READER, other: Role.READER})
    page = browser.page()
    assert mine.id in page
    assert theirs.id in page
    with browser.streaming(page) as messages:
        people.services.tokens.revoke_namespace(other, who=SYSTEM)
        began = time.monotonic()
        events = [event for event, _ in messages]
    assert events[-1] == "reload"
    assert time.monotonic() - began < PATIENCE_S
    assert theirs.id not in browser.page()
    # Whoever comes back to what was shown before, with the cursor of that time, loads it again, too.
    with browser.streaming(page) as messages:
        assert next(messages)[0] == "reload"


def test_what_happens_after_a_right_is_lost_is_not_sent(people: World, browse: Browse, rows: Path, space: str) -> None:
    took_s = []
    for number in range(3):
        other = f"{space}-x{number}"
        data = people.writer.datasets.add(rows, namespace=other).digest
        browser = browse(**{space: Role.READER, other: Role.READER})
        with browser.streaming(browser.page()) as messages:
            time.sleep(0.2)
            people.services.tokens.revoke_namespace(other, who=SYSTEM)
            later, began = submit(people.writer, training(f"{other}/a", data)), time.monotonic()
            told = list(messages)
        assert told[-1][0] == "reload"
        assert later.id not in "".join(data for _, data in told)
        took_s.append(time.monotonic() - began)
    # It is looked at together with what has happened, and without that every second, unless the machine has no time for it.
    assert min(took_s) < 4 * TICK_S


@pytest.mark.parametrize("ends", ["token", "session"])
@ONE_DATABASE
def test_stream_ends_with_token_and_session(people: World, browse: Browse, train: Train, space: str, ends: str) -> None:
    train(space)
    browser = browse(**{space: Role.READER})
    page, csrf = browser.page(), csrf_of(browser.http, "/ui/jobs")
    with browser.streaming(page) as messages:
        if ends == "session":
            assert browser.http.post("/ui/sign-out", data={"csrf": csrf}).status_code == 303
        else:
            for token in people.services.tokens.list(who=SYSTEM):
                if any(grant.namespace == space and grant.role == "reader" for grant in token.grants):
                    people.services.tokens.revoke(token.id, who=SYSTEM)
        assert [event for event, _ in messages][-1] == "end"
    wait_until(lambda: people.services.watchers.count == 0, "a stream is still counted")


def test_stream_beyond_the_limit_is_told_to_poll(tmp_path: Path) -> None:
    with (
        registries.served(tmp_path, max_streams_per_token=1) as world,
        signed_in(world.url, world.token(Role.READER)) as http,
    ):
        browser = Browser(http)
        page = browser.page()
        with browser.streaming(page), browser.streaming(page) as second:
            assert [event for event, _ in second] == ["poll"]


def test_last_event_id_goes_on_where_the_stream_was_lost(browse: Browse, train: Train, space: str) -> None:
    browser = browse(**{space: Role.READER})
    page = browser.page()
    with browser.http.stream("GET", browser.stream_of(page)) as answer:
        first = train(space)
        for line in answer.iter_lines():
            if line.startswith("id: "):
                cursor = line.removeprefix("id: ")
                break
    second = train(space)
    with browser.streaming(page, **{"Last-Event-ID": cursor}) as messages:
        seen = ""
        while second.id not in seen:
            seen += next(messages)[1]
    assert first.id != second.id
    for bad in ("x", "-1", "9" * 30, "1e5", ""):
        answer = browser.http.get("/ui/jobs/live", params={"after": bad or "?"})
        assert answer.status_code == 422, bad


def test_waiting_jobs_say_anew_why_they_wait(
    people: World, browse: Browse, train: Train, space: str, acting: Callable[..., Client], tmp_path: Path
) -> None:
    first, second = train(space), train(space)
    assert "no worker listens" in browse(**{space: Role.READER}).page()
    # The second one's own row does not change, nor does an event of it come.
    after = JobLines(people.services.db).newest()
    held = Held.claim(acting(**{space: Role.WORKER}), tmp_path)
    assert held.job == first.id

    async def told() -> str:
        feed = JobFeed(people.services.db, people.services.sessions, queue_s=0.1)
        follower = JobReader("", LOCAL, lambda line: line.id == second.id)
        async with feed.following(follower, after), asyncio.timeout(PATIENCE_S):
            while True:
                await follower.signal.wait()
                for row in follower.drain():
                    if "no worker listens" not in row.html:
                        return row.html

    assert "busy" in (row := asyncio.run(told())) or " first" in row
    held.fail()


def test_page_and_tick_have_bounded_statements(people: World, browse: Browse, train: Train, space: str) -> None:
    lines, who = JobLines(people.services.db), people.principal(Role.READER)

    def statements(jobs: int) -> int:
        for _ in range(jobs):
            train(space)
        with sent(people.services.db) as seen:
            lines.page(wanted=JobFilter(), who=who)
        return len(seen)

    assert statements(1) == statements(8) <= 16
    newest = lines.newest()
    with sent(people.services.db) as seen:
        assert lines.events_after(newest, most=10) == []
    assert len(seen) == 1


@ONE_DATABASE
def test_pages_need_a_known_job_and_a_right_to_change_it(browse: Browse, train: Train, space: str) -> None:
    job = train(space)
    reader, stranger = browse(**{space: Role.READER}), browse(**{f"{space}-x": Role.ADMIN})
    for path in (f"/ui/jobs/{job.id}", "/ui/jobs/0123456789ab", "/ui/sweeps/0123456789ab"):
        assert stranger.http.get(path).status_code == 404
    assert "/cancel" not in reader.page(f"/ui/jobs/{job.id}")
    refused = reader.http.post(f"/ui/jobs/{job.id}/cancel", data={"csrf": csrf_of(reader.http, f"/ui/jobs/{job.id}")})
    assert refused.status_code == 403
    assert reader.http.post(f"/ui/jobs/{job.id}/cancel", data={"reason": "x"}).status_code == 403


@ONE_DATABASE
def test_retry_that_is_sent_twice_is_one_job(browse: Browse, train: Train, space: str) -> None:
    job = train(space)
    browser, address = browse(**{space: Role.WRITER}), f"/ui/jobs/{job.id}"
    writer = PageReader(browser.http)
    assert writer.send(writer.form(writer.get(address), f"{address}/cancel")).status_code == 303
    retry = writer.form(writer.get(address), f"{address}/retry")
    made = {writer.send(retry).headers["Location"] for _ in range(2)}
    assert len(made) == 1
    assert f'href="{address}"' in browser.page(made.pop())


@ONE_DATABASE
def test_stream_of_a_session_that_has_ended_says_so_when_a_browser_comes_back(people: World) -> None:
    answer = httpx.get(f"{people.url}/ui/jobs/live?after=0.x", headers={"Accept": "text/event-stream"})
    assert (answer.status_code, answer.text) == (200, "event: end\ndata:\n\n")
    assert answer.headers["Content-Type"].startswith("text/event-stream")


def test_feed_lets_everybody_go_when_the_server_ends(embedded: World) -> None:
    async def follow() -> None:
        feed = JobFeed(embedded.services.db, embedded.services.sessions)
        async with feed.following(JobReader("", LOCAL, lambda line: True), 0) as follower:
            begin_to_end()
            async with asyncio.timeout(PATIENCE_S):
                while not follower.stopped:
                    await follower.signal.wait()
                    follower.drain()

    asyncio.run(follow())


def test_feed_that_begins_while_the_one_before_still_reads_tells_everything(embedded: World) -> None:
    """A page is closed, and the next opened, while the database is slow."""
    reads, goes_on = threading.Event(), threading.Event()

    class Lines:
        asked = 0

        def events_after(self, seq: int, *, most: int) -> list[tuple[int, str]]:
            self.asked += 1
            if self.asked == 1:
                reads.set()
                goes_on.wait(PATIENCE_S)
            return [(6, "a job")] if seq < 6 else []

        def of(self, ids: Any) -> list[Any]:
            return [SimpleNamespace(id=ident, namespace="-", ahead=None, waits=None) for ident in ids]

        def waiting(self) -> list[Any]:
            return []

    async def follow() -> None:
        feed = JobFeed(embedded.services.db, embedded.services.sessions, lines=Lines())  # type: ignore[arg-type]
        async with feed.following(JobReader("", LOCAL, lambda line: True), 0):
            await asyncio.to_thread(reads.wait, PATIENCE_S)
        asyncio.get_running_loop().call_later(TICK_S / 4, goes_on.set)
        follower = JobReader("", LOCAL, lambda line: True)
        async with asyncio.timeout(PATIENCE_S), feed.following(follower, 0):
            while not follower.pending:
                await follower.signal.wait()
                assert not follower.stopped
                assert follower.verdict is None or follower.pending
        assert list(follower.pending) == ["a job"]

    asyncio.run(follow())


def test_feed_sees_an_event_that_is_committed_after_later_ones(embedded: World) -> None:
    """Numbers of events are given before their commit."""
    known = [(5, "late"), (6, "early")]

    class Lines:
        def events_after(self, seq: int, *, most: int) -> list[tuple[int, str]]:
            return [one for one in known if one[0] > seq and (one[0] != 5 or is_committed)]

        def of(self, ids: Any) -> list[Any]:
            read.extend(ids)
            return []

    read: list[str] = []
    is_committed = False
    feed = JobFeed(embedded.services.db, embedded.services.sessions, lines=Lines())  # type: ignore[arg-type]
    feed.look()
    assert read == ["early"]
    is_committed = True
    feed.look()
    assert read == ["early", "late"]
    feed.look()
    assert read == ["early", "late"]
