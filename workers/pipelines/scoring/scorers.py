"""Users' own scorers: functions that a distribution on the worker registers as entry points in the group `adapterctl.scorers`.

A scorer is called with the answer, its references and the row's fields, and returns a number, or a dict of some. It runs in the
job's process. If it raises, or returns anything else, only that row lacks its scores.
"""

from __future__ import annotations

import copy
import math
import re
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Any

from sdk.schemas.evaluation import (
    COUNTED,
    MOST_ERROR,
    MOST_SCORE,
    MOST_SCORES,
    SCORER_PREFIX,
    EvaluationSpec,
    TextMetric,
    no_completions,
)
from sdk.schemas.failures import FailureReason
from workers.installed_scorers import NoScorerError, installed_scorers, made_by
from workers.pipelines.errors import PipelineError
from workers.pipelines.libraries import versions_of
from workers.pipelines.orders import WordNet
from workers.pipelines.scoring.code_texts import GRAMMAR
from workers.pipelines.scoring.synonyms import read_synonyms
from workers.pipelines.scoring.texts import SCORING_LIBRARIES, WORDS_VERSION, TextScores, score_texts

#: The distribution of a missing scorer, for the conditions: such scores can't be compared with any others.
NOBODY = "none"
_KEY = re.compile(r"[a-z][a-z0-9_]{0,39}")
#: The most different keys of a scorer, over all rows.
_MOST_KEYS = 20


@dataclass(frozen=True)
class Scorer:
    """One function that scores texts."""

    name: str
    #: "DISTRIBUTION VERSION", or NOBODY.
    made_by: str
    score: Callable[[str, list[str], dict[str, Any]], object]


def load_scorers(names: Iterable[str]) -> list[Scorer]:
    """Return the scorers with these names; a scorer that is missing or can't be loaded fails on every row.

    Raises PipelineError ("spec") if this is true for all of them.
    """
    loaded, faults = list[Scorer](), list[PipelineError]()
    for name in names:
        try:
            loaded.append(_load(name))
        except PipelineError as error:
            faults.append(error)
            loaded.append(Scorer(name, NOBODY, _failing(error.message)))
    if faults and len(faults) == len(loaded):
        raise faults[0]
    return loaded


def _load(name: str) -> Scorer:
    try:
        (entry,) = installed_scorers([name])
    except NoScorerError as error:
        raise PipelineError(FailureReason.SPEC, str(error)) from error
    try:
        score = entry.load()
        if not callable(score):
            raise TypeError(f"{entry.value} is not a function")
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        raise PipelineError(
            FailureReason.SPEC,
            f"The scorer {entry.name!r} of {made_by(entry)} can't be loaded ({_one_line(error)}); correct it on the"
            " worker, or leave it out.",
        ) from error
    return Scorer(entry.name, made_by(entry), score)


def _failing(message: str) -> Callable[[str, list[str], dict[str, Any]], object]:
    """Return a scorer that fails on every row, like an installed one that crashes."""

    def score(_answer: str, _references: list[str], _row: dict[str, Any]) -> object:
        raise NoScorerError(message)

    return score


def add_scores(
    scores: TextScores,
    scorer: Scorer,
    answers: Sequence[str],
    references: Sequence[Sequence[str]],
    rows: Sequence[Mapping[str, Any]],
) -> None:
    """Add a scorer's results to `scores`: its mean, the scores of the rows, and the places without one."""
    whole = SCORER_PREFIX + scorer.name
    scored: list[dict[str, float]] = []
    names: set[str] = set()
    others = {name for own in scores.rows for name in own}
    for place, (answer, expected, row) in enumerate(zip(answers, references, rows, strict=True)):
        try:
            # It may modify its arguments.
            given = scorer.score(answer, list(expected), copy.deepcopy(dict(row)))
            numbers = _numbers(whole, given)
            if len(names | numbers.keys()) > _MOST_KEYS:
                raise ValueError(f"it has more than {_MOST_KEYS} keys over all rows")
            if len(others | names | numbers.keys()) > MOST_SCORES:
                raise ValueError(f"with those of the other scorers these are more than {MOST_SCORES} scores")
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001  # whatever it stumbles over, the other rows have their scores
            if all(scored):
                # The first one goes to the job's log.
                scores.errors[scorer.name] = _one_line(error)
                error.add_note(f"{scorer.name} has no score of the completion {place}, or of others that it failed on.")
                traceback.print_exc()
            scored.append({})
            continue
        names |= numbers.keys()
        scored.append(numbers)
    for name in sorted(names or {whole}):
        values = [each[name] for each in scored if name in each]
        for own, each in zip(scores.rows, scored, strict=True):
            own.update({name: each[name]} if name in each else {})
        if len(values) < len(scored):
            scores.failed[name] = [place for place, each in enumerate(scored) if name not in each]
        if values:
            scores.metrics[name] = math.fsum(values) / len(values)


def _one_line(error: BaseException) -> str:
    """Return the type of an error and its first line, in one line."""
    kind = type(error).__name__
    try:
        first = next(filter(None, map(str.strip, str(error).splitlines())), "")
    except (Exception, SystemExit, KeyboardInterrupt):  # noqa: BLE001  # what an error of a user's own says may fail, too
        first = ""
    line = f"{kind}: {first}" if first else kind
    plain = "".join(character if character.isprintable() else " " for character in line)
    return plain if len(plain) <= MOST_ERROR else plain[: MOST_ERROR - 1] + "…"


def _numbers(name: str, given: object) -> dict[str, float]:
    """Return a scorer's result as scores by name. Raises TypeError, ValueError if it isn't a score."""
    if not isinstance(given, Mapping):
        return {name: _number(given)}
    if not given:
        raise ValueError("an empty dict")
    for key in given:
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise ValueError(f"the key {key!r} is not of lower-case letters, digits and _")
        if key.endswith(COUNTED):
            raise ValueError(f"the key {key!r} ends with {COUNTED}, as counts of rows do; give it another name")
    return {f"{name}.{key}": _number(value) for key, value in given.items()}


def _number(value: object) -> float:
    # A scalar of numpy or torch; their booleans aren't Python numbers.
    if not isinstance(value, Real) and callable(item := getattr(value, "item", None)):
        value = item()
    if not isinstance(value, Real | Decimal):
        raise TypeError(f"{type(value).__name__} is not a number")
    number = float(value)
    if not abs(number) <= MOST_SCORE:
        raise ValueError(f"{number} is not a score")
    return number


@dataclass(frozen=True)
class Grading:
    """The requested metrics and scorers."""

    metrics: Sequence[TextMetric]
    regex: str | None
    scorers: Sequence[Scorer]
    #: In which `meteor` looks synonyms up.
    wordnet: WordNet | None = None

    def definitions(self) -> dict[str, str]:
        """Return what defines the scores, for their conditions."""
        definitions = {"words": str(WORDS_VERSION), **versions_of(*SCORING_LIBRARIES)}
        definitions |= {"regex": self.regex} if self.regex is not None else {}
        definitions |= {"python": GRAMMAR} if "code_parses" in self.metrics else {}
        definitions |= versions_of("nltk") if {"meteor", "meteor_exact_stem"}.intersection(self.metrics) else {}
        definitions |= {"wordnet": self.wordnet.digest} if self.wordnet is not None else {}
        return definitions | {SCORER_PREFIX + scorer.name: scorer.made_by for scorer in self.scorers}

    def score(
        self, answers: Sequence[str], references: Sequence[Sequence[str]], rows: Sequence[Mapping[str, Any]]
    ) -> TextScores:
        """Score answers as they were generated, each against its references; `rows` are the fields of their rows."""
        synonyms = None if self.wordnet is None else read_synonyms(self.wordnet.folder)
        scores = score_texts(self.metrics, answers, references, regex=self.regex, synonyms=synonyms)
        for scorer in self.scorers:
            add_scores(scores, scorer, [answer.strip() for answer in answers], references, rows)
        return scores


def grading_of(spec: EvaluationSpec, wordnet: WordNet | None = None) -> Grading:
    """Return the requested scores. Raises PipelineError ("spec") if scorers are requested but none of them is on this
    worker.
    """
    return Grading(spec.text_metrics, spec.regex, load_scorers(spec.scorers or ()), wordnet)


def require_scorable(spec: EvaluationSpec, generated: int) -> None:
    """Raise PipelineError ("spec") if something is requested of completions by name, but none are generated."""
    if not generated and (said := no_completions(spec)):
        raise PipelineError(FailureReason.SPEC, f"{said}.")
