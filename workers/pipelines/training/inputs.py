"""The data phase of a training: everything that is known before any weights are loaded."""

from __future__ import annotations

import hashlib
import itertools
import json
import shlex
from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sdk.formats.adapter_files import WEIGHTS_FILE
from sdk.formats.columns import parse_columns
from sdk.formats.objectives import WITHOUT_COMPLETIONS, ObjectiveError, resolve_objective
from sdk.lora.stored_quantization import require_method
from sdk.rows.audit import audit_rows
from sdk.rows.splitting import rows_digest
from sdk.schemas.events import Progress
from sdk.schemas.failures import FailureReason
from sdk.schemas.held_out import both_held_out, no_held_out
from sdk.schemas.lora_config import LoraConfig
from sdk.schemas.training import TrainingSpec
from sdk.schemas.training_report import SourceUse
from sdk.schemas.version_records import SpecialTokens, TrainingRecord
from sdk.schemas.watch_fields import no_prompts
from sdk.schemas.wire import JsonScalar, digest_of
from workers.pipelines.data.added_tokens import Vocabulary, extend
from workers.pipelines.data.digests import file_digest, generation_of, tokenizer_of
from workers.pipelines.data.examples import Example
from workers.pipelines.data.label_rows import class_names, label_rows, pad_token_id, refuse_loss_on
from workers.pipelines.data.mixing import require_labels, weighted
from workers.pipelines.data.objective import Objective
from workers.pipelines.data.objectives import MADE
from workers.pipelines.data.rows import CheckedRows, Rows, Shape, check_files, count_equal, halved, read_split
from workers.pipelines.data.stored_examples import StoredExamples
from workers.pipelines.data.template_choice import choose_template, require_rendered, require_same_template
from workers.pipelines.data.tokenise import Tokenised, tokenise
from workers.pipelines.data.tokenizer import configured_stops, load_tokenizer, longest_row
from workers.pipelines.data.vocabulary import require_embedded
from workers.pipelines.errors import PipelineError, named
from workers.pipelines.model.blueprint import read_blueprint, read_config, stored_quantization_named
from workers.pipelines.model.classifier import Classes
from workers.pipelines.model.device import Device, choose_device, resident_bytes
from workers.pipelines.orders import TrainingOrder
from workers.pipelines.training.checkpoints import Resumed
from workers.pipelines.training.continuing import require_same_config
from workers.pipelines.training.loop import LOOP
from workers.pipelines.training.lora_configs import lora_config, require_added, require_tokens
from workers.pipelines.training.optimising import Schedule, require_optimizer, schedule_of
from workers.pipelines.training.resuming import moved_ranks, read_checkpoint, special_tokens_of

#: Parts of a config about how it was stored, not about the model.
_NO_PART_OF_THE_MODEL = ("transformers_version", "_name_or_path")


@dataclass(frozen=True)
class Inputs:
    """What a training is made from: its order, and what was read for it."""

    order: TrainingOrder
    objective: Objective
    #: The labels of a classification.
    classes: Classes | None
    rows: Tokenised
    #: The rows of an epoch, before those with nothing to learn from are dropped, by the numbers that the examples name.
    learnt: CheckedRows
    held_out: Tokenised | None
    #: Held-out rows by which nothing is chosen.
    test: Tokenised | None
    #: The tokens of held-out prompts that each look answers, by the numbers of their rows.
    prompts: dict[int, list[int]]
    #: Held-out rows that are also rows of the training.
    held_out_seen: int
    special_tokens: SpecialTokens
    tokenizer: Any
    #: What is added to the base's vocabulary.
    vocabulary: Vocabulary | None
    device: Device
    lora: LoraConfig
    schedule: Schedule
    #: Everything that determines the training: digests and settings by name.
    configuration: dict[str, JsonScalar]
    resumed: Resumed | None
    #: Rows and digests of the two sides, if some of the rows are held out.
    split: TrainingRecord
    #: How many rows came from each file, if there are several.
    sources: list[SourceUse] | None = None
    #: What the audit found: the number of rows by kind.
    audit: Mapping[str, int] = field(default_factory=dict)
    #: What the process has in main memory before it loads any weights; None where the system does not say it.
    process_bytes: int | None = None

    @property
    def spec(self) -> TrainingSpec:
        """The options of the training."""
        return self.order.spec

    @property
    def training_rows(self) -> int:
        """How many rows an epoch has."""
        return len(self.rows.examples) // self.objective.sequences


def read_inputs(order: TrainingOrder) -> Inputs:
    """Read rows, the base's config and tokenizer, and the checkpoint to resume from. Raises PipelineError."""
    base, spec, weights = order.base, order.spec, order.weights
    device = choose_device()
    require_optimizer(spec, device.kind)
    split = _read_split(order)
    given = split.training if weights is None else weighted(split.training, weights, spec.seed)
    objective = _objective(spec.model_copy(update={"max_length": longest_row(base, spec.max_length)}), _shape(given))
    classes = None
    tokenizer = load_tokenizer(base, ends=objective.traits.predicts_tokens)
    if not objective.traits.predicts_tokens:
        pad = pad_token_id(read_config(base), tokenizer)
        classes = Classes(class_names(split.training), pad, spec.seed)
        if weights is not None:
            require_labels(split.training, given, weights)
    else:
        choose_template(tokenizer, spec, date.fromisoformat(order.template_date))
    blueprint = read_blueprint(base, classes)
    with stored_quantization_named():
        require_method(blueprint.packing, spec.method, spec.quant_type, spec.double_quant)
    vocabulary = extend(tokenizer, spec.added, base, rows=blueprint.words) if spec.added else None
    lora = lora_config(spec, objective, blueprint, added=() if vocabulary is None else vocabulary.ids)
    words = None if vocabulary is None else max(blueprint.words, max(vocabulary.ids) + 1)
    special_tokens = _special_tokens(order)
    rows = _tokens(order, given, tokenizer, classes, special_tokens, words)
    require_rendered(rows.template, spec)
    if order.parent is not None:
        require_same_template(rows.template, order.parent)
    # What defines how text becomes tokens, and where it ends.
    read = tokenizer_of(base) if vocabulary is None else vocabulary.digest(rows.template)
    read_by = {"tokenizer": read, "generation": generation_of(base), "columns": spec.columns}
    rows = replace(rows, rendering=rows.rendering.model_copy(update=read_by))
    objective.require(rows.examples)
    require_tokens(spec, rows.examples)
    if vocabulary is not None:
        require_added(spec, vocabulary.ids, rows.examples)
    schedule = schedule_of(spec, len(rows.examples) // objective.sequences)
    held, test, seen, prompts = None, None, 0, dict[int, list[int]]()
    labels = None if classes is None else classes.names
    looked_at, others = split.held_out, split.test
    if order.eval_data is not None:
        looked_at = check_files(order.eval_data, columns=spec.columns, known_labels=labels)
        # After a split, no text is on both sides.
        seen = count_equal(looked_at, given)
    if order.test_data is not None:
        others = check_files(order.test_data, columns=spec.columns, known_labels=labels)
        _require_unseen(others, given, looked_at)
    if order.sweep is not None and looked_at is None:
        raise PipelineError(
            FailureReason.SPEC,
            f"The training can't be a member: {no_held_out(['a sweep'])}.",
        )
    _require_watchable(spec, looked_at, schedule)
    for found in (looked_at, others):
        if found is not None:
            _objective(spec.model_copy(update={"objective": objective.name}), _shape(found))
    if looked_at is not None:
        held = _tokens(order, looked_at, tokenizer, classes, special_tokens, words)
        prompts = _prompts(order, looked_at, tokenizer, special_tokens)
    if others is not None:
        test = _tokens(order, others, tokenizer, classes, special_tokens, words)
    configuration: dict[str, JsonScalar] = {
        **spec.model_dump(mode="json"),
        "base": order.base_name,
        "base_revision": order.base_revision,
        "base_config": _config_digest(base),
        "target_modules": ",".join([*lora.target_modules, *lora.target_parameters]),
        "data": _data_digest(order),
        "tokens": _token_digest(rows.examples),
        "eval_data": None if order.eval_data is None else file_digest(order.eval_data),
        **({} if order.test_data is None else {"test_data": file_digest(order.test_data)}),
        "loop": LOOP,
    }
    if order.sweep is not None:
        # The last digits depend on it, and members are compared.
        configuration["threads"] = torch.get_num_threads()
    if rows.rendering.generation is not None:
        # The end of answers depends on it, and it is stored with the adapter.
        configuration["generation"] = rows.rendering.generation
    if rows.rendering.template_date is not None:
        # Only for a template that writes it: otherwise checkpoints don't depend on the day.
        configuration["template_date"] = rows.rendering.template_date
    if order.parent is not None:
        require_same_config(order.parent, lora)
        configuration["parent"] = file_digest(order.parent / WEIGHTS_FILE)
    resumed = None
    if order.resume is not None:
        resumed = read_checkpoint(order.resume, configuration=configuration, spec=spec, schedule=schedule)
        if spec.moves_ranks:
            lora = moved_ranks(order.resume, lora, spec)
    return Inputs(
        order=order,
        objective=objective,
        classes=classes,
        rows=rows,
        learnt=given,
        held_out=held,
        test=test,
        prompts=prompts,
        held_out_seen=seen,
        special_tokens=special_tokens,
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        device=device,
        lora=lora,
        schedule=schedule,
        configuration=configuration,
        resumed=resumed,
        split=_sides(split),
        sources=_sources(order, split.training, given),
        process_bytes=resident_bytes(),
    )


def audit(order: TrainingOrder, report: Callable[[Progress], None]) -> dict[str, int]:
    """Return how many rows have faults, by kind, and report it. If disk or memory lack room, the audit is skipped."""
    spec = order.spec
    report(Progress(phase="data", message="auditing rows"))
    keys = None if spec.columns is None else parse_columns(spec.columns)
    try:
        audited = audit_rows(
            order.files,
            label="",
            columns=keys,
            held_out=order.eval_data,
            hold_out=spec.hold_out,
            most_examples=1,
        )
    except (OSError, MemoryError) as error:
        why = "the memory is too small" if isinstance(error, MemoryError) else error.strerror or error
        report(Progress(phase="data", message=f"the rows were not audited: {why}"))
        return {}
    found = {finding.kind: finding.rows for finding in audited.findings}
    if found:
        said = ", ".join(f"{kind} {rows}" for kind, rows in found.items())
        message = f"audit of the rows: {said}; see which with: adapterctl data check{_reading_options(spec)}"
        report(Progress(phase="data", message=message))
    return {str(kind): rows for kind, rows in found.items()}


def _reading_options(spec: TrainingSpec) -> str:
    """Return the training's options for reading rows, as `data check` takes them."""
    given = {"columns": spec.columns} if spec.columns is not None else {}
    return "".join(
        f" --{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in {**given, **spec.of_holdout}.items()
    )


class Sides(NamedTuple):
    """The rows of a training's files, each in the order of the files."""

    training: CheckedRows
    held_out: CheckedRows | None
    #: Held-out rows by which nothing is chosen.
    test: CheckedRows | None


def _read_split(order: TrainingOrder) -> Sides:
    """Return the rows of files, and the held-out ones. Raises PipelineError ("data", "spec")."""
    if order.spec.hold_out is not None and order.eval_data is not None:
        raise PipelineError(FailureReason.SPEC, f"The rows can't be split: {both_held_out()}.")
    split, how = read_split(order.files, order.spec.hold_out, columns=order.spec.columns), order.spec.hold_out
    if split.held_out is None or how is None or not order.spec.chooses or order.test_data is not None:
        return Sides(split.training, split.held_out, None)
    # What decides which weights are kept can't tell how good they are.
    return Sides(split.training, *halved(split.held_out, how))


def _require_unseen(test: CheckedRows, *others: Rows | None) -> None:
    """Raise PipelineError ("data") for rows of the last test that are also learnt, or chosen by."""
    for rows, what in zip(others, ("trained on", "looked at"), strict=True):
        if rows is not None and (seen := count_equal(test, rows)):
            raise PipelineError(
                FailureReason.DATA,
                f"{seen} of the {len(test)} rows of test_data are {what} too, so they can't test what was chosen; leave them"
                " out of one of the two.",
            )


def _require_watchable(spec: TrainingSpec, held_out: CheckedRows | None, schedule: Schedule) -> None:
    """Raise PipelineError ("spec") for looks without held-out rows, or beyond the steps."""
    problem = no_held_out(spec.of_looks) if spec.of_looks and held_out is None else None
    if problem := problem or spec.clash_of_watching(schedule.total_steps):
        raise PipelineError(FailureReason.SPEC, _sentence(problem))


def _sentence(clause: str) -> str:
    return f"{clause[0].upper()}{clause[1:]}."


def _prompts(
    order: TrainingOrder, rows: CheckedRows, tokenizer: Any, special_tokens: SpecialTokens
) -> dict[int, list[int]]:
    """Return the tokens of the first prompts, by the numbers of their rows from 1. Raises PipelineError ("spec") for rows
    without prompts.
    """
    spec, shape = order.spec, _shape(rows)
    if not spec.samples:
        return {}
    if shape in WITHOUT_COMPLETIONS:
        raise PipelineError(FailureReason.SPEC, _sentence(no_prompts(shape)))
    found = tokenise(
        list(itertools.islice(rows, spec.samples)),
        tokenizer,
        loss_on=spec.loss_on,
        max_length=longest_row(order.base, spec.max_length),
        day=date.fromisoformat(order.template_date),
        stop_ids=configured_stops(order.base),
        special_tokens=special_tokens,
    )
    return {example.row + 1: example.prompt_ids for example in found.examples if example.prompt_ids}


def _shape(rows: Rows) -> Shape:
    return next(iter(rows)).shape


def _data_digest(order: TrainingOrder) -> str:
    """Return the SHA-256 of a file, or of the digests and weights of several."""
    digests = [file_digest(source.path) for source in order.data]
    return digests[0] if len(digests) == 1 else digest_of({"files": digests, "weights": order.weights})


def _sources(order: TrainingOrder, training: CheckedRows, drawn: CheckedRows) -> list[SourceUse] | None:
    """Return what is recorded about several files."""
    if len(order.data) == 1:
        return None
    counted = zip(order.data, training.by_file(), drawn.by_file(), strict=True)
    return [
        SourceUse(digest=file_digest(source.path), weight=source.weight, rows=rows, epoch_rows=epoch_rows)
        for source, rows, epoch_rows in counted
    ]


def _sides(split: Sides) -> TrainingRecord:
    """Return what is recorded about a split."""
    if split.held_out is None:
        return TrainingRecord()
    return TrainingRecord(
        training_rows=len(split.training),
        training_digest=rows_digest(split.training),
        held_out_rows=len(split.held_out),
        held_out_digest=rows_digest(split.held_out),
        test_rows=None if split.test is None else len(split.test),
        test_digest=None if split.test is None else rows_digest(split.test),
    )


def _objective(spec: TrainingSpec, shape: Shape) -> Objective:
    """Return the objective for rows of a shape. Raises PipelineError ("data") if the spec asks for another one."""
    with named(FailureReason.DATA, "The rows can't be used: {error}.", ObjectiveError):
        name = resolve_objective(spec.objective, shape)
    return MADE[name](spec)


def _special_tokens(order: TrainingOrder) -> SpecialTokens:
    """Return how special tokens meet those of the texts: as in the training that is repeated, or goes on."""
    if order.resume is not None:
        return special_tokens_of(order.resume)
    if order.like is not None:
        return "once" if order.like.ran_with.get("special_tokens") == "once" else "added"
    return "once"


def _tokens(
    order: TrainingOrder,
    rows: Rows,
    tokenizer: Any,
    classes: Classes | None,
    special_tokens: SpecialTokens,
    words: int | None,
) -> Tokenised:
    """Return rows as tokens; `words` is how many the model will have, None: as many as the base's config says."""
    base, spec = order.base, order.spec
    max_length = longest_row(base, spec.max_length)
    if classes is not None:
        refuse_loss_on(spec.loss_on)
        how: dict[str, Any] = {"max_length": max_length, "special_tokens": special_tokens}
        found = label_rows(rows, tokenizer, classes.names, **how, into=StoredExamples())
    else:
        found = tokenise(
            rows,
            tokenizer,
            loss_on=spec.loss_on,
            max_length=max_length,
            day=date.fromisoformat(order.template_date),
            stop_ids=configured_stops(base),
            split_texts=True,
            special_tokens=special_tokens,
            into=StoredExamples(),
        )
    if words is None:
        words = getattr(read_config(base).get_text_config(), "vocab_size", None)
    if type(words) is int:
        require_embedded(found.examples, tokenizer, words=words)
    return found


def _config_digest(base: Path) -> str:
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    kept = {name: value for name, value in config.items() if name not in _NO_PART_OF_THE_MODEL}
    # Some configs contain infinities, which the canonical form can't represent.
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _token_digest(examples: Iterable[Example]) -> str:
    """Return the SHA-256 of what the model sees: with another tokenizer, the same rows have other tokens."""
    digest = hashlib.sha256()
    for example in examples:
        for numbers in (example.input_ids, example.labels):
            digest.update(len(numbers).to_bytes(8, "little"))
            digest.update(array("q", numbers).tobytes())
    return digest.hexdigest()
