"""What a training hands in, a version or a checkpoint, checked against what was asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from registry.errors import Verification
from registry.jobs.kinds.rules import Mismatch, require_none
from sdk.formats.adapter_files import VOCABULARY_FILES
from sdk.formats.objectives import OBJECTIVES, traits_of
from sdk.lora.redistribution import is_redistribution
from sdk.lora.targets import mean_all
from sdk.lora.trained_tokens import TrainedTokens
from sdk.schemas.catalog import Parent, Publication, VersionView
from sdk.schemas.job_requests import TrainingRequest
from sdk.schemas.lora_config import LoraConfig, QuantizationRecipe
from sdk.schemas.manifest import Manifest
from sdk.schemas.option_types import TARGET_PRESETS, is_pattern, options_of
from sdk.schemas.probe import LEAST_LOGIT_GAP
from sdk.schemas.training import TrainingSpec
from sdk.schemas.training_report import TrainingReport
from sdk.schemas.version_records import TrainingRecord
from sdk.schemas.wire import JsonScalar
from sdk.schemas.work import Completion

#: Parts of a LoRA record that follow from the base or from what the request left open.
_OF_THE_BASE = ("task_type", "fan_in_fan_out")
#: Options that nothing but the record of a training shows.
_ONLY_SAID = frozenset(name for name, option in options_of(TrainingSpec).items() if option.alone)
#: Names under which a record, or a request, says what a version is and where it comes from: the registry knows that, and
#: a worker may only say what was asked for.
_REGISTRY_S = frozenset({*VersionView.model_fields, *TrainingRequest.model_fields, "reference", "retry_of", "changed"})
#: Options that a request may leave open, or that a base may lower; and in records `samples` are the rows of an epoch.
_LEFT_OPEN = frozenset({"loss_on", "max_length", "samples"})
#: What no training can ask for, so that no worker may record it in a training's name.
_NEVER_ASKED = ("parents", "tags", "description", "unknown")


def settle(request: TrainingRequest, publication: Publication) -> tuple[Publication, list[str]]:
    """Return what to record about a training's version, and which of that only the worker stated.

    Raises Verification for a version with another base, dataset or spec than the job's.
    """
    said = publication.training or {}
    require_none(_of_training(request, publication.manifest, publication.lora, publication.quantization, said))
    require_none(_of_publication(request, publication))
    asked = _asked(request.spec, publication.lora, publication.record)
    if request.eval_data is not None:
        # Two losses can only be compared if they were computed on the same rows.
        asked["eval_data"] = request.eval_data
    if request.test_data is not None:
        asked["test_data"] = request.test_data
    if _learns_from_parent(request, asked):
        assert request.parent is not None
        # The worker says that it is the parent, and the record says which version that is.
        asked["reference"] = request.parent.ref
    parents = [] if request.parent is None else [Parent(ref=request.parent.ref, relation="continued-from")]
    settled = publication.model_copy(
        update={"method": request.spec.method, "training": {**said, **asked}, "parents": parents}
    )
    # If nobody had seen a base on a hub before, the worker says which bytes it found there.
    of_base = ["base"] if request.base.fingerprint is None else []
    return settled, of_base + _reported(settled, asked, named=_names_modules(request.spec))


def _learns_from_parent(request: TrainingRequest, asked: dict[str, JsonScalar]) -> bool:
    """Whether the answers that are preferred are compared with those of the version that the training continues."""
    return request.parent is not None and traits_of(str(asked["objective"])).has_reference


def report_of(publication: Publication, completion: Completion) -> TrainingReport:
    """Return what a training did, as its last checkpoint keeps it."""
    use = publication.dataset
    if use is None:
        raise Verification("the result doesn't say how the dataset was used; upgrade the worker", param="dataset")
    return TrainingReport(
        lora=publication.lora,
        quantization=publication.quantization,
        training=publication.training or {},
        metrics=publication.metrics,
        libraries=publication.libraries,
        advice=completion.advice,
        served_probe=completion.served_probe,
        **{name: getattr(use, name) for name in ("rows", "supervised_tokens", "rendering", "labels", "sources")},
    )


def require_learnt(publication: Publication) -> None:
    """Raise Verification if a training itself reports that its adapter doesn't change any prediction."""
    gap = publication.metrics.get("probe_logit_gap")
    if gap is not None and gap < LEAST_LOGIT_GAP:
        raise Verification(
            f"the trained adapter moves no logit of the base by more than {gap:.3g} on the fixed texts, so it changes nothing; "
            "train again with a higher lr, more rows or steps, or other targets"
        )


def require_asked(request: TrainingRequest, manifest: Manifest, report: TrainingReport) -> None:
    """Raise Verification if a checkpoint is not from the training that was asked for."""
    require_none(_of_training(request, manifest, report.lora, report.quantization, report.training))


def _asked(spec: TrainingSpec, lora: LoraConfig, record: TrainingRecord) -> dict[str, JsonScalar]:
    """What a spec says about a training, under the names that records use; also its objective if that follows from the
    rows, which perhaps only the worker has seen.
    """
    return spec.recorded() | {"objective": spec.objective or _found(lora, record.objective)}


def _found(lora: LoraConfig, said: str | None) -> str:
    """Return the objective of a training for which none was asked: what its worker says, if that fits its task."""
    possible = [name for name, traits in OBJECTIVES.items() if traits.task_type == lora.task_type]
    return next((name for name in possible if name == said), "classify" if possible == ["classify"] else "sft")


def _names_modules(spec: TrainingSpec) -> bool:
    """Whether a record must have the names that were asked for; only a worker finds them for a preset, a pattern or
    layers.
    """
    named = spec.targets not in TARGET_PRESETS and not is_pattern(spec.targets)
    return named and spec.exclude is None and spec.layers is None


def _of_training(
    request: TrainingRequest,
    manifest: Manifest,
    lora: LoraConfig,
    recipe: QuantizationRecipe | None,
    training: dict[str, JsonScalar],
) -> Iterator[Mismatch]:
    spec = request.spec
    # The worker computes the fingerprint of a base that was named by its place on a hub.
    if request.base.fingerprint not in (None, manifest.base_fingerprint):
        yield Mismatch("base", request.base.fingerprint, manifest.base_fingerprint)
    if (recipe is not None) != (spec.method == "qlora"):
        yield Mismatch("method", spec.method, "lora" if recipe is None else "qlora")
    if recipe is not None and recipe.storage_dtype is None:
        # The training quantised the base itself.
        if recipe.type != spec.quant_type:
            yield Mismatch("quantization.type", spec.quant_type, recipe.type)
        if recipe.double_quant != spec.packs_scales:
            yield Mismatch("quantization.double_quant", spec.packs_scales, recipe.double_quant)
    yield from lora_differences(spec, lora)
    if spec.added and not any(file.path in VOCABULARY_FILES for file in manifest.files):
        yield Mismatch("tokenizer", f"{len(spec.added)} added tokens", None)
    record = TrainingRecord.read(training)
    asked = _asked(spec, lora, record)
    for name, value in asked.items():
        if name in training and training[name] != value:
            yield Mismatch(name, value, training[name])
    yield from _of_nobody(request, asked, training)
    # A worker that doesn't know an option ignores it, and trains something else.
    for name in sorted(_ONLY_SAID & spec.chosen):
        if training and name not in training:
            yield Mismatch(name, asked[name], None)
    # A base may have fewer positions than were asked for.
    length = record.max_length
    if "max_length" in training and (length is None or length > spec.max_length):
        yield Mismatch("max_length", spec.max_length, length)


def _of_nobody(
    request: TrainingRequest, asked: dict[str, JsonScalar], training: dict[str, JsonScalar]
) -> Iterator[Mismatch]:
    """Yield what a worker says of a training that only the registry says, or that was not asked for."""
    for name in sorted(training.keys() & TrainingSpec.model_fields.keys() - asked.keys() - _LEFT_OPEN):
        if training[name] != (value := getattr(request.spec, name)):
            yield Mismatch(name, value, training[name])
    for name in sorted(training.keys() & _REGISTRY_S - asked.keys()):
        if name != "reference" or training[name] != "parent" or not _learns_from_parent(request, asked):
            yield Mismatch(f"training.{name}", None, training[name])


def lora_differences(spec: TrainingSpec, lora: LoraConfig) -> Iterator[Mismatch]:
    """Compare a LoRA record with a spec; the rest was not asked for, and admission compares it with the bytes."""
    if spec.objective is not None and lora.task_type != traits_of(spec.objective).task_type:
        yield Mismatch("lora.task_type", traits_of(spec.objective).task_type, lora.task_type)
    # The head of a classification is not the base's, so its name follows from the model.
    head = (
        set(lora.modules_to_save) - set(spec.saved_modules)
        if lora.task_type == traits_of("classify").task_type
        else set()
    )
    named = set() if spec.targets in TARGET_PRESETS or is_pattern(spec.targets) else set(spec.targets.split(","))
    # The base's model says which of the names mean stacked parameters; nothing can be excluded in addition to them.
    parameters = named & set(lora.target_parameters) if spec.exclude is None else set()
    exact = _names_modules(spec)
    targets = named - parameters if exact else set(lora.target_modules)
    if not exact and not mean_all(spec.targets, spec.exclude, lora.target_modules, layers=spec.layers):
        yield Mismatch("lora.target_modules", spec.targets, ",".join(lora.target_modules)[:200])
    # EVA finds each module's rank from the rows.
    moved = ("rank_pattern", "alpha_pattern") if spec.moves_ranks and is_redistribution(spec, lora) else ()
    # Only the tokenizer tells the ids of added tokens.
    added = ("trainable_token_indices",) if spec.added and adds_as_asked(lora.trainable_token_indices, spec) else ()
    asked = LoraConfig(
        target_modules=sorted(targets),
        target_parameters=sorted(parameters),
        modules_to_save=sorted({*head, *spec.saved_modules}),
        **{**spec.of_lora, **{name: getattr(lora, name) for name in (*_OF_THE_BASE, *moved, *added)}},
    )
    handed_in = lora.model_copy(update={"target_modules": sorted(set(lora.target_modules))})
    for name, value in asked:
        if (given := getattr(handed_in, name)) != value:
            yield Mismatch(f"lora.{name}", value, given)


def adds_as_asked(said: TrainedTokens, spec: TrainingSpec) -> bool:
    """Whether tokens are those of a training that adds some: those by id, and one for each that is added, of which alone a head
    has rows.
    """
    embedded, *others = said.values() if isinstance(said, Mapping) else [said]
    added = set(embedded) - set(spec.tokens)
    return (
        len(added) == len(spec.added)
        and set(spec.tokens) <= set(embedded)
        and all(set(each) == added for each in others)
    )


def _of_publication(request: TrainingRequest, publication: Publication) -> Iterator[Mismatch]:
    used = None if publication.dataset is None else publication.dataset.digest
    if used != request.data:
        yield Mismatch("dataset", request.data, used)
    asked = [(source.data, source.weight) for source in request.sources or ()]
    sources = (None if publication.dataset is None else publication.dataset.sources) or ()
    if asked != (given := [(source.digest, source.weight) for source in sources]):
        yield Mismatch("dataset.sources", asked, given)
    rendering = None if publication.dataset is None else publication.dataset.rendering
    day = None if rendering is None else rendering.template_date
    if day is not None and request.template_date not in (None, day):
        yield Mismatch("template_date", request.template_date, day)
    if rendering is not None and rendering.columns != request.spec.columns:
        yield Mismatch("dataset.rendering.columns", request.spec.columns, rendering.columns)
    if publication.method not in (None, request.spec.method):
        yield Mismatch("method", request.spec.method, publication.method)
    labels = None if publication.dataset is None else publication.dataset.labels
    if (labels is not None) != (publication.lora.task_type == traits_of("classify").task_type):
        yield Mismatch("dataset.labels", publication.lora.task_type, labels)
    for name in _NEVER_ASKED:
        if given := getattr(publication, name):
            yield Mismatch(name, None, given)


def _reported(publication: Publication, asked: dict[str, JsonScalar], *, named: bool) -> list[str]:
    """The parts of a version's record that only its worker stated, by dotted names."""
    found = [f"training.{name}" for name in publication.training or {} if name not in asked]
    found += ["dataset.rows", "dataset.supervised_tokens"]
    if publication.dataset is not None:
        found += [
            f"dataset.{name}" for name in ("rendering", "labels") if getattr(publication.dataset, name) is not None
        ]
        if publication.dataset.sources is not None:
            found += ["dataset.sources.rows", "dataset.sources.epoch_rows"]
    if not named:
        found.append("lora.target_modules")
    found += [name for name in ("libraries", "metrics", "quantization") if getattr(publication, name)]
    return sorted(found)
