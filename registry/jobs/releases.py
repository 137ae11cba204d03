"""Which release understands what a job asks for. A release is counted as 1000 · major + minor.

A field that is added to a request is entered in `_SINCE`. A job that uses it is then given out only by servers, and
only to workers, that know it: an earlier release ignores fields that it does not know, and would do something other
than what was asked for. A job that leaves the field at its default goes to any.

>>> number_of("0.4.2"), number_of("2.11"), number_of("")
(4, 2011, 0)
>>> name_of(2011)
'2.11'
"""

from __future__ import annotations

import re
from typing import Any

from sdk.schemas.job_requests import JobRequest
from sdk.version import VERSION

#: Path within a request, its value if nobody uses it, and the first release that understands it.
_SINCE: tuple[tuple[tuple[str, ...], Any, int], ...] = (
    # Every job has one. A worker that ignores it asks the clock, as before: so it may have the job.
    (("template_date",), None, 0),
    # A worker that ignores it computes, as before.
    (("again",), False, 0),
    # The registry adds targets or leaves them out; a worker scores those that it gets.
    (("only",), False, 0),
    (("targets", "beside"), None, 0),
    # They say which base is pinned, and are not kept.
    (("base", "base_namespace"), None, 0),
    (("base", "published"), False, 0),
    (("targets", "base", "base_namespace"), None, 0),
    (("targets", "base", "published"), False, 0),
    # For people: the digest is what counts.
    (("data_name",), None, 0),
    (("eval_data_name",), None, 0),
    (("columns",), None, 1),
    (("like",), None, 1),
    (("like", "ref"), None, 1),
    (("like", "digest"), None, 1),
    (("like", "ran_with"), None, 1),
    (("holdout",), None, 1),
    (("holdout_by",), None, 1),
    (("holdout_seed",), None, 1),
    (("spec", "columns"), None, 1),
    (("sources",), None, 1),
    (("parent",), None, 1),
    (("parent", "ref"), None, 1),
    (("parent", "digest"), None, 1),
    (("spec", "objective"), None, 1),
    (("spec", "beta"), None, 1),
    (("spec", "exclude"), None, 1),
    (("spec", "use_rslora"), None, 1),
    (("spec", "use_dora"), None, 1),
    (("spec", "init_lora_weights"), None, 1),
    (("spec", "eva_rho"), None, 1),
    (("spec", "rank_pattern"), None, 1),
    (("spec", "alpha_pattern"), None, 1),
    (("spec", "layers_to_transform"), None, 1),
    (("spec", "bias"), None, 1),
    (("spec", "modules_to_save"), None, 1),
    (("spec", "trainable_token_indices"), None, 1),
    (("spec", "quant_type"), None, 1),
    (("spec", "double_quant"), None, 1),
    (("spec", "optim"), None, 1),
    (("spec", "loraplus_lr_ratio"), None, 1),
    (("spec", "weight_decay"), None, 1),
    (("spec", "max_grad_norm"), None, 1),
    (("spec", "adam_beta1"), None, 1),
    (("spec", "adam_beta2"), None, 1),
    (("spec", "neftune_noise_alpha"), None, 1),
    (("spec", "packing"), None, 1),
    (("spec", "holdout"), None, 1),
    (("spec", "holdout_by"), None, 1),
    (("spec", "holdout_seed"), None, 1),
    (("spec", "quantize"), None, 1),
    (("register_as",), None, 1),
    (("spec", "metrics"), None, 1),
    (("spec", "regex"), None, 1),
    (("spec", "scorers"), None, 1),
)


def number_of(version: str) -> int:
    """Return the number of the release that a version belongs to; 0 for what is not a version."""
    match = re.match(r"(\d{1,6})\.(\d{1,3})", version)
    return int(match[1]) * 1000 + int(match[2]) if match else 0


def name_of(release: int) -> str:
    """Return a release as people write it."""
    return f"{release // 1000}.{release % 1000}"


#: This release.
OURS = number_of(VERSION)


def needed_by(request: JobRequest) -> int:
    """Return the oldest release that understands all that a request asks for; 0: any."""
    said = request.model_dump()
    return max((release for path, default, release in _SINCE if _at(said, path) not in (default, None)), default=0)


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value
