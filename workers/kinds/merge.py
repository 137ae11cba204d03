"""Merges: a version's update added to its base's weights, and the model stored."""

from __future__ import annotations

from sdk.schemas.failures import FailureReason
from sdk.schemas.jobs import MergeRequest
from sdk.schemas.work import Completion, MergeResult
from workers.child.protocol import OUT_FOLDER, MergeOrder
from workers.kinds.attempt import Attempt
from workers.kinds.causes import AttemptFailed
from workers.kinds.packing import pack


def merge(attempt: Attempt, request: MergeRequest) -> None:
    """Carry out a merge and hand the model in. Raises AttemptFailed, Stopped, AdapterctlError."""
    target = attempt.assignment.targets[0]
    base = attempt.inputs.base(target.base)
    if target.manifest is None:
        raise AttemptFailed(FailureReason.INTERNAL, "the registry gave a merge without a version; upgrade both")
    order = MergeOrder(
        base=str(base.folder),
        adapter=str(attempt.inputs.adapter(target.manifest)),
        quantization=target.quantization,
        spec=request.spec,
    )
    report = attempt.run_child(order).merge
    if report is None:
        raise AttemptFailed(FailureReason.INTERNAL, "the merge left no report; the worker's log has the details")
    attempt.finishing("uploading the merged model")
    fingerprint = base.registration.fingerprint
    manifest, sources = pack(attempt.folder / OUT_FOLDER, kind="merged", base_fingerprint=fingerprint)
    upload = attempt.client.upload(sources, "storing merged model", attempt.assignment.namespace)
    merged = MergeResult(manifest=manifest, upload=upload, report=report)
    attempt.complete(Completion(attempt=attempt.assignment.attempt, merge=merged))
