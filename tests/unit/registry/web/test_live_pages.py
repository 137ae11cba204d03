"""What a page of the list shows, and what its stream sends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from markupsafe import escape

from registry.errors import Invalid
from registry.jobs.lines import JobFilter, JobLine
from registry.principal import Principal, Role
from registry.web.jobs.feed import JobReader, JobRow
from registry.web.jobs.listed import Listed, place_of
from registry.web.jobs.stream import cursor_of
from sdk.schemas.events import Progress

_BEGIN = datetime(2026, 12, 1, tzinfo=UTC)


def line(number: int, *, state: str = "queued", subject: str = "a", **said: object) -> JobLine:
    nothing = dict.fromkeys(("sweep", "member", "retry_of", "progress", "reason", "made", "ahead", "waits"))
    told = {"created_by": "ana", "started_at": None, "finished_at": None, "attempt": 0, "failures": 0, "stops": False}
    created_at = _BEGIN + timedelta(seconds=number)
    about = {"id": f"{number:012x}", "namespace": "team", "kind": "training", "state": state, "subject": subject}
    return JobLine(**{**nothing, **told, **about, "created_at": created_at, **said})  # type: ignore[arg-type]


def listed(*shown: JobLine, adds: bool = True, most: int = 3, **wanted: str) -> Listed:
    down_to = place_of(shown[-1]) if shown else None
    return Listed.of(JobFilter(**wanted), [each.id for each in shown], down_to, adds=adds, most=most)


def test_new_jobs_are_added_to_the_first_page_alone() -> None:
    first, later = line(1), line(2)
    assert listed(first).shows(later)
    assert not listed(first, adds=False).shows(later)
    assert listed(first, adds=False).shows(first)


def test_jobs_behind_the_page_are_not_sent() -> None:
    assert not listed(line(5)).shows(line(4))


def test_job_that_is_no_longer_listed_is_sent_once_more_where_it_was_shown() -> None:
    page = listed(line(1), state="queued")
    started = line(1, state="running")
    assert page.shows(started)
    assert "data-gone" in page.written([JobRow(started)])
    assert not page.shows(line(2, state="running"))


def test_page_forgets_the_jobs_that_new_ones_have_pushed_out() -> None:
    page = listed(line(1), line(2), line(3))
    for number in range(4, 50):
        assert page.shows(line(number))
    assert len(page.shown) <= 6
    assert not page.shows(line(2))


@pytest.mark.parametrize("place", ["x", "", "bm9uZQ", "WzEsMl0"])
def test_place_of_another_list_is_refused(place: str) -> None:
    with pytest.raises(Invalid):
        Listed.of(JobFilter(), [], place, adds=True, most=3)


def test_row_shows_text_of_tenants_as_text() -> None:
    evil = "<img src=x onerror=alert(1)>\"'&\r\n"
    progress = Progress(phase=evil, step=1, total=2)
    rows = [
        line(1, subject=evil, created_by=evil, waits=evil, ahead=1),
        line(2, state="running", progress=progress, member=evil, sweep=evil),
        line(3, state="failed", reason=evil, kind=evil),
        line(4, state="succeeded", made=f"{evil}@{evil}", subject=evil, kind="merge"),
    ]
    for each in rows:
        html = JobRow(each).html
        assert "<img" not in html
        assert str(escape("<img src=x")) in html


def test_slow_reader_is_told_to_load_the_list_again() -> None:
    follower = JobReader("", Principal("ana", {"team": Role.READER}), lambda _line: True)
    follower.take(JobRow(line(number)) for number in range(500))
    assert (follower.verdict, follower.pending) == ("reload", {})


def test_cursor_is_of_the_rights_that_a_page_was_shown_for() -> None:
    before = Principal("ana", {"team": Role.READER, "other": Role.READER})
    assert cursor_of(7, before) != cursor_of(7, Principal("ana", {"team": Role.READER}))
