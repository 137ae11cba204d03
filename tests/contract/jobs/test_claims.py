"""Who gets which job, and again after what failures."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from contract.jobs.helpers import Crew
from sqlalchemy import update
from support.adapters import SPEC, base_registration
from support.calls import worker_info
from support.people import new_adapter

from registry.access.keys import Keyed, keep
from registry.db.types import db_epoch_s, utc_now
from registry.jobs.models import Job, Worker
from registry.principal import LOCAL, Role
from sdk.client import Client
from sdk.errors import Conflict, InvalidInput, JobFailed, NotAllowed, NotFound, StaleAttempt
from sdk.lora.memory import merge_bytes
from sdk.schemas.catalog import Published
from sdk.schemas.evaluation import MergeSpec
from sdk.schemas.job_requests import MergeRequest
from sdk.schemas.jobs import CheckpointPublication, JobSubmission, JobView, Needs
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.training import TrainingSpec
from sdk.schemas.work import Farewell, QueueCapacity, Release, WorkerView
from sdk.version import VERSION


class TestRetries:
    @pytest.mark.parametrize(("reason", "tries"), [("oom", 2), ("crashed", 2), ("data", 1), ("of_tomorrow", 1)])
    def test_a_reason_is_tried_as_often_as_it_may_help(self, crew: Crew, reason: str, tries: int) -> None:
        job = crew.submit()
        for attempt in range(1, tries + 1):
            held = crew.hold()
            assert (held.job, held.attempt) == (job.id, attempt)
            seen = crew.fail(held, reason, "the rows are odd")
            assert seen.state == ("queued" if attempt < tries else "failed")
        assert (seen.reason, seen.failures) == (reason, tries)
        assert crew.claim() is None
        found = crew.attempts(job.id)
        assert [(row.attempt, row.state, row.reason) for row in found] == [
            (attempt, "failed", reason) for attempt in range(1, tries + 1)
        ]
        with pytest.raises(JobFailed, match="the rows are odd"):
            crew.writer.job(job.id).wait(5)

    def test_what_is_away_is_waited_for(self, crew: Crew) -> None:
        job = crew.submit()
        crew.fail(crew.hold(), "unavailable", "the hub is away")
        assert crew.claim() is None
        waits = crew.view(job.id).waits
        assert waits.startswith("it failed and will be tried again in")
        with crew.world.services.db.write() as session:
            session.execute(update(Job).where(Job.id == job.id).values(not_before_s=1.0))
        assert crew.hold().attempt == 2

    def test_reasons_are_counted_apart(self, crew: Crew) -> None:
        crew.submit()
        for reason in ("oom", "crashed", "oom"):
            seen = crew.fail(crew.hold(), reason)
        assert (seen.state, seen.reason, seen.failures) == ("failed", "oom", 3)

    def test_a_cancelled_job_is_not_tried_again(self, crew: Crew) -> None:
        job = crew.submit()
        held = crew.hold()
        crew.writer.jobs.cancel(job.id)
        assert crew.fail(held, "oom").state == "cancelled"

    def test_a_job_is_tried_again_by_hand_once_it_has_ended(self, crew: Crew) -> None:
        job = crew.submit(priority=3, needs=Needs(memory_bytes=5), timeout_s=60.0)
        with pytest.raises(Conflict, match="is queued"):
            crew.writer.call("POST", f"/jobs/{job.id}/retry", JobView)
        held = crew.hold()
        crew.checkpoint(held, 10)
        crew.fail(held, "diverged")
        again = crew.writer.call("POST", f"/jobs/{job.id}/retry", JobView)
        assert (again.retry_of, again.priority, again.needs.memory_bytes) == (job.id, 3, 5)
        given = crew.hold()
        assert (given.job, given.attempt, given.timeout_s) == (again.id, 1, 60.0)
        assert (given.checkpoint.job, given.checkpoint.step) == (job.id, 10)
        crew.complete(given)
        with pytest.raises(Conflict, match="is succeeded"):
            crew.writer.call("POST", f"/jobs/{again.id}/retry", JobView)


class TestRelease:
    def test_a_job_that_is_given_back_stands_where_it_stood(self, crew: Crew) -> None:
        first, second = crew.submit(), crew.submit()
        held = crew.hold()
        assert held.job == first.id
        assert crew.release(held).state == "queued"
        assert (crew.view(first.id).failures, crew.view(first.id).ahead) == (0, 0)
        assert crew.view(second.id).ahead == 1
        again = crew.hold(name="w2")
        assert (again.job, again.attempt) == (first.id, 2)
        assert [row.state for row in crew.attempts(first.id)] == ["released", "running"]
        with pytest.raises(StaleAttempt):
            crew.release(held)

    def test_it_may_be_given_back_any_number_of_times(self, crew: Crew) -> None:
        crew.submit()
        for attempt in range(1, 8):
            held = crew.hold()
            assert held.attempt == attempt
            assert crew.release(held).state == "queued"

    def test_a_cancelled_job_ends_when_it_is_given_back(self, crew: Crew) -> None:
        job = crew.submit()
        held = crew.hold()
        crew.writer.jobs.cancel(job.id)
        assert crew.release(held).state == "cancelled"
        assert crew.claim() is None


class TestRouting:
    def test_a_job_goes_only_where_it_fits(self, crew: Crew) -> None:
        large = crew.submit(needs=Needs(memory_bytes=2**36), priority=9)
        card = crew.submit(needs=Needs(device="cuda"), priority=5)
        small = crew.submit()
        assert crew.hold(name="small").job == small.id
        assert crew.claim(name="small") is None
        assert crew.claim(name="other", queues=["cpu"]) is None
        waits = {job.id: crew.view(job.id).waits or "" for job in (large, card)}
        assert waits[large.id] == "it needs 64.0 GiB of memory, and the largest worker that may run it has 16.0 GiB"
        assert waits[card.id] == "it needs a CUDA GPU, and no worker of the queue gpu has one"
        assert crew.hold(name="card", device="cuda").job == card.id
        assert crew.hold(name="big", memory_bytes=2**37, free_memory_bytes=2**37).job == large.id

    def test_a_machine_that_does_not_know_its_memory_is_given_jobs(self, crew: Crew) -> None:
        job = crew.submit(needs=Needs(memory_bytes=2**36))
        assert crew.hold(memory_bytes=0, free_memory_bytes=0).job == job.id

    def test_the_memory_of_a_base_is_estimated(self, crew: Crew) -> None:
        size = 40 * 2**30
        crew.world.admin.bases.register(base_registration(f"large-{crew.space}", size_bytes=size))
        over_four_bits = crew.submit(base=f"large-{crew.space}", spec=TrainingSpec())
        over_sixteen = crew.submit(base=f"large-{crew.space}", spec=TrainingSpec(method="lora"))
        needs = [crew.view(job.id).needs.memory_bytes or 0 for job in (over_four_bits, over_sixteen)]
        assert size / 4 < needs[0] < size / 2
        assert needs[1] > size
        assert crew.claim(memory_bytes=2**33, free_memory_bytes=2**33) is None
        assert crew.hold(memory_bytes=2**34, free_memory_bytes=2**34).job == over_four_bits.id

    def test_rows_longer_than_the_base_has_positions_for_are_refused(self, crew: Crew) -> None:
        name = f"short-{crew.space}"
        config = {"model_type": "gpt2", "n_positions": 512}
        crew.world.admin.bases.register(base_registration(name, config=config))
        with pytest.raises(InvalidInput, match=f"max_length is 513, but base {name} has only 512 positions") as caught:
            crew.submit(base=name, spec=TrainingSpec(method="lora", max_length=513))
        assert caught.value.param == "spec.max_length"
        # Nobody asked for the default, so rows are cut where the base ends.
        for spec in (TrainingSpec(method="lora", max_length=512), TrainingSpec(method="lora")):
            crew.submit(base=name, spec=spec)

    def test_an_optimiser_of_cards_needs_a_card(self, crew: Crew) -> None:
        job = crew.submit(spec=SPEC.model_copy(update={"optim": "paged_adamw_8bit"}))
        assert crew.view(job.id).needs.device == "cuda"
        assert crew.claim(version=VERSION) is None
        assert crew.hold(version=VERSION, device="cuda").job == job.id

    def test_options_that_the_base_can_not_be_trained_with_are_refused(self, crew: Crew) -> None:
        name = f"plain-{crew.space}"
        crew.world.admin.bases.register(base_registration(name))
        for options, param in (
            ({"layers_to_transform": "99"}, "layers_to_transform"),
            ({"rank_pattern": "nope=2"}, "rank_pattern"),
            ({"bias": "all"}, "bias"),
        ):
            with pytest.raises(InvalidInput, match=f"^{param} ") as caught:
                crew.submit(base=name, spec=TrainingSpec(method="lora", **options))
            assert caught.value.param == f"spec.{param}"

    def test_a_pattern_of_a_module_that_is_no_target_is_refused(self, crew: Crew) -> None:
        sizes = {"num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "vocab_size": 10}
        for kind, known in (("llama", True), ("strange", False)):
            name = f"{kind}-{crew.space}"
            config = {"model_type": kind, "hidden_size": 6, **sizes}
            crew.world.admin.bases.register(base_registration(name, config=config))
            spec = TrainingSpec(targets="q_proj", rank_pattern="v_proj=2")
            if known:
                with pytest.raises(InvalidInput, match=r"^rank_pattern names v_proj, which is not among the") as caught:
                    crew.submit(base=name, spec=spec)
                assert caught.value.param == "spec.rank_pattern"
            else:
                # Its modules are known to the worker alone.
                assert crew.submit(base=name, spec=spec).state == "queued"
            assert crew.submit(base=name, spec=spec.model_copy(update={"targets": "qv"})).state == "queued"

    def test_a_merge_asks_for_as_much_over_a_base_of_any_size(self, crew: Crew) -> None:
        size = 10 * 2**30
        name = f"large-{crew.space}"
        config = {"model_type": "llama", "hidden_size": 6, "dtype": "bfloat16", "vocab_size": 32_000}
        crew.world.admin.bases.register(base_registration(name, size_bytes=size, config=config))
        ref = crew.writer.push(new_adapter(crew.tmp_path), f"{crew.space}/m", base=name).ref

        def submit(**spec: Any) -> JobView:
            body = JobSubmission(request=MergeRequest(ref=ref, spec=MergeSpec(**spec)))
            return crew.writer.call("POST", "/jobs", JobView, body=body)

        kept, wide = submit(), submit(dtype="float32")
        # Its files are mapped, and blocks of rows are held.
        needed = merge_bytes(quantized=False)
        assert [job.needs.memory_bytes for job in (kept, wide)] == [needed, needed]
        assert needed < size / 10
        assert crew.claim(name="small", memory_bytes=needed - 1, free_memory_bytes=needed - 1) is None
        assert (
            crew.view(kept.id).waits == "it needs 0.5 GiB of memory, and the largest worker that may run it has 0.5 GiB"
        )
        assert crew.hold(name="enough", memory_bytes=2**34, free_memory_bytes=needed).job == kept.id

    def test_a_merge_over_four_bits_needs_more(self, crew: Crew) -> None:
        needs = []
        for method in ("lora", "qlora"):
            folder = new_adapter(crew.tmp_path)
            quantization = QuantizationRecipe(compute_dtype="bfloat16") if method == "qlora" else None
            version = crew.writer.push(
                folder, f"{crew.space}/{method}", base="tiny", method=method, quantization=quantization
            )
            body = JobSubmission(request=MergeRequest(ref=version.ref))
            needs.append(crew.writer.call("POST", "/jobs", JobView, body=body).needs.memory_bytes or 0)
        assert needs[0] < needs[1]

    def test_workers_are_known_by_what_they_said(self, crew: Crew) -> None:
        name = f"node of {crew.space}"
        crew.worker.call(
            "POST", "/workers/hello", None, body=worker_info(name, device="cuda", queues=["gpu"], version="9.9")
        )
        job = crew.submit()

        def seen() -> WorkerView:
            found = crew.writer.call("GET", "/workers", list[WorkerView])
            return next(worker for worker in found if worker.name == name)

        assert (seen().state, seen().device, seen().queues, seen().version) == ("idle", "cuda", ["gpu"], "9.9")
        gpu = crew.writer.call("GET", "/capacity", list[QueueCapacity])[0]
        assert (gpu.queue, gpu.queued, gpu.running, gpu.workers, gpu.idle, gpu.unfit) == ("gpu", 1, 0, 1, 1, 0)
        crew.hold(name=name, device="cuda", queues=["gpu"])
        assert (seen().state, seen().job) == ("busy", job.id)
        crew.worker.call("POST", "/workers/leave", None, body=Farewell(worker=name))
        assert seen().state == "draining"
        with crew.world.services.db.write() as session:
            session.execute(update(Worker).where(Worker.name == name).values(seen_at=utc_now() - timedelta(minutes=5)))
        assert seen().state == "silent"
        crew.worker.call("POST", "/workers/hello", None, body=worker_info(name))
        assert seen().state == "busy"

    def test_another_team_sees_neither_job_nor_place(self, crew: Crew, acting: Callable[..., Client]) -> None:
        stranger = acting(elsewhere=Role.WRITER)
        job = crew.submit()
        held = crew.hold(name=f"node of {crew.space}")
        found = stranger.call("GET", "/workers", list[WorkerView])
        assert [worker for worker in found if worker.name == f"node of {crew.space}"] == []
        for method, path in (
            ("GET", f"/jobs/{job.id}/attempts"),
            ("GET", f"/jobs/{job.id}/checkpoints"),
            ("POST", f"/jobs/{job.id}/retry"),
        ):
            with pytest.raises(NotFound):
                stranger.call(method, path, None)
        crew.checkpoint(held, 1)
        with pytest.raises(NotFound):
            stranger.call(
                "POST",
                f"/jobs/{job.id}/checkpoints/1/publish",
                Published,
                body=CheckpointPublication(adapter="elsewhere/b"),
            )
        with pytest.raises(NotAllowed):
            crew.writer.call("POST", f"/jobs/{job.id}/release", JobView, body=Release(attempt=1))

    def test_waiting_is_explained(self, crew: Crew) -> None:
        first, second = crew.submit(), crew.submit()
        assert (crew.view(first.id).waits or "").startswith("no worker listens to the queue gpu")
        crew.worker.call("POST", "/workers/hello", None, body=worker_info("only"))
        assert crew.view(first.id).waits == "a worker is about to take it"
        assert crew.view(second.id).waits == "1 job goes first"
        crew.hold(name="only")
        assert crew.view(second.id).waits == "every worker that may run it is busy"
        assert (crew.view(first.id).waits, crew.view(first.id).ahead) == (None, None)


class TestClaimsSentAgain:
    def test_the_same_claim_is_given_the_same_attempt_with_what_is_left_of_its_lease(self, crew: Crew) -> None:
        first, second = crew.submit(), crew.submit()
        held = crew.hold(key="claim-1")
        with crew.world.services.db.write() as session:
            session.execute(update(Job).where(Job.id == held.job).values(lease_until_s=db_epoch_s() + 5))
        # What a worker says of itself may have changed meanwhile.
        again = crew.hold(key="claim-1", free_memory_bytes=2**38)
        assert 0 < again.lease_s <= 5 < held.lease_s
        assert again.model_copy(update={"lease_s": held.lease_s}) == held
        assert crew.hold(key="claim-2").job == ({first.id, second.id} - {held.job}).pop()
        assert crew.claim(key="claim-3") is None
        assert [row.state for row in crew.attempts(held.job)] == ["running"]
        crew.complete(held)

    def test_where_there_was_no_work_it_is_looked_for_anew(self, crew: Crew) -> None:
        assert crew.claim(key="claim-1") is None
        job = crew.submit()
        assert crew.hold(key="claim-1").job == job.id

    def test_what_is_not_held_any_more_is_not_given_again(self, crew: Crew) -> None:
        # Nor is anything else: a sending that comes so late is one that nobody waits for.
        crew.submit()
        held = crew.hold(key="claim-1")
        crew.release(held)
        assert crew.claim(key="claim-1") is None
        again = crew.hold(key="claim-2")
        assert (again.job, again.attempt) == (held.job, 2)
        with crew.world.services.db.write() as session:
            session.execute(update(Job).where(Job.id == held.job).values(lease_until_s=db_epoch_s() - 1))
        assert crew.claim(key="claim-2") is None
        assert crew.hold(key="claim-3").attempt == 3

    def test_what_it_needs_may_be_gone_by_then(self, crew: Crew) -> None:
        job = crew.submit()
        crew.hold(key="claim-1")
        with crew.world.services.db.write() as session:
            session.execute(
                update(Job)
                .where(Job.id == job.id)
                .values(request={**session.get_one(Job, job.id).request, "data": "0" * 64})
            )
        assert crew.claim(key="claim-1") is None
        assert (crew.view(job.id).state, crew.view(job.id).reason) == ("failed", "gone")

    def test_its_key_is_for_one_thing(self, crew: Crew) -> None:
        services = crew.world.services
        who = services.tokens.check(crew.worker.config.token) if crew.world.has_roles else LOCAL
        with services.db.write() as session:
            keep(session, Keyed.of(who, "token-1", "another request"), "a token")
        crew.submit()
        with pytest.raises(Conflict, match="used for another request"):
            crew.claim(key="token-1")

    def test_sent_many_times_at_once_it_is_given_one_job(self, crew: Crew) -> None:
        jobs = [crew.submit() for _ in range(4)]

        def ask(_: int) -> tuple[str, int]:
            while True:
                try:
                    held = crew.hold(key="claim-1")
                except Conflict:
                    # Another sending of it is not done yet.
                    time.sleep(0.01)
                else:
                    return held.job, held.attempt

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(ask, range(8))) == {(jobs[0].id, 1)}
        assert [crew.view(job.id).state for job in jobs] == ["running", "queued", "queued", "queued"]
