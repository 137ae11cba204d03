"""A job that no worker can run: that is said when it is submitted, and it is refused if a worker is required."""

from __future__ import annotations

from typing import Any

import pytest
from contract.jobs.helpers import Crew

from sdk.errors import Unavailable
from sdk.schemas.evaluation import EvaluationSpec
from sdk.schemas.job_requests import BaseChoice, EvaluationRequest, EvaluationTarget
from sdk.schemas.jobs import JobSubmission, JobView, Needs
from sdk.version import VERSION

CARD = "it needs a CUDA GPU, and no worker of the queue gpu has one"


def submit(crew: Crew, **how: Any) -> JobView:
    targets = [EvaluationTarget(base=BaseChoice(id="tiny"))]
    request = EvaluationRequest(targets=targets, data=crew.data, spec=EvaluationSpec())
    return crew.writer.call("POST", "/jobs", JobView, body=JobSubmission(request=request, **how))


def test_job_that_no_worker_can_run_waits_and_says_why(crew: Crew) -> None:
    assert "no worker listens to the queue gpu" in (submit(crew).waits or "")
    crew.claim(name="small", version=VERSION)
    assert submit(crew).waits is None
    job = submit(crew, needs=Needs(device="cuda"))
    assert job.waits == CARD
    assert "it needs 838.2 GiB of memory" in (submit(crew, needs=Needs(memory_bytes=900 * 10**9)).waits or "")


def test_required_worker_refuses_what_no_worker_can_run(crew: Crew) -> None:
    crew.claim(name="small", version=VERSION)
    before = len(list(crew.writer.call("GET", "/jobs", dict[str, Any])["items"]))
    with pytest.raises(Unavailable, match=CARD) as refused:
        submit(crew, needs=Needs(device="cuda"), require_worker=True)
    assert refused.value.param == "require_worker"
    # The terminal makes an option of the keyword; for Python it is one already.
    assert refused.value.message.endswith("; or leave require_worker out, and it waits")
    assert len(list(crew.writer.call("GET", "/jobs", dict[str, Any])["items"])) == before
    assert submit(crew, require_worker=True).waits is None
