"""The scores by row of an evaluation that is handed in: their file is read, and the report must follow from it.

A file is read once, however often it is handed in: its sums are kept with the blob, as is why it can't be read.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from typing import IO, Any, Literal, Self

from registry.artifacts.blob_check import Inspection
from registry.artifacts.facts import Facts
from registry.artifacts.long_facts import holding_facts
from registry.artifacts.manifests import blob_of
from registry.artifacts.service import Artifacts
from registry.errors import Invalid, Verification
from registry.principal import Principal
from registry.rows.sums import RowSums, RowTotals
from sdk.schemas.evaluation import (
    COUNTED,
    MOST_JOB_ROWS,
    MOST_METRICS,
    MOST_SCORES,
    MOST_TARGET_ROWS,
    SCORER_PREFIX,
    UNSCORED_ROWS,
    EvaluationReport,
    EvaluationSpec,
    RowFile,
)
from sdk.schemas.row_file import RowFileError, most_unpacked_bytes, read_rows
from sdk.schemas.work import EvaluationResult

#: Scores that rows with a label, or with choices, have unasked.
_UNASKED = frozenset({"accuracy", "acc", "acc_norm", "acc_bytes"})
#: The largest file of rows, and all files of a job together: those of the most rows with long texts are smaller.
_MOST_FILE_BYTES, _MOST_JOB_BYTES = 1024**3, 4 * 1024**3
#: By how much a mean may differ from that of the rows, absolute and relative.
_TOLERANCE = 1e-6


def names_of(spec: EvaluationSpec, reported: Iterable[str]) -> frozenset[str]:
    """Return the names that scores of single rows may have, if the report has these metrics: a scorer may have several
    scores, which begin with its name.

    >>> asked = EvaluationSpec(metrics=["bleu"], scorers=["style"])
    >>> sorted(names_of(asked, ["loss", "chrf", "scorer.style.tone", "scorer.style.tone_rows", "scorer.styles"]) - _UNASKED)
    ['bleu', 'scorer.style.tone']
    """
    scorers = [SCORER_PREFIX + name for name in spec.scorers or ()]
    own = (
        name
        for name in reported
        if not name.endswith(COUNTED) and any(name == one or name.startswith(f"{one}.") for one in scorers)
    )
    return frozenset((*_UNASKED, *spec.text_metrics, *own))


def require_bounded(results: Sequence[EvaluationResult], spec: EvaluationSpec) -> None:
    """Raise Invalid for reports that are too long, or on too many rows. No file is read for this."""
    total = total_bytes = 0
    for result in results:
        if result.report is None:
            continue
        file, metrics = result.report.rows, result.report.metrics
        if len(metrics) > MOST_METRICS:
            raise Invalid(
                f"the report of {result.label} has {len(metrics)} metrics, and {MOST_METRICS} are allowed; hand in fewer",
                param="metrics",
            )
        if len(names := names_of(spec, metrics)) > MOST_SCORES:
            raise Invalid(
                f"the scores of {result.label} have {len(names)} names, and {MOST_SCORES} are allowed; let scorers give fewer",
                param="metrics",
            )
        if file is None:
            continue
        total, total_bytes = total + file.rows, total_bytes + file.size_bytes
        if file.rows > MOST_TARGET_ROWS or total > MOST_JOB_ROWS:
            raise Invalid(
                f"scores of more than {MOST_TARGET_ROWS:,} rows of a target, or {MOST_JOB_ROWS:,} of all targets of a job, are not "
                "stored; evaluate on fewer rows, or fewer targets",
                param="rows",
            )
        if file.size_bytes > _MOST_FILE_BYTES or total_bytes > _MOST_JOB_BYTES:
            raise Invalid(
                f"a file of rows may have {_MOST_FILE_BYTES // 1024**3} GiB, and all of a job {_MOST_JOB_BYTES // 1024**3} GiB; "
                "evaluate on fewer rows, or with fewer scores",
                param="rows",
            )


def verify_rows(
    artifacts: Artifacts, results: Sequence[EvaluationResult], spec: EvaluationSpec, who: Principal
) -> Mapping[str, RowTotals]:
    """Verify each file of rows, and return what they add up to, by the labels of their targets. Raises Invalid, Verification
    if one is not what its report says, Unavailable.
    """
    verified: dict[str, RowTotals] = {}
    for result in results:
        file = None if result.report is None else result.report.rows
        if file is None or result.report is None:
            continue
        totals = _read(artifacts, result, file, names_of(spec, result.report.metrics), who)
        if spec.keep_samples == 0 and totals.texts:
            raise Invalid(f"the rows of {result.label} hold texts, and no text is to be kept", param="rows")
        for name, said, found in differences(file, result.report, totals):
            raise Verification(
                f"the {name} of {result.label} is given as {said}, and its rows give {found}; "
                "run the job again, with a worker of this release",
                param=f"metrics.{name}",
            )
        verified[result.label] = totals
    return verified


def _read(artifacts: Artifacts, result: EvaluationResult, file: RowFile, names: Set[str], who: Principal) -> RowTotals:
    """Return what a file's rows add up to. Raises Verification if it can't be read, or has a score that isn't among
    these; and what `Artifacts.verify` raises.
    """

    def look(bytes_: IO[bytes]) -> RowFacts:
        return RowFacts.of(bytes_, names, size_bytes=file.size_bytes)

    inspection = Inspection(
        RowFacts, look, lambda kept: kept if isinstance(kept, RowFacts) and kept.judges(names) else None
    )
    blob = blob_of(file.digest, file.size_bytes)
    with holding_facts(), _alone(file.digest):
        inspections = {file.digest: inspection}
        found = artifacts.verify(upload=result.upload, blobs=[blob], who=who, inspections=inspections).facts
    facts = found[file.digest]
    assert isinstance(facts, RowFacts)
    if facts.refused is not None:
        raise Verification(f"the scores by row of {result.label} can't be read: {facts.refused}", param="rows")
    if (unknown := facts.unknown_among(names)) is not None:
        raise Verification(
            f"the rows of {result.label} have a score {unknown!a}, which is none of the job's metrics, nor one of its scorers' that "
            "the report has; run the job again, with a worker of this release",
            param="rows",
        )
    assert facts.totals is not None
    return facts.totals


#: The files that are read now, and how many threads wait for each.
_reading: dict[str, tuple[threading.Lock, list[None]]] = {}
_changing = threading.Lock()


@contextmanager
def _alone(digest: str) -> Iterator[None]:
    """Let only one thread of this process read a file at a time: the next one finds what it found."""
    with _changing:
        lock, waiting = _reading.setdefault(digest, (threading.Lock(), []))
        waiting.append(None)
    try:
        with lock:
            yield
    finally:
        with _changing:
            waiting.pop()
            if not waiting:
                del _reading[digest]


class RowFacts(Facts):
    """What is known of a file of scores by row: its totals, or why it has none."""

    kind: Literal["rows"] = "rows"
    version: Literal[1] = 1
    totals: RowTotals | None = None
    #: Why it can't be read.
    refused: str | None = None
    #: The first score that nobody had asked for when it was read: it was read no further.
    unknown: str | None = None

    @classmethod
    def of(cls, file: IO[bytes], names: Set[str], *, size_bytes: int) -> Self:
        """Read a file of this size up to the first score whose name is not among these."""
        sums = RowSums(measures_intervals=True)
        try:
            for row in read_rows(file, most_rows=MOST_TARGET_ROWS, most_bytes=most_unpacked_bytes(size_bytes)):
                if not row.scores.keys() <= names:
                    return cls(unknown=min(row.scores.keys() - names))
                sums.add(row)
        except RowFileError as error:
            return cls(refused=str(error))
        return cls(totals=sums.totals())

    def judges(self, names: Set[str]) -> bool:
        """Whether the file need not be read again for scores of these names."""
        return self.unknown is None or self.unknown not in names

    def unknown_among(self, names: Set[str]) -> str | None:
        """A score of the file that is not among these."""
        if self.totals is None:
            return self.unknown
        return min(self.totals.scored.keys() - names, default=None)

    def replaces(self, kept: Any) -> bool:
        """What was read further is kept instead."""
        before = self.from_json(kept)
        return before is None or (before.unknown is not None and before.unknown != self.unknown)


def differences(
    file: RowFile, report: EvaluationReport, totals: RowTotals
) -> Iterator[tuple[str, float | None, float | None]]:
    """What in a report does not follow from its rows: name, what the report says, and what the rows give."""
    said = report.metrics
    counted = {"rows": totals.rows - totals.failed, "failed_rows": totals.failed, "supervised_tokens": totals.tokens}
    counted |= {f"{name}{COUNTED}": count for name, count in totals.scored.items()}
    for name, count in counted.items():
        if name in said and said[name] != count:
            yield name, said[name], count
    # All rows are present, and those without a score are reported.
    if (unscored := said.get(UNSCORED_ROWS, 0.0)) != totals.unscored:
        yield UNSCORED_ROWS, unscored, totals.unscored
    if file.rows != (found := totals.rows + totals.unscored):
        yield "file_rows", file.rows, found
    for name, mean in totals.means.items():
        if not _near(said.get(name), mean):
            yield name, said.get(name), mean


def _near(said: float | None, found: float | None) -> bool:
    if said is None or found is None:
        return False
    return math.isclose(said, found, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
