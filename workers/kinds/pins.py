"""What the registry gives a worker for a job, held against what the job's own request was pinned to."""

from __future__ import annotations

from collections.abc import Iterator

from sdk.errors import VerificationFailed
from sdk.formats.refs import Ref
from sdk.schemas.jobs import BaseChoice, EvaluationTarget, MergeRequest, TrainingRequest
from sdk.schemas.manifest import Manifest
from sdk.schemas.work import Assignment, BaseSource, TargetSource


def require_pinned(assignment: Assignment) -> None:
    """Raise VerificationFailed where something is given that the job did not ask for."""
    wrong = next(_differences(assignment), None)
    if wrong is not None:
        raise VerificationFailed(
            f"what the registry gave for job {assignment.job} is not what it was submitted with ({wrong}); tell an admin, "
            "then submit it again"
        )


def _differences(given: Assignment) -> Iterator[str]:
    request = given.request
    if isinstance(request, TrainingRequest):
        if given.base is not None:
            yield from _of_base(request.base, given.base)
        if given.checkpoint is not None:
            earlier = request.from_checkpoint
            if given.checkpoint.job not in (given.job, None if earlier is None else earlier.job):
                yield "a checkpoint of another job"
            yield from _of_manifest(given.checkpoint.manifest, "checkpoint", request.base.fingerprint)
        return
    wanted = [EvaluationTarget(ref=request.ref)] if isinstance(request, MergeRequest) else request.targets
    if len(wanted) != len(given.targets):
        yield "another number of targets"
    for asked, target in zip(wanted, given.targets, strict=False):
        if asked.base is not None:
            yield from _of_base(asked.base, target.base)
            if target.digest is not None or target.manifest is not None:
                yield "an adapter for a bare base"
        elif asked.ref is not None:
            yield from _of_version(Ref.parse(asked.ref), target)


def _of_base(asked: BaseChoice, base: BaseSource) -> Iterator[str]:
    if asked.fingerprint is not None:
        if base.fingerprint != asked.fingerprint:
            yield "another base"
    elif (base.id, base.revision) != (asked.id, asked.revision):
        yield "another base"
    if base.manifest is not None:
        yield from _of_manifest(base.manifest, "base", base.fingerprint)


def _of_version(ref: Ref, target: TargetSource) -> Iterator[str]:
    if target.manifest is None or target.digest is None:
        yield f"no files of {ref}"
        return
    if target.manifest.digest != target.digest or not target.digest.startswith(ref.digest_prefix or ""):
        yield f"another version of {ref.adapter}"
    yield from _of_manifest(target.manifest, "adapter", target.base.fingerprint)
    yield from _of_base(BaseChoice(id="-", fingerprint=target.base.fingerprint), target.base)


def _of_manifest(manifest: Manifest, kind: str, fingerprint: str | None) -> Iterator[str]:
    if manifest.kind != kind:
        yield f"a manifest of another kind ({manifest.kind}, not {kind})"
    if fingerprint is not None and manifest.base_fingerprint != fingerprint:
        yield f"the {kind} of another base"
