"""A job by the beginning of its id: where that is of one job only, among those that the caller may see."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import pytest
from contract.jobs.helpers import Crew
from sqlalchemy import update

from registry.jobs.models import Job
from registry.principal import Role
from sdk.client import Client
from sdk.errors import InvalidInput, NotFound


@pytest.fixture
def alike(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of two jobs of which seven characters are the same."""
    real, start = secrets.token_hex, secrets.token_hex(3) + "a"
    left = iter([f"{start}a0001", f"{start}b0002"])
    monkeypatch.setattr(secrets, "token_hex", lambda size=32: next(left) if size == 6 else real(size))
    return [crew.submit().id, crew.submit().id]


def test_beginning_of_one_job_is_its_id(crew: Crew, alike: list[str]) -> None:
    for job in alike:
        assert crew.writer.job(job[:8]).id == job
        assert crew.writer.jobs.attempts(job[:8]) == []
    assert crew.writer.jobs.cancel(alike[0][:8]).id == alike[0]


def test_beginning_of_several_is_refused(crew: Crew, alike: list[str]) -> None:
    for beginning in (alike[0][:6], alike[0][:7]):
        with pytest.raises(InvalidInput, match=f"several jobs begin with '{beginning}'; write more of the id"):
            crew.writer.job(beginning)


def test_less_than_six_characters_are_no_beginning(crew: Crew, alike: list[str]) -> None:
    for text in (alike[0][:5], "", alike[0][:7] + "%", alike[0][:6].upper() + "_"):
        with pytest.raises(NotFound):
            crew.writer.job(text or "-")


def test_jobs_that_the_caller_may_not_see_are_neither_found_nor_counted(
    crew: Crew, alike: list[str], acting: Callable[..., Client], space: str
) -> None:
    if not crew.world.has_roles:
        return
    stranger = acting(**{f"{space}-other": Role.READER})
    with pytest.raises(NotFound):
        stranger.job(alike[0][:8])
    with crew.world.services.db.write() as session:
        session.execute(update(Job).where(Job.id == alike[1]).values(namespace=f"{space}-hidden"))
    # Only one of the two is left to see.
    assert crew.writer.job(alike[0][:6]).id == alike[0]
