"""Scorers of a user's own, on both databases: a job goes to a worker that has them, and is refused where none of those known has."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint
from typing import Any

import pytest
from contract.jobs.helpers import Crew

from registry.errors import Invalid
from registry.jobs import needs as known
from registry.jobs.models import Job
from registry.jobs.needs import scorers_in
from registry.principal import LOCAL, Role
from sdk.client import Client
from sdk.errors import InvalidInput
from sdk.schemas.evaluation import EvaluationSpec
from sdk.schemas.job_requests import BaseChoice, EvaluationRequest, EvaluationTarget
from sdk.schemas.jobs import JobSubmission, JobView, Needs
from sdk.schemas.work import MOST_SCORERS, SCORERS_GROUP, ScorerInfo
from sdk.version import VERSION


def asking(crew: Crew, *scorers: str, **how: Any) -> JobSubmission:
    request = EvaluationRequest(
        targets=[EvaluationTarget(base=BaseChoice(id="tiny"))],
        data=crew.data,
        spec=EvaluationSpec(scorers=list(scorers) or None),
    )
    return JobSubmission(request=request, **how)


def evaluate(crew: Crew, *scorers: str, **how: Any) -> JobView:
    return crew.writer.call("POST", "/jobs", JobView, body=asking(crew, *scorers, **how))


def of(*names: str) -> dict[str, Any]:
    """What a worker says of itself that has these scorers."""
    return {
        "version": VERSION,
        "scorers": [ScorerInfo(name=name, distribution="house-scorers", version="1.0") for name in names],
    }


class TestWordNet:
    def test_a_job_goes_to_a_worker_that_has_it_and_is_refused_where_none_has(self, crew: Crew) -> None:
        asked = asking(crew)
        spec = EvaluationSpec(metrics=["meteor", "rouge_l"])
        body = asked.model_copy(update={"request": asked.request.model_copy(update={"spec": spec})})
        crew.claim(name="none", **of("polite"))
        with pytest.raises(
            InvalidInput, match=r"^no worker has WordNet, which meteor needs; set ADAPTER_WORKER_WORDNET"
        ) as refused:
            crew.writer.call("POST", "/jobs", JobView, body=body)
        assert refused.value.param == "spec.metrics"
        crew.claim(name="has", **of("wordnet"))
        job = crew.writer.call("POST", "/jobs", JobView, body=body)
        assert crew.claim(name="none", **of("polite")) is None
        assert crew.hold(name="has", **of("wordnet")).job == job.id


class TestScorers:
    def test_a_job_goes_to_a_worker_that_has_all_of_them(self, crew: Crew) -> None:
        crew.claim(name="old", version=VERSION)
        job = evaluate(crew, "polite", "polite_long")
        assert crew.claim(name="none", **of()) is None
        assert crew.claim(name="part", **of("polite", "long")) is None
        assert crew.claim(name="other", **of("polite_long")) is None
        assert crew.hold(name="both", **of("long", "polite_long", "polite")).job == job.id

    def test_a_worker_may_have_as_many_as_it_can_say(self, crew: Crew) -> None:
        job = evaluate(crew, "polite", "polite_long")
        many = [f"s{number}" for number in range(MOST_SCORERS - 2)]
        assert crew.claim(name="none", **of(*many, "polite", "politexlong")) is None
        assert crew.hold(name="both", **of(*many, "polite_long", "polite")).job == job.id

    def test_a_worker_that_does_not_say_what_it_has_is_given_any(self, crew: Crew) -> None:
        assert crew.claim(name="old", version=VERSION) is None
        job = evaluate(crew, "polite")
        assert crew.hold(name="old", version=VERSION).job == job.id

    def test_a_job_that_asks_for_none_goes_anywhere(self, crew: Crew) -> None:
        job = evaluate(crew)
        assert crew.hold(**of()).job == job.id

    def test_one_that_no_known_worker_has_is_refused_with_those_that_there_are(self, crew: Crew) -> None:
        # Nobody knows which workers will come.
        waiting = evaluate(crew, "rude")
        assert crew.claim(name="one", **of("polite")) is None
        assert crew.view(waiting.id).waits == (
            "no worker has the scorer rude (there is polite of house-scorers 1.0); install what brings it on the workers, and"
            " start them again"
        )
        assert crew.claim(name="two", **of("brief")) is None
        with pytest.raises(
            InvalidInput, match=r"no worker has the scorer rude \(there are brief of house-scorers 1\.0, polite of"
        ) as caught:
            evaluate(crew, "polite", "rude")
        assert caught.value.param == "spec.scorers"
        with pytest.raises(InvalidInput, match=r"no worker has all of the scorers brief, polite; install them on one"):
            evaluate(crew, "polite", "brief")
        evaluate(crew, "polite")

    def test_of_a_worker_that_works_elsewhere_too_nothing_else_is_named(
        self, crew: Crew, acting: Callable[..., Client]
    ) -> None:
        shared = acting(**{crew.space: Role.WORKER, f"{crew.space}-next": Role.WORKER})
        assert crew.claim(shared, name="shared", **of("house_secret")) is None
        said = "no worker has the scorer rude; install what brings it on the workers, and start them again"
        with pytest.raises(InvalidInput, match=f"{said}, or leave it out"):
            evaluate(crew, "rude")
        waiting = evaluate(crew, "house_secret")
        crew.claim(shared, name="shared", **of("polite"))
        assert crew.view(waiting.id).waits == said.replace("rude", "house_secret")
        # Whoever reads in both is told what there is, as in the list of workers.
        both = acting(**{crew.space: Role.WRITER, f"{crew.space}-next": Role.READER})
        with pytest.raises(InvalidInput, match=r"rude \(there is polite of house-scorers 1\.0\)"):
            both.call("POST", "/jobs", JobView, body=asking(crew, "rude"))

    def test_what_is_said_of_a_job_that_waits_is_of_workers_that_have_them(self, crew: Crew) -> None:
        job = evaluate(crew, "polite", needs=Needs(memory_bytes=2**35))
        assert crew.claim(name="has", **of("polite")) is None
        assert crew.claim(name="large", memory_bytes=2**36, free_memory_bytes=2**36, **of()) is None
        assert crew.view(job.id).waits == (
            "it needs 32.0 GiB of memory, and the largest worker that may run it has 16.0 GiB"
        )
        crew.writer.jobs.cancel(job.id)
        first = evaluate(crew, "polite")
        second = evaluate(crew, "polite")
        assert crew.hold(name="has", **of("polite")).job == first.id
        assert crew.claim(name="idle", **of()) is None
        assert crew.view(second.id).waits == "every worker that may run it is busy"

    def test_what_is_tried_again_asks_for_the_same(self, crew: Crew) -> None:
        job = evaluate(crew, "polite")
        crew.writer.jobs.cancel(job.id)
        again = crew.writer.call("POST", f"/jobs/{job.id}/retry", JobView)
        assert crew.claim(**of()) is None
        assert crew.hold(**of("polite")).job == again.id

    def test_an_embedded_registry_refuses_what_its_environment_lacks(
        self, crew: Crew, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        home = crew.services(embedded_home=str(crew.tmp_path))
        with pytest.raises(
            Invalid, match=r"this environment has no scorer polite \(there is none\); install"
        ) as caught:
            home.jobs.submit(submission=asking(crew, "polite"), who=LOCAL)
        assert caught.value.param == "spec.scorers"
        there = EntryPoint("polite", "house_scorers:polite", SCORERS_GROUP)
        monkeypatch.setattr(known, "entry_points", lambda *, group: [there])
        with pytest.raises(Invalid, match=r"has no scorer brief \(there is polite\)"):
            home.jobs.submit(submission=asking(crew, "polite", "brief"), who=LOCAL)
        # Its runner ends where it is given nothing, and the job would wait for ever.
        found = home.jobs.submit(submission=asking(crew, "polite"), who=LOCAL)
        with home.db.write() as session:
            job = session.get_one(Job, found.id)
            assert scorers_in(job.needs) == set()
            session.delete(job)

    def test_workers_show_what_they_have(self, crew: Crew) -> None:
        crew.claim(name="says", **of("polite"))
        crew.claim(name="silent", version=VERSION)
        shown = {worker.name: worker.scorers for worker in crew.world.admin.workers()}
        assert shown["says"] == of("polite")["scorers"]
        assert shown["silent"] is None
