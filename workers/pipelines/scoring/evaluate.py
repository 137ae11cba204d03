"""Score targets, each a base with or without an adapter, on the same rows."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sdk.formats.cut_texts import storable
from sdk.schemas.evaluation import (
    MOST_JOB_ROWS,
    MOST_TARGET_ROWS,
    Conditions,
    EvaluationFailure,
    EvaluationReport,
    Sample,
)
from sdk.schemas.events import Progress
from sdk.schemas.failures import FailureReason
from workers.pipelines.data.digests import tokenizer_of
from workers.pipelines.data.examples import Example
from workers.pipelines.data.rows import Row, read_rows
from workers.pipelines.data.tokenizer import tokenizer_folder
from workers.pipelines.errors import PipelineError
from workers.pipelines.libraries import library_versions, other_releases
from workers.pipelines.model.packed import held_as
from workers.pipelines.model.shared_base import SharedBase
from workers.pipelines.orders import AsRecorded, EvaluationItem, EvaluationOrder, EvaluationScores, Host
from workers.pipelines.scoring.choices import tokenise_choices
from workers.pipelines.scoring.labels import LabelScoring
from workers.pipelines.scoring.language_model import LanguageModelScoring, TokenRows, tokenise_texts
from workers.pipelines.scoring.preferences import tokenise_labelled, tokenise_preferences
from workers.pipelines.scoring.recorded import SCORING_VERSION, AlreadyRecorded, require_unrecorded
from workers.pipelines.scoring.row_scores import Written, require_few_rows, store_rows
from workers.pipelines.scoring.target import Target

#: Reasons after which nothing more can be scored here.
_OF_THE_MACHINE = frozenset({FailureReason.DISK_FULL})
#: Shapes of rows with scores of their own; the others are texts.
_SHAPES: Mapping[str, Callable[[Sequence[Row], Target], TokenRows]] = {
    "choices": tokenise_choices,
    "preference": tokenise_preferences,
    "unpaired-preference": tokenise_labelled,
}


def carry_out(order: EvaluationOrder, host: Host) -> EvaluationScores:
    """Score the items, grouped by base; an item that can't be scored loses only its own scores.

    Raises the first error if nothing could be scored.
    """
    outcomes: dict[int, EvaluationReport | AsRecorded | EvaluationFailure] = {}
    bases = SharedBase()
    for index in sorted(range(len(order.items)), key=lambda index: _first_over(order, index)):
        # Those that were asked for come first: if all together are too many, the others go without scores.
        most_rows = min(MOST_TARGET_ROWS, MOST_JOB_ROWS // (index + 1))
        try:
            outcomes[index] = evaluate(order.items[index], order, host, bases, most_rows)
        except AlreadyRecorded as recorded:
            host.report(Progress(phase="evaluate", message=f"its scores are recorded already, as {recorded.ident}"))
            outcomes[index] = AsRecorded(id=recorded.ident)
        except PipelineError as error:
            if error.reason in _OF_THE_MACHINE:
                raise
            # The error itself is not kept: it would keep the model alive in which it was raised.
            outcomes[index] = EvaluationFailure(reason=error.reason.value, message=error.message)
        except Exception as error:  # noqa: BLE001  # whatever an adapter breaks, the others are scored
            # It goes to the job's log, as for a failed job.
            traceback.print_exc()
            line = (str(error).splitlines() or [""])[0][:300]
            message = f"{type(error).__name__}: {line}; the job's log has the details"
            outcomes[index] = EvaluationFailure(reason=FailureReason.INTERNAL.value, message=message)
    ordered = [outcomes[index] for index in range(len(order.items))]
    failures = [outcome for outcome in ordered if isinstance(outcome, EvaluationFailure)]
    if failures and len(failures) == len(ordered):
        raise PipelineError(FailureReason(failures[0].reason), failures[0].message)
    return EvaluationScores(outcomes=ordered)


def _first_over(order: EvaluationOrder, index: int) -> tuple[int, int]:
    """A sort key: the number of the first item with the same base loaded in the same way, and the item's own number."""
    loaded = [(item.base, item.quantization, item.labels if item.adapter else None) for item in order.items]
    return loaded.index(loaded[index]), index


def evaluate(
    item: EvaluationItem, order: EvaluationOrder, host: Host, bases: SharedBase, most_rows: int = MOST_TARGET_ROWS
) -> EvaluationReport:
    """Score one item; `bases` holds the base between items, and each row's scores go to a file in the host's `out`.

    A row whose loss is not a number, or on which a metric raises, loses only that score, and is counted; also counted
    are rows that are too long to be scored, or were cut, and prompts of which only the end fits before the completion.
    Raises PipelineError, and AlreadyRecorded, before the base is loaded, if one of the item's `recorded` has the same
    scores.
    """
    started, spec = time.perf_counter(), order.spec
    host.report(Progress(phase="data", message="reading and tokenising rows"))
    target = Target(item, order, host, bases)
    scoring = _scoring(target, order.data, most_rows)
    target.device.forget_peak()
    rows, tokenised = scoring.rows, scoring.tokenised
    conditions = Conditions(
        loss_on=tokenised.loss_on,
        columns=spec.columns,
        max_length=target.max_length,
        templates=tokenised.rendering.templates,
        template_date=tokenised.rendering.template_date,
        tokenizer=tokenizer_of(tokenizer_folder(item.base, item.adapter)),
        scoring=SCORING_VERSION,
        special_tokens="once" if tokenised.had_special else None,
        **scoring.conditions,
    )
    named, kept = [*scoring.metrics, *rows.long], min(spec.keep_samples, scoring.samples)
    require_unrecorded(target, conditions, named, kept, texts=scoring.predicts and spec.keep_samples > 0)
    loaded, metrics, samples, errors = scoring.run()
    file, cut = store_rows(host.out, rows.rows(texts=spec.keep_samples > 0))
    metrics |= {"cut_rows": float(cut)} if cut else {}
    metrics["eval_s"] = time.perf_counter() - started
    metrics["peak_memory_bytes"] = float(target.device.peak_memory_bytes())
    held = {"quantization": held_as(loaded.quantization), "dtype": loaded.dtype, "failed": rows.failed_digests()}
    return EvaluationReport(
        metrics=metrics,
        precision=loaded.dtype if loaded.quantization is None else loaded.quantization.type,
        samples=[_sample(example, written) for example, written in samples[: spec.keep_samples]],
        libraries={**library_versions(), **other_releases(on_card=target.device.kind == "cuda")},
        conditions=conditions.model_copy(update=held),
        rows=file,
        scorer_errors=errors,
    )


def _scoring(target: Target, data: Path, most_rows: int) -> LanguageModelScoring | LabelScoring:
    """Return the rows as tokens, with what scores a target on them. Raises PipelineError."""
    labels = None if target.classes is None else target.classes.names
    given = read_rows(data, columns=target.spec.columns, known_labels=labels)
    require_few_rows(given, most_rows)
    if target.classes is not None:
        return LabelScoring(target, given, target.classes)
    tokenise = _SHAPES.get(given[0].shape, tokenise_texts)
    return LanguageModelScoring(target, tokenise(given, target))


def _sample(example: Example, written: Written) -> Sample:
    beside = {"content": written.content, "reasoning": written.reasoning}
    return Sample(
        prompt=storable(example.prompt),
        reference=storable(example.reference),
        completion=storable(written.text),
        **{name: storable(text) for name, text in beside.items() if text is not None},
    )
