"""Whole attempts: a real worker trains a tiny base, and is cancelled, killed, out of time, or out of disk."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.workplace import Running, Workplace, is_alive, opened, wait_until

from registry.principal import Role
from sdk.api.work import claim
from sdk.client import Client
from sdk.schemas.job_requests import CheckpointRef
from sdk.schemas.jobs import CheckpointView, JobView
from sdk.schemas.training_report import TrainingReport
from sdk.schemas.work import CheckpointRecord, ClaimRequest, Release, WorkerInfo
from workers.kinds.attempt import pack

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    with opened(tmp_path_factory.mktemp("attempts"), lease_s=30.0) as place:
        yield place


def training_child(worker: Running) -> int:
    """The child at work; a warm one may wait beside it."""
    found: list[int] = []

    def there() -> bool:
        # The children of the worker itself, of which one trains while no other is made.
        found[:] = [pid for pid, line in worker.below().items() if "workers.child.main" in line]
        return len(found) == 1

    wait_until(there, lambda: f"{worker.below()}\n{worker.text}")
    return found[0]


@pytest.fixture(scope="class")
def worker(place: Workplace) -> Iterator[Running]:
    with place.worker(ADAPTER_WORKER_WARM="1") as worker:
        yield worker


class TestOneWorker:
    """All that happens to one worker, which it must survive well."""

    @pytest.fixture(autouse=True)
    def _none_goes_on(self, place: Workplace) -> Iterator[None]:
        """What a test that failed has left running would keep the worker from the next."""
        yield
        for job in place.client.jobs():
            if not job.state.is_final:
                job.cancel()
                place.wait_for_state(job.id, "cancelled")

    def test_a_cancelled_training_is_gone_and_its_checkpoint_is_kept_and_gone_on_from_only_while_it_is_whole(
        self, place: Workplace, worker: Running
    ) -> None:
        job = place.submit()
        place.wait_for_step(job, 3)
        child = training_child(worker)
        place.client.jobs.cancel(job)
        wait_until(lambda: place.job(job).state == "cancelled" or not is_alive(child), lambda: worker.text)
        ended = place.wait_for_state(job, "cancelled")
        assert not is_alive(child)
        assert ended.reason == "cancelled"
        (checkpoint,) = place.checkpoints(job)
        assert checkpoint.step >= 3
        assert f"the checkpoint of step {checkpoint.step} of 1000000 is stored" in place.said(job)
        wait_until(
            lambda: list((place.folder / "worker-cache/jobs").iterdir()) == [], lambda: "its folder is still there", 30
        )
        self._damage_and_go_on(place, checkpoint)

    def test_a_crashed_training_goes_on_from_its_last_checkpoint_and_a_killed_one_is_taken_for_out_of_memory(
        self, place: Workplace, worker: Running
    ) -> None:
        job = place.submit(every_steps=5)
        wait_until(lambda: len(place.checkpoints(job)) >= 2, lambda: worker.text)
        os.kill(training_child(worker), signal.SIGSEGV)
        wait_until(lambda: place.attempts(job)[0].state != "running", lambda: worker.text)
        first = place.attempts(job)[0]
        assert (first.state, first.reason) == ("failed", "crashed")
        assert "SIGSEGV" in (first.message or "")
        # By now the next attempt may have stored more, and the last lines of the one that crashed may be lost.
        before, _, _ = place.said(job).partition("Fatal Python error")
        stored = [int(step) for step in re.findall(r"the checkpoint of step (\d+) of \d+ is stored", before)]
        wait_until(lambda: place.job(job).attempt == 2, lambda: worker.text)
        going_on = re.compile(rf"resuming from the checkpoint of step (\d+) of job {job}")
        reached = int(wait_until(lambda: going_on.search(place.said(job)), lambda: worker.text)[1])
        assert reached >= max(stored)
        place.wait_for_step(job, reached + 1)
        steps = [
            event.progress.step or 0
            for event in place.events(job)
            if event.attempt == 2 and event.progress is not None and event.progress.phase == "train"
        ]
        assert min(steps) > reached
        os.kill(training_child(worker), signal.SIGKILL)
        wait_until(lambda: place.attempts(job)[1].state != "running", lambda: worker.text)
        second = place.attempts(job)[1]
        assert (second.state, second.reason) == ("failed", "oom")
        assert "lower batch_size" in (second.message or "")
        place.client.jobs.cancel(job)
        place.wait_for_state(job, "cancelled")

    def test_a_training_that_takes_too_long_is_stopped(self, place: Workplace, worker: Running) -> None:
        job = place.submit(timeout_s=0.5)
        ended = place.wait_for_state(job, "failed")
        assert ended.reason == "timeout"
        assert "longer than its timeout of 0.5 s" in (ended.message or "")
        assert f"adapterctl jobs retry {job}" in (ended.message or "")

    def _damage_and_go_on(self, place: Workplace, last: CheckpointView) -> None:
        """Start from a checkpoint of which a file is damaged in the storage."""
        digests = {file.sha256 for file in _manifest(place, last).files if file.path == "optimizer.safetensors"}
        for path in (place.world.folder / "artifacts").rglob("*"):
            if path.name.startswith(tuple(digests)):
                path.chmod(0o600)
                path.write_bytes(b"\0" * path.stat().st_size)
        again = place.submit(every_steps=2, start_from=CheckpointRef(job=last.job, step=last.step))
        place.wait_for_step(again)
        said = f"the checkpoint of step {last.step} can't be used, so the training starts over"
        wait_until(lambda: said in place.said(again), lambda: place.said(again))
        place.client.jobs.cancel(again)
        place.wait_for_state(again, "cancelled")


def _manifest(place: Workplace, checkpoint: CheckpointView):  # type: ignore[no-untyped-def]
    from registry.artifacts.manifests import read_manifest

    with place.world.services.db.read() as session:
        return read_manifest(session, checkpoint.digest)


def test_a_checkpoint_that_no_training_can_read_is_not_gone_on_from(place: Workplace, tmp_path: Path) -> None:
    job = place.submit(steps=2)
    client = Client(place.world.url, place.token, cache=tmp_path)
    info = WorkerInfo(name="other", device="cpu", memory_bytes=2**40, free_memory_bytes=2**40)
    held = claim(client.transport, ClaimRequest(worker=info, hint=job))
    assert held.job == job
    _leave_nonsense(client, job, held.attempt, str(held.base.fingerprint), tmp_path / "checkpoint")
    with place.worker(forks=True) as worker:
        place.wait_for_state(job, "succeeded")
        said = "the checkpoint of step 1 can't be used, so the training starts over: The checkpoint is broken: "
        assert said in place.said(job)
        # In the same attempt.
        assert place.job(job).attempt == 2, worker.text
    client.close()


def _leave_nonsense(client: Client, job: str, attempt: int, fingerprint: str, folder: Path) -> None:
    from support.adapters import save_adapter

    save_adapter(folder)
    for name in ("optimizer.safetensors", "generators.safetensors"):
        (folder / name).write_bytes(name.encode())
    for name in ("progress.json", "record.json"):
        (folder / name).write_text("{}")
    report = TrainingReport.model_validate_json(
        json.dumps(
            {
                "lora": {"rank": 8, "alpha": 16.0, "dropout": 0.05, "target_modules": ["q_proj"]},
                "quantization": None,
                "rows": 1,
                "supervised_tokens": 1,
                "training": {},
                "metrics": {"loss": 1.0},
                "libraries": {},
            }
        )
    )
    (folder / "report.json").write_text(report.model_dump_json())
    manifest, sources = pack(folder, kind="checkpoint", base_fingerprint=fingerprint)
    upload = client.uploader.upload(sources, "uploading")
    record = CheckpointRecord(attempt=attempt, step=1, total=2, upload=upload, manifest=manifest, report=report)
    client.call("POST", f"/jobs/{job}/checkpoints", CheckpointView, body=record)
    client.call("POST", f"/jobs/{job}/release", JobView, body=Release(attempt=attempt))


class TestFullDisk:
    """A limit on the size of files is a full disk to whoever writes a larger one."""

    def test_a_result_that_has_no_room_fails_its_job_and_the_next_one_succeeds(self, place: Workplace) -> None:
        with place.worker(largest_file_bytes=700_000) as worker:
            large = place.submit(steps=1, rank=512)
            ended = place.wait_for_state(large, "failed")
            assert ended.reason == "disk_full", f"{ended.message}\n{worker.text}"
            small = place.submit(steps=1)
            place.wait_for_state(small, "succeeded")

    def test_a_base_that_has_no_room_fails_its_job_and_the_worker_goes_on(self, place: Workplace) -> None:
        cache = place.folder / "small-cache"
        with place.worker(largest_file_bytes=50_000, ADAPTERCTL_CACHE=str(cache)) as worker:
            for _ in range(2):
                job = place.submit(steps=1)
                ended = place.wait_for_state(job, "failed")
                assert ended.reason == "disk_full", f"{ended.message}\n{worker.text}"
                assert "adapterctl cache prune" in (ended.message or "")
            assert list((cache / "jobs").iterdir()) == []
        shutil.rmtree(cache)


class TestFullQuota:
    """A namespace without room for what its worker makes."""

    @pytest.fixture
    def admin(self, place: Workplace, tmp_path: Path) -> Iterator[Client]:
        client = Client(place.world.url, place.world.token(Role.ADMIN), cache=tmp_path / "cache")
        yield client
        client.quotas.set("-")
        client.close()

    def test_a_checkpoint_is_left_out_and_the_training_goes_on(self, place: Workplace, admin: Client) -> None:
        job = place.submit(steps=40, every_steps=10, rank=64)
        # There is room for the adapter, and none for an optimiser's state, which is twice as large.
        size = admin.quotas.get("-").size_bytes
        admin.quotas.set("-", max_bytes=size + 500_000)
        with place.worker(forks=True) as worker:
            ended = place.wait_for_state(job, "succeeded")
            assert (ended.attempt, ended.failures) == (1, 0), worker.text
        assert place.checkpoints(job) == []
        said = place.said(job)
        assert "is not stored; the training continues without it: the namespace '-' has" in said
        assert "ask an admin to raise the quota: adapterctl quota set" in said

    def test_a_result_without_room_fails_its_job_at_once(self, place: Workplace, admin: Client) -> None:
        job = place.submit(steps=1)
        admin.quotas.set("-", max_bytes=0)
        with place.worker(forks=True) as worker:
            ended = place.wait_for_state(job, "failed")
            assert (ended.reason, ended.attempt) == ("quota", 1), f"{ended.message}\n{worker.text}"
            assert "of 0 bytes" in (ended.message or "")
            assert (ended.message or "").endswith("adapterctl quota set")
            admin.quotas.set("-")
            again = place.client.call("POST", f"/jobs/{job}/retry", JobView)
            place.wait_for_state(again.id, "succeeded")


class TestLoop:
    """Workers that ask by themselves, told to end."""

    def test_one_gives_its_job_back_and_the_next_goes_on_from_there(self, place: Workplace) -> None:
        job = place.submit()
        with place.worker("--name", "first") as first:
            place.wait_for_step(job, 3)
            child = first.child()
            first.signal(signal.SIGTERM)
            assert first.status() == 0
            assert not is_alive(child)
        given_back = place.attempts(job)[0]
        assert (given_back.state, given_back.worker) == ("released", "first")
        waiting = place.job(job)
        assert (waiting.state, waiting.failures) == ("queued", 0)
        reached = place.checkpoints(job)[0].step
        assert reached >= 3
        with place.worker("--name", "second"):
            wait_until(lambda: place.job(job).attempt == 2, lambda: str(place.job(job)))
            place.wait_for_step(job, reached + 1)
            place.client.jobs.cancel(job)
            place.wait_for_state(job, "cancelled")
        states = {worker.name: worker.state for worker in place.workers()}
        assert states["first"] == "draining"

    def test_told_twice_it_waits_for_nobody(self, place: Workplace) -> None:
        job = place.submit()
        with place.worker(ADAPTER_WORKER_GRACE_S="3600") as worker:
            child = worker.child_at_work()
            # It can't end by itself now.
            os.kill(child, signal.SIGSTOP)
            worker.signal(signal.SIGINT)
            wait_until(lambda: "draining" in [state.state for state in place.workers()], lambda: worker.text)
            worker.signal(signal.SIGTERM)
            assert worker.status() == 0
            assert not is_alive(child)
        assert place.attempts(job)[0].state == "released"
        place.client.jobs.cancel(job)

    def test_a_child_that_does_not_stop_within_the_grace_is_killed_and_the_job_given_back(
        self, place: Workplace
    ) -> None:
        job = place.submit(every_steps=2)
        with place.worker(ADAPTER_WORKER_GRACE_S="6") as worker:
            wait_until(lambda: len(place.checkpoints(job)) >= 1, lambda: worker.text)
            child = worker.child()
            os.kill(child, signal.SIGSTOP)
            worker.signal(signal.SIGTERM)
            assert worker.status() == 0
            assert not is_alive(child)
        assert place.attempts(job)[0].state == "released"
        place.client.jobs.cancel(job)

    def test_a_killed_worker_leaves_no_process_and_the_next_one_sweeps_its_folder(self, place: Workplace) -> None:
        job = place.submit()
        attempts = place.folder / "swept-cache/jobs"
        with place.worker(ADAPTERCTL_CACHE=str(attempts.parent), ADAPTER_WORKER_WARM="1") as worker:
            place.wait_for_step(job)
            below = list(worker.below())
            worker.signal(signal.SIGKILL)
            worker.process.wait()
            wait_until(lambda: not any(is_alive(pid) for pid in below), lambda: f"{below} go on", 60)
        assert any(left.is_dir() for left in attempts.iterdir())
        place.client.jobs.cancel(job)
        with place.worker(ADAPTERCTL_CACHE=str(attempts.parent)) as worker:
            wait_until(lambda: list(attempts.iterdir()) == [], lambda: worker.text)
            worker.signal(signal.SIGTERM)
            # It has nothing to give back.
            assert worker.status() == 0
