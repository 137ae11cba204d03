"""The scores of generated texts in one evaluation, all known before a base is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sdk.schemas.evaluation import SCORER_PREFIX, EvaluationSpec, TextMetric, no_completions
from sdk.schemas.failures import FailureReason
from workers.pipelines.errors import PipelineError
from workers.pipelines.libraries import versions_of
from workers.pipelines.scoring.code_texts import GRAMMAR
from workers.pipelines.scoring.scorers import Scorer, add_scores, load_scorers
from workers.pipelines.scoring.texts import SCORING_LIBRARIES, TextScores, score_texts
from workers.pipelines.scoring.words import WORDS_VERSION


@dataclass(frozen=True)
class Grading:
    """The requested metrics and scorers."""

    metrics: Sequence[TextMetric]
    regex: str | None
    scorers: Sequence[Scorer]

    def definitions(self) -> dict[str, str]:
        """Return what defines the scores, for their conditions."""
        found = {"words": str(WORDS_VERSION), **versions_of(*SCORING_LIBRARIES)}
        found |= {"regex": self.regex} if self.regex is not None else {}
        found |= {"python": GRAMMAR} if "code_parses" in self.metrics else {}
        return found | {SCORER_PREFIX + scorer.name: scorer.made_by for scorer in self.scorers}

    def score(
        self, answers: Sequence[str], references: Sequence[Sequence[str]], rows: Sequence[Mapping[str, Any]]
    ) -> TextScores:
        """Score answers as they were generated, each against its references; `rows` are the fields of their rows."""
        found = score_texts(self.metrics, answers, references, regex=self.regex)
        for scorer in self.scorers:
            add_scores(found, scorer, [answer.strip() for answer in answers], references, rows)
        return found


def grading_of(spec: EvaluationSpec) -> Grading:
    """Return the requested scores. Raises PipelineError ("spec") if scorers are requested but none of them is on this
    worker.
    """
    return Grading(spec.text_metrics, spec.regex, load_scorers(spec.scorers or ()))


def require_scorable(spec: EvaluationSpec, generated: int) -> None:
    """Raise PipelineError ("spec") if scores of completions are requested by name, but none are generated."""
    if not generated and (asked := spec.asked_of_texts):
        raise PipelineError(FailureReason.SPEC, f"{no_completions(asked)}.")
