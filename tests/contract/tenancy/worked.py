"""What a tenant does with jobs and with workers of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from contract.tenancy.answers import fetched, keyed, plain
from contract.tenancy.child import Notes, worker
from contract.tenancy.universe import Universe
from support.registries import World

from sdk.client import Client
from sdk.schemas.evaluation import EvaluationSpec
from sdk.schemas.events import NewEvent
from sdk.schemas.job_requests import CheckpointRef, EvaluationRequest, EvaluationTarget, TrainingRequest
from sdk.schemas.jobs import JobSubmission, JobView
from sdk.schemas.training import TrainingSpec
from sdk.schemas.work import (
    Assignment,
    ClaimRequest,
    Completion,
    Failure,
    Farewell,
    Heartbeat,
    HeartbeatReply,
    Release,
    WorkerInfo,
)

if TYPE_CHECKING:
    from contract.tenancy.party import Party


#: A real worker that finds always more to do is broken.
_MOST_JOBS = 60


class Worked:
    """Jobs and workers of a tenant."""

    def __init__(self, party: Party) -> None:
        self._party = party

    def train(
        self, adapter: str, base: str, data: str, seed: int, key: str | None = None, resume: str | None = None
    ) -> Any:
        """Submit a training, by names or from local files."""
        spec: dict[str, Any] = {"method": "lora", "rank": 2, "targets": "q_proj,v_proj", "max_steps": 2, "seed": seed}
        job = None if resume is None else self._party.of(resume, "jobs")
        if data.startswith("file:"):
            folder = base.startswith("folder:")
            submitted = self._party.ci.submit_training(
                self._party.name(adapter),
                base=self._party.universe.bases[int(base[-1])] if folder else self._party.base(base),
                data=self._party.universe.data[int(data[-1])],
                idempotency_key=key,
                from_checkpoint=job,
                **spec,
            )
            return self._submitted(submitted.view)
        request = TrainingRequest(
            adapter=self._party.name(adapter),
            base=self._party.choice(base),
            data=self._party.data(data),
            spec=TrainingSpec(**spec),
            from_checkpoint=None if job is None else CheckpointRef(job=job),
        )
        return self._submit(JobSubmission(request=request), key)

    def evaluate(self, target: str, data: int, key: str | None = None) -> Any:
        """Submit the evaluation of a version, or of a bare base."""
        if target.startswith(("id:", "fingerprint:")):
            named = EvaluationTarget(base=self._party.choice(target))
        else:
            named = EvaluationTarget(ref=self._party.name(target))
        data_digest = self._party.universe.data_digests[data]
        spec = EvaluationSpec(precision="native")
        return self._submit(JobSubmission(request=EvaluationRequest(targets=[named], data=data_digest, spec=spec)), key)

    def merge(self, ref: str) -> Any:
        """Submit a merge."""
        return self._submitted(self._party.ci.submit_merge(self._party.name(ref)).view)

    def _submit(self, submission: JobSubmission, key: str | None) -> Any:
        return self._submitted(self._party.ci.call("POST", "/jobs", JobView, body=submission, headers=keyed(key)))

    def _submitted(self, view: JobView) -> Any:
        if view.id not in self._party.jobs:
            self._party.jobs.append(view.id)
        return plain(view)

    def job(self, job: str) -> Any:
        """All that is said of a job."""
        named = self._party.of(job, "jobs")
        return {
            "job": plain(self._party.ci.jobs.view(named)),
            "attempts": plain(self._party.ci.jobs.attempts(named)),
            "checkpoints": plain(self._party.ci.jobs.checkpoints(named)),
            "events": [plain(event) for event in self._party.ci.jobs.events(named) if event.kind != "progress"],
            "evaluations": plain(scores := self._party.ci.evaluations(job=named)),
            "rows": [plain(self._party.ci.evaluations.rows(each.id)) for each in scores if each.rows_digest],
        }

    def job_list(self) -> Any:
        """All jobs."""
        return [plain(job.view) for job in self._party.ci.jobs(limit=500)]

    def job_cancel(self, job: str) -> Any:
        """Cancel a job."""
        return plain(self._party.ci.jobs.cancel(self._party.of(job, "jobs")))

    def job_retry(self, job: str, key: str | None = None) -> Any:
        """Try a job again."""
        return self._submitted(self._party.ci.jobs.retry(self._party.of(job, "jobs"), idempotency_key=key).view)

    def job_files(self, job: str) -> Any:
        """The files of a merged model."""
        result = self._party.ci.jobs.view(self._party.of(job, "jobs")).result or {}
        return fetched(self._party.ci.versions.locate(result["digest"])) if "digest" in result else None

    def checkpoint_publish(self, job: str, adapter: str) -> Any:
        """Make a version from a checkpoint."""
        named = self._party.of(job, "jobs")
        return plain(self._party.ci.jobs.publish_checkpoint(named, 1, adapter=self._party.name(adapter)))

    def hello(self, worker: str, shares: str) -> Any:
        """Announce a worker, with all bases in its cache and a folder that it says it shares."""
        return self._party.gpu.call("POST", "/workers/hello", type(None), body=self._info(worker, shares))

    def leave(self, worker: str) -> Any:
        """Take a worker away."""
        return self._party.gpu.call("POST", "/workers/leave", type(None), body=Farewell(worker=worker))

    def claim(self, worker: str, key: str | None) -> Any:
        """Take a job and do nothing with it."""
        body = ClaimRequest(worker=self._info(worker, "nothing"))
        reply: Any = Assignment | None
        return plain(self._party.gpu.call("POST", "/jobs/claim", reply, body=body, headers=keyed(key)))

    def _info(self, name: str, shares: str) -> WorkerInfo:
        return WorkerInfo(
            name=name,
            device="cpu",
            memory_bytes=2**36,
            free_memory_bytes=2**35,
            cached_bases=[scan.registration.fingerprint for scan in self._party.universe.scans],
            shared_paths=[] if shares == "nothing" else ["/" if shares == "all" else str(self._party.universe.shared)],
        )

    def work(self, name: str) -> Any:
        """Carry out all jobs that this tenant's own worker is given."""
        work_off(
            name,
            self._party.gpu,
            self._party.folder / f"{name}-cache",
            self._party.world,
            self._party.universe,
            self._party.notes,
            lies=self._party.lies,
        )

    def work_list(self) -> Any:
        """The workers that may be seen."""
        return plain(self._party.ci.workers())

    def attempt(self, job: str, verb: str, by: str) -> Any:
        """Do to the first attempt at a job what only who holds it may."""
        named, client = self._party.of(job, "jobs"), getattr(self._party, by)
        if verb == "complete":
            _, publication, sources = self._party.package(0, 0)
            whose = job.partition(":")[0]
            said = {"adapter": self._party.name(f"{whose}/a"), "upload": client.uploader.upload(sources, "sending")}
            body: Any = Completion(attempt=1, version=publication.model_copy(update=said))
        else:
            body = {
                "heartbeat": Heartbeat(attempt=1, events=[NewEvent(kind="log", message="all is well")]),
                "fail": Failure(attempt=1, reason="data", message="the rows are odd"),
                "release": Release(attempt=1),
            }[verb]
        reply: Any = HeartbeatReply if verb == "heartbeat" else JobView
        return plain(client.call("POST", f"/jobs/{named}/{verb}", reply, body=body))


def work_off(
    name: str, client: Client, cache: Path, world: World, universe: Universe, notes: Notes, *, lies: bool = False
) -> None:
    """Let a worker carry out all that it is given; if it `lies`, it hands in other scores than it found."""
    token = client.config.token or ""
    with worker(name, url=world.url, token=token, cache=cache, shared=universe.shared, notes=notes, lies=lies) as made:
        for _ in range(_MOST_JOBS):
            if not made.work_once():
                return
    raise AssertionError(f"{name} is given job after job")
