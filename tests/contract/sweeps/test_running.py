"""A sweep from its beginning to the version of its winner."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contract.sweeps.helpers import ROWS, Desk, packed
from sqlalchemy import update
from support import calls
from support.compared import scored
from support.scored_rows import report_of, write_file
from support.usage import differing, mismeasured

from registry.db.database import Database
from registry.db.types import utc_now
from registry.errors import DoesNotFit, Verification
from registry.jobs.models import Attempt
from registry.jobs.service import PreparedJob
from registry.principal import Principal
from registry.sweeps import rungs
from registry.sweeps.choosing import Contest
from registry.sweeps.ending import SweepEnding
from registry.sweeps.models import Sweep
from registry.sweeps.present import present_sweeps
from sdk.api import sweeps, work
from sdk.errors import Conflict, InvalidInput, VerificationFailed
from sdk.schemas.job_requests import TrainingRequest
from sdk.schemas.jobs import JobSubmission
from sdk.schemas.sweep_axes import Range, Values
from sdk.schemas.sweeps import RungReached, SweepSubmission


class TestGrid:
    def test_winner_becomes_a_version_with_the_sweep_in_its_record(self, desk: Desk) -> None:
        sweep = desk.begin()
        assert (sweep.state, sweep.most_members, len(sweep.members)) == ("running", 3, 3)
        desk.train_all(1.2, 0.9, 1.1)
        ended = desk.view(sweep)
        assert (ended.state, ended.winner, ended.message) == ("ended", 2, None)
        assert [(member.state, member.outcome, member.ref) for member in ended.members] == [
            ("succeeded", "finished", None),
            ("succeeded", "finished", f"{desk.crew.space}/a@v1"),
            ("succeeded", "finished", None),
        ]
        version = desk.writer.get(f"{desk.crew.space}/a@v1").info
        assert version.training is not None
        assert version.training["sweep"] == f"{sweep.id}/2"
        assert version.job is not None
        assert (version.job.id, version.metrics["eval_loss"]) == (ended.members[1].job, 0.9)
        (listed,) = desk.writer.sweeps()
        assert (listed.view.members, listed.view.ref) == ([], version.ref)
        # What lists leave out is fetched when it is asked for.
        assert listed.winner == version.ref
        assert (len(listed.members), listed.verdict) == (3, ended.verdict)

    def test_verdict_says_which_settings_are_worse(self, desk: Desk) -> None:
        sweep = desk.begin()
        desk.train_all(1.2, 0.9, 0.9001)
        verdict = desk.view(sweep).verdict
        assert verdict is not None
        assert [(one.trial, one.outcome) for one in verdict.settings] == [(2, "best"), (3, "as good"), (1, "worse")]
        assert verdict.recommendation
        assert (verdict.metric, verdict.rows, verdict.told_apart) == ("eval_loss", ROWS, False)
        assert verdict.settings[0].score == pytest.approx(0.9)

    def test_attempts_are_summed_up_and_settings_that_are_stored_are_not_looked_at_again(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        began, services = utc_now(), desk.world.services
        sweep = desk.begin()
        desk.train_all(1.0, 0.9)
        with services.db.write() as session:
            for member, took_s in zip(sweep.members, (1.5, 2.25), strict=False):
                ended = began + timedelta(seconds=took_s)
                session.execute(
                    update(Attempt).where(Attempt.job_id == member.job).values(started_at=began, finished_at=ended)
                )
        monkeypatch.setattr("sdk.schemas.sweeps.require_distinct", lambda spec, settings: pytest.fail("looked at"))
        with services.db.read() as session:
            (view,) = present_sweeps(session, [session.get_one(Sweep, sweep.id)])
        assert view.request.settings == sweep.request.settings
        assert view.train_s == pytest.approx(3.75, abs=0.01)

    def test_what_it_takes_is_counted_and_given_back(self, desk: Desk) -> None:
        before = desk.writer.quotas.get(desk.crew.space).checkpoints_bytes
        sweep = desk.begin()
        desk.finish(desk.hold(), 1.0)
        assert desk.writer.quotas.get(desk.crew.space).checkpoints_bytes > before
        desk.train_all(0.9, 0.8)
        assert (differing(desk.world), mismeasured(desk.world.services, desk.crew.space)) == ({}, [])
        desk.world.services.checkpoints.expire()
        assert desk.writer.quotas.get(desk.crew.space).checkpoints_bytes == before
        assert desk.crew.checkpoints(desk.view(sweep).members[0].job) == []
        assert differing(desk.world) == {}

    def test_nothing_is_published_and_all_are_kept_if_asked(self, desk: Desk) -> None:
        sweep = desk.begin(publish="none")
        desk.train_all(1.0, 0.9, 1.1)
        desk.world.services.checkpoints.expire()
        ended = desk.view(sweep)
        assert (ended.state, ended.winner, [member.ref for member in ended.members]) == ("ended", 2, [None] * 3)
        assert all(len(desk.crew.checkpoints(member.job)) == 1 for member in ended.members)

    def test_what_is_kept_is_forgotten_in_time_and_still_shown(self, desk: Desk) -> None:
        services = desk.world.services
        sweep = desk.begin(publish="none")
        desk.train_all(1.0, 0.9, 1.1)
        shown = desk.view(sweep)
        assert services.expiry.run()["sweeps"] == 0
        with services.db.write() as session:
            old = utc_now() - timedelta(days=services.settings.keep_sweeps_days + 1)
            session.execute(update(Sweep).where(Sweep.id == sweep.id).values(finished_at=old))
        assert services.expiry.run()["sweeps"] == 1
        services.checkpoints.expire()
        assert all(desk.crew.checkpoints(member.job) == [] for member in shown.members)
        assert (differing(desk.world), mismeasured(services, desk.crew.space)) == ({}, [])
        after = desk.view(sweep)
        assert (after.members, after.verdict) == (shown.members, shown.verdict)
        assert services.expiry.run()["sweeps"] == 0

    def test_all_are_published_and_the_best_is_the_latest(self, desk: Desk) -> None:
        sweep = desk.begin(publish="all")
        desk.train_all(0.8, 0.9, 1.1)
        numbers = [int(str(member.ref).rpartition("@v")[2]) for member in desk.view(sweep).members]
        assert numbers == [3, 1, 2]
        assert desk.writer.get(f"{desk.crew.space}/a").info.metrics["eval_loss"] == 0.8

    @pytest.mark.parametrize("threads", [None, 2])
    def test_members_compute_in_as_many_threads_as_asked(self, desk: Desk, threads: int | None) -> None:
        desk.begin(threads=threads)
        request = desk.hold().request
        assert isinstance(request, TrainingRequest)
        assert request.sweep is not None
        assert request.sweep.threads == threads

    def test_member_that_can_not_be_published_keeps_no_other_from_it(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sweep = desk.begin(publish="all", settings={"lr": Values(values=[1e-4, 2e-4, 4e-4, 8e-4])})
        losses = np.full(ROWS, np.nan)
        desk.finish(desk.hold(), 0.1, row_losses=packed(losses))
        publish = SweepEnding._publish

        def refusing(self: SweepEnding, sweep: Sweep, number: int, *, who: Principal) -> None:
            if number == 2:
                raise Verification("a file is not what it should be")
            publish(self, sweep, number, who=who)

        monkeypatch.setattr(SweepEnding, "_publish", refusing)
        desk.train_all(1.0, 0.9, 1.1)
        ended = desk.view(sweep)
        name = f"{desk.crew.space}/a"
        assert [member.ref for member in ended.members] == [None, None, f"{name}@v2", f"{name}@v1"]
        assert ended.members[1].reason == "could not be made a version: a file is not what it should be"
        assert (ended.state, ended.message) == ("ended", "members 2 could not be made versions")

    def test_scores_that_can_not_be_compared_end_it_with_a_message(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sweep = desk.begin()

        def judged(self: Contest, rows: object) -> None:
            raise ValueError

        monkeypatch.setattr(Contest, "judged", judged)
        desk.train_all(1.0, 0.9, 1.1)
        ended = desk.view(sweep)
        assert (ended.state, ended.winner) == ("ended", None)
        assert "could not be compared" in str(ended.message)

    def test_no_more_wait_or_run_than_may(self, desk: Desk) -> None:
        sweep = desk.begin(parallel=1, seeds=2, settings={"lr": Values(values=[1e-4, 2e-4])})
        for number in range(4):
            members = desk.view(sweep).members
            assert [member.state for member in members[number:]] == ["queued"]
            held = desk.hold()
            assert desk.crew.claim() is None
            desk.finish(held, 1.0 - number / 10)
        ended = desk.view(sweep)
        assert [(member.trial, member.seed) for member in ended.members] == [(1, 0), (1, 1), (2, 0), (2, 1)]
        assert (ended.state, ended.winner) == ("ended", 4)
        assert ended.verdict is not None
        assert ended.verdict.settings[0].score == pytest.approx(0.75)

    def test_failed_member_is_shown_and_the_others_are_compared(self, desk: Desk) -> None:
        sweep = desk.begin()
        desk.crew.fail(desk.hold(), "data", "row 7 is empty")
        desk.train_all(0.9, 1.0)
        ended = desk.view(sweep)
        assert (ended.members[0].state, ended.members[0].reason) == ("failed", "row 7 is empty")
        assert (ended.state, ended.winner) == ("ended", 2)
        assert ended.verdict is not None
        assert [one.outcome for one in ended.verdict.settings][-1] == "failed"

    def test_losses_that_are_no_numbers_win_nothing(self, desk: Desk) -> None:
        sweep = desk.begin()
        losses = np.full(ROWS, 0.1)
        losses[3] = np.nan
        desk.finish(desk.hold(), 0.1, row_losses=packed(losses))
        desk.train_all(0.9, 1.0)
        ended = desk.view(sweep)
        assert ended.winner == 2
        assert ended.verdict is not None
        assert [(one.trial, one.outcome) for one in ended.verdict.settings][-1] == (1, "failed")

    def test_sweep_without_any_score_ends_without_a_winner(self, desk: Desk) -> None:
        sweep = desk.begin()
        for _ in range(3):
            desk.crew.fail(desk.hold(), "data")
        desk.go_on()
        ended = desk.view(sweep)
        assert (ended.state, ended.winner, ended.verdict) == ("ended", None, None)
        assert "no member has a score" in str(ended.message)

    def test_member_scored_on_other_tokens_is_not_compared(self, desk: Desk) -> None:
        sweep = desk.begin()
        desk.train_all(0.9)
        desk.finish(desk.hold(), 0.1, rows=ROWS + 1)
        desk.train_all(1.0)
        ended = desk.view(sweep)
        assert ended.winner == 1
        assert ended.verdict is not None
        assert "member 2 was scored on other held-out tokens" in ended.verdict.notes[0]
        assert [(one.trial, one.outcome) for one in ended.verdict.settings][-1] == (2, "not compared")

    def test_numbers_that_can_not_be_of_rows_are_refused(self, desk: Desk) -> None:
        desk.begin()
        held = desk.hold()
        with pytest.raises(VerificationFailed, match="float32"):
            desk.finish(held, 0.1, row_losses="AAAA")
        with pytest.raises(VerificationFailed, match="as many"):
            desk.finish(held, 0.1, row_losses=packed([1.0]))
        for weight in (-1.0, np.inf, np.nan):
            with pytest.raises(VerificationFailed, match="none below 0"):
                desk.finish(held, 0.1, row_weights=packed([weight, *[4.0] * (ROWS - 1)]))
        with pytest.raises(VerificationFailed, match="none below 0"):
            desk.finish(held, 0.1, row_weights=packed([0.0] * ROWS))
        with pytest.raises(VerificationFailed, match=r"eval_loss is 0\.1"):
            desk.finish(held, 0.1, row_losses=packed([4.0] * ROWS))
        with pytest.raises(InvalidInput, match="what became of it"):
            desk.crew.complete(held)


class TestEvaluated:
    def score(self, desk: Desk, rouge: float) -> None:
        """Do the evaluation that is given out next."""
        held = desk.crew.hold(kinds=["evaluation"])
        (target,) = held.targets
        rows = [
            row.model_copy(update={"scores": {"rouge_l": row.scores["rouge_l"]}})
            for row in scored(ROWS, rouge=rouge, noise=0.01)
        ]
        path = desk.crew.tmp_path / f"rows-{held.job}"
        file = write_file(path, rows)
        upload = desk.crew.worker.uploader.upload({file.digest: path}, "sending", desk.crew.space)
        calls.complete(
            desk.crew.worker, held, evaluations=[calls.scored(target, report=report_of(rows, file), upload=upload)]
        )
        desk.go_on()

    def test_best_is_chosen_by_an_evaluation_of_each_member(self, desk: Desk) -> None:
        sweep = desk.begin(choose="rouge_l", parallel=1)
        for rouge in (0.4, 0.6, 0.5):
            # Each is scored as soon as it has ended, while the next one waits.
            # What a training says of itself chooses nothing.
            desk.finish(desk.crew.hold(kinds=["training"]), 1.0, metrics={"rouge_l": 1.0 - rouge})
            self.score(desk, rouge)
        ended = desk.view(sweep)
        assert (ended.state, ended.winner) == ("ended", 2)
        assert ended.members[1].metrics["rouge_l"] == pytest.approx(0.6, abs=0.02)
        verdict = ended.verdict
        assert verdict is not None
        assert (verdict.metric, verdict.lower_is_better, verdict.rows) == ("rouge_l", False, ROWS)
        assert [(one.trial, one.outcome) for one in verdict.settings] == [(2, "best"), (3, "worse"), (1, "worse")]

    def test_training_alone_gives_no_score_that_chooses(self, desk: Desk) -> None:
        sweep = desk.begin(choose="rouge_l")
        desk.finish(desk.crew.hold(kinds=["training"]), 1.0, metrics={"rouge_l": 1.0})
        for _ in range(2):
            desk.crew.fail(desk.crew.hold(kinds=["training"]), "data")
        desk.crew.fail(desk.crew.hold(kinds=["evaluation"]), "data")
        desk.go_on()
        ended = desk.view(sweep)
        assert (ended.state, ended.winner, "rouge_l" in ended.members[0].metrics) == ("ended", None, False)

    def test_classifications_are_chosen_by_their_accuracy(self, desk: Desk, tmp_path: Path) -> None:
        digests = []
        for name in ("train", "held"):
            path = tmp_path / f"{name}.jsonl"
            path.write_text("".join(f'{{"text": "{name} {n}", "label": "{n % 2}"}}\n' for n in range(ROWS)))
            digests.append(desk.writer.datasets.add(path, namespace=desk.crew.space).digest)
        sweep = desk.begin(choose="accuracy", training={"data": digests[0], "eval_data": digests[1]})
        assert (sweep.state, len(sweep.members)) == ("running", 3)

    def test_members_of_which_none_can_be_scored_are_kept_and_say_why(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sweep = desk.begin(choose="rouge_l", settings={"lr": Values(values=[1e-4, 2e-4])})
        prepare = desk.world.services.jobs.prepare

        def too_large(submission: JobSubmission, *, who: Principal) -> PreparedJob:
            if submission.request.kind == "evaluation":
                raise DoesNotFit("every worker is too small; use a larger one")
            return prepare(submission, who=who)

        desk.finish(desk.crew.hold(kinds=["training"]), 1.0)
        desk.crew.fail(desk.crew.hold(kinds=["evaluation"]), "data", "no answers")
        monkeypatch.setattr(desk.world.services.jobs, "prepare", too_large)
        desk.finish(desk.crew.hold(kinds=["training"]), 1.1)
        ended = desk.view(sweep)
        assert (ended.state, ended.winner) == ("ended", None)
        assert "none was scored by rouge_l" in str(ended.message)
        assert [member.reason for member in ended.members] == [
            "its scoring failed: no answers",
            "could not be scored: every worker is too small; use a larger one",
        ]
        desk.world.services.checkpoints.expire()
        assert all(len(desk.crew.checkpoints(member.job)) == 1 for member in ended.members)


class TestStopping:
    def test_paused_sweep_begins_nothing_until_it_goes_on(self, desk: Desk) -> None:
        sweep = desk.begin(parallel=1)
        held = desk.hold()
        assert sweeps.pause(desk.writer.transport, sweep.id).state == "paused"
        desk.finish(held, 1.0)
        assert desk.crew.claim() is None
        assert sweeps.go(desk.writer.transport, sweep.id).state == "running"
        desk.train_all(0.9, 1.1)
        assert desk.view(sweep).winner == 2
        with pytest.raises(Conflict, match="is ended"):
            sweeps.pause(desk.writer.transport, sweep.id)

    def test_cancelled_sweep_ends_with_its_members(self, desk: Desk) -> None:
        sweep = desk.begin(parallel=2)
        desk.finish(desk.hold(), 1.0)
        held = desk.hold()
        cancelled = sweeps.cancel(desk.writer.transport, sweep.id)
        assert cancelled.state == "cancelled"
        assert desk.finish(held, 1.0).state == "cancelled"
        assert [member.state for member in desk.view(sweep).members] == ["succeeded", "cancelled", "cancelled"]
        assert desk.crew.claim() is None
        assert sweeps.cancel(desk.writer.transport, sweep.id).state == "cancelled"
        desk.world.services.checkpoints.expire()
        assert desk.crew.checkpoints(cancelled.members[0].job) == []

    def test_members_that_end_while_a_sweep_is_cancelled_stay_as_they_are(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sweep = desk.begin()
        desk.train_all(1.0)
        # As they were found a moment ago.
        jobs = [member.job for member in sweep.members]
        monkeypatch.setattr("registry.sweeps.service.unfinished_jobs", lambda session, sweep_id: jobs)
        assert sweeps.cancel(desk.writer.transport, sweep.id).state == "cancelled"
        assert [member.state for member in desk.view(sweep).members] == ["succeeded", "cancelled", "cancelled"]

    def test_used_up_budget_begins_no_further_member(self, desk: Desk) -> None:
        sweep = desk.begin(parallel=1, max_gpu_hours=1e-9)
        desk.train_all(1.0)
        ended = desk.view(sweep)
        assert (ended.state, ended.winner, len(ended.members)) == ("ended", 1, 1)
        assert "members have trained for" in str(ended.message)
        timed = desk.begin(parallel=1, max_time_s=0.001)
        # It may take longer than that to begin.
        if timed.state == "running":
            desk.train_all(1.0)
        assert "that it may take" in str(desk.view(timed).message)


class TestRungs:
    def reach(self, desk: Desk, held: object, loss: float, *, rung: int = 0) -> bool:
        reached = RungReached(attempt=held.attempt, rung=rung, step=3, loss=loss)  # type: ignore[attr-defined]
        return work.ask_at_rung(desk.crew.worker.transport, held.job, reached, timeout_s=60.0).goes_on  # type: ignore[attr-defined]

    def test_the_same_answer_is_given_again(self, desk: Desk) -> None:
        sweep = desk.begin(stop_early="halving")
        first, second, third = desk.hold(), desk.hold(), desk.hold()
        assert first.request.sweep is not None
        assert first.request.sweep.rungs == [0.1, 0.4]
        assert [self.reach(desk, first, 1.0), self.reach(desk, third, 0.9)] == [True, True]
        assert [self.reach(desk, second, 1.2), self.reach(desk, second, 0.1)] == [False, False]
        assert [self.reach(desk, third, 0.8, rung=1), self.reach(desk, first, 0.81, rung=1)] == [True, False]
        desk.crew.release(second)
        again = desk.hold()
        assert (again.job, self.reach(desk, again, 0.1)) == (second.job, False)
        desk.finish(again, 0.5, outcome="pruned", steps=3)
        desk.finish(first, 1.0, outcome="pruned", steps=12)
        desk.finish(third, 0.9)
        ended = desk.view(sweep)
        assert (ended.winner, ended.members[1].outcome, ended.members[1].steps) == (3, "pruned", 3)
        assert ended.verdict is not None
        assert [one.outcome for one in ended.verdict.settings][-1] == "pruned"

    def test_other_seeds_of_a_setting_are_told_what_its_first_was(self, desk: Desk) -> None:
        sweep = desk.begin(stop_early="halving", seeds=2)
        held = [desk.hold() for _ in sweep.members]
        assert len(held) == 6
        assert [member.setting for member in sweep.members][:2] == [sweep.members[0].setting] * 2
        # Alone, the second seed of the first setting would be ended, and that of the third would go on.
        losses = [1.0, 9.0, 1.1, 1.0, 2.0, 0.5]
        assert [self.reach(desk, one, loss) for one, loss in zip(held, losses, strict=True)] == [True] * 4 + [False] * 2
        for one, loss in zip(held, losses, strict=True):
            desk.finish(one, loss, **({"outcome": "pruned", "steps": 3} if one in held[4:] else {}))
        ended = desk.view(sweep)
        assert ended.verdict is not None
        assert [one.outcome == "pruned" for one in ended.verdict.settings] == [False, False, True]
        assert ended.winner in (3, 4)

    def test_what_was_asked_for_is_read_while_nobody_waits(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        begin, read, events = Database.write, rungs.submission_of, []

        @contextmanager
        def write(self: Database, **given: Any) -> Iterator[Any]:
            with begin(self, **given) as session:
                events.append("begins")
                yield session
            events.append("ends")

        def submission_of(sweep: Sweep) -> SweepSubmission:
            events.append("reads")
            return read(sweep)

        desk.begin(stop_early="halving")
        held = desk.hold()
        monkeypatch.setattr(Database, "write", write)
        monkeypatch.setattr(rungs, "submission_of", submission_of)
        assert self.reach(desk, held, 1.0)
        assert events[-3:] == ["reads", "begins", "ends"]

    def test_rung_that_a_member_lacks_is_refused(self, desk: Desk) -> None:
        desk.begin(stop_early="halving")
        with pytest.raises(InvalidInput, match="has 2 rungs"):
            self.reach(desk, desk.hold(), 1.0, rung=2)

    def test_ordinary_training_has_none(self, desk: Desk) -> None:
        desk.crew.submit()
        with pytest.raises(Conflict, match="not a member of a sweep"):
            self.reach(desk, desk.hold(), 1.0)


class TestSampled:
    @pytest.mark.parametrize("sample", ["random", "tpe"])
    def test_settings_follow_from_numbers_alone(self, desk: Desk, sample: str) -> None:
        axes = {"lr": Range(low=1e-4, high=1e-3, log=True)}
        sweep = desk.begin(sample=sample, trials=3, parallel=1, settings=axes)
        desk.train_all(1.0, 0.9, 1.1)
        ended = desk.view(sweep)
        rates = [member.setting["lr"] for member in ended.members]
        assert len(set(rates)) == 3
        assert all(1e-4 <= float(str(rate)) <= 1e-3 for rate in rates)
        assert (ended.state, ended.winner) == ("ended", 2)

    def test_setting_that_was_tried_is_not_trained_again(self, desk: Desk) -> None:
        sweep = desk.begin(sample="random", trials=6, parallel=1, settings={"rank": Values(values=[2])})
        desk.train_all(1.0)
        ended = desk.view(sweep)
        assert (ended.state, ended.winner, len(ended.members)) == ("ended", 1, 1)
