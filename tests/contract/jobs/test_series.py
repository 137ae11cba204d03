"""Series of trainings: appended by the attempt that holds a job, replaced by the next, and read in buckets."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from contract.jobs.helpers import Crew
from sqlalchemy import select, update
from support.points import Sender, faults, points_of
from support.usage import differing, mismeasured

from registry.db.types import utc_now
from registry.jobs.models import Attempt, Job
from registry.principal import Role
from registry.series.models import JobSeries
from sdk.client import Client
from sdk.errors import InvalidInput, NotAllowed, NotFound, QuotaExceeded, StaleAttempt, Unavailable
from sdk.schemas.series import Point, SentPoints, StoredPoints

NAMES = ("loss", "lr", "grad_norm", "tokens", "seconds", "memory_bytes", "eval_loss")


@pytest.fixture
def sender(crew: Crew) -> Sender:
    """Of an attempt at a training."""
    crew.submit()
    return Sender(crew.worker, crew.hold())


class TestPoints:
    def test_points_are_read_as_they_were_sent(self, crew: Crew, sender: Sender) -> None:
        points = [Point(step=0, values={"eval_loss": 2.7}), *points_of(range(1, 8)), Point(step=8, values={"lr": 1e-4})]
        assert sender.send(-1, points) == 8
        found = crew.writer.jobs.series(sender.held.job)
        assert (found.job, found.last_step, faults(found, points)) == (sender.held.job, 8, [])
        assert found.series["eval_loss"].last == found.series["eval_loss"].mean == [2.7]
        assert list(crew.writer.jobs.series(sender.held.job, keys=["lr", "unknown"]).series) == ["lr"]

    def test_a_training_without_points_has_no_series(self, crew: Crew) -> None:
        found = crew.writer.jobs.series(crew.submit().id)
        assert (found.last_step, found.series) == (-1, {})

    def test_later_steps_replace_what_followed(self, crew: Crew, sender: Sender) -> None:
        sender.send(-1, points_of(range(1, 10)))
        assert sender.send(4, points_of(range(5, 7), seed=3)) == 6
        expected = [*points_of(range(1, 5)), *points_of(range(5, 7), seed=3)]
        assert faults(crew.writer.jobs.series(sender.held.job), expected) == []
        assert sender.send(0, []) == -1
        assert crew.writer.jobs.series(sender.held.job).series == {}

    def test_a_chunk_that_arrives_again_or_late_changes_nothing(self, crew: Crew, sender: Sender) -> None:
        sender.send(-1, points_of(range(1, 4)), serial=1)
        sender.send(3, points_of(range(4, 6)), serial=2)
        assert sender.send(-1, points_of(range(1, 4)), serial=1) == 5
        assert sender.send(3, points_of(range(4, 5), seed=9), serial=2) == 5
        assert faults(crew.writer.jobs.series(sender.held.job), points_of(range(1, 6))) == []

    def test_a_gap_is_sent_again(self, crew: Crew, sender: Sender) -> None:
        assert sender.send(0, points_of(range(1, 4))) == -1
        assert sender.send(-1, points_of(range(1, 4))) == 3
        assert sender.send(7, points_of(range(8, 9))) == 3
        assert faults(crew.writer.jobs.series(sender.held.job), points_of(range(1, 4))) == []

    def test_the_next_attempt_replaces_the_steps_of_a_lost_one(self, crew: Crew, sender: Sender) -> None:
        sender.send(-1, points_of(range(1, 10)))
        crew.release(sender.held)
        again = Sender(crew.worker, crew.hold())
        with pytest.raises(StaleAttempt):
            sender.send(9, points_of(range(10, 11)))
        assert again.send(5, points_of(range(6, 8), seed=2)) == 7
        expected = [*points_of(range(1, 6)), *points_of(range(6, 8), seed=2)]
        assert faults(crew.writer.jobs.series(sender.held.job), expected) == []

    def test_others_neither_read_nor_write(
        self, crew: Crew, sender: Sender, acting: Callable[..., Client], space: str
    ) -> None:
        sender.send(-1, points_of(range(1, 4)))
        stranger, job = acting(elsewhere=Role.ADMIN), sender.held.job
        with pytest.raises(NotFound):
            stranger.jobs.series(job)
        assert stranger.jobs.series_of([job]) == []
        with pytest.raises(NotFound):
            Sender(stranger, sender.held).send(3, points_of(range(4, 5)))
        with pytest.raises(StaleAttempt):
            Sender(acting(**{space: Role.WORKER}), sender.held).send(3, points_of(range(4, 5)))
        with pytest.raises(NotAllowed):
            Sender(crew.writer, sender.held).send(3, points_of(range(4, 5)))

    def test_many_are_read_at_once_in_the_order_asked_for(self, crew: Crew, sender: Sender) -> None:
        points = points_of(range(1, 301))
        sender.send(-1, points)
        other = crew.submit().id
        found = crew.writer.jobs.series_of([other, "unknown", sender.held.job, other], buckets=7)
        assert [one.job for one in found] == [other, sender.held.job]
        assert len(found[1].series["loss"].step) == 7
        assert faults(found[1], points) == []

    # What this test sends is no chunk.
    @pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
    @pytest.mark.parametrize(
        ("after", "points", "said"),
        [
            (-1, [(1, {"../loss": 1.0})], "points.0.values"),
            (-1, [(1, {})], "points.0.values"),
            (-1, [(1, {f"s{number}": 1.0 for number in range(33)})], "points.0.values"),
            (-1, [(10_000_001, {"loss": 1.0})], "points.0.step"),
            (-1, [(1, {"loss": "1.0"})], "points.0.values"),
            (-1, [(step, {"loss": 1.0}) for step in range(2_001)], "points"),
            (-2, [], "after"),
            (3, [(3, {"loss": 1.0})], "the steps don't rise after step 3"),
            (3, [(5, {"loss": 1.0}), (4, {"loss": 1.0})], "the steps don't rise after step 3"),
        ],
    )
    def test_a_chunk_that_breaks_a_rule_is_refused(
        self, crew: Crew, sender: Sender, after: int, points: list[tuple[int, dict[str, Any]]], said: str
    ) -> None:
        chunk = [Point.model_construct(step=step, values=values) for step, values in points]
        body = SentPoints.model_construct(attempt=sender.held.attempt, serial=1, after=after, points=chunk)
        with pytest.raises(InvalidInput) as refused:
            crew.worker.call("POST", f"/jobs/{sender.held.job}/series", StoredPoints, body=body)
        assert said in f"{refused.value.param} {refused.value}"
        assert crew.writer.jobs.series(sender.held.job).series == {}

    def test_more_buckets_than_one_answer_may_have_are_refused(self, crew: Crew, sender: Sender) -> None:
        assert crew.writer.jobs.series_of([f"{number:012x}" for number in range(100)], buckets=200) == []
        with pytest.raises(
            InvalidInput, match=r"100 jobs with 201 buckets each are more than the 20,000 .* ask for 200"
        ):
            crew.writer.jobs.series_of([f"{number:012x}" for number in range(100)], buckets=201)
        with pytest.raises(InvalidInput, match="101 jobs are more than the 100 of one request"):
            crew.writer.jobs.series_of([f"{number:012x}" for number in range(101)], buckets=1)

    def test_series_without_end_are_refused(self, sender: Sender) -> None:
        sender.send(-1, [Point(step=1, values={f"a{number}": 1.0 for number in range(32)})])
        with pytest.raises(InvalidInput, match="at most 32 series"):
            sender.send(1, [Point(step=2, values={"another": 1.0})])

    def test_numbers_beyond_float32_are_the_largest_of_it(self, crew: Crew, sender: Sender) -> None:
        sender.send(-1, [Point(step=1, values={"loss": 1e300, "lr": -1e39, "seconds": 1e-60})])
        found = crew.writer.jobs.series(sender.held.job).series
        assert [found[name].last[0] for name in ("loss", "lr", "seconds")] == [
            pytest.approx(3.4028235e38),
            pytest.approx(-3.4028235e38),
            0.0,
        ]


class TestMetrics:
    def test_a_job_s_metrics_are_a_list_of_points(self, crew: Crew, sender: Sender) -> None:
        job = crew.writer.job(sender.held.job)
        assert job.metrics() == []
        sender.send(-1, [Point(step=0, values={"eval_loss": 2.7}), Point(step=3, values={"loss": 1.5, "lr": 2e-4})])
        assert job.metrics() == [{"step": 0, "eval_loss": 2.7}, {"step": 3, "loss": 1.5, "lr": 2e-4}]

    def test_they_are_a_data_frame_by_step(self, crew: Crew, sender: Sender) -> None:
        pytest.importorskip("pandas")
        empty = crew.writer.job(sender.held.job).metrics().frame()
        assert (empty.index.name, len(empty)) == ("step", 0)
        sender.send(-1, [Point(step=0, values={"eval_loss": 2.7}), Point(step=3, values={"loss": 1.5, "lr": 2e-4})])
        frame = crew.writer.job(sender.held.job).metrics().frame()
        assert list(frame.index) == [0, 3]
        assert list(frame.columns) == ["eval_loss", "loss", "lr"]
        assert frame["loss"].dropna().to_dict() == {3: 1.5}

    def test_without_pandas_a_frame_says_what_to_install(
        self, crew: Crew, sender: Sender, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        metrics = crew.writer.job(sender.held.job).metrics()
        monkeypatch.setitem(sys.modules, "pandas", None)
        with pytest.raises(Unavailable, match="run: pip install pandas") as caught:
            metrics.frame()
        assert caught.value.exit_code == 9


class TestLongSeries:
    def test_old_steps_are_in_buckets_and_new_ones_exact(self, crew: Crew, sender: Sender) -> None:
        points = points_of(range(1, 10_001), names=NAMES)
        sender.send_all(points)
        found = crew.writer.jobs.series(sender.held.job)
        assert faults(found, points) == []
        for buckets in found.series.values():
            assert buckets.count[-2000:] == [1] * 2000
            assert len(buckets.count) <= 2000 + 250 + 256
        assert size_of(crew, sender.held.job) <= 150_000

    def test_of_a_series_with_few_values_the_newest_are_exact_too(self, crew: Crew, sender: Sender) -> None:
        points = [
            Point(step=step, values={"loss": step / 8, **({"eval_loss": step / 4} if step % 3 == 0 else {})})
            for step in range(1, 7_501)
        ]
        sender.send_all(points)
        found = crew.writer.jobs.series(sender.held.job)
        assert faults(found, points) == []
        assert found.series["eval_loss"].count[-2_000:] == [1] * 2_000
        assert 1 < max(found.series["eval_loss"].count) < max(found.series["loss"].count)

    def test_a_step_within_a_bucket_is_sent_again_from_before_it(self, crew: Crew, sender: Sender) -> None:
        points = points_of(range(1, 6_001), names=("loss", "lr"))
        sender.send_all(points)
        last = sender.send(1_001, points_of(range(1_002, 1_004), seed=5))
        assert 900 < last < 1_001
        assert faults(crew.writer.jobs.series(sender.held.job), points[:last]) == []
        again = [*points[:1_001], *points_of(range(1_002, 1_004), names=("loss", "lr"), seed=5)]
        sender.send_all(again, last)
        assert faults(crew.writer.jobs.series(sender.held.job), again) == []

    @pytest.mark.parametrize("seed", range(2))
    def test_whatever_is_sent_each_value_is_in_one_bucket(self, crew: Crew, sender: Sender, seed: int) -> None:
        # Chunks, steps back, attempts that end, requests that arrive twice: held against a plain list.
        chance = random.Random(seed)
        ours: list[Point] = []
        for turn in range(12):
            last = ours[-1].step if ours else 0
            back = chance.random() < 0.3
            after = chance.randrange(-1, last + 1) if back else (last if ours else -1)
            if back and chance.random() < 0.5:
                crew.release(sender.held)
                sender = Sender(crew.worker, crew.hold())
            more = chance.choice([1, 3, 40, 700, 2_500])
            steps = sorted(chance.sample(range(max(after + 1, 0), after + 1 + 2 * more), more))
            ours = [point for point in ours if point.step <= after] + [
                Point(
                    step=step,
                    values={
                        "loss": chance.gauss(2, 1),
                        **({"eval_loss": chance.random()} if step % 10 == 0 else {}),
                        **({f"eval_{turn % 4}": 1.0} if chance.random() < 0.1 else {}),
                    },
                )
                for step in steps
            ]
            sender.send_all(ours, after)
            if chance.random() < 0.3:
                sender.send(after, points_of(range(after + 1, after + 3), seed=9), serial=sender.serial)
            found = crew.writer.jobs.series(sender.held.job)
            assert faults(found, ours) == []
            for buckets in found.series.values():
                assert sum(1 for count in buckets.count if count > 1) <= 256
        few = crew.writer.jobs.series(sender.held.job, buckets=9)
        assert faults(few, ours) == []
        assert all(len(buckets.step) <= 9 for buckets in few.series.values())


class TestVersions:
    def test_a_version_keeps_its_training_in_few_buckets(self, crew: Crew, sender: Sender) -> None:
        points = points_of(range(1, 3_001), names=("loss", "lr"))
        sender.send_all(points)
        ref = crew.complete(sender.held).result["ref"]
        kept = crew.writer.versions.series(ref)
        assert (kept.job, kept.last_step, faults(kept, points)) == (sender.held.job, 3_000, [])
        assert [len(buckets.step) <= 200 for buckets in kept.series.values()] == [True, True]
        assert (
            faults(crew.writer.versions.series(ref, buckets=5, keys=["lr"]), [one_of(each, "lr") for each in points])
            == []
        )
        let_end(crew, sender.held.job, days=91)
        gone = crew.world.services.expiry.run()
        assert (gone["job_series"] >= 1, gone["usage"]) == (True, 0)
        # The job's own points are gone, and what the version keeps is what is left of them.
        assert crew.writer.versions.series(ref) == kept
        assert crew.writer.jobs.series(sender.held.job) == kept
        assert crew.writer.jobs.series_of([sender.held.job], buckets=200) == [kept]
        assert (differing(crew.world), mismeasured(crew.world.services, crew.space)) == ({}, [])
        crew.world.admin.versions.delete(ref, reason="a test")
        assert crew.writer.jobs.series(sender.held.job).series == {}
        assert differing(crew.world) == {}

    def test_a_checkpoint_s_version_has_the_steps_until_it(self, crew: Crew, sender: Sender) -> None:
        points = points_of(range(1, 31))
        sender.send(-1, points)
        crew.checkpoint(sender.held, 10)
        version = crew.writer.jobs.publish_checkpoint(sender.held.job, 10).version
        kept = crew.writer.versions.series(version.ref)
        assert (kept.last_step, faults(kept, points[:10])) == (10, [])

    def test_the_points_of_a_lost_attempt_are_not_a_version_s(self, crew: Crew, sender: Sender) -> None:
        sender.send(-1, points_of(range(1, 31)))
        crew.release(sender.held)
        ref = crew.complete(crew.hold()).result["ref"]
        assert crew.writer.versions.series(ref).series == {}

    def test_a_version_that_was_pushed_has_none(self, crew: Crew, adapter: Path) -> None:
        version = crew.writer.push(adapter, f"{crew.space}/pushed", base="tiny")
        found = crew.writer.versions.series(version.ref)
        assert (found.job, found.last_step, found.series) == (None, -1, {})

    def test_another_team_does_not_read_a_version_s(
        self, crew: Crew, sender: Sender, acting: Callable[..., Client]
    ) -> None:
        ref = crew.complete(sender.held).result["ref"]
        with pytest.raises(NotFound):
            acting(elsewhere=Role.READER).versions.series(ref)


class TestRoom:
    def test_points_are_counted_for_the_namespace(self, crew: Crew, sender: Sender) -> None:
        before = crew.writer.quotas.get(crew.space).records_bytes
        sender.send(-1, points_of(range(1, 2_001), names=NAMES))
        after = crew.writer.quotas.get(crew.space).records_bytes
        assert 56_000 - 16 * 1024 < after - before < 70_000
        assert (differing(crew.world), mismeasured(crew.world.services, crew.space)) == ({}, [])
        sender.send(5, [])
        assert crew.writer.quotas.get(crew.space).records_bytes == before
        assert differing(crew.world) == {}

    def test_without_room_nothing_is_kept_and_the_job_goes_on(self, crew: Crew, sender: Sender) -> None:
        sender.send(-1, points_of(range(1, 10)))
        used = crew.writer.quotas.get(crew.space).records_bytes
        crew.world.admin.quotas.set(crew.space, max_record_bytes=used + 20_000)
        with pytest.raises(QuotaExceeded, match="no room in the database for more points"):
            sender.send(9, points_of(range(10, 1_500), names=NAMES))
        assert faults(crew.writer.jobs.series(sender.held.job), points_of(range(1, 10))) == []
        assert sender.send(9, points_of(range(10, 12))) == 11
        assert crew.complete(sender.held).state == "succeeded"
        assert differing(crew.world) == {}

    @pytest.mark.parametrize("keep_events_days", [90.0, 1000.0])
    def test_the_points_go_with_a_job_that_is_removed(
        self, crew: Crew, sender: Sender, keep_events_days: float
    ) -> None:
        sender.send(-1, points_of(range(1, 2_001), names=NAMES))
        crew.fail(sender.held, "data")
        let_end(crew, sender.held.job, days=366)
        # Nothing had to be counted anew.
        assert crew.services(keep_events_days=keep_events_days).expiry.run()["usage"] == 0
        with pytest.raises(NotFound):
            crew.writer.jobs.series(sender.held.job)
        assert differing(crew.world) == {}


def one_of(point: Point, name: str) -> Point:
    """One of a point's values."""
    return Point(step=point.step, values={name: point.values[name]})


def let_end(crew: Crew, job: str, *, days: float) -> None:
    """Let a job and its attempts have ended long ago."""
    at = utc_now() - timedelta(days=days)
    with crew.world.services.db.write() as session:
        session.execute(update(Job).where(Job.id == job).values(finished_at=at))
        session.execute(update(Attempt).where(Attempt.job_id == job).values(finished_at=at))


def size_of(crew: Crew, job: str) -> int:
    """What the points of a job take in the database."""
    with crew.world.services.db.read() as session:
        return session.scalars(select(JobSeries.size_bytes).where(JobSeries.job_id == job)).one()
