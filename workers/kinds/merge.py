"""Merges: a version's update added to its base's weights, and the model stored."""

from __future__ import annotations

from collections.abc import Iterator

from sdk.pushing.signatures import check_signing_key, sign_manifest
from sdk.schemas.evaluation import MergeReport
from sdk.schemas.failures import FailureReason
from sdk.schemas.job_requests import EvaluationTarget, MergeRequest
from sdk.schemas.work import Assignment, Completion, MergeResult
from workers.child.protocol import OUT_FOLDER
from workers.kinds.attempt import Attempt, KindOfWork, pack
from workers.kinds.causes import AttemptFailed
from workers.kinds.pins import of_targets
from workers.pipelines.orders import MergeOrder


def _differences(given: Assignment, request: MergeRequest) -> Iterator[str]:
    return of_targets([EvaluationTarget(ref=request.ref)], given.targets)


def _merge(attempt: Attempt, request: MergeRequest) -> None:
    """Carry out a merge and hand the model in. Raises AttemptFailed, Stopped, AdapterctlError."""
    target = attempt.assignment.targets[0]
    base = attempt.inputs.base(target.base)
    if target.manifest is None:
        raise AttemptFailed(FailureReason.INTERNAL, "the registry gave a merge without a version; upgrade both")
    if request.register_as is not None:
        # Checked before the work, not after it.
        check_signing_key()
    order = MergeOrder(
        base=base.folder,
        adapter=attempt.inputs.adapter(target.manifest),
        quantization=target.quantization,
        labels=target.labels,
        spec=request.spec,
        kept=attempt.inputs.kept(base),
        norms=target.delta_norms,
    )
    report = attempt.run_child(order, MergeReport)
    attempt.finishing("uploading the merged model")
    fingerprint = base.registration.fingerprint
    manifest, sources = pack(attempt.folder / OUT_FOLDER, kind="merged", base_fingerprint=fingerprint)
    upload = attempt.client.uploader.upload(sources, "storing merged model", attempt.assignment.namespace, given=True)
    signature = None if request.register_as is None else sign_manifest(manifest)
    merged = MergeResult(manifest=manifest, upload=upload, report=report, signature=signature)
    attempt.complete(Completion(attempt=attempt.assignment.attempt, merge=merged))


MERGE = KindOfWork(request=MergeRequest, differences=_differences, carry_out=_merge)
