"""Score a classifier: how many labels it predicts right, and how well it does for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sdk.formats.objectives import ObjectiveError, resolve_objective
from sdk.schemas.failures import FailureReason
from sdk.statistics.calibration import Calibration
from workers.pipelines.data.classify import guesses, scores
from workers.pipelines.data.label_rows import label_rows, refuse_loss_on
from workers.pipelines.data.rows import Row
from workers.pipelines.data.vocabulary import require_embedded, words_of
from workers.pipelines.errors import named
from workers.pipelines.model.classifier import Classes
from workers.pipelines.scoring.row_scores import RowScores, Written
from workers.pipelines.scoring.scorers import require_scorable
from workers.pipelines.scoring.target import Scored, Target


class LabelScoring:
    """The scores of one target as a classifier, on rows whose labels are among its own.

    The loss is in nats per row; accuracy, macro-F1 and the expected calibration error are from 0 to 1. A row whose loss
    is not a number is in no score, and is counted.
    """

    #: No metric is requested by name, and no text is predicted.
    metrics, predicts = (), False

    def __init__(self, target: Target, given: Sequence[Row], classes: Classes) -> None:
        refuse_loss_on(target.spec.loss_on)
        require_scorable(target.spec, 0)
        with named(FailureReason.DATA, "The rows can't be used: {error}.", ObjectiveError):
            resolve_objective("classify", given[0].shape)
        self.target, self.names = target, classes.names
        self.tokenised = label_rows(given, target.tokenizer, classes.names, max_length=target.max_length)
        self.rows, self.conditions = RowScores(shortened=self.tokenised.cut), dict[str, Any]()
        self.samples = len(self.tokenised.examples)

    def run(self) -> Scored:
        """Score the target. Raises PipelineError."""
        target, names, rows, examples = self.target, self.names, self.rows, self.tokenised.examples
        with target.in_memory() as (loaded, model, _):
            require_embedded(examples, target.tokenizer, words=words_of(model))
            guessed, took_s = target.collect(guesses(model, examples, *target.batches), len(examples))
        rows.add_losses([(guess.example, guess.loss) for guess in guessed], "train again with a lower learning rate")
        good = [guess for guess in guessed if guess.example.row in rows.loss_sums]
        # A predicted label without a loss doesn't count: all scores are over the other rows.
        failed = rows.failed.get("loss", ())
        rows.add_failed(("accuracy", "macro_f1", "expected_calibration_error"), failed, len(good))
        calibration = Calibration()
        for guess in good:
            row, right = guess.example.row, guess.guessed == guess.label
            rows.predictions[row], rows.expected[row] = names[guess.guessed], names[guess.label]
            rows.scores[row] = {"accuracy": float(right)}
            rows.confidences[row] = guess.confidence
            calibration.add(guess.confidence, right)
        metrics = {
            **scores(good),
            "expected_calibration_error": calibration.error,
            **rows.counted(),
            "tokens": float(self.tokenised.tokens),
            "tokens_per_s": self.tokenised.tokens / took_s,
        }
        predicted = {id(guess.example): names[guess.guessed] for guess in guessed}
        samples = [(example, Written(predicted[id(example)])) for example in examples[: target.spec.keep_samples]]
        return Scored(loaded, metrics, samples, {})
