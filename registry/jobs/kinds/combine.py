"""Combinations: the weighted sum of versions over the same base becomes a version with them as its parents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from sqlalchemy.orm import Session

from registry.artifacts.long_facts import holding_facts
from registry.artifacts.manifests import read_manifest
from registry.catalog.bases.finding import find_base
from registry.catalog.models import Version
from registry.catalog.versions.finding import exact_ref, find_version, parse_ref, require_digest, space_to_change
from registry.catalog.versions.kinds import require_adapter, require_name_of_kind
from registry.catalog.versions.norms import recipe_of, record_of
from registry.db.database import Database
from registry.errors import Invalid, InvalidBase
from registry.jobs.base_contents import PinnedBase
from registry.jobs.kinds.combine_outcome import Ancestor, require_made_of, settle
from registry.jobs.kinds.combine_shapes import require_shapes_fit, weight_facts, weights_in
from registry.jobs.kinds.parents import pinned_version, require_ready
from registry.jobs.kinds.rules import CompletionServices, Examined, HandedIn, JobKindRules
from registry.jobs.models import Job
from registry.jobs.pins import Pinned
from registry.jobs.sources import JobInputs, version_source
from registry.jobs.subjects import dataset_use
from registry.principal import SYSTEM, Principal
from sdk.lora.combining import CombiningError, Ingredient, require_combinable, taken_whole
from sdk.schemas.catalog import JobRef
from sdk.schemas.combination import MOST_WEIGHT, CombineParent, CombineRequest

#: If weights cancel, as 0.1 + 0.2 - 0.3 do, the rounding error that is left is below this share of them.
_ROUNDING = 1e-12


def _examine(db: Database, pinned: Pinned[CombineRequest]) -> Examined[CombineRequest]:
    """Raises Invalid for parents that can't be added up, and for tensors that don't fit each other."""
    request = pinned.request
    with db.read() as session:
        versions = [pinned_version(session, parent.ref, parent.digest) for parent in request.parents]
        ingredients = [
            Ingredient(parent.ref, parent.weight, record_of(version))
            for parent, version in zip(request.parents, versions, strict=True)
        ]
        whole = taken_whole(ingredients, request.spec)
        weights = [weights_in(session, version) for version in versions]
    try:
        require_combinable(ingredients, request.spec)
        if not whole:
            with holding_facts():
                known = [partial(weight_facts, db, one) for one in weights]
                require_shapes_fit(list(zip(ingredients, known, strict=True)))
    except CombiningError as error:
        raise Invalid(str(error), param=error.param) from error
    # Only factors are read, and no base.
    return Examined(request)


def _pin(session: Session, request: CombineRequest, who: Principal, embedded: bool) -> Pinned[CombineRequest]:
    """Raises Invalid for weights that can't be, and InvalidBase for parents of several bases."""
    namespace = space_to_change(request.adapter, who)
    require_name_of_kind(session, request.adapter, "adapter")
    found: dict[int, tuple[Version, list[float]]] = {}
    for parent in request.parents:
        version = find_version(session, parse_ref(parent.ref), who)
        require_adapter(session, version, "combined", param="parents")
        require_ready(version, done="combined", param="parents")
        require_digest(version, parent.digest, param="parents")
        found.setdefault(version.pk, (version, []))[1].append(parent.weight)
    versions = [version for version, _ in found.values()]
    _require_one_namespace(versions, namespace)
    _require_one_base(versions)
    parents = [
        CombineParent(ref=(ref := exact_ref(version)), weight=_added(weights, ref), digest=version.digest)
        for version, weights in found.values()
    ]
    base = PinnedBase.of(find_base(session, versions[0].base.fingerprint, namespace))
    return Pinned(request.model_copy(update={"parents": parents}), namespace, request.adapter, base)


def _require_one_namespace(versions: list[Version], namespace: str) -> None:
    other = next((version for version in versions if version.adapter.namespace != namespace), None)
    if other is not None:
        # Everybody who may see the combination would see the others' names in it.
        raise Invalid(
            f"{exact_ref(other)} is of the namespace {other.adapter.namespace}, and a combination is of its parents' own; pull it "
            f"and push it to the namespace {namespace} first, or name the combination in theirs",
            param="parents",
        )


def _require_one_base(versions: list[Version]) -> None:
    first = versions[0]
    other = next((version for version in versions if version.base_pk != first.base_pk), None)
    if other is not None:
        raise InvalidBase(
            f"{exact_ref(first)} is over the base {first.base_id} ({first.base.fingerprint[:12]}) and "
            f"{exact_ref(other)} over {other.base_id} ({other.base.fingerprint[:12]}); combine versions over one base",
            param="parents",
        )


def _added(weights: Sequence[float], ref: str) -> float:
    """Return the sum of the weights of one version, which two refs may name. Raises Invalid if it is 0 or too large."""
    weight = math.fsum(weights)
    if abs(weight) <= _ROUNDING * math.fsum(map(abs, weights)):
        raise Invalid(f"the weights of {ref} add up to 0, so that it adds nothing; leave it out", param="parents")
    if abs(weight) > MOST_WEIGHT:
        raise Invalid(f"the weights of {ref} add up to {weight:g}; give at most {MOST_WEIGHT:g}", param="parents")
    return weight


def _assign(session: Session, request: CombineRequest, job: Job) -> JobInputs:
    return JobInputs(targets=[version_source(session, parent.ref, job.namespace) for parent in request.parents])


def _publish(services: CompletionServices, request: CombineRequest, done: HandedIn) -> None:
    """Publish the version that the attempt made, or find the one with the same bytes; the job succeeds in the
    transaction that numbers it.

    Raises Verification if it is not what the job asked for, NotFound if a parent was deleted since.
    """
    combined = done.completion.combination
    if combined is None:
        raise Invalid("the completion of a combination holds what it made", param="combination")
    with services.db.read() as session:
        ancestors = [_ancestor(session, parent) for parent in request.parents]
    settled = settle(request, ancestors, combined)
    with services.publisher.publishing(
        publication=settled.publication,
        who=done.who,
        job=JobRef(id=done.job.id, attempt=done.completion.attempt),
        reported=settled.reported,
        action="work",
        notes=settled.notes,
        require=partial(require_made_of, services.db, request, ancestors, settled.publication.lora),
    ) as (session, published):
        result = {
            "ref": published.version.ref,
            "digest": published.version.digest,
            "existing": published.existing,
            "metrics": settled.publication.metrics,
            "kept_energy": combined.report.kept_energy,
            #: What only the worker stated, by dotted names.
            "reported": ["metrics", "kept_energy"],
        }
        done.succeed(session, result)


def _ancestor(session: Session, parent: CombineParent) -> Ancestor:
    version = find_version(session, parse_ref(parent.ref), SYSTEM)
    return Ancestor(
        ref=exact_ref(version),
        weight=parent.weight,
        lora=record_of(version),
        base_fingerprint=version.base.fingerprint,
        method=version.method,
        quantization=recipe_of(version),
        dataset=dataset_use(session, version),
        files={file.path: file.sha256 for file in read_manifest(session, version.digest).files},
    )


COMBINE = JobKindRules(
    request=CombineRequest,
    queue="cpu",
    datasets=(),
    pin=_pin,
    examine=_examine,
    assign=_assign,
    complete=_publish,
    long_parts=("kept_energy",),
)
