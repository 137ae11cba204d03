"""The kinds of job that this release knows."""

from __future__ import annotations

from typing import Any

from registry.db.stored_json import read_stored
from registry.errors import Unreadable
from registry.jobs.kinds.combine import COMBINE
from registry.jobs.kinds.evaluation import EVALUATION
from registry.jobs.kinds.merge import MERGE
from registry.jobs.kinds.preview import PREVIEW
from registry.jobs.kinds.rules import JobKindRules
from registry.jobs.kinds.training import TRAINING
from sdk.schemas.wire import Wire

KINDS: dict[str, JobKindRules[Any]] = {rules.name: rules for rules in (TRAINING, EVALUATION, MERGE, PREVIEW, COMBINE)}

#: Kinds whose results are models that were made from a version.
MODEL_MAKING = tuple(name for name, rules in KINDS.items() if rules.makes_model)
#: Kinds whose results show rows of a dataset.
SHOWING_ROWS = tuple(name for name, rules in KINDS.items() if rules.shows_rows)


def rules_of(kind: str) -> JobKindRules[Any]:
    """Return the rules of a kind. Raises Unreadable for one that only a newer release knows."""
    if kind not in KINDS:
        raise Unreadable(f"this release has no jobs of the kind {kind!a}; upgrade the registry")
    return KINDS[kind]


def read_request(kind: str, stored: object, *, job_id: str) -> Wire:
    """Return the request of a stored job, in order to act on it. Raises Unreadable."""
    request: Wire = read_stored(rules_of(kind).request, stored, of=f"the request of job {job_id}")
    return request
