"""Combinations: the weighted sum of versions over one base, which becomes a version with them as its parents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy.orm import Session

from registry.artifacts.admission.inspection import WeightFacts
from registry.artifacts.manifests import read_manifest
from registry.artifacts.models import Blob
from registry.catalog.bases.finding import find_base
from registry.catalog.models import Version
from registry.catalog.versions.finding import exact_ref, find_version, parse_ref, space_of
from registry.catalog.versions.lifecycle import VersionState
from registry.db.stored_json import read_stored
from registry.errors import Invalid, InvalidBase
from registry.jobs.kinds.combine_outcome import Ancestor, settle
from registry.jobs.kinds.rules import CompletionServices, HandedIn, JobKindRules
from registry.jobs.models import Job
from registry.jobs.pins import Pinned
from registry.jobs.sources import Inputs, dataset_use, version_source
from registry.principal import SYSTEM, Principal
from sdk.formats.adapter_files import WEIGHTS_FILE
from sdk.lora.combining import CombiningError, Ingredient, require_combinable, require_fitting, taken_whole
from sdk.lora.module_outlines import AdapterOutline, OutlineError
from sdk.schemas.catalog import JobRef
from sdk.schemas.combination import MOST_WEIGHT, CombineParent, CombineRequest
from sdk.schemas.jobs import Needs
from sdk.schemas.training import LoraConfig, QuantizationRecipe

#: Of all parents together, that are looked at when a job is accepted: names by the hundred thousand take seconds.
_MOST_TENSORS = 50_000
#: What may be done about a parent that is in another state.
_ADVICE = {
    VersionState.ARCHIVED: "restore it with: adapterctl restore {ref}",
    VersionState.QUARANTINED: "an admin may let it be a version with: adapterctl release {ref}",
}


def _pin(session: Session, request: CombineRequest, who: Principal, embedded: bool) -> Pinned[CombineRequest]:
    """Raises Invalid for parents that can't be added up, InvalidBase for parents of several bases."""
    namespace = space_of(request.adapter)
    missing = f"there is no adapter {request.adapter!r} that this token may see; choose another name"
    who.require("write", namespace, missing=missing, param="adapter")
    found: dict[int, tuple[Version, float]] = {}
    for parent in request.parents:
        version = find_version(session, parse_ref(parent.ref), who)
        _require_ready(version)
        if parent.digest not in (None, version.digest):
            raise Invalid(
                f"{exact_ref(version)} has the digest {version.digest[:12]}, not {str(parent.digest)[:12]}; name the version that is meant",
                param="parents",
            )
        # Two refs may name one version: their weights add up.
        found[version.pk] = (version, parent.weight + found.get(version.pk, (version, 0.0))[1])
    versions = [version for version, _ in found.values()]
    _require_one_namespace(versions, namespace)
    _require_one_base(versions)
    _require_weights(found.values())
    ingredients = [Ingredient(exact_ref(version), weight, lora_of(version)) for version, weight in found.values()]
    try:
        require_combinable(ingredients, request.spec)
        if not taken_whole(ingredients, request.spec):
            require_fitting(_outlines(session, versions, ingredients))
    except CombiningError as error:
        raise Invalid(str(error), param=error.param) from error
    parents = [
        CombineParent(ref=exact_ref(version), weight=weight, digest=version.digest)
        for version, weight in found.values()
    ]
    base = find_base(session, versions[0].base.fingerprint, namespace)
    return Pinned(request.model_copy(update={"parents": parents}), namespace, request.adapter, base)


def _require_ready(version: Version) -> None:
    if version.state != VersionState.READY:
        ref = exact_ref(version)
        advice = _ADVICE.get(VersionState(version.state), "choose another one").format(ref=ref)
        raise Invalid(f"{ref} is {version.state}, and only ready versions are combined; {advice}", param="parents")


def _require_one_namespace(versions: list[Version], namespace: str) -> None:
    other = next((version for version in versions if version.adapter.namespace != namespace), None)
    if other is not None:
        # Whoever may see the combination would see the others' names in it.
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
            f"{exact_ref(first)} is over the base {first.base_id or first.base.id} ({first.base.fingerprint[:12]}) and "
            f"{exact_ref(other)} over {other.base_id or other.base.id} ({other.base.fingerprint[:12]}); combine versions over one base",
            param="parents",
        )


def _require_weights(found: Iterable[tuple[Version, float]]) -> None:
    for version, weight in found:
        ref = exact_ref(version)
        if weight == 0:
            raise Invalid(f"the weights of {ref} add up to 0, so that it adds nothing; leave it out", param="parents")
        if abs(weight) > MOST_WEIGHT:
            raise Invalid(f"the weights of {ref} add up to {weight:g}; give at most {MOST_WEIGHT:g}", param="parents")


def _outlines(
    session: Session, versions: Sequence[Version], ingredients: Sequence[Ingredient]
) -> list[tuple[str, AdapterOutline]]:
    """Return what the gate has seen of the parents' tensors, as far as that can be looked at now; their worker looks again.

    Raises CombiningError for patterns that can't be tried.
    """
    left, found = _MOST_TENSORS, []
    for version, ingredient in zip(versions, ingredients, strict=True):
        facts = _weights(session, version)
        if facts is None or (left := left - len(facts.kind_of)) < 0:
            continue
        kinds = {tensor.name: (tensor.dtype, tensor.shape) for tensor in facts.tensors()}
        try:
            found.append((ingredient.label, AdapterOutline(ingredient.lora, kinds)))
        except OutlineError as error:
            raise CombiningError(f"{ingredient.label} can't be combined, for {error}; combine others") from error
    return found


def _weights(session: Session, version: Version) -> WeightFacts | None:
    """Return what the gate has seen in a version's weights; None where an earlier release looked, which kept other facts."""
    file = next(file for file in read_manifest(session, version.digest).files if file.path == WEIGHTS_FILE)
    blob = session.get(Blob, file.sha256)
    return None if blob is None else WeightFacts.from_json(blob.facts)


def lora_of(version: Version) -> LoraConfig:
    """Return the LoRA record of a version. Raises Unreadable."""
    return read_stored(LoraConfig, version.lora, of=f"the LoRA record of {exact_ref(version)}")


def _needs(_: Pinned[CombineRequest]) -> Needs:
    # Factors alone are read, and no base.
    return Needs()


def _assign(session: Session, request: CombineRequest, job: Job) -> Inputs:
    return Inputs(targets=[version_source(session, parent.ref, job.namespace) for parent in request.parents])


def _publish(services: CompletionServices, request: CombineRequest, done: HandedIn) -> None:
    """Publish the version that the attempt made, or find the one with the same bytes; the job succeeds as it is numbered.

    Raises Verification where it is none that the job asked for, NotFound where a parent was deleted since.
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
    ) as (session, published):
        result = {
            "ref": published.version.ref,
            "digest": published.version.digest,
            "existing": published.existing,
            "metrics": settled.publication.metrics,
            "kept_energy": combined.report.kept_energy,
            #: The worker's word, by dotted names.
            "reported": ["metrics", "kept_energy"],
        }
        done.succeed(session, result)


def _ancestor(session: Session, parent: CombineParent) -> Ancestor:
    version = find_version(session, parse_ref(parent.ref), SYSTEM)
    ref, recipe = exact_ref(version), version.quantization
    return Ancestor(
        ref=ref,
        weight=parent.weight,
        lora=lora_of(version),
        base_fingerprint=version.base.fingerprint,
        method=version.method,
        quantization=None
        if recipe is None
        else read_stored(QuantizationRecipe, recipe, of=f"the quantisation of {ref}"),
        dataset=dataset_use(session, version),
        files={file.path: file.sha256 for file in read_manifest(session, version.digest).files},
    )


COMBINE = JobKindRules(
    request=CombineRequest,
    queue="cpu",
    datasets=(),
    pin=_pin,
    needs=_needs,
    assign=_assign,
    complete=_publish,
    long_parts=("kept_energy",),
)
