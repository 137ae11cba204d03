"""A Celery worker that claims jobs and hands in a result that is always the same: what is left is what a job costs.

    REGISTRY_BROKER_URL=… ADAPTERCTL_URL=… ADAPTERCTL_TOKEN=… celery -A noop_worker worker

Settings, signals and the name of the task are the real worker's, and so is the client; there is no child process.
"""

from __future__ import annotations

import functools

from sdk.api import work as api
from sdk.client import Client
from sdk.schemas.evaluation import Conditions, EvaluationReport
from sdk.schemas.work import Assignment, ClaimRequest, Completion, EvaluationResult
from workers.entry.celery_app import make_app
from workers.node import machine
from workers.settings import WorkerSettings

_CONDITIONS = Conditions(
    loss_on="completion", max_length=1024, generated_rows=0, max_new_tokens=0, stop_ids=[], tokenizer="b" * 64
)
_REPORT = EvaluationReport(
    metrics={"loss": 1.25, "perplexity": 3.49, "rows": 16.0}, precision="float32", conditions=_CONDITIONS
)

app = make_app()
app.conf.include = [__name__]


@functools.cache
def _connection() -> tuple[WorkerSettings, Client]:
    return WorkerSettings.from_env(), Client()


@app.task(name="adapterctl.work")  # type: ignore[untyped-decorator]
def work(hint: str) -> None:
    """Work off what there is, beginning with the hinted job, as the real task does."""
    settings, client = _connection()
    request = ClaimRequest(worker=machine.worker_info(settings, client.cache), hint=hint)
    while (assignment := api.claim(client.transport, request)) is not None:
        request = ClaimRequest(worker=machine.worker_info(settings, client.cache))
        api.complete(client.transport, assignment.job, _completion(assignment))


def _completion(assignment: Assignment) -> Completion:
    results = [
        EvaluationResult(
            label=target.label,
            digest=target.digest,
            base_fingerprint=target.base.fingerprint or "",
            report=_REPORT,
        )
        for target in assignment.targets
    ]
    return Completion(attempt=assignment.attempt, evaluations=results)
