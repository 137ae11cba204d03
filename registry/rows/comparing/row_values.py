"""What targets scored on each row, as arrays over the rows that all of them have."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import comb, log
from typing import TYPE_CHECKING

from registry.errors import Conflict, Invalid, NotFound
from registry.rows.reading_limits import MOST_WORK
from sdk.schemas.evaluation import (
    BITS_PER_BYTE,
    CORPUS_METRICS,
    LONGER_REFERENCE_ROWS,
    MADE_OF_LOSS,
    NO_CONTENT_ROWS,
    SCORER_PREFIX,
    SHORTENED_PROMPT_ROWS,
    SHORTENED_ROWS,
    UNDIVIDED_METRICS,
    UNFINISHED_THOUGHT_ROWS,
    UNSCORED_ROWS,
    WEIGHTED_METRICS,
    RowScore,
    is_of_texts,
    is_scorer,
)
from sdk.schemas.scores import EvaluationView
from sdk.statistics.comparison import LEAST_CLUSTERS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]


#: The metric whose rows are weighted by their tokens.
LOSS = "loss"


@dataclass(frozen=True)
class RowValues:
    """Rows for which all targets have a score."""

    #: (rows,) their numbers in the dataset, ascending.
    rows: npt.NDArray[np.int64]
    #: (targets, rows) a row's score, or the sum of its loss.
    sums: Floats
    #: (rows,) what a row weighs: 1, its tokens, or the bytes of its text.
    masses: Floats
    #: How many rows only some of the targets have a score for.
    left_out: int

    def scores(self) -> Floats:
        """(targets, rows) the score of each row by itself."""
        return self.sums / self.masses

    @property
    def step(self) -> float | None:
        """The most by which a row can differ if every score is yes or no."""
        return 1.0 if bool(((self.sums == 0) | (self.sums == 1)).all()) else None


@dataclass
class _Read:
    """One target's rows, read."""

    rows: array[int]
    sums: array[float]
    masses: array[float]
    #: Names of the scores that its rows have.
    names: set[str]


def read_values(
    targets: Sequence[tuple[str, Iterable[RowScore]]], metric: str, *, most: int | None = None
) -> RowValues:
    """Read the rows of (ref, rows) targets, of each `most` at most; by default as many as may be compared for each pair.

    Raises Invalid for a metric that rows don't have and for too many rows, NotFound if the targets have no row in
    common, Conflict if a row has a different number of tokens in two of them.
    """

    import numpy as np

    if metric in MADE_OF_LOSS - WEIGHTED_METRICS:
        raise Invalid(f"{metric} is made of the loss; compare that instead: --metric {LOSS}", param="metric")
    most = MOST_WORK // comb(len(targets), 2) if most is None else most
    read = [_read(ref, rows, metric, most) for ref, rows in targets]
    numbers = [np.frombuffer(one.rows, dtype=np.int64) for one in read]
    common = numbers[0]
    for more in numbers[1:]:
        common = np.intersect1d(common, more, assume_unique=True)
    if not len(common):
        raise NotFound(
            f"no row has a {metric} of all of them; compare them by another score, or score them on more rows"
        )
    places = [np.searchsorted(one, common) for one in numbers]
    sums = np.stack([np.frombuffer(one.sums)[place] for one, place in zip(read, places, strict=True)])
    masses = np.stack([np.frombuffer(one.masses)[place] for one, place in zip(read, places, strict=True)])
    unequal = np.nonzero((masses != masses[0]).any(axis=0))[0]
    if len(unequal):
        row = int(common[unequal[0]])
        weighs = "/".join(f"{mass:.0f}" for mass in masses[:, unequal[0]])
        if metric == BITS_PER_BYTE:
            raise Conflict(
                f"row {row} has {weighs} bytes of text in these scores: other tokens are truncated at another place; score them again in one "
                "job, with a max_length that cuts none: adapterctl eval REF REF --max-length N"
            )
        raise Conflict(
            f"row {row} has {weighs} tokens in these scores, which were truncated differently; score them again in one job: "
            "adapterctl eval REF REF --again"
        )
    every = len(np.unique(np.concatenate(numbers)))
    return RowValues(common, sums, masses[0], every - len(common))


def _read(ref: str, scores: Iterable[RowScore], metric: str, most: int) -> _Read:
    found = _Read(array("q"), array("d"), array("d"), set())
    for score in scores:
        value, mass = weighed(score, metric)
        found.names.update(score.scores)
        if value is not None and mass:
            found.rows.append(score.row)
            found.sums.append(value)
            found.masses.append(float(mass))
            if len(found.rows) > most:
                raise Invalid(
                    f"{ref} has scores of more than {most} rows, too many for so many targets; compare fewer at once"
                )
    if not found.rows:
        if metric == BITS_PER_BYTE:
            raise Invalid(
                f"the rows of {ref} don't say how long their texts are, since an earlier release scored them; score them "
                "again: adapterctl eval REF REF --again",
                param="metric",
            )
        names = ", ".join([LOSS, *sorted(found.names)])
        if metric in UNDIVIDED_METRICS:
            raise Invalid(
                f"{metric} is a score of all rows together, of which none has its own; compare by one of: {names}",
                param="metric",
            )
        how = (
            f"; score all by it in one job: adapterctl eval REF REF{asking_for(metric)}" if is_of_texts(metric) else ""
        )
        raise Invalid(f"the rows of {ref} have no {metric[:80]!a}; they have: {names}{how}", param="metric")
    return found


def weighed(score: RowScore, metric: str) -> tuple[float | None, int]:
    """Return a row's score by a metric, the sum over what it weighs, and that: its tokens, the bytes of its text, or 1."""
    if metric == LOSS:
        return score.loss_sum, score.tokens
    if metric == BITS_PER_BYTE:
        if score.loss_sum is None:
            return None, 0
        return (score.loss_sum - (score.end_loss or 0.0)) / log(2), score.text_bytes or 0
    return score.scores.get(metric), 1


def asking_for(metric: str) -> str:
    """The option that asks for a score of texts."""
    if is_scorer(metric):
        return f" --scorers {metric.removeprefix(SCORER_PREFIX).partition('.')[0]}"
    return " --regex EXPRESSION" if metric == "regex" else f" --metrics {metric}"


def notes_on(left_out: int, metric: str, evaluations: Sequence[EvaluationView]) -> list[str]:
    """What readers should know about the numbers, in sentences; the rows are those of `evaluations`."""
    notes = []
    every, empty, shortened, prompts, longer, thoughts = (
        max(round(one.metrics.get(name, 0.0)) for one in evaluations)
        for name in (
            UNSCORED_ROWS,
            NO_CONTENT_ROWS,
            SHORTENED_ROWS,
            SHORTENED_PROMPT_ROWS,
            LONGER_REFERENCE_ROWS,
            UNFINISHED_THOUGHT_ROWS,
        )
    )
    unscored = every - empty
    longest = evaluations[0].conditions.get("max_length")
    if empty:
        have = "1 row has" if empty == 1 else f"{empty} rows have"
        notes.append(f"{have} no score of any: a thought is all of the expected answer")
    if unscored:
        have, its = ("1 row has", "its") if unscored == 1 else (f"{unscored} rows have", "their")
        notes.append(f"{have} no score of any: none of {its} first {longest} tokens is supervised")
    if shortened and not is_of_texts(metric):
        some = "1 row is" if shortened == 1 else f"{shortened} rows are"
        notes.append(f"{some} truncated to {longest} tokens, and scored on the rest")
    if prompts and is_of_texts(metric):
        some = "1 answer starts" if prompts == 1 else f"{prompts} answers start"
        notes.append(f"{some} from the last {evaluations[0].conditions.get('prompt_tokens')} tokens of a longer prompt")
    if longer and is_of_texts(metric):
        some = "1 row expects" if longer == 1 else f"{longer} rows expect"
        most = evaluations[0].conditions.get("max_new_tokens")
        notes.append(f"{some} more than the {most} tokens that an answer has at most")
    if thoughts and is_of_texts(metric):
        limited = "max_thought_tokens" in (conditions := evaluations[0].conditions)
        never = "don't end it" if limited else f"don't end it within {conditions.get('max_new_tokens')} tokens"
        notes.append(f"up to {thoughts} of a target's answers begin a thought and {never}, and count as empty")
    if left_out:
        some = "1 row is" if left_out == 1 else f"{left_out} rows are"
        notes.append(f"{some} left out, since not every target has a score of it")
    if metric in CORPUS_METRICS:
        notes.append(f"{metric} of single rows is compared, whose mean is not that of the corpus")
    return notes


def note_on_weight(
    values: RowValues, metric: str, groups: npt.NDArray[np.int64] | None, *, by: str | None
) -> list[str]:
    """A note for the case that one cluster weighs more than all others: its difference was observed only once, and an
    interval needs many observations.
    """
    import numpy as np

    masses = values.masses if groups is None else np.bincount(groups, weights=values.masses)
    heaviest, every = float(masses.max()), float(masses.sum())
    if len(masses) < LEAST_CLUSTERS or 2 * heaviest <= every:
        return []
    what = f"group by {by[:80]!a}" if by else "row" if groups is None else "row, with those that equal it,"
    of = {LOSS: "tokens", BITS_PER_BYTE: "bytes"}.get(metric, "rows")
    return [
        f"one {what} has {heaviest:.0f} of all {every:.0f} {of}, more than the others together: the interval is too narrow for that"
    ]
