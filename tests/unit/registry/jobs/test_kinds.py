"""Each kind of job that clients may submit is known to the registry and to workers."""

from __future__ import annotations

from registry.jobs.kinds.known import KINDS
from registry.jobs.workers import QUEUES
from sdk.schemas.job_requests import JOB_KINDS
from workers.kinds.known import KINDS as KINDS_OF_WORK


def test_every_kind_has_its_rules() -> None:
    assert tuple(KINDS) == tuple(KINDS_OF_WORK) == JOB_KINDS
    assert {rules.queue for rules in KINDS.values()} == set(QUEUES)


def test_the_datasets_of_a_kind_are_fields_of_its_request() -> None:
    for rules in KINDS.values():
        named = ("data", "eval_data", "test_data", "sources")
        digests = {name for name in rules.request.model_fields if name in named}
        assert set(rules.datasets) == digests, rules.name
