"""A stored evaluation: which rows were seen in training, how it compares with others, and the scores of parts of a dataset.

>>> said(Contamination(rows=100, exact=5, near=7, of=["sql@v1"]))
'12 of 100 rows are contaminated by those of sql@v1: 5 exactly, 0 in another spelling, 7 nearly'
>>> said(Contamination(not_checked=["a@v1 was pushed, and what it was trained on is not known"]))
'not checked: a@v1 was pushed, and what it was trained on is not known'
>>> briefly(Contamination(rows=100, of=["sql@v1"])), briefly(None)
('0/100', '?')
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from string import ascii_uppercase
from typing import Annotated, Any, Literal

from sdk.schemas.evaluation import MADE_OF_LOSS, is_of_tokens
from sdk.schemas.wire import IF_ANY, IF_SET, Wire, digest_of


class Contamination(Wire):
    """Which of a dataset's rows are among the training rows of a version and of everything that it came from."""

    #: Rows of the evaluation's dataset, and how many of them occur there with the same fields, else with the same texts
    #: except for case, spaces and Unicode's form, else with most of their 13-grams; each row counts once. 0 if rows
    #: were not checked.
    rows: int = 0
    exact: int = 0
    normalised: int = 0
    near: int = 0
    #: The datasets that were checked, by NAME@vN or digest; empty: none.
    of: list[str] = []
    #: Why others, or all, could not be checked, each the rest of a sentence.
    not_checked: list[str] = []

    @property
    def found(self) -> int:
        """Rows that occur there in any way."""
        return self.exact + self.normalised + self.near


def said(found: Contamination | None) -> str:
    """Return it in words; None if the scores have not been checked yet."""
    if found is None:
        return "not checked yet"
    parts = []
    if found.of:
        how = (
            f": {found.exact} exactly, {found.normalised} in another spelling, {found.near} nearly"
            if found.found
            else ""
        )
        parts.append(f"{found.found} of {found.rows} rows are contaminated by those of {', '.join(found.of)}{how}")
    if found.not_checked or not parts:
        parts.append(f"not checked: {'; '.join(found.not_checked) or 'no reason is recorded'}")
    return "; ".join(parts)


def briefly(found: Contamination | None) -> str:
    """Return it for a narrow column of a table: "?" means not checked, "+" not completely checked."""
    if found is None or not found.of:
        return "?"
    return f"{found.found}/{found.rows}" + ("+" if found.not_checked else "")


def warning(found: Contamination | None, *, is_base: bool) -> str | None:
    """Return it in words if readers of the scores should know; that nothing is known about a base is nothing new."""
    if found is not None and not found.found and (is_base or (found.of and not found.not_checked)):
        return None
    return said(found)


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

    def __repr_name__(self) -> str:
        return "Evaluation"

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        yield from (("id", self.id), ("ref", self.ref), ("dataset", self.dataset[:12]))
        yield from ((name, self.metrics[name]) for name in ("loss", "rows") if name in self.metrics)

    def _repr_html_(self) -> str:
        from sdk.formats.html_tables import facts, page, table
        from sdk.schemas.score_order import direction, in_order_asked

        named = [
            ("id", self.id),
            ("dataset", self.dataset[:12]),
            ("contamination", said(self.contamination)),
            ("grader", self.grader),
            ("precision", self.precision),
            ("scorer errors", self.scorer_errors),
            ("made by", f"{self.namespace}, job {self.job}"),
            ("created", self.created_at),
        ]
        rows = [[name, self.metrics[name], direction(name)] for name in in_order_asked(self.metrics)]
        scores = table("Scores", ["metric", "value", "better"], rows)
        return page(facts(f"Evaluation of {self.ref}", [one for one in named if one[1]]), scores)

    @property
    def key(self) -> str:
        """The key that two comparable evaluations share: the SHA-256 over rows, grader, precision and conditions."""
        return self._key(self._set)

    def key_of(self, metric: str) -> str:
        """The key that two evaluations share whose scores by a metric can be compared: texts that were generated, and losses
        per byte of text, are compared whatever the tokens, and losses per token are not.
        """
        if is_of_tokens(metric):
            return self.key
        return self._key({name: value for name, value in self._set.items() if name != "tokenizer"})

    def _key(self, conditions: dict[str, Any]) -> str:
        alike = self.model_dump(include={"dataset", "grader", "precision"})
        return digest_of({**alike, "conditions": conditions})

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


#: The most values of a column for which scores are shown.
MOST_SLICES = 50


class Slice(Wire):
    """The rows with one value."""

    #: A text as it is, anything else as JSON.
    value: str
    #: Rows with a loss, and rows whose loss is not a number.
    rows: int
    failed_rows: int
    #: Other rows, which could not be scored.
    unscored_rows: Annotated[int, IF_ANY] = 0
    #: Number of supervised tokens that the loss is over; a label counts as one.
    tokens: int
    #: The loss in nats per token, each token counted once, and the mean of each score over the rows that have it;
    #: without scores that no row has, and without those over a whole corpus.
    metrics: dict[str, float]
    #: Score → the number of rows that its mean is over.
    scored: dict[str, int] = {}


class SlicedScores(Wire):
    """The scores of one evaluation, grouped by the values of a column."""

    #: The id of the scores.
    evaluation: str
    #: The column.
    by: str
    #: The values with the most rows first.
    slices: list[Slice]


#: How many targets are compared at once if all pairs are, and how many with one alone.
MOST_TARGETS, MOST_AGAINST_ONE = 8, 10
#: The most rows shown side by side.
MOST_EXAMPLES = 100


class Compared(Wire):
    """One of the targets, with its score on the rows that all have."""

    #: "code-review@v3", or "base:ID".
    ref: str
    #: The id of its scores.
    evaluation: str
    #: The namespace whose job made them.
    namespace: str
    #: The mean over these rows; for the loss, over their tokens.
    score: float
    #: Rows of the whole dataset that it was trained on; None if this has not been checked yet.
    contamination: Contamination | None = None


class ComparedPair(Wire):
    """What the rows say about two targets."""

    a: str
    b: str
    #: b - a, the difference of the means.
    difference: float
    #: Ends of the 95 % interval of the difference; None if there are too few rows or groups, or if no row differs and
    #: nothing tells by how much one could.
    low: float | None
    high: float | None
    #: How many rows, or groups of them, score differently, if these are fewer than 20. The interval of scores from 0 to
    #: a largest one then holds for whatever scores there could be, and is wide.
    differing: Annotated[int | None, IF_SET] = None
    #: "approximate" if so few differ by a score without bounds: the interval may hold the true difference less often.
    coverage: Annotated[Literal["approximate"] | None, IF_SET] = None
    #: How often equally good targets would differ by as much. None if there are too few rows or groups.
    p: float | None
    #: The same, corrected for all pairs (Holm): below 0.05 there is a verdict.
    p_adjusted: float | None
    test: Literal["sign-flip", "mcnemar"] | None
    #: The one that scores better, if the rows show it; None, too, if one was trained on all of these rows.
    better: str | None
    #: In words.
    verdict: str
    #: The smallest difference that rows like these show in 80 % of all cases; None if no row differs.
    detectable: float | None
    #: How many rows like these are needed to show the difference, or the one that was asked for, in 80 % of all cases;
    #: None if there is none, no row differs, or it takes more than 10^12.
    rows_needed: int | None


def _interval(pair: ComparedPair) -> str:
    return "" if pair.low is None or pair.high is None else f"{pair.low:.4g} to {pair.high:.4g}"


class ChangedRow(Wire):
    """A row on which the targets differ, with each one's result, in the order of `refs`."""

    #: Its number in the dataset, from 0.
    row: int
    #: The prompt and the expected text; None if the dataset can no longer be read.
    prompt: str | None = None
    reference: str | None = None
    scores: list[float]
    #: None if nothing was generated, or no text was kept.
    predictions: list[str | None]

    def of(self, target: int) -> tuple[float | None, str | None]:
        """The score and the text of a target by its place among `refs`; None for what there is none of."""
        score = self.scores[target] if target < len(self.scores) else None
        return score, self.predictions[target] if target < len(self.predictions) else None


class Comparison(Wire):
    """Targets that were scored in the same way on the same rows, row by row."""

    metric: str
    lower_is_better: bool
    #: Digest of the dataset.
    dataset: str
    #: What it is called, `NAME@v2`; None: it has no name that the caller may know.
    dataset_name: Annotated[str | None, IF_SET] = None
    #: On how many rows all of them have a score.
    rows: int
    #: The column whose value rows of one group share, and how many groups there are; None: each row stands alone.
    by: str | None
    groups: int | None
    #: How many different rows there are, if some have equal fields and they aren't grouped: equal rows count as one.
    distinct_rows: Annotated[int | None, IF_SET] = None
    refs: list[str]
    scores: list[Compared]
    #: All pairs.
    pairs: list[ComparedPair]
    #: Notes on the comparison as a whole, in sentences.
    notes: list[str] = []
    #: Those that changed most, first.
    examples: list[ChangedRow] = []

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        yield from (("metric", self.metric), ("rows", self.rows))
        yield "scores", {one.ref: one.score for one in self.scores}

    def _repr_html_(self) -> str:
        from sdk.formats.html_tables import page, sentence, table

        # Letters, as a terminal has them: with whole refs the table of pairs is wider than a page.
        letters = dict(zip(self.refs, ascii_uppercase, strict=False))
        scores = [[letters.get(one.ref), one.ref, one.score, briefly(one.contamination)] for one in self.scores]
        pairs = [
            [
                f"{letters.get(one.b)} - {letters.get(one.a)}",
                one.difference,
                _interval(one),
                one.p_adjusted,
                letters.get(one.better or "", ""),
                one.verdict,
            ]
            for one in self.pairs
        ]
        headings = ["pair", "difference", "95 % interval", "p, corrected", "better", "verdict"]
        parts = [
            table(self.heading, ["", "ref", self.metric, "seen"], scores),
            table("Pairs", headings, pairs) if pairs else "",
            *(sentence(note) for note in self.notes),
        ]
        if self.examples:
            rows = [
                [each.row, each.prompt, each.reference, *(of for at in range(len(self.refs)) for of in each.of(at))]
                for each in self.examples
            ]
            names = [name for ref in self.refs for name in (f"{self.metric} of {letters[ref]}", letters[ref])]
            parts.append(table("Rows that changed most", ["row", "prompt", "expected", *names], rows))
        return page(*parts)

    @property
    def heading(self) -> str:
        """What is compared on what: "loss on heldout@v2: 48 rows in 12 groups by repo; less is better"."""
        rows = "1 row" if self.rows == 1 else f"{self.rows} rows"
        groups = "" if self.groups is None else f" in {self.groups} groups by {self.by}"
        groups = groups if self.distinct_rows is None else f", {self.distinct_rows} of them different"
        return f"{self.metric} on {self.dataset_name or self.dataset[:12]}: {rows}{groups}; {'less' if self.lower_is_better else 'more'} is better"
