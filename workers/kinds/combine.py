"""Combinations: versions of one base added up by their weights, and published as one."""

from __future__ import annotations

from collections.abc import Iterator

from sdk.pushing.signatures import check_signing_key, sign_manifest
from sdk.schemas.catalog import Parent, Publication
from sdk.schemas.combination import CombineReport, CombineRequest
from sdk.schemas.failures import FailureReason
from sdk.schemas.job_requests import EvaluationTarget
from sdk.schemas.work import Assignment, CombineResult, Completion
from workers.kinds.attempt import Attempt, KindOfWork
from workers.kinds.causes import AttemptFailed
from workers.kinds.pins import of_targets
from workers.pipelines.orders import CombineOrder, ParentFolder

#: How many lines of a job's log list the modules of which least was kept.
_MOST_TOLD = 400


def _differences(given: Assignment, request: CombineRequest) -> Iterator[str]:
    yield from of_targets([EvaluationTarget(ref=parent.ref) for parent in request.parents], given.targets)
    for parent, target in zip(request.parents, given.targets, strict=False):
        if parent.digest not in (None, target.digest):
            yield f"other files of {parent.ref}"
    if len({target.base.fingerprint for target in given.targets}) > 1:
        yield "versions over several bases"


def _combine(attempt: Attempt, request: CombineRequest) -> None:
    """Carry out a combination and publish it. Raises AttemptFailed, Stopped, AdapterctlError."""
    targets = attempt.assignment.targets
    # Checked before the work, not after it.
    check_signing_key()
    parents = []
    for parent, target in zip(request.parents, targets, strict=True):
        if target.manifest is None:
            raise AttemptFailed(
                FailureReason.INTERNAL, "the registry gave a combination without a version; upgrade both"
            )
        folder = attempt.inputs.adapter(target.manifest)
        parents.append(ParentFolder(label=parent.ref, folder=folder, weight=parent.weight))
    report = attempt.run_child(CombineOrder(parents=parents, spec=request.spec), CombineReport)
    for name, share in sorted(report.kept_energy.items(), key=lambda item: item[1])[:_MOST_TOLD]:
        attempt.lease.log(f"{name} keeps {share:.6f} of the energy")
    if (total := report.metrics.get("kept_energy")) is not None:
        attempt.lease.log(f"all modules together keep {total:.6f} of the energy")
    _publish(attempt, request, report)


def _publish(attempt: Attempt, request: CombineRequest, report: CombineReport) -> None:
    attempt.finishing("uploading the combination")
    base = attempt.assignment.targets[0].base
    if base.fingerprint is None:
        raise AttemptFailed(FailureReason.INTERNAL, "the registry gave versions without a base; upgrade both")
    package = attempt.pack_adapter(base, base.fingerprint)
    publication = Publication(
        adapter=request.adapter,
        upload=attempt.client.uploader.upload(
            package.sources, "uploading the combination", attempt.assignment.namespace
        ),
        manifest=package.manifest,
        lora=package.lora,
        parents=[Parent(ref=one.ref, relation="combined-from", weight=one.weight) for one in request.parents],
        signature=sign_manifest(package.manifest),
    )
    result = CombineResult(version=publication, report=report)
    attempt.complete(Completion(attempt=attempt.assignment.attempt, combination=result))


COMBINE = KindOfWork(request=CombineRequest, differences=_differences, carry_out=_combine)
