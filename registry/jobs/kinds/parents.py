"""What a version must be so that others can be made from it, or a training can continue it."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.artifacts.manifests import read_manifest
from registry.catalog.models import Origin, Version
from registry.catalog.versions.finding import exact_ref, find_version, parse_ref, require_digest
from registry.catalog.versions.kinds import require_adapter
from registry.catalog.versions.lifecycle import VersionState
from registry.catalog.versions.norms import recipe_of, record_of
from registry.db.database import Database
from registry.db.stored_json import table
from registry.errors import Invalid, InvalidBase, NotFound
from registry.jobs.base_contents import ChangedError, PinnedBase
from registry.jobs.checkpoint_pins import training_of
from registry.jobs.kinds.training_outcome import lora_differences
from registry.jobs.models import Job
from registry.jobs.subjects import dataset_use
from registry.principal import SYSTEM, Principal
from sdk.formats.adapter_files import TEMPLATE_FILE
from sdk.formats.peft_unusable import changes_base
from sdk.formats.template_kwargs import bake
from sdk.schemas.job_requests import ParentChoice, TrainingRequest
from sdk.schemas.lora_config import LoraConfig, QuantizationRecipe
from sdk.schemas.template_fields import template_digest
from sdk.schemas.training import TrainingSpec
from sdk.schemas.version_records import TrainingRecord

#: What to do about a parent that is in another state.
_ADVICE = {
    VersionState.ARCHIVED: "restore it with: adapterctl restore {ref}",
    VersionState.QUARANTINED: "an admin may let it be a version with: adapterctl release {ref}",
}
#: How many weights share one scale if a training quantises its base.
_BLOCK_SIZE = QuantizationRecipe().block_size
#: What trainings have no options for.
_NO_OPTION = (
    "lora_bias",
    "init",
    "layer_replication",
    "layers_to_transform",
    "layers_pattern",
    "exclude_modules",
    "other",
)


def require_ready(version: Version, *, done: str, param: str) -> None:
    """Raise Invalid for a version in another state; `done` is what can only be done with ready ones."""
    if version.state != VersionState.READY:
        ref = exact_ref(version)
        advice = _ADVICE.get(VersionState(version.state), "choose another one").format(ref=ref)
        raise Invalid(f"{ref} is {version.state}, and only ready versions are {done}; {advice}", param=param)


def pin_parent(
    session: Session, request: TrainingRequest, who: Principal, namespace: str, base: PinnedBase | None
) -> ParentChoice | None:
    """Return the parent of a training, made exact. Raises NotFound, and Invalid or InvalidBase if it can't be continued
    in this way.
    """
    if request.parent is None:
        return None
    version = find_version(session, parse_ref(request.parent.ref), who)
    ref = exact_ref(version)
    require_adapter(session, version, "continued", param="parent")
    require_ready(version, done="continued", param="parent")
    require_digest(version, request.parent.digest, param="parent")
    if version.adapter.namespace != namespace:
        # Everybody who may see the version would see the other's name in it.
        raise Invalid(
            f"{ref} is of the namespace {version.adapter.namespace}, and a version continues one of its own; pull it and push it to "
            f"the namespace {namespace} first",
            param="parent",
        )
    if base is None or base.base_pk != version.base_pk:
        raise InvalidBase(
            f"{ref} was trained over the base {version.base_id} ({version.base.fingerprint[:12]}) and is continued over that "
            "alone; leave base out",
            param="base",
        )
    _require_recipe(version, request.spec)
    _require_same_template(session, version, request.spec)
    _require_unlearnt(session, version, request)
    return ParentChoice(ref=ref, digest=version.digest)


def require_same_lora(db: Database, parent: ParentChoice, spec: TrainingSpec) -> None:
    """Raise Invalid if the options say a different LoRA configuration than that of the parent that was pinned, and
    ChangedError if that is gone.
    """
    with db.read() as session:
        version = pinned_version(session, parent.ref, parent.digest)
        lora = record_of(version)
    _require_same(parent.ref, spec, lora)


def pinned_version(session: Session, ref: str, digest: str | None) -> Version:
    """Return a version that was pinned by its exact ref. Raises ChangedError if it is gone."""
    try:
        version = find_version(session, parse_ref(ref), SYSTEM)
    except NotFound as error:
        raise ChangedError from error
    if version.digest != digest:
        raise ChangedError
    return version


def _require_unlearnt(session: Session, version: Version, request: TrainingRequest) -> None:
    """Raise Invalid if rows would be held out that the parent has learnt: their loss would be that of rows known by
    heart.
    """
    use = dataset_use(session, version)
    if request.spec.hold_out is None or use is None or set(use.digests).isdisjoint(request.digests):
        return
    made = select(Origin.job).where(Origin.version_pk == version.pk).order_by(Origin.pk).limit(1)
    job = session.get(Job, session.scalars(made).first() or "")
    theirs = None if job is None else training_of(job).spec.hold_out
    # From a different set of rows, different ones are held out.
    if theirs == request.spec.hold_out and use.digests == request.digests:
        return
    held = (
        "none of its rows"
        if theirs is None
        else "rows of other datasets mixed in"
        if use.digests != request.digests
        else f"another share of its rows (holdout {theirs.share:g}, seed {theirs.seed})"
    )
    raise Invalid(
        f"{exact_ref(version)} was trained on this dataset with {held} held out, so it was trained on rows that would be held out now; hold out "
        "the same, or give other rows as eval_data",
        param="spec.holdout",
    )


def _require_same(ref: str, spec: TrainingSpec, lora: LoraConfig) -> None:
    """Raise Invalid if the options say a different LoRA configuration than the parent has."""
    if lora.task_type == "SEQ_CLS" or spec.objective == "classify":
        raise Invalid(
            f"{ref} can't be continued: classifications are trained from scratch; leave parent out", param="parent"
        )
    if spec.init_lora_weights is not None:
        raise Invalid(
            f"the training starts with the matrices of {ref}; leave init_lora_weights out",
            param="spec.init_lora_weights",
        )
    # Dropout only concerns the training, and so does the initialisation, because all matrices exist already.
    init = lora.init if changes_base(lora.init) else True
    theirs = lora.model_copy(update={"dropout": spec.dropout, "init": init})
    different = next(lora_differences(spec, theirs), None)
    if different is None:
        return
    name = different.field.removeprefix("lora.")
    if name in _NO_OPTION:
        raise Invalid(
            f"{ref} has the setting {name}, with which no training goes on; merge it and train over the merged model",
            param="parent",
        )
    raise Invalid(
        f"{ref} is continued with its own LoRA configuration, and {name} is {different.handed_in} there, not {different.asked}; leave "
        "that option out",
        param="parent",
    )


def _require_same_template(session: Session, version: Version, spec: TrainingSpec) -> None:
    """Raise Invalid if conversations would be rendered otherwise than those that the parent was taught with.

    Of a base's own template and of a version that was pushed, a worker finds it out, before it loads the base.
    """
    file = next((file for file in read_manifest(session, version.digest).files if file.path == TEMPLATE_FILE), None)
    if file is None:
        return
    if spec.chat_template is not None:
        same = template_digest(bake(spec.chat_template, spec.template_values)) == file.sha256
    else:
        made = session.scalars(
            select(Origin).where(Origin.version_pk == version.pk).order_by(Origin.pk).limit(1)
        ).first()
        record = TrainingRecord() if made is None else TrainingRecord.read(table(made.training))
        own = record.chat_template is None and record.template_kwargs == spec.template_kwargs
        same = own or made is None or made.job is None
    if not same:
        raise Invalid(
            f"{exact_ref(version)} was trained with another chat template, which acts like another tokenizer; give its own as "
            "chat_template, and template_kwargs as its record has them",
            param="spec.chat_template",
        )


def _require_recipe(version: Version, spec: TrainingSpec) -> None:
    ref, found = exact_ref(version), recipe_of(version)
    if found is None and version.method == "qlora":
        raise Invalid(
            f"how the base of {ref} was quantised is not recorded; push it again and say so, then continue that version",
            param="parent",
        )
    if (found is not None) != (spec.method == "qlora"):
        trained = "over a base in 4 bits, or 8" if found is not None else "not over a base in 4 bits, or 8"
        raise Invalid(
            f"{ref} was trained {trained}, so that it is continued in the same way; leave method out",
            param="spec.method",
        )
    if found is None or found.storage_dtype is not None:
        return
    block_size = None if spec.quant_type == "int8" else _BLOCK_SIZE
    if (found.type, found.double_quant, found.block_size) != (spec.quant_type, spec.packs_scales, block_size):
        raise Invalid(
            f"{ref} was trained over a base in {found.type}, {'with' if found.double_quant else 'without'} double quantisation and "
            f"{found.block_size or 'a row of'} weights to a scale; leave quant_type and double_quant out, or continue one with {_BLOCK_SIZE}",
            param="spec.quant_type",
        )
