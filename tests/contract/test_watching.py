"""What happens to a job, as those who watch it see it: what is stored of it, long polls, and the stream."""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import update
from support.fixtures import Limits
from support.people import bare_http
from support.registries import World
from support.statements import Statement, sent
from support.waiting import wait_until
from support.working import Held, line, progress

from registry.db.types import utc_now
from registry.jobs import event_stream
from registry.jobs import events as stored
from registry.jobs.event_feed import LOOK_S, TICK_S, Watchers
from registry.jobs.models import Job, Worker
from registry.principal import LOCAL, SYSTEM, Role
from sdk.client import Client
from sdk.objects import Job as SdkJob
from sdk.schemas.events import Event, NewEvent, Progress
from sdk.schemas.work import Heartbeat

#: How long a test waits for what comes at once on an idle machine, in seconds.
PATIENCE_S = 30.0


@pytest.fixture
def writer(acting: Callable[..., Client], space: str) -> Client:
    return acting(**{space: Role.WRITER})


@pytest.fixture
def job(people: World, writer: Client, space: str, rows: Path) -> Iterator[SdkJob]:
    """A job that waits, in a namespace of its own."""
    yield writer.submit_training(f"{space}/a", base="tiny", data=rows, rank=2)
    with people.services.db.write() as session:
        # No later test of this module finds this one's workers or jobs.
        session.execute(update(Worker).values(seen_at=utc_now() - timedelta(days=30)))
        unfinished = (Job.namespace == space, Job.state.in_(["queued", "running"]))
        session.execute(update(Job).where(*unfinished).values(state="failed", lease_until_s=None))


@pytest.fixture
def held(job: SdkJob, acting: Callable[..., Client], space: str, tmp_path: Path) -> Held:
    """The same job, which a worker holds."""
    return Held.claim(acting(**{space: Role.WORKER}), tmp_path)


@pytest.fixture
def http(people: World, writer: Client) -> Iterator[httpx.Client]:
    with bare_http(people.url, writer.config.token or "") as client:
        yield client


def shown(events: list[Event]) -> list[str]:
    """Progress as "train 3", lines as they are."""
    return [
        event.message or "" if event.progress is None else f"{event.progress.phase} {event.progress.step}"
        for event in events
        if event.kind != "state"
    ]


class TestStoring:
    @pytest.fixture(autouse=True)
    def _at_once(self, limits: Limits) -> None:
        # However slow the machine is, all of a test happens within one pause.
        limits(stored, PROGRESS_EVERY=timedelta(hours=1))

    def test_of_one_report_the_newest_of_each_phase_is_kept(self, held: Held, job: SdkJob) -> None:
        held.report(*(progress("load", i, total=9) for i in range(5)), *(progress(step=i, total=99) for i in range(40)))
        assert shown(list(job.events())) == ["load 4", "train 39"]

    def test_what_is_said_is_kept_once_whatever_else_there_is_in_its_phase(
        self, held: Held, job: SdkJob, limits: Limits
    ) -> None:
        limits(stored, SAID=5)
        told = [
            Progress(phase=phase, message=message) for phase, message in (("load", "a"), ("load", "b"), ("fit", "c"))
        ]
        held.report(*(NewEvent(kind="progress", progress=each) for each in told), progress("fit", 1, total=9))
        for message in "ddefg":
            held.report(NewEvent(kind="progress", progress=Progress(phase="fit", message=message)))
            held.report(progress("fit", 2, total=9))
        found = [event.progress for event in job.events() if event.progress is not None]
        assert [each.message or each.step for each in found] == ["a", "b", "c", 1, "d", "e"]

    def test_within_a_phase_it_is_kept_seldom_and_the_job_has_the_newest(
        self, held: Held, job: SdkJob, limits: Limits
    ) -> None:
        for step in range(1, 6):
            held.report(progress(step=step, total=9, loss=1.0))
        assert shown(list(job.events())) == ["train 1"]
        assert job.state == "running"
        assert job.view.progress == Progress(phase="train", step=5, total=9, loss=1.0)
        limits(stored, PROGRESS_EVERY=timedelta(0))
        held.report(progress(step=6, total=9))
        assert shown(list(job.events())) == ["train 1", "train 6"]

    def test_the_end_of_a_phase_is_kept_once_and_so_is_the_next_phase(self, held: Held, job: SdkJob) -> None:
        for step in (1, 2, 3, 3):
            held.report(progress(step=step, total=3))
        held.report(progress("evaluate", 1, total=5))
        held.report(progress("evaluate", 2, total=5))
        held.report(progress("save"))
        assert shown(list(job.events())) == ["train 1", "train 3", "evaluate 1", "save None"]

    def test_a_new_attempt_begins_anew(self, held: Held, job: SdkJob, tmp_path: Path) -> None:
        held.report(progress(step=1, total=9))
        held.release()
        Held.claim(held.client, tmp_path).report(progress(step=1, total=9))
        assert shown([event for event in job.events() if event.kind == "progress"]) == ["train 1", "train 1"]

    def test_long_texts_are_cut(self, held: Held, job: SdkJob) -> None:
        held.report(progress("p" * 500_000, 1, total=5, message="m" * 90_000))
        kept = Progress(phase="p" * 40, step=1, total=5, message="m" * 1000)
        assert job.state == "running"
        assert job.view.progress == kept
        assert [event.progress for event in job.events() if event.progress is not None] == [kept]

    def test_phases_that_a_worker_makes_up_leave_few_rows(self, held: Held, job: SdkJob) -> None:
        for n in range(3):
            held.report(*(progress(f"{n}.{i}", step=i, total=i) for i in range(500)))
        for n in range(30):
            held.report(progress(f"phase {n}", step=n, total=n))
        assert len([event for event in job.events() if event.kind == "progress"]) == 20
        assert job.state == "running"
        assert job.view.progress == Progress(phase="phase 29", step=29, total=29)

    def test_lines_end_where_there_are_too_many_of_an_attempt(
        self, held: Held, job: SdkJob, tmp_path: Path, limits: Limits
    ) -> None:
        limits(stored, LOG_LINES=3)
        held.report(line("1"), line("2"))
        held.report(*map(line, "345"))
        held.report(line("6"))
        found = [event.message for event in job.events() if event.kind == "log"]
        assert found == [
            "1",
            "2",
            "3",
            "this attempt logged more than 3 lines; the rest are in the log of the worker w1, at the level DEBUG",
        ]
        held.release()
        Held.claim(held.client, tmp_path).report(line("anew"))
        assert [event.message for event in job.events() if event.kind == "log"] == [*found, "anew"]

    def test_states_are_not_a_workers_to_say(self, held: Held, job: SdkJob) -> None:
        held.report(NewEvent(kind="state", message="succeeded"))
        assert [event.state for event in job.events()] == ["queued", "running"]


class TestLongPoll:
    def test_it_is_answered_once_something_happens(self, people: World, held: Held, job: SdkJob) -> None:
        after = list(job.events())[-1].seq
        begun = threading.Timer(0.5, held.report, [progress(step=1, total=9)])
        begun.start()
        (found,) = job.poll_events(after=after, wait_s=PATIENCE_S)
        begun.join()
        assert found.progress.step == 1

    def test_what_another_server_process_wrote_wakes_too(self, people: World, held: Held, job: SdkJob) -> None:
        after = list(job.events())[-1].seq
        beat = Heartbeat(attempt=1, events=[progress("load")])
        other = people.impatient.claims
        begun = threading.Timer(0.5, other.heartbeat, kwargs={"job_id": job.id, "beat": beat, "who": SYSTEM})
        begun.start()
        assert shown(job.poll_events(after=after, wait_s=PATIENCE_S)) == ["load None"]
        begun.join()

    def test_an_end_is_not_waited_for(self, held: Held, job: SdkJob) -> None:
        held.fail()
        seen = list(job.events())
        began = time.monotonic()
        assert job.poll_events(after=seen[-1].seq, wait_s=30) == []
        assert time.monotonic() - began < 25

    def test_only_the_last(self, held: Held, job: SdkJob) -> None:
        held.report(*map(line, "abc"))
        assert shown(job.poll_events(last=2)) == ["b", "c"]
        (third,) = job.poll_events(last=1)
        assert job.poll_events(after=third.seq, last=1) == []

    def test_an_answer_ends_before_it_is_too_long_and_the_next_goes_on(self, held: Held, job: SdkJob) -> None:
        for begin in (0, 200, 400):
            held.report(*(line(f"{n:04}" + "東" * 3996) for n in range(begin, begin + 200)))
        read = job.poll_events
        first = read(after=0)
        assert 1_000_000 <= sum(len(event.message or "") for event in first) <= 1_000_000 + 64 * 4000
        numbers = [event.message[:4] for event in job.events() if event.kind == "log" and event.message is not None]
        assert numbers == [f"{n:04}" for n in range(600)]
        newest = read(after=0, last=500)
        assert [(event.message or "")[:4] for event in newest] == numbers[-len(newest) :]
        assert 250 <= len(newest) < 400
        assert len(read(after=0, last=65)) == 65

    def test_many_who_wait_ask_no_more_than_a_few(self, people: World, held: Held, job: SdkJob) -> None:
        # A token may have half as many.
        watchers, tokens = 60, [people.token(Role.READER) for _ in range(2)]
        after = list(job.events())[-1].seq

        async def watch_all() -> list[int]:
            limits = httpx.Limits(max_connections=watchers)
            async with httpx.AsyncClient(base_url=people.url, timeout=60, limits=limits) as client:

                async def one(token: str) -> int:
                    params, headers = {"after": after, "wait_s": 30}, {"Authorization": f"Bearer {token}"}
                    answer = await client.get(f"/api/v1/jobs/{job.id}/events", params=params, headers=headers)
                    (found,) = answer.raise_for_status().json()
                    return found["seq"]

                return await asyncio.gather(*(one(tokens[number % 2]) for number in range(watchers)))

        begun = threading.Timer(4, held.report, [progress(step=1, total=9)])
        with sent(people.services.db) as seen:
            began = time.monotonic()
            begun.start()
            seqs = asyncio.run(watch_all())
            took_s = time.monotonic() - began
        begun.join()
        assert len(set(seqs)) == 1
        asked = _about_events(seen)
        # Each looks at first, once more as the feed begins, every LOOK_S, and when it is woken; the feed looks for all.
        assert len(asked) < watchers * (3 + took_s / LOOK_S) + took_s / TICK_S + 10

    def test_who_goes_away_is_not_looked_for_any_more(self, people: World, job: SdkJob) -> None:
        after, token = list(job.events())[-1].seq, people.token(Role.READER)

        async def leave() -> None:
            headers = {"Authorization": f"Bearer {token}"}
            async with httpx.AsyncClient(base_url=people.url, headers=headers, timeout=0.5) as client:
                params = {"after": after, "wait_s": 30}
                await client.get(f"/api/v1/jobs/{job.id}/events", params=params)

        with pytest.raises(httpx.ReadTimeout):
            asyncio.run(leave())
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with sent(people.services.db) as seen:
                time.sleep(4 * TICK_S)
            if not _about_events(seen):
                return
        raise AssertionError("somebody still looks")

    def test_a_cancelled_request_leaves_no_task_and_no_thread(self, people: World, job: SdkJob) -> None:
        after, token = list(job.events())[-1].seq, people.token(Role.READER)
        before = set(threading.enumerate())

        async def cancel() -> set[str]:
            transport = httpx.ASGITransport(app=people.app)
            headers = {"Authorization": f"Bearer {token}"}
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client:
                paths = [
                    f"/api/v1/jobs/{job.id}/events?after={after}&wait_s=30",
                    f"/api/v1/jobs/{job.id}/events/stream",
                ]
                asked = [asyncio.create_task(client.get(path)) for path in paths]
                await asyncio.sleep(1)
                assert not any(task.done() for task in asked)
                for task in asked:
                    task.cancel()
                await asyncio.gather(*asked, return_exceptions=True)
                deadline = time.monotonic() + PATIENCE_S
                while len(left := asyncio.all_tasks() - {asyncio.current_task()}) and time.monotonic() < deadline:
                    await asyncio.sleep(0.05)
                return {str(task) for task in left}

        assert asyncio.run(cancel()) == set()
        wait_until(lambda: not set(threading.enumerate()) - before, timeout_s=PATIENCE_S)


def _about_events(seen: list[Statement]) -> list[Statement]:
    return [one for one in seen if "FROM job_events" in one.sql]


class Message:
    """One message of a stream."""

    def __init__(self, text: str) -> None:
        fields = [part.partition(": ") for part in text.split("\n")]
        self.fields = {name: value for name, _, value in fields}
        assert len(self.fields) == len(fields), text

    @property
    def kind(self) -> str | None:
        return self.fields.get("event")

    @property
    def data(self) -> Any:
        return json.loads(self.fields["data"])


def read(http: httpx.Client, job_id: str, *, headers: dict[str, str] | None = None, **params: Any) -> list[Message]:
    """All messages of a stream that ends."""
    target = f"/api/v1/jobs/{job_id}/events/stream"
    with http.stream("GET", target, headers=headers, params=params, timeout=120) as answer:
        assert answer.status_code == 200, answer.read()
        return [Message(text) for text in "".join(answer.iter_text()).split("\n\n") if text]


class TestStream:
    def test_a_job_is_followed_to_its_end(self, http: httpx.Client, held: Held, job: SdkJob) -> None:
        def work() -> None:
            held.report(progress(step=1, total=9, loss=2.5), line("one\ntwo\rthree\u2028"))
            held.fail("data", "the rows are odd")

        threading.Timer(1, work).start()
        first, *messages = read(http, job.id)
        assert first.fields == {"retry": "3000"}
        assert [message.kind for message in messages] == ["state", "state", "progress", "log", "state", "end"]
        events = [Event.model_validate_json(message.fields["data"]) for message in messages[:-1]]
        assert events == list(job.events())
        assert [message.fields["id"] for message in messages[:-1]] == [str(event.seq) for event in events]
        end = messages[-1].data
        assert (end["id"], end["state"], end["reason"], end["message"]) == (
            job.id,
            "failed",
            "data",
            "the rows are odd",
        )
        assert "id" not in messages[-1].fields

    def test_nobody_in_between_keeps_it_or_holds_it_back(self, http: httpx.Client, held: Held, job: SdkJob) -> None:
        held.fail()
        answer = http.get(f"/api/v1/jobs/{job.id}/events/stream")
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-accel-buffering"] == "no"
        assert "content-length" not in answer.headers

    def test_who_comes_back_goes_on_where_they_were(self, http: httpx.Client, held: Held, job: SdkJob) -> None:
        held.report(*map(line, "abc"))
        held.fail()
        seqs = [event.seq for event in job.events()]
        for given in ({"headers": {"Last-Event-ID": str(seqs[2])}}, {"after": seqs[2]}):
            found = [message for message in read(http, job.id, **given) if "id" in message.fields]  # type: ignore[arg-type]
            assert [message.fields["id"] for message in found] == [str(seq) for seq in seqs[3:]]
        both = read(http, job.id, headers={"Last-Event-ID": str(seqs[-1])}, after=0)
        assert [message.kind for message in both] == [None, "end"]

    def test_streams_that_nobody_reads_hold_little_of_what_is_to_come(
        self, people: World, held: Held, job: SdkJob
    ) -> None:
        for _ in range(4):
            held.report(*(line("東" * 4000) for _ in range(200)))
        services = people.services

        async def first_of_each(count: int) -> int:
            tracemalloc.start()
            try:
                begun = []
                for _ in range(count):
                    reader = event_stream._Reader(services.db, services.tokens, services.jobs, job.id, LOCAL, None, 0)
                    begun.append(event_stream._stream(reader, math.inf))
                    for _ in range(3):
                        await anext(begun[-1])
                held_bytes = tracemalloc.get_traced_memory()[0]
                for stream in begun:
                    await stream.aclose()
            finally:
                tracemalloc.stop()
            return held_bytes

        # All 800 events of each, of 8 KiB, would take six times that.
        assert asyncio.run(first_of_each(8)) < 8 * 1024 * 1024

    def test_a_stream_without_news_says_that_it_is_alive(self, http: httpx.Client, job: SdkJob, limits: Limits) -> None:
        limits(event_stream, _KEEP_ALIVE_S=0.1)
        found = read(http, job.id, for_s=5)
        assert [message.fields for message in found].count({":": ""}) >= 1
        assert found[-1].kind != "end"

    def test_a_revoked_token_ends_it(self, people: World, space: str, job: SdkJob, limits: Limits) -> None:
        limits(event_stream, _TRUST_S=0.2)
        token = people.services.tokens.create(name="gone", grants={space: Role.READER}, who=LOCAL)
        threading.Timer(1, people.services.tokens.revoke, [token.id], {"who": SYSTEM}).start()
        with bare_http(people.url, token.secret) as http:
            *_, last = read(http, job.id, for_s=60)
        assert last.kind == "error"
        assert last.data["error"]["code"] == "unauthenticated"

    def test_what_is_refused_is_refused_before_it_begins(
        self, people: World, http: httpx.Client, job: SdkJob, acting: Callable[..., Client]
    ) -> None:
        target = f"/api/v1/jobs/{job.id}/events/stream"
        stranger = acting(**{"other-space": Role.ADMIN}).config.token or ""
        with bare_http(people.url, stranger) as other:
            assert other.get(target).status_code == 404
        with httpx.Client(base_url=people.url) as nobody:
            assert nobody.get(target).status_code == 401
        assert http.get("/api/v1/jobs/nothing/events/stream").json()["error"]["code"] == "not_found"
        assert http.get(target, headers={"Last-Event-ID": "x"}).status_code == 422
        assert http.get(target, params={"for_s": 0}).status_code == 422

    def test_it_lists_as_much_as_there_is(self, http: httpx.Client, held: Held, job: SdkJob, limits: Limits) -> None:
        limits(event_stream, _AT_ONCE=7)
        held.report(*(line(str(number)) for number in range(50)))
        held.fail()
        found = [message.data["message"] for message in read(http, job.id) if message.kind == "log"]
        assert found == [str(number) for number in range(50)]


class TestHowMany:
    """Each who watches holds a connection and asks the database: so many of a token, of a namespace and in all."""

    @pytest.fixture
    def few(self, people: World, monkeypatch: pytest.MonkeyPatch) -> Watchers:
        watchers = people.services.watchers
        monkeypatch.setattr(watchers, "_most_of_token", 2)
        monkeypatch.setattr(watchers, "_most", 5)
        return watchers

    def test_a_token_watches_so_many_at_once_and_another_may_still(
        self, people: World, job: SdkJob, http: httpx.Client, acting: Callable[..., Client], space: str, few: Watchers
    ) -> None:
        stream, poll = f"/api/v1/jobs/{job.id}/events/stream?for_s=60", f"/api/v1/jobs/{job.id}/events"
        other = acting(**{space: Role.READER})
        with http.stream("GET", stream) as one, http.stream("GET", stream) as two:
            # Both have begun, and go on for as long as somebody holds what they come from.
            begun = [one.iter_bytes(), two.iter_bytes()]
            assert all(next(each) for each in begun)
            for path in (stream, f"{poll}?after=1000000&wait_s=5"):
                answer = http.get(path)
                assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limited")
                assert answer.headers["retry-after"] == "1"
            # Who does not wait holds nothing.
            assert http.get(poll).status_code == 200
            with bare_http(people.url, other.config.token or "") as theirs, theirs.stream("GET", stream) as third:
                begun.append(third.iter_bytes())
                assert next(begun[-1])
                refused = theirs.get(stream)
                assert "as many streams and waits open as all others may" in refused.text
                with bare_http(people.url, people.token(Role.READER)) as all_see, all_see.stream("GET", stream) as more:
                    begun.append(more.iter_bytes())
                    assert next(begun[-1])
        wait_until(lambda: not (few._by_token or few._by_payer), timeout_s=PATIENCE_S)
        assert http.get(stream.replace("for_s=60", "for_s=0.01")).status_code == 200

    def test_a_poll_that_is_over_is_not_counted(self, job: SdkJob, http: httpx.Client, few: Watchers) -> None:
        for _ in range(4):
            assert http.get(f"/api/v1/jobs/{job.id}/events?after=1000000&wait_s=0.01").status_code == 200
        assert not few._by_token

    def test_what_is_refused_is_not_counted(self, http: httpx.Client, few: Watchers) -> None:
        for path in ("events?wait_s=1", "events/stream"):
            for _ in range(4):
                assert http.get(f"/api/v1/jobs/none/{path}").status_code == 404
        assert not few._by_token
