"""A stored evaluation, and which scores can be compared."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sdk.schemas.contamination import Contamination
from sdk.schemas.evaluation import MADE_OF_LOSS
from sdk.schemas.wire import Wire, digest_of


class EvaluationView(Wire):
    """A stored evaluation."""

    id: str
    #: The namespace whose job made it.
    namespace: str
    #: "code-review@v3", or "base:ID".
    ref: str
    digest: str | None
    base_fingerprint: str
    dataset: str
    grader: str
    precision: str
    #: What else the scores depend on: `Conditions`.
    conditions: dict[str, Any]
    metrics: dict[str, float]
    samples: list[dict[str, str]]
    #: How many samples were requested; if 0, the rows have no text either. None if that is unknown.
    keep_samples: int | None = None
    #: Distribution → version, on the worker that computed the scores.
    libraries: dict[str, str] = {}
    #: SHA-256 of the canonical JSON of `conditions`.
    spec_digest: str
    #: The file with the scores of each row: its SHA-256 and its length; None if there is none, or if it was removed.
    rows_digest: str | None = None
    rows_size_bytes: int | None = None
    #: Rows that the target was trained on, or why that is unknown; None if this has not been checked yet.
    contamination: Contamination | None = None
    #: A user's own scorer → the first error that it raised on a row.
    scorer_errors: dict[str, str] = {}
    job: str
    created_at: datetime

    @property
    def key(self) -> str:
        """The key that two comparable evaluations share: the SHA-256 over rows, grader, precision and conditions."""
        alike = self.model_dump(include={"dataset", "grader", "precision"})
        return digest_of({**alike, "conditions": self._set})

    @property
    def _set(self) -> dict[str, Any]:
        """The conditions that were set. The rows on which a score failed are not among them: they are an outcome of
        each metric.
        """
        return {name: value for name, value in self.conditions.items() if name != "failed"}

    def has_as_many_rows(self, other: EvaluationView) -> bool:
        """Whether two evaluations with the same key have the same number of rows, as far as is recorded."""
        counts = [one.metrics for one in (self, other) if "rows" in one.metrics]
        return len({each["rows"] + each.get("failed_rows", 0.0) for each in counts}) < 2

    def has_rows_of(self, other: EvaluationView, metric: str) -> bool:
        """Whether a metric's means in two evaluations with the same key are over the same rows: as many, and it failed
        on the same ones.
        """
        if not self.has_as_many_rows(other):
            return False
        made_of = "loss" if metric in MADE_OF_LOSS else metric
        failed = [(one.conditions.get("failed") or {}).get(made_of) for one in (self, other)]
        return failed[0] == failed[1]

    def unlike(self, other: EvaluationView) -> list[str]:
        """Name the conditions in which two evaluations on the same rows differ, so that their scores can't be compared."""
        found = [name for name in ("grader", "precision") if getattr(self, name) != getattr(other, name)]
        one, another = self._set, other._set
        return found + [name for name in dict.fromkeys([*one, *another]) if one.get(name) != another.get(name)]
