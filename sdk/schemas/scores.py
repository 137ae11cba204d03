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
    #: "code-review@v3", or "base:ID".
    ref: str
    digest: str | None
    base_fingerprint: str
    dataset: str
    grader: str
    precision: str
    #: What the scores depend on beside all that: `Conditions`, or of an earlier release what was asked for.
    conditions: dict[str, Any] = {}
    metrics: dict[str, float]
    samples: list[dict[str, str]]
    #: How many samples were asked for; of 0, the rows have no text either. None where that is not known.
    keep_samples: int | None = None
    #: Distribution → version, where they were taken.
    libraries: dict[str, str] = {}
    #: SHA-256 of the canonical JSON of `conditions`; None of an earlier release.
    spec_digest: str | None = None
    #: The file with the scores of each row: its SHA-256 and its length; None where there is none, or no more.
    rows_digest: str | None = None
    rows_size_bytes: int | None = None
    #: Rows that the target was trained on, or why that is not known; None where nobody has looked yet.
    contamination: Contamination | None = None
    #: Scorer of a user's own → the first error that it raised on a row.
    scorer_errors: dict[str, str] = {}
    job: str
    created_at: datetime

    @property
    def key(self) -> str:
        """What only scores have in common that can be compared: the SHA-256 over rows, grader, precision and conditions.

        Of an earlier release, which recorded less, scores are alike only within a job, over one base.
        """
        unknown = {} if "tokenizer" in self.conditions else {"job": self.job, "base": self.base_fingerprint}
        alike = self.model_dump(include={"dataset", "grader", "precision"})
        return digest_of({**alike, "conditions": self._set, **unknown})

    @property
    def _set(self) -> dict[str, Any]:
        """The conditions that were set. On which rows a score failed is an outcome, of each metric by itself."""
        return {name: value for name, value in self.conditions.items() if name != "failed"}

    def has_as_many_rows(self, other: EvaluationView) -> bool:
        """Tell whether two evaluations of one key looked at as many rows, as far as they say."""
        counts = [one.metrics for one in (self, other) if "rows" in one.metrics]
        return len({each["rows"] + each.get("failed_rows", 0.0) for each in counts}) < 2

    def has_rows_of(self, other: EvaluationView, metric: str) -> bool:
        """Tell whether a metric's means of two evaluations of one key are over the same rows: as many, and it failed on the same."""
        if not self.has_as_many_rows(other):
            return False
        made_of = "loss" if metric in MADE_OF_LOSS else metric
        failed = [(one.conditions.get("failed") or {}).get(made_of) for one in (self, other)]
        return failed[0] == failed[1]

    def unlike(self, other: EvaluationView) -> list[str]:
        """Name what two evaluations on the same rows differ in, so that their scores say nothing of one another."""
        found = [name for name in ("grader", "precision") if getattr(self, name) != getattr(other, name)]
        one, another = self._set, other._set
        return found + [name for name in dict.fromkeys([*one, *another]) if one.get(name) != another.get(name)]
