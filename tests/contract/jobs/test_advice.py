"""What a training's own numbers advise is kept with its result and its version, and can be followed by a new job."""

from __future__ import annotations

import pytest
from contract.jobs.helpers import Crew
from support import calls
from support.adapters import SPEC

from sdk.errors import Conflict, VerificationFailed
from sdk.schemas.advice import Advice
from sdk.schemas.jobs import JobView
from sdk.schemas.work import Assignment, Heartbeat, HeartbeatReply

BY_HEART = Advice(
    rule="by_heart", message="the held-out loss is 7 % higher now; try --epochs 1", changes={"epochs": 1.0}
)
SPIKES = Advice(rule="spikes", message="the loss jumped at 3 steps", changes={"max_grad_norm": 0.3, "epochs": 2.0})
ROWS = Advice(rule="spikes", message="look at the rows")
WORSE = {"loss": 1.0, "eval_loss_base": 2.0, "eval_loss": 2.5}


def advised(crew: Crew, *advice: Advice, **submitted: object) -> JobView:
    """A training that ended with advice."""
    crew.submit(**submitted)
    training = {"advice": ",".join(one.rule for one in advice)} if advice else {}
    version = crew.publication(metrics=WORSE, training=training)
    return calls.complete(crew.worker, crew.hold(), version=version, advice=list(advice))


class TestKept:
    def test_advice_is_among_the_warnings_of_job_and_version_and_replaces_what_two_losses_say(self, crew: Crew) -> None:
        done = advised(crew, BY_HEART, SPIKES)
        version = crew.writer.get(done.result["ref"]).info
        assert done.result["warnings"] == version.warnings == [BY_HEART.message, SPIKES.message]
        assert done.result["advice"] == [one.model_dump() for one in (BY_HEART, SPIKES)]
        assert version.training["advice"] == "by_heart,spikes"

    def test_a_training_without_advice_has_the_warnings_of_its_losses(self, crew: Crew) -> None:
        done = advised(crew)
        (said,) = done.result["warnings"]
        assert said.startswith("the loss of the held-out rows rose from 2 to 2.5")
        assert "advice" not in done.result


def told(crew: Crew, held: Assignment, *advice: Advice) -> JobView:
    """The job once its worker has said what it is advised so far."""
    beat = Heartbeat(attempt=held.attempt, advice=list(advice))
    crew.worker.call("POST", f"/jobs/{held.job}/heartbeat", HeartbeatReply, body=beat)
    return crew.view(held.job)


class TestOnTheWay:
    def test_advice_is_shown_while_it_runs_and_stays_until_there_is_news(self, crew: Crew) -> None:
        crew.submit()
        held = crew.hold()
        assert told(crew, held).advice == []
        assert told(crew, held, SPIKES).advice == [SPIKES]
        assert told(crew, held).advice == [SPIKES]
        shown = told(crew, held, SPIKES, BY_HEART)
        assert (shown.advice, shown.result) == ([SPIKES, BY_HEART], None)
        done = calls.complete(crew.worker, held, version=crew.publication(metrics=WORSE), advice=[BY_HEART])
        assert done.advice == crew.view(held.job).advice == [BY_HEART]

    def test_a_result_without_advice_has_none(self, crew: Crew) -> None:
        crew.submit()
        held = crew.hold()
        told(crew, held, SPIKES)
        assert crew.complete(held).advice == []

    @pytest.mark.parametrize("end", ["failed", "cancelled"])
    def test_one_that_ends_without_a_result_keeps_it_and_can_be_run_again_as_it_is_advised(
        self, crew: Crew, end: str
    ) -> None:
        job = crew.submit()
        held = crew.hold()
        told(crew, held, SPIKES)
        if end == "cancelled":
            crew.writer.jobs.cancel(job.id)
        crew.fail(held, "diverged" if end == "failed" else "cancelled")
        shown = crew.view(job.id)
        assert (shown.state, shown.advice) == (end, [SPIKES])
        again = crew.writer.jobs.retry(job.id, advice=True).view
        assert again.request["spec"] == {**job.request["spec"], **SPIKES.changes}
        assert (again.retry_of, again.advice) == (job.id, [])

    def test_another_attempt_begins_without_it(self, crew: Crew) -> None:
        job = crew.submit()
        held = crew.hold()
        told(crew, held, SPIKES)
        crew.release(held)
        assert crew.view(job.id).advice == [SPIKES]
        assert told(crew, crew.hold()).advice == []

    def test_more_than_workers_send_is_not_kept(self, crew: Crew) -> None:
        crew.submit()
        long = Advice(rule="long", message="x", changes={"chat_template": "x" * 20_000})
        assert told(crew, crew.hold(), long).advice == []


class TestFollowed:
    def test_a_training_is_run_again_from_the_beginning_with_what_the_first_advice_changes(self, crew: Crew) -> None:
        job = crew.submit(priority=3, timeout_s=60.0)
        held = crew.hold()
        crew.checkpoint(held, 10)
        version = crew.publication(training={"advice": "by_heart,spikes"})
        done = calls.complete(crew.worker, held, version=version, advice=[BY_HEART, SPIKES])
        with pytest.raises(Conflict, match="is succeeded"):
            crew.writer.jobs.retry(job.id)
        again = crew.writer.jobs.retry(job.id, advice=True).view
        changed = {**done.request["spec"], "epochs": 1.0, "max_grad_norm": 0.3}
        assert (again.request["spec"], again.retry_of, again.priority) == (changed, job.id, 3)
        given = crew.hold()
        assert (given.job, given.checkpoint, given.timeout_s) == (again.id, None, 60.0)
        assert (given.request.spec.epochs, given.request.spec.max_grad_norm) == (1.0, 0.3)
        made = crew.complete(given, training={"max_grad_norm": 0.3, "epochs": 1.0})
        record = crew.writer.get(made.result["ref"]).info.training
        assert record["retry_of"] == job.id
        assert record["changed"] == f"epochs 1 in place of {SPEC.epochs:g}, max_grad_norm 0.3 in place of the default"

    def test_the_same_key_gives_the_same_job_and_another_request_none(self, crew: Crew) -> None:
        job = advised(crew, BY_HEART)
        made = {crew.writer.jobs.retry(job.id, advice=True, idempotency_key="again").id for _ in range(2)}
        assert len(made) == 1
        with pytest.raises(Conflict, match="another"):
            crew.writer.jobs.retry(job.id, idempotency_key="again")

    def test_a_retry_without_changes_records_none(self, crew: Crew) -> None:
        job = crew.submit()
        crew.fail(crew.hold(), "diverged")
        crew.writer.jobs.retry(job.id)
        made = crew.complete(crew.hold())
        assert {"retry_of", "changed"}.isdisjoint(crew.writer.get(made.result["ref"]).info.training)

    def test_there_is_nothing_to_follow_without_advice_that_changes_an_option(self, crew: Crew) -> None:
        queued = crew.submit()
        with pytest.raises(Conflict, match="is queued, and what to change is only known when it has ended"):
            crew.writer.jobs.retry(queued.id, advice=True)
        crew.fail(crew.hold(), "diverged")
        for job in (queued, advised(crew), advised(crew, ROWS)):
            with pytest.raises(Conflict, match="has no advice that changes an option") as caught:
                crew.writer.jobs.retry(job.id, advice=True)
            assert caught.value.param == "advice"

    @pytest.mark.parametrize("changes", [{"epochs": -1.0}, {"of_a_newer_release": 1}])
    def test_advice_that_does_not_fit_the_options_is_refused(self, crew: Crew, changes: dict[str, float]) -> None:
        job = advised(crew, BY_HEART.model_copy(update={"changes": changes}))
        with pytest.raises(Conflict, match="doesn't fit its other options"):
            crew.writer.jobs.retry(job.id, advice=True)

    def test_a_worker_may_not_say_which_job_a_training_repeats(self, crew: Crew) -> None:
        crew.submit()
        held = crew.hold()
        for name in ("retry_of", "changed"):
            with pytest.raises(VerificationFailed, match="not what the job asked for") as caught:
                crew.complete(held, training={name: "3f1c2a9b7d20"})
            assert caught.value.param == f"training.{name}"
