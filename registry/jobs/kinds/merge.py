"""Merges: a version is added to its base; the model is fetched by its digest, or becomes a version under a name."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from sqlalchemy.orm import Session

from registry.artifacts.long_facts import SHORT_WAIT_S, holding_facts
from registry.artifacts.manifests import blobs_of, record_manifest
from registry.artifacts.uploads import finish_upload
from registry.catalog.models import Version
from registry.catalog.publishing.inspecting import refuse_code
from registry.catalog.versions.finding import exact_ref, find_version, parse_ref, space_of
from registry.catalog.versions.kinds import require_adapter
from registry.catalog.versions.norms import norms_of, recipe_of, record_of
from registry.db.database import Database
from registry.errors import Invalid
from registry.jobs.base_contents import contents_of, require_fitting
from registry.jobs.forecasts import Estimate
from registry.jobs.kinds.merge_outcome import require_registrable, settle
from registry.jobs.kinds.rules import CompletionServices, Examined, HandedIn, JobKindRules, Mismatch, require_none
from registry.jobs.models import Job
from registry.jobs.objectives import is_classifier, require_labels
from registry.jobs.pins import Pinned, base_of, require_causal
from registry.jobs.requirements import needs_to_merge
from registry.jobs.sources import JobInputs, version_source
from registry.principal import SYSTEM, Principal
from registry.usage.charging import charge
from sdk.lora.stored_quantization import StoredQuantizationError, require_measuring, require_onto, require_unpacking
from sdk.schemas.catalog import JobRef
from sdk.schemas.evaluation import UNMEASURED
from sdk.schemas.job_requests import MergeRequest
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.work import Assignment, MergeResult

#: The fields of a report that are compared with the request.
_ASKED_FOR = {"onto", "dtype"}


def _pin(session: Session, request: MergeRequest, who: Principal, embedded: bool) -> Pinned[MergeRequest]:
    version = find_version(session, parse_ref(request.ref), who, action="write")
    require_adapter(session, version, "merged")
    if request.register_as is not None:
        require_registrable(session, version, request.register_as)
    base = base_of(session, version, embedded)
    if classifies := is_classifier(version):
        require_labels(session, version)
    _require_unpacking(version, request)
    ref = exact_ref(version)
    return Pinned(
        request.model_copy(update={"ref": ref}),
        version.adapter.namespace,
        ref,
        base,
        quantized=version.quantization is not None,
        causal=not classifies,
    )


def _require_unpacking(version: Version, request: MergeRequest) -> None:
    """Raise Invalid for a merge onto a dequantised base that isn't possible."""
    if (recipe := recipe_of(version)) is None:
        return
    try:
        require_unpacking(recipe, request.spec.onto)
    except StoredQuantizationError as error:
        raise Invalid(f"the base of {exact_ref(version)} {error}", param=error.param) from error


def _examine(db: Database, pinned: Pinned[MergeRequest]) -> Examined[MergeRequest]:
    """Raises InvalidBase, Invalid for a base that such a merge can't be made onto."""
    if pinned.base is None:
        raise Invalid("a merge whose base was not pinned")
    base = contents_of(db, pinned.base)
    if pinned.causal:
        require_causal(base)
    packed = require_fitting(base, partial(_require_onto, pinned))
    return Examined(pinned.request, Estimate(needs=needs_to_merge(quantized=pinned.quantized or packed)))


def _require_onto(pinned: Pinned[MergeRequest], stored: QuantizationRecipe | None) -> None:
    spec = pinned.request.spec
    require_onto(stored, spec.onto)
    require_measuring(stored, spec.onto, quantized=pinned.quantized, measured=spec.measure)


def _assign(session: Session, request: MergeRequest, job: Job) -> JobInputs:
    version = find_version(session, parse_ref(request.ref), SYSTEM)
    # It is used to find the norms once the job is given out.
    record_of(version)
    return JobInputs(targets=[version_source(session, request.ref, job.namespace)])


def _with_norms(db: Database, request: MergeRequest, given: Assignment) -> Assignment:
    """Add the norms that the merged model is checked against."""
    # The claim can be sent again, and then gets the same job; meanwhile it has a place among all other requests.
    with holding_facts(wait_s=SHORT_WAIT_S):
        norms = norms_of(db, lambda session: find_version(session, parse_ref(request.ref), SYSTEM)).norms
    return given.model_copy(
        update={"targets": [target.model_copy(update={"delta_norms": norms}) for target in given.targets]}
    )


def _keep(services: CompletionServices, request: MergeRequest, done: HandedIn) -> None:
    """Verify and record the merged model's files, as a version if a name was given for it.

    Raises Verification, also if they are not what the job asked for, and QuotaExceeded if its namespace has no room.
    """
    merge = done.completion.merge
    if merge is None or merge.manifest.kind != "merged":
        raise Invalid("a merge's completion must have a manifest of the kind 'merged'", param="merge")
    refuse_code(merge.manifest)
    with services.db.read() as session:
        base = find_version(session, parse_ref(request.ref), SYSTEM).base.fingerprint
    require_none(_differences(request, base, merge))
    if request.register_as is not None:
        _register(services, request, done, merge, request.register_as)
        return
    space = space_of(done.job.subject.partition("@")[0])
    services.artifacts.verify(upload=merge.upload, blobs=blobs_of(merge.manifest), who=done.who)
    with services.db.write() as session:
        digest, opened = record_manifest(session, merge.manifest, namespace=space)
        if opened:
            charge(session, space, merged=merge.manifest.size_bytes)
        finish_upload(session, merge.upload)
        done.succeed(session, _result(done, merge, digest))


def _register(
    services: CompletionServices, request: MergeRequest, done: HandedIn, merge: MergeResult, name: str
) -> None:
    """Publish the model, or find the version with the same bytes; the job succeeds in the transaction that numbers it.

    Raises Verification if this merge can't have made it, NotFound if the adapter was deleted since.
    """
    with services.db.read() as session:
        settled = settle(session, request, merge, name)
    with services.publisher.publishing_merged(
        publication=settled.publication,
        made=settled.made,
        who=done.who,
        job=JobRef(id=done.job.id, attempt=done.completion.attempt),
        reported=settled.reported,
        notes=merge.report.warnings,
    ) as (session, published):
        result = _result(done, merge, published.version.digest)
        done.succeed(session, {**result, "version": published.version.ref, "existing": published.existing})


def _result(done: HandedIn, merge: MergeResult, digest: str) -> dict[str, Any]:
    report = merge.report.model_dump()
    return {
        "ref": done.job.subject,
        "digest": digest,
        "manifest": merge.manifest.model_dump(),
        "report": report,
        #: What only the worker stated, by dotted names.
        "reported": sorted(f"report.{name}" for name in report.keys() - _ASKED_FOR),
    }


def _differences(request: MergeRequest, base_fingerprint: str, merge: MergeResult) -> Iterator[Mismatch]:
    """In what way a merged model is not over the version's base, or not made as asked for."""
    if merge.manifest.base_fingerprint != base_fingerprint:
        yield Mismatch("base", base_fingerprint, merge.manifest.base_fingerprint)
    for name in ("onto", "dtype"):
        asked, done = getattr(request.spec, name), getattr(merge.report, name)
        if asked not in ("auto", done):
            yield Mismatch(name, asked, done)
    found = merge.report.read_back
    if request.spec.measure and found is not None and found.prompts == UNMEASURED:
        yield Mismatch("measure", True, False)
    packed = None if merge.report.quantized is None else merge.report.quantized.type
    if request.spec.quantize != packed:
        yield Mismatch("quantize", request.spec.quantize, packed)


MERGE = JobKindRules(
    request=MergeRequest,
    queue="cpu",
    datasets=(),
    pin=_pin,
    examine=_examine,
    assign=_assign,
    complete=_keep,
    complement=_with_norms,
    makes_model=True,
)
