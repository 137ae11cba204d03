"""Which scores a table shows: those that rows of this kind have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from sdk.cli.support.columns import ListColumn, measured
from sdk.cli.support.listings import Listing
from sdk.cli.support.output import human_bytes
from sdk.schemas.evaluation import (
    COUNTED,
    ENDED_THOUGHT_ROWS,
    LONGER_REFERENCE_ROWS,
    NO_CONTENT_ROWS,
    SCORER_PREFIX,
    SHORTENED_PROMPT_ROWS,
    SHORTENED_ROWS,
    UNFINISHED_THOUGHT_ROWS,
    UNSCORED_ROWS,
    is_of_texts,
    is_score,
    is_scorer,
)
from sdk.schemas.score_order import ASKED_FIRST
from sdk.schemas.scores import briefly

if TYPE_CHECKING:
    from sdk.cli.support.dataset_names import ShownDatasets
    from sdk.schemas.scores import EvaluationView


def score_names(metrics: Iterable[Mapping[str, float]]) -> tuple[str, ...]:
    """Return the names of the columns.

    >>> score_names([{"loss": 0.1, "accuracy": 0.9, "macro_f1": 0.9}]), score_names([{"loss": 1.2, "perplexity": 3.3}])
    (('loss', 'accuracy', 'macro_f1'), ('loss', 'perplexity'))
    >>> score_names([{"loss": 1.2, "perplexity": 3.3, "exact_match": 0.5, "rouge_l": 0.5}])
    ('loss', 'perplexity', 'rouge_l', 'exact_match')
    >>> score_names([{"loss": 1.2, "scorer.politeness": 0.5, "scorer.politeness_rows": 3}])
    ('loss', 'scorer.politeness')
    """
    known = {name for one in metrics for name in one}
    own = sorted(name for name in known if is_scorer(name) and is_score(name))
    return (*(name for name in ASKED_FIRST if name in known), *own) or ("loss",)


def score_listing(scores: Sequence[str], names: ShownDatasets | None = None, *, whose: bool = False) -> Listing:
    """The columns of some evaluations: the rows by name, the scores, how they were made, and when; with `whose` also who
    made them.
    """
    # Two tell most; perplexity repeats the loss.
    most = [name for name in scores if name != "perplexity"][:2]
    return Listing(
        ListColumn("id"),
        ListColumn("scores of", "namespace", 8 if whose else 0),
        ListColumn("dataset", lambda one: one.dataset[:12] if names is None else names.of(one.dataset), 8),
        ListColumn("rows", lambda one: _whole(one.metrics.get("rows")), 3),
        ListColumn("precision", importance=2),
        *(measured(name, _metric(name), 7 if name in most else 1) for name in scores),
        ListColumn("seen", lambda one: briefly(one.contamination), 6),
        ListColumn("alike", lambda one: one.key[:6], 4),
        ListColumn("created", "created_at", 5),
        ListColumn("job", importance=0),
        key="id",
    )


def _metric(name: str) -> Callable[[EvaluationView], float | None]:
    return lambda one: one.metrics.get(name)


def _whole(count: float | None) -> int | None:
    return None if count is None else int(count)


def metric_text(name: str, value: float) -> str:
    """Return a metric as text: counts as whole numbers, sizes with their unit, everything else with four digits.

    >>> [metric_text(*each) for each in (("loss", 1.23456), ("tokens", 123456.0), ("peak_memory_bytes", 512e6), ("eval_s", 12345.6))]
    ['1.235', '123456', '512.0 MB', '12346']
    >>> metric_text("scorer.style.n_bytes", 3.25)
    '3.25'
    """
    if name.endswith("_bytes") and not is_score(name):
        return human_bytes(value)
    return f"{value:.0f}" if not is_score(name) and (value == int(value) or value >= 1000) else f"{value:.4g}"


def failed_lines(ref: str, metrics: Mapping[str, float], failed: Iterable[str]) -> list[str]:
    """Say for each score in `failed` that it failed on rows, and over how many rows it is.

    >>> failed_lines("a@v1", {"generated_rows": 8.0, "regex": 0.5, "regex_rows": 7.0}, ["regex", "scorer.boom"])
    ['a@v1: regex is over 7 of 8 answers, since it failed on the others', 'a@v1: scorer.boom has no score of any of 8 answers']
    >>> failed_lines("a@v1", {"loss": 1.5, "rows": 2.0, "failed_rows": 1.0}, ["loss"])
    ['a@v1: loss is over 2 of 3 rows, since it failed on the others']
    """
    lines = []
    rows = metrics.get("rows", 0.0) + metrics.get("failed_rows", 0.0)
    for name in sorted(failed):
        of_texts = is_of_texts(name)
        all_ = f"{metrics.get('generated_rows', 0.0) if of_texts else rows:.0f} {'answers' if of_texts else 'rows'}"
        over = metrics.get("rows" if name == "loss" else f"{name}{COUNTED}", 0.0)
        if name in metrics:
            lines.append(f"{ref}: {name} is over {over:.0f} of {all_}, since it failed on the others")
        else:
            lines.append(f"{ref}: {name} has no score of any of {all_}")
    return lines


def long_lines(
    ref: str, metrics: Mapping[str, float], conditions: Mapping[str, object], ident: str | None
) -> list[str]:
    """Say how many rows were too long to be scored, scored only in part, or answered from a cut prompt, and what to do;
    `ident` is the id of scores by row.

    >>> long_lines("a@v1", {"rows": 5.0, "unscored_rows": 1.0}, {"max_length": 512}, "3f1c")
    ['a@v1: 1 of 6 rows has no score: none of its first 512 tokens is supervised; shorten it, or raise --max-length where the base has the positions (which: adapterctl evals show 3f1c --rows)']
    >>> long_lines("a@v1", {"rows": 6.0, "shortened_rows": 2.0}, {"max_length": 512}, "3f1c")
    ['a@v1: 2 of 6 rows are truncated to 512 tokens, and scored on the rest; shorten them, or raise --max-length where the base has the positions']
    >>> long_lines("a@v1", {"generated_rows": 8.0, "shortened_prompt_rows": 2.0}, {"prompt_tokens": 56}, None)
    ['a@v1: 2 of 8 answers start from the last 56 tokens of a longer prompt; shorten the prompts, lower --max-new-tokens, or raise --max-length where the base has the positions']
    >>> long_lines("a@v1", {"generated_rows": 8.0, "longer_reference_rows": 2.0}, {"max_new_tokens": 48}, None)
    ['a@v1: 2 of 8 rows expect more than the 48 tokens that an answer has at most; raise --max-new-tokens']
    >>> long_lines("a@v1", {"generated_rows": 8.0, "unfinished_thought_rows": 2.0}, {"max_new_tokens": 48}, None)
    ['a@v1: 2 of 8 answers begin a thought and do not end it within 48 tokens, and count as empty; raise --max-new-tokens, or end thoughts with --max-thought-tokens']
    >>> thoughts = {"generated_rows": 8.0, "unfinished_thought_rows": 1.0, "ended_thought_rows": 3.0}
    >>> long_lines("a@v1", thoughts, {"max_new_tokens": 48, "max_thought_tokens": 256}, None)
    ['a@v1: 1 of 8 answers stops within its thought, and counts as empty', 'a@v1: 3 of 8 thoughts were ended after 256 tokens; raise --max-thought-tokens to let them end by themselves']
    >>> long_lines("a@v1", {"rows": 5.0, "unscored_rows": 1.0, "no_content_rows": 1.0}, {}, None)
    ['a@v1: 1 of 6 rows has no score: a thought is all of the expected answer; give it a content or a call']
    """
    max_length = conditions.get("max_length")
    every, empty, shortened = (round(metrics.get(name, 0)) for name in (UNSCORED_ROWS, NO_CONTENT_ROWS, SHORTENED_ROWS))
    unscored = every - empty
    every += round(metrics.get("rows", 0.0) + metrics.get("failed_rows", 0.0))
    which = "" if ident is None else f" (which: adapterctl evals show {ident} --rows)"
    lines = []
    if empty:
        said = f"{'has' if empty == 1 else 'have'} no score: a thought is all of the expected answer"
        lines.append(f"{ref}: {empty} of {every} rows {said}; give it a content or a call{which}")
    if unscored:
        has, its = ("has", "its") if unscored == 1 else ("have", "their")
        said = f"{has} no score: none of {its} first {max_length} tokens is supervised"
        lines.append(f"{ref}: {unscored} of {every} rows {said}; {_mending(unscored)}{which}")
    if shortened:
        said = f"{'is' if shortened == 1 else 'are'} truncated to {max_length} tokens, and scored on the rest"
        lines.append(f"{ref}: {shortened} of {every} rows {said}; {_mending(shortened)}")
    if prompts := round(metrics.get(SHORTENED_PROMPT_ROWS, 0)):
        starts = f"{'starts' if prompts == 1 else 'start'} from the last {conditions.get('prompt_tokens')} tokens of a longer prompt"
        said = "shorten the prompts, lower --max-new-tokens, or raise --max-length where the base has the positions"
        lines.append(f"{ref}: {prompts} of {metrics.get('generated_rows', 0.0):.0f} answers {starts}; {said}")
    if longer := round(metrics.get(LONGER_REFERENCE_ROWS, 0)):
        most = f"{'expects' if longer == 1 else 'expect'} more than the {conditions.get('max_new_tokens')} tokens that an answer has"
        lines.append(
            f"{ref}: {longer} of {metrics.get('generated_rows', 0.0):.0f} rows {most} at most; raise --max-new-tokens"
        )
    return lines + [f"{ref}: {line}" for line in _thought_lines(metrics, conditions)]


def _thought_lines(metrics: Mapping[str, float], conditions: Mapping[str, object]) -> Iterator[str]:
    of = f"of {metrics.get('generated_rows', 0.0):.0f}"
    unfinished, ended = (round(metrics.get(name, 0)) for name in (UNFINISHED_THOUGHT_ROWS, ENDED_THOUGHT_ROWS))
    longest = conditions.get("max_thought_tokens")
    if unfinished and longest is not None:
        said = "stops within its thought, and counts" if unfinished == 1 else "stop within their thought, and count"
        yield f"{unfinished} {of} answers {said} as empty"
    elif unfinished:
        said = f"{'begins a thought and does' if unfinished == 1 else 'begin a thought and do'} not end it within"
        said += f" {conditions.get('max_new_tokens')} tokens, and {'counts' if unfinished == 1 else 'count'} as empty"
        yield f"{unfinished} {of} answers {said}; raise --max-new-tokens, or end thoughts with --max-thought-tokens"
    if ended:
        was = "thoughts was" if ended == 1 else "thoughts were"
        yield f"{ended} {of} {was} ended after {longest} tokens; raise --max-thought-tokens to let them end by themselves"


def _mending(rows: int) -> str:
    return f"shorten {'it' if rows == 1 else 'them'}, or raise --max-length where the base has the positions"


def error_lines(ref: str, errors: Mapping[str, str]) -> list[str]:
    """Show the first error of each scorer.

    >>> error_lines("a@v1", {"politeness": "ValueError: no words"})
    ['a@v1: the first error of scorer.politeness: ValueError: no words']
    """
    return [f"{ref}: the first error of {SCORER_PREFIX}{name}: {said}" for name, said in sorted(errors.items())]


def general_line(ref: str, metrics: Mapping[str, float]) -> str | None:
    """Say in one line what an adapter changed on general texts; None for scores without that.

    >>> general_line("sql@v4", {"general_loss": 3.4567, "general_loss_base": 3.2, "general_kl": 0.01234})
    'sql@v4 on general texts: loss 3.457 (bare base 3.2), KL 0.01234'
    """
    if "general_kl" not in metrics:
        return None
    loss, base, kl = (f"{metrics[name]:.4g}" for name in ("general_loss", "general_loss_base", "general_kl"))
    return f"{ref} on general texts: loss {loss} (bare base {base}), KL {kl}"


def target_listing(scores: Sequence[EvaluationView], marked: Callable[[str], str]) -> Listing:
    """The columns of what one job scored: the refs, as `marked` shows them, and as many scores as there is room for, the
    first ones first.
    """
    names = score_names(one.metrics for one in scores)
    return Listing(
        ListColumn("ref", lambda one: marked(one.ref)),
        ListColumn("precision", importance=8),
        *(measured(name, _metric(name), max(1, 8 - at)) for at, name in enumerate(names)),
        ListColumn("seen", lambda one: briefly(one.contamination), 8),
        ListColumn("id", importance=0),
        key="ref",
    )
