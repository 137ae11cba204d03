"""Score a classifier on rows: how many labels it gets right, and how well it does for each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import set_seed

from sdk.formats.objectives import ObjectiveError, resolve_objective
from sdk.lora.stored_quantization import require_precision
from sdk.schemas.evaluation import MOST_TARGET_ROWS, Conditions, EvaluationReport, EvaluationSpec, Sample
from sdk.schemas.events import Progress
from sdk.schemas.failures import FailureReason
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.statistics.calibration import Calibration
from workers.pipelines.data.classify import Guess, guesses, logits_of, scores
from workers.pipelines.data.digests import tokenizer_of
from workers.pipelines.data.label_rows import label_rows, pad_token_id, refuse_loss_on
from workers.pipelines.data.rows import read_rows
from workers.pipelines.data.tokenizer import load_tokenizer, longest_row
from workers.pipelines.data.vocabulary import require_embedded, words_of
from workers.pipelines.errors import PipelineError, named
from workers.pipelines.model.blueprint import read_blueprint, read_config, stored_quantization_named
from workers.pipelines.model.classifier import Classes
from workers.pipelines.model.device import choose_device, memory_errors_named
from workers.pipelines.model.loading import LoadedBase, load_base
from workers.pipelines.model.shared_base import SharedBase
from workers.pipelines.orders import RecordedScores
from workers.pipelines.scoring.recorded import SCORING_VERSION, held_by, held_in, require_unrecorded
from workers.pipelines.scoring.row_scores import RowScores, counts_of_long, require_few_rows, store_rows
from workers.pipelines.scoring.scorers import require_scorable


def evaluate_labels(
    *,
    base: Path,
    adapter: Path,
    quantization: QuantizationRecipe | None,
    labels: Sequence[str],
    data: Path,
    spec: EvaluationSpec,
    on_progress: Callable[[Progress], None],
    rows_to: Path | None = None,
    recorded: Sequence[RecordedScores] = (),
    bases: SharedBase | None = None,
    most_rows: int = MOST_TARGET_ROWS,
) -> EvaluationReport:
    """Score an adapter that classifies by `labels` on the rows of `data`, whose labels are among them.

    The loss is in nats per row; accuracy, macro-F1 and the expected calibration error are from 0 to 1. The first rows
    are kept as samples, with the predicted label as their completion. The scores of each row are written to a file in
    the folder `rows_to`. A row whose loss is not a number is in no score, and is counted. `bases` holds the base
    between calls. Raises PipelineError, and AlreadyRecorded like `evaluate`.
    """
    started = time.perf_counter()
    on_progress(Progress(phase="data", message="reading and tokenising rows"))
    refuse_loss_on(spec.loss_on)
    require_scorable(spec, 0)
    rows = read_rows(data, columns=spec.columns, known_labels=labels)
    require_few_rows(rows, most_rows)
    with named(FailureReason.DATA, "The rows can't be used: {error}.", ObjectiveError):
        resolve_objective("classify", rows[0].shape)
    shared = bases or SharedBase()
    tokenizer = shared.tokenizer(base, _tokenizer)
    classes = Classes(tuple(labels), pad_token_id(read_config(base), tokenizer))
    with stored_quantization_named():
        require_precision(read_blueprint(base, classes).packing, spec.precision)
    max_length = longest_row(base, spec.max_length)
    found = label_rows(rows, tokenizer, labels, max_length=max_length)
    device = choose_device()
    device.forget_peak()
    conditions = Conditions(
        loss_on="label",
        columns=spec.columns,
        max_length=max_length,
        tokenizer=tokenizer_of(base),
        scoring=SCORING_VERSION,
    )
    expected = held_in(base, quantization, device, conditions, own=spec.precision == "as-trained")
    require_unrecorded(
        recorded, expected, list(counts_of_long(0, found.cut)), min(spec.keep_samples, len(found.examples))
    )

    def load() -> LoadedBase:
        on_progress(Progress(phase="load", message=f"loading the base on {device.name}"))
        return load_base(base, device, quantization=quantization, classes=classes)

    with memory_errors_named("lower batch_size or max_length, or evaluate over the quantised base."):
        set_seed(spec.seed)
        with shared.wearing(adapter, key=(base, quantization, classes), load=load, logits=logits_of) as (loaded, model):
            require_embedded(found.examples, tokenizer, words=words_of(model))
            begun, guessed, total = time.perf_counter(), list[Guess](), len(found.examples)
            for part in guesses(model, found.examples, classes.pad_token_id, spec.batch_size, device.torch_device):
                guessed += part
                left_s = (time.perf_counter() - begun) / len(guessed) * (total - len(guessed))
                on_progress(Progress(phase="evaluate", step=len(guessed), total=total, unit="rows", eta_s=left_s))
            took_s = time.perf_counter() - begun
    scored = RowScores(shortened=found.cut)
    scored.add_losses([(guess.example, guess.loss) for guess in guessed])
    good = [guess for guess in guessed if guess.example.row in scored.loss_sums]
    if not good:
        raise PipelineError(
            FailureReason.DIVERGED,
            f"The loss on these rows is {guessed[0].loss}; train again with a lower learning rate.",
        )
    # A predicted label without a loss doesn't count: all scores are over the other rows.
    scored.add_failed(("accuracy", "macro_f1", "expected_calibration_error"), scored.failed.get("loss", ()), len(good))
    calibration = Calibration()
    for guess in good:
        row = guess.example.row
        scored.predictions[row], scored.expected[row] = labels[guess.guessed], labels[guess.label]
        scored.scores[row] = {"accuracy": float(guess.guessed == guess.label)}
        scored.confidences[row] = guess.confidence
        calibration.add(guess.confidence, guess.guessed == guess.label)
    metrics = {
        **scores(good),
        "expected_calibration_error": calibration.error,
        **scored.counted(),
        "tokens": float(found.tokens),
        "tokens_per_s": found.tokens / took_s,
        "eval_s": time.perf_counter() - started,
        "peak_memory_bytes": float(device.peak_memory_bytes()),
    }
    file = None
    if rows_to is not None:
        file, _ = store_rows(rows_to, scored.rows(texts=spec.keep_samples > 0))
    by_example = {id(guess.example): guess for guess in guessed}
    return EvaluationReport(
        metrics=metrics,
        samples=[
            Sample(
                prompt=example.prompt.replace("\0", "\ufffd"),
                reference=example.reference,
                completion=labels[by_example[id(example)].guessed],
            )
            for example in found.examples[: spec.keep_samples]
        ],
        **held_by(loaded, conditions, scored),
        rows=file,
    )


def _tokenizer(base: Path) -> Any:
    """Return the tokenizer in a base's folder; it needs no end-of-text token for a classification."""
    return load_tokenizer(base, ends=False)
