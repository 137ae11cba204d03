"""The scores by row of an evaluation that is handed in: their file is read, and the report must follow from it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from registry.artifacts.manifests import blob_of
from registry.artifacts.service import Artifacts
from registry.errors import Invalid, Verification
from registry.principal import Principal
from sdk.schemas.evaluation import (
    CORPUS_METRICS,
    COUNTED,
    UNSCORED_ROWS,
    EvaluationReport,
    EvaluationSpec,
    RowFile,
    RowScore,
)
from sdk.schemas.row_file import RowFileError, read_rows
from sdk.schemas.work import EvaluationResult
from sdk.statistics.calibration import Calibration

#: By how much a mean may differ from that of the rows, absolute and relative.
_TOLERANCE = 1e-6


def verify_rows(
    artifacts: Artifacts, results: Sequence[EvaluationResult], spec: EvaluationSpec, who: Principal
) -> None:
    """Verify each file of rows. Raises Invalid, Verification if one is not what its report says, Unavailable."""
    for result in results:
        file = None if result.report is None else result.report.rows
        if file is None or result.report is None:
            continue
        blob = blob_of(file.digest, file.size_bytes)
        artifacts.verify(upload=result.upload, blobs=[blob], who=who)
        with artifacts.reading(file.digest) as bytes_:
            try:
                sums = summed(read_rows(bytes_))
            except RowFileError as error:
                raise Verification(
                    f"the scores by row of {result.label} can't be read: {error}", param="rows"
                ) from error
        if spec.keep_samples == 0 and sums.texts:
            raise Invalid(f"the rows of {result.label} hold texts, and no text is to be kept", param="rows")
        for name, said, found in differences(file, result.report, sums):
            raise Verification(
                f"the {name} of {result.label} is said to be {said}, and its rows give {found}; "
                "run the job again, with a worker of this release",
                param=f"metrics.{name}",
            )


@dataclass
class RowSums:
    """The sums over the rows of a file; memory stays constant however many there are."""

    #: Rows that were scored, or that failed.
    rows: int = 0
    #: Rows of which nothing could be scored.
    unscored: int = 0
    #: Rows whose loss is not a number.
    failed: int = 0
    #: Over the other rows: nats, and supervised tokens.
    loss: float = 0.0
    tokens: int = 0
    #: Rows with a text.
    texts: int = 0
    #: By metric: the sum of its scores, and how many rows have one.
    scores: dict[str, float] = field(default_factory=dict)
    scored: Counter[str] = field(default_factory=Counter)
    calibration: Calibration = field(default_factory=Calibration)

    def add(self, row: RowScore) -> None:
        """Add one row."""
        self.texts += row.prediction is not None or row.expected is not None
        if row.unscored is not None and row.loss_sum is None and not row.scores:
            self.unscored += 1
            return
        self.rows += 1
        if row.loss_sum is None:
            self.failed += 1
        else:
            self.loss += row.loss_sum
            self.tokens += row.tokens
        if row.confidence is not None and "accuracy" in row.scores:
            self.calibration.add(row.confidence, row.scores["accuracy"] == 1.0)
        for name, score in row.scores.items():
            self.scores[name] = self.scores.get(name, 0.0) + score
            self.scored[name] += 1

    def means(self) -> dict[str, float | None]:
        """The means that follow from the rows, without scores over a whole corpus. The loss is None if no row has
        one.
        """
        means: dict[str, float | None] = {
            name: total / self.scored[name] for name, total in self.scores.items() if name not in CORPUS_METRICS
        }
        means["loss"] = self.loss / self.tokens if self.tokens else None
        if self.calibration.rows:
            means["expected_calibration_error"] = self.calibration.error
        return means


def summed(rows: Iterable[RowScore]) -> RowSums:
    """Add rows up.

    >>> found = summed([RowScore(row=0, loss_sum=3.0, tokens=2, scores={"f": 0.5}), RowScore(row=1, tokens=7)])
    >>> (found.rows, found.failed, found.loss, found.tokens, found.scores, found.scored["f"])
    (2, 1, 3.0, 2, {'f': 0.5}, 1)
    """
    sums = RowSums()
    for row in rows:
        sums.add(row)
    return sums


def differences(
    file: RowFile, report: EvaluationReport, sums: RowSums
) -> Iterator[tuple[str, float | None, float | None]]:
    """What in a report does not follow from its rows: name, what the report says, and what the rows give."""
    said = report.metrics
    counted = {"rows": sums.rows - sums.failed, "failed_rows": sums.failed, "supervised_tokens": sums.tokens}
    counted |= {f"{name}{COUNTED}": count for name, count in sums.scored.items()}
    for name, count in counted.items():
        if name in said and said[name] != count:
            yield name, said[name], count
    yield from _unscored(file, report, sums)
    for name, mean in sums.means().items():
        if not _near(said.get(name), mean):
            yield name, said.get(name), mean


def _unscored(file: RowFile, report: EvaluationReport, sums: RowSums) -> Iterator[tuple[str, float, float]]:
    """Checks that all rows are present, and that those without a score are reported."""
    if (said := report.metrics.get(UNSCORED_ROWS, 0.0)) != sums.unscored:
        yield UNSCORED_ROWS, said, sums.unscored
    if file.rows != (found := sums.rows + sums.unscored):
        yield "file_rows", file.rows, found


def _near(said: float | None, found: float | None) -> bool:
    if said is None or found is None:
        return False
    return math.isclose(said, found, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
