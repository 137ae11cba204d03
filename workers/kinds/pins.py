"""What the registry gives a worker for a job, checked against the pins in the job's own request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sdk.formats.refs import MemberRef, Ref, parse_ref_or_member
from sdk.schemas.failures import FailureReason
from sdk.schemas.job_requests import BaseChoice, EvaluationTarget
from sdk.schemas.manifest import Manifest
from sdk.schemas.work import BaseSource, TargetSource
from workers.kinds.causes import AttemptFailed


def day_of(date: str | None) -> str:
    """Return the date that a registry has pinned for a job. Raises AttemptFailed if there is none."""
    if date is None:
        raise AttemptFailed(FailureReason.INTERNAL, "the registry gave a job without a date; upgrade both")
    return date


def of_targets(wanted: Sequence[EvaluationTarget], given: Sequence[TargetSource]) -> Iterator[str]:
    """Say which of the given targets is not what was asked for."""
    if len(wanted) != len(given):
        yield "a different number of targets"
    for asked, target in zip(wanted, given, strict=False):
        if asked.base is not None:
            yield from of_base(asked.base, target.base)
            if target.digest is not None or target.manifest is not None:
                yield "an adapter for a bare base"
        elif asked.ref is not None:
            yield from _of_adapter(parse_ref_or_member(asked.ref), asked.digest, target)


def of_base(asked: BaseChoice, base: BaseSource) -> Iterator[str]:
    """Say in what a given base differs from the requested one."""
    if asked.fingerprint is not None:
        if base.fingerprint != asked.fingerprint:
            yield "another base"
    elif (base.id, base.revision) != (asked.id, asked.revision):
        yield "another base"
    if base.manifest is not None:
        yield from of_manifest(base.manifest, "base", base.fingerprint)


def _of_adapter(ref: Ref | MemberRef, digest: str | None, target: TargetSource) -> Iterator[str]:
    if target.manifest is None or target.digest is None:
        yield f"no files of {ref}"
        return
    named = target.manifest.digest == target.digest
    if isinstance(ref, Ref):
        if not named or not target.digest.startswith(ref.digest_prefix or ""):
            yield f"another version of {ref.adapter}"
    elif not named or target.digest != digest:
        yield f"other files than those of {ref}"
    yield from of_manifest(target.manifest, "adapter", target.base.fingerprint)
    yield from of_base(BaseChoice(id="-", fingerprint=target.base.fingerprint), target.base)


def of_manifest(manifest: Manifest, kind: str, fingerprint: str | None) -> Iterator[str]:
    """Say if a given manifest doesn't have the requested kind and base."""
    if manifest.kind != kind:
        yield f"a manifest of the wrong kind ({manifest.kind}, not {kind})"
    if fingerprint is not None and manifest.base_fingerprint != fingerprint:
        yield f"the {kind} of another base"
