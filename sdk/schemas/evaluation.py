"""The requests for an evaluation and a merge, and their reports."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from sdk.formats.expressions import Automaton, ExpressionError
from sdk.formats.objectives import LearntOn, LossOn
from sdk.formats.row_bounds import MOST_JOB_ROWS as MOST_JOB_ROWS
from sdk.formats.row_bounds import MOST_TARGET_ROWS as MOST_TARGET_ROWS
from sdk.schemas.option_types import Columns, Option
from sdk.schemas.recorded import Day
from sdk.schemas.wire import BY_HAND, IF_ANY, IF_SET, JsonScalar, Sha256, Wire

#: The precision that a base is loaded in: as the adapter was trained, or the stored 16-/32-bit weights.
BasePrecision = Literal["as-trained", "nf4", "native"]
#: What an adapter is merged onto.
Onto = Literal["auto", "original", "dequantized"]


#: Scores of generated texts.
TextMetric = Literal[
    "rouge_l",
    "rouge_1",
    "rouge_2",
    "exact_match",
    "contains",
    "token_f1",
    "json_valid",
    "bleu",
    "chrf",
    "nist",
    "meteor",
    "meteor_exact_stem",
    "cider_d",
    "regex",
    "code_parses",
]
#: The prefix of the scores of a scorer NAME that is installed on the workers: `scorer.NAME`, or `scorer.NAME.KEY` for
#: each that it has.
SCORER_PREFIX = "scorer."
#: What `meteor` needs on a worker, announced like a scorer.
WORDNET = "wordnet"
#: The suffix for the number of rows that a score is over: `rouge_l_rows`. No score has a name with this ending.
COUNTED = "_rows"


#: Why a row has no scores: cutting it removed every token that the loss is computed on, there is no such token at all, or
#: its answer has neither content nor calls, but only a thought.
Unscored = Literal["too_long", "nothing_to_score", "no_content"]
#: How many rows have no scores for one of these reasons, how many of them for the last, and how many were scored on what
#: was left after cutting; each only if there are any.
UNSCORED_ROWS, NO_CONTENT_ROWS, SHORTENED_ROWS = "unscored_rows", "no_content_rows", "shortened_rows"
#: How many completions start from a cut prompt, if there are any.
SHORTENED_PROMPT_ROWS = "shortened_prompt_rows"
#: How many of the answered rows expect more tokens than an answer may have, if there are any.
LONGER_REFERENCE_ROWS = "longer_reference_rows"
#: How many completions begin a thought and don't end it, so that they have no content, if there are any.
UNFINISHED_THOUGHT_ROWS = "unfinished_thought_rows"
#: How many completions begin a thought that was ended at `max_thought_tokens`, if there are any.
ENDED_THOUGHT_ROWS = "ended_thought_rows"


def _is_no_count(name: str) -> str:
    if name.endswith(COUNTED):
        raise ValueError(f"{name} ends with {COUNTED}, as counts of rows do; give the scorer another name")
    return name


def _is_no_database(name: str) -> str:
    if name == WORDNET:
        raise ValueError(
            f"{WORDNET} is what the metric meteor looks synonyms up in; ask for that, or give the scorer another name"
        )
    return name


ScorerName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$"), AfterValidator(_is_no_count)]

#: The longest error of a scorer, in characters.
MOST_ERROR = 200
ScorerErrors = Annotated[dict[ScorerName, Annotated[str, Field(max_length=MOST_ERROR)]], Field(max_length=20)]

_TEXT_METRICS = frozenset(get_args(TextMetric))

#: Metrics that aren't a mean over rows: a row has the score that it would have alone, or none.
CORPUS_METRICS = frozenset({"bleu", "chrf", "nist", "cider_d", "macro_f1"})
#: Those of them that no row has alone: nothing can be compared row by row.
UNDIVIDED_METRICS = frozenset({"cider_d", "macro_f1"})
#: Metrics derived from the loss, over the same rows.
MADE_OF_LOSS = frozenset({"perplexity", "bits_per_byte", "content_loss"})
#: The loss in bits per byte of text, which is the same whatever the tokenizer.
BITS_PER_BYTE = "bits_per_byte"
#: Metrics of losses that rows have, each row weighted: by its tokens, or by the bytes of its text.
WEIGHTED_METRICS = frozenset({"loss", BITS_PER_BYTE})
#: In which direction a metric is better.
Better = Literal["less", "more"]
#: The one table of directions; a scorer of users declares its own.
_BETTER: dict[str, Better] = {
    **dict.fromkeys(("loss", BITS_PER_BYTE, "perplexity", "content_loss", "rejected_loss"), "less"),
    **dict.fromkeys(("expected_calibration_error", "undesirable_log_ratio", "general_loss", "general_kl"), "less"),
    **dict.fromkeys(get_args(TextMetric), "more"),
    **dict.fromkeys(("accuracy", "macro_f1", "acc", "acc_norm", "acc_bytes", "auc"), "more"),
    **dict.fromkeys(("preference_accuracy", "preference_margin", "desirable_log_ratio"), "more"),
}
#: Metric → the largest score of a row; the least is 0. Scores by other metrics have no bounds that are known.
LARGEST_SCORES = {
    **dict.fromkeys(("accuracy", "acc", "acc_norm", "acc_bytes", "rouge_l", "rouge_1", "rouge_2", "token_f1"), 1.0),
    **dict.fromkeys(("exact_match", "contains", "json_valid", "regex", "code_parses", "meteor"), 1.0),
    "meteor_exact_stem": 1.0,
    **dict.fromkeys(("bleu", "chrf"), 100.0),
}
#: Metrics that are computed unasked for rows that allow it.
_UNASKED = MADE_OF_LOSS | {"loss", "accuracy", "macro_f1"}
#: The longest prediction in a file of scores by row, as UTF-8 or as JSON.
MOST_PREDICTION_BYTES = 16 * 1024
#: Counts are whole numbers that a double can represent.
_MOST_COUNT = 2**53
#: No row's score is larger, so that sums and squares over the most rows stay finite.
MOST_SCORE = 1e15
#: The most scores of a row.
MOST_SCORES = 200
#: The most metrics of a report.
MOST_METRICS = 1000
Score = Annotated[float, Field(ge=-MOST_SCORE, le=MOST_SCORE)]

#: Metrics that are counts, times or sizes, or say how far an adapter moves its base.
_MEASURE = re.compile(r"(.+_)?(rows|tokens|parameters|modules|steps|bytes|s)|probe_.+")


def is_score(metric: str) -> bool:
    """Whether a metric says how good something is, rather than how much of it there was or how long it took.

    >>> [name for name in ("loss", "rouge_l", "rows", "eval_s", "acc_bytes", "peak_bytes") if is_score(name)]
    ['loss', 'rouge_l', 'acc_bytes']
    >>> [name for name in ("scorer.style.bad_tokens", "scorer.ok", "scorer.ok_rows") if is_score(name)]
    ['scorer.style.bad_tokens', 'scorer.ok']
    """
    if is_scorer(metric):
        return not metric.endswith(COUNTED)
    return metric in LARGEST_SCORES or _MEASURE.fullmatch(metric) is None


def is_of_texts(metric: str) -> bool:
    """Whether a metric scores generated texts.

    >>> [name for name in ("loss", "rouge_l", "scorer.politeness") if is_of_texts(name)]
    ['rouge_l', 'scorer.politeness']
    """
    return metric in _TEXT_METRICS or is_scorer(metric)


def is_of_tokens(metric: str) -> bool:
    """Whether a metric is another number if texts are other tokens.

    >>> [name for name in ("loss", "perplexity", "bits_per_byte", "rouge_l") if is_of_tokens(name)]
    ['loss', 'perplexity']
    """
    return not is_of_texts(metric) and metric != BITS_PER_BYTE


def better_is(metric: str) -> Better | None:
    """Return whether less or more of a metric is better; None if only its scorer knows, or there is no such metric.

    >>> better_is("loss"), better_is("rouge_l"), better_is("scorer.politeness")
    ('less', 'more', None)
    """
    return _BETTER.get(metric)


def is_scorer(metric: str) -> bool:
    """Whether a metric is a score by a user's own scorer."""
    return metric.startswith(SCORER_PREFIX)


def _named(value: object, info: ValidationInfo) -> object:
    """Split names with commas that a person wrote into a list, each name once."""
    if info.context is not BY_HAND:
        return value
    if isinstance(value, str):
        value = [name.strip() for name in value.split(",")]
    return list(dict.fromkeys(value)) if isinstance(value, list | tuple) and all(map(_is_text, value)) else value


def _is_text(value: object) -> bool:
    return isinstance(value, str)


#: CIDEr is cheated by repetition.
_NEAREST = {"cider": "cider_d, which clips"}


def _computed(value: object) -> object:
    """Refuse metrics that are computed anyway, and those that are known elsewhere and computed here only in part."""
    for name in value if isinstance(value, list) else ():
        if isinstance(name, str) and name in _UNASKED:
            raise ValueError(f"{name} is scored without being asked for; leave it out")
        if isinstance(name, str) and (instead := _NEAREST.get(name.lower())):
            raise ValueError(f"{name} is computed here as {instead}; choose that, or a scorer of your own")
    return value


#: Records that are read again and again, such as policies, have the same expressions, and one may take 30 ms.
@lru_cache(maxsize=1024)
def _searched(value: str) -> str:
    """Refuse expressions that can't be searched for in linear time."""
    try:
        Automaton([value], within=True)
    except ExpressionError as error:
        raise ValueError(
            f"{value[:80]!r} can't be looked for, because {error}; write it as for Python's re, without looking back or referring back"
        ) from error
    return value


def no_completions(spec: EvaluationSpec) -> str | None:
    """Say what is asked of completions although none are generated, without a full stop; None if nothing is."""
    asked = spec.asked_of_texts
    if not asked:
        limited = "max_thought_tokens limits completions, and of these rows none is generated; leave it out"
        return None if spec.max_thought_tokens is None else limited
    return (
        f"{', '.join(asked)} {'is a score' if len(asked) == 1 else 'are scores'} of completions, and of these rows none is"
        " generated; leave out metrics, regex and scorers, or give rows with a prompt and an answer, and generate_rows above 0"
    )


class EvaluationSpec(Wire):
    """One evaluation: the same rows, prompts and decoding for all versions and bases that are compared."""

    #: Which tokens are supervised: the loss is computed on them, as in training; None: by the shape of the rows.
    loss_on: Annotated[
        LossOn | None,
        Option(
            "Which tokens are supervised: the loss is computed on them, as in `train`.",
            default="by the shape of the rows",
        ),
    ] = None
    #: Which columns of the data are which keys of a row, as in training.
    columns: Annotated[
        Columns | None, IF_SET, Option("Which columns are which keys, as in `train`.", metavar="KEY=COLUMN,…")
    ] = None
    #: Rows whose completion is generated (greedy) and scored; 0 for none.
    generate_rows: Annotated[
        int, Field(ge=0, le=1_000_000), Option("How many rows to generate completions for and to score.")
    ] = 32
    #: Scores of the generated completions; None: ROUGE-L.
    metrics: Annotated[
        Annotated[list[TextMetric], Field(min_length=1, max_length=20)] | None,
        BeforeValidator(_computed),
        BeforeValidator(_named),
        IF_SET,
        Option(
            "Scores of completions, with commas: rouge_l, rouge_1, rouge_2, exact_match, contains, token_f1, json_valid,"
            " code_parses (as Python), bleu, chrf, nist, meteor (where workers have WordNet), meteor_exact_stem, cider_d.",
            default="rouge_l",
            metavar="NAMES",
        ),
    ] = None
    #: The regular expression that `regex` looks for in each completion, as Python's `re.search`; flags (?ims) may begin it.
    regex: Annotated[
        Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_searched)] | None,
        IF_SET,
        Option(
            "Score by regex: how many completions it is found in, as by Python's re.search; (?ims) may begin it.",
            metavar="EXPRESSION",
        ),
    ] = None
    #: Users' own scorers that are installed on the workers, by name.
    scorers: Annotated[
        Annotated[list[Annotated[ScorerName, AfterValidator(_is_no_database)]], Field(min_length=1, max_length=20)]
        | None,
        BeforeValidator(_named),
        IF_SET,
        Option("Scorers of your own that are installed on the workers, with commas.", metavar="NAMES"),
    ] = None
    #: Longest row in tokens.
    max_length: Annotated[
        int, Field(ge=8, le=1_048_576), Option("Longest row in tokens; a longer one is truncated.")
    ] = 1024
    #: Longest generated completion in tokens.
    max_new_tokens: Annotated[int, Field(ge=1, le=8192), Option("Longest generated completion, in tokens.")] = 48
    #: Tokens after which a thought that has no end yet gets the one that the chat template writes; the answer then has
    #: max_new_tokens of its own. None: a thought and its answer have these together.
    max_thought_tokens: Annotated[
        Annotated[int, Field(ge=0, le=131_072)] | None,
        IF_SET,
        Option(
            "End a thought after this many tokens; the answer then has --max-new-tokens of its own.",
            default="no limit of its own",
        ),
    ] = None
    #: How many generated completions to keep as samples.
    keep_samples: Annotated[int, Field(ge=0, le=100), Option("How many generated completions to keep and show.")] = 4
    #: Rows in one forward pass.
    batch_size: Annotated[int, Field(ge=1, le=4096), Option("Rows in one forward pass.")] = 4
    #: The base's precision; with "as-trained", a bare base is loaded as it was for the training of the job's first
    #: adapter over it. A base that is stored in 4 bits is always loaded as it is stored.
    precision: Annotated[
        BasePrecision, Option("How to load the base; a 4-bit base is always loaded as it is stored.")
    ] = "as-trained"
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0

    @model_validator(mode="after")
    def _has_expression(self) -> EvaluationSpec:
        if self.regex is None and "regex" in (self.metrics or ()):
            raise ValueError("the metric regex needs an expression; give one with --regex")
        return self

    @property
    def installed(self) -> list[str]:
        """What must be installed on a worker: scorers, and WordNet for `meteor`."""
        return [*(self.scorers or ()), *([WORDNET] if "meteor" in (self.metrics or ()) else [])]

    @property
    def text_metrics(self) -> list[TextMetric]:
        """The scores of the generated completions, by name: the requested ones, and `regex` if there is an expression."""
        named: list[TextMetric] = list(self.metrics or ["rouge_l"])
        return named if self.regex is None or "regex" in named else [*named, "regex"]

    @property
    def asked_of_texts(self) -> list[str]:
        """All requested scores of completions by name: metrics, and scorers by the prefix of their scores."""
        metrics = self.text_metrics if self.metrics is not None or self.regex is not None else []
        return [*metrics, *(SCORER_PREFIX + name for name in self.scorers or ())]


class Sample(Wire):
    """One generated completion, and what was expected."""

    prompt: str
    #: Content and calls of the expected answer.
    reference: str
    #: All that was generated.
    completion: str
    #: What of it was scored, its content and calls, if that isn't all of it; and its reasoning, if it has any.
    content: Annotated[str | None, IF_SET] = None
    reasoning: Annotated[str | None, IF_SET] = None


class Conditions(Wire):
    """What scores depend on besides their target and its rows: only scores with equal conditions are compared."""

    #: "label" if rows have one.
    loss_on: LearntOn
    #: Which columns of the data were which keys of a row; None: the keys were called as the columns.
    columns: Annotated[Columns | None, IF_SET] = None
    #: Longest row in tokens, limited by the base's positions.
    max_length: int
    #: Rows whose completion was generated, and the longest completion in tokens; 0 if there were none.
    generated_rows: int = 0
    max_new_tokens: int = 0
    #: The most tokens of a thought, which then aren't among those of its completion; None: they are.
    max_thought_tokens: Annotated[int | None, IF_SET] = None
    #: Ids of all tokens that end a completion, sorted.
    stop_ids: list[int] = []
    #: SHA-256 of each chat template that rendered conversations, sorted.
    templates: list[Sha256] = []
    #: The day that a template wrote into the conversations; None if it writes none.
    template_date: Day | None = None
    #: SHA-256 over the digests of the base's tokenizer files: a loss depends on its tokens.
    tokenizer: Sha256
    #: How the base was quantised in memory, without the names of modules that weren't; None for 16 or 32 bits.
    quantization: dict[str, JsonScalar] | None = None
    #: dtype of what is not quantised, and of the computations.
    dtype: str = ""
    #: The most tokens of a prompt that generation starts from; 0 if nothing was generated.
    prompt_tokens: int = 0
    #: SHA-256 of the base's `generation_config.json`, which may set penalties; None if it has none, or nothing was generated.
    generation: Sha256 | None = None
    #: What defines single scores: "words" is the definition of a word, "regex" the expression, "python" the release whose
    #: grammar parses code, "scorer.NAME" the distribution of a scorer, "contents" how the content of a rendered answer is
    #: found, "bytes" what `bits_per_byte` is over, "choices" how choices are scored; the rest are releases of libraries.
    metrics: dict[str, str] = {}
    #: The number of adapterctl's own scoring rules: masks, cutting, labels, sums. The first is left out.
    scoring: Annotated[int, Field(ge=1, exclude_if=lambda value: value == 1)] = 1
    #: "once" if rows had special tokens already that the tokenizer puts around every text, and got no second; None: none had.
    special_tokens: Annotated[Literal["once"] | None, IF_SET] = None
    #: SHA-256 over the general texts on which losses and divergence from the bare base were measured; None: on none.
    general_texts: Annotated[Sha256 | None, IF_SET] = None
    #: "loss" or a metric → SHA-256 of the numbers of the rows that it failed on, as a JSON list: its mean is over the others.
    #: This is an outcome of one metric, not a setting: other metrics' scores, and scores of the rows that both have,
    #: are still compared.
    failed: Annotated[dict[str, Sha256], IF_ANY] = {}


class RowScore(Wire):
    """One target's scores on one row of a dataset."""

    #: Its number in the dataset, from 0.
    row: Annotated[int, Field(ge=0, lt=_MOST_COUNT)]
    #: Nats, the sum over the supervised tokens; None: it was not a number, and the row is not in the mean.
    loss_sum: Score | None = None
    #: Supervised tokens; a label counts as one.
    tokens: Annotated[int, Field(ge=0, lt=_MOST_COUNT)] = 0
    #: Nats, the sum over the supervised tokens of contents and calls, and the number of these tokens: without reasoning
    #: and scaffold. None if that is unknown.
    content_loss_sum: Annotated[Score | None, IF_SET] = None
    content_tokens: Annotated[Annotated[int, Field(ge=0, lt=_MOST_COUNT)] | None, IF_SET] = None
    #: Nats, the sum over the supervised tokens after the contents; None if there are none.
    end_loss: Annotated[Score | None, IF_SET] = None
    #: The bytes of UTF-8 that the loss without `end_loss` is over; None if that is unknown.
    text_bytes: Annotated[Annotated[int, Field(ge=0, lt=_MOST_COUNT)] | None, IF_SET] = None
    #: The generated text, or the predicted label; None if there is none, or no text is kept. One that is too long is
    #: cut, and ends with a mark.
    prediction: Annotated[str, Field(max_length=MOST_PREDICTION_BYTES)] | None = None
    #: What of it was scored, its content and calls, if that isn't all of it; and its reasoning, if it has any. Both are cut
    #: sooner.
    content: Annotated[Annotated[str, Field(max_length=MOST_PREDICTION_BYTES)] | None, IF_SET] = None
    reasoning: Annotated[Annotated[str, Field(max_length=MOST_PREDICTION_BYTES)] | None, IF_SET] = None
    #: The row's own label, in classification; None if no text is kept.
    expected: Annotated[Annotated[str, Field(max_length=MOST_PREDICTION_BYTES)] | None, IF_SET] = None
    #: Probability of the predicted label.
    confidence: Annotated[Annotated[float, Field(ge=0, le=1)] | None, IF_SET] = None
    #: Why the row was not scored; it is counted only among such rows.
    unscored: Annotated[Unscored | None, IF_SET] = None
    #: The score of each metric; for a metric over a whole corpus, the score of the row alone. Metrics that failed on
    #: the row are missing.
    scores: Annotated[dict[Annotated[str, Field(max_length=100)], Score], Field(max_length=MOST_SCORES)] = {}

    @property
    def scored_text(self) -> str | None:
        """What of the prediction was scored."""
        return self.prediction if self.content is None else self.content


class RowFile(Wire):
    """A file of the scores of all rows of one target; see `sdk.schemas.row_file`."""

    #: SHA-256 of its bytes.
    digest: Sha256
    size_bytes: Annotated[int, Field(ge=1, le=2**40)]
    rows: Annotated[int, Field(ge=1)]


class EvaluationReport(Wire):
    """Scores of one version, or of a bare base, on one dataset."""

    #: loss (nats per supervised token), perplexity, content_loss, bits_per_byte, rouge_l (0..1), general_kl (nats per token), rows,
    #: supervised_tokens, generated_rows, eval_s …
    metrics: dict[str, float]
    #: The precision that the base actually had.
    precision: Literal["nf4", "fp4", "int8", "bfloat16", "float16", "float32"]
    samples: list[Sample] = []
    libraries: dict[str, str] = {}
    conditions: Conditions
    #: The scores of each row; None if they were not stored.
    rows: Annotated[RowFile | None, IF_SET] = None
    #: A user's own scorer → the first error that it raised on a row, in one line; if no text of the rows is kept, only
    #: the error's type.
    scorer_errors: Annotated[ScorerErrors, IF_ANY] = {}


class EvaluationFailure(Wire):
    """Why one target of an evaluation has no scores, while others have."""

    reason: str
    message: str


class MergeSpec(Wire):
    """How an adapter is merged: W' = W + s·B·A, computed in float32 and stored in `dtype`."""

    #: The W that the update is added to: the stored weights ("original"), the weights as quantised in training and
    #: widened again ("dequantized"), or "auto": both are compared with base-as-trained + adapter, and the closer one is
    #: kept. A base that is stored in 4 bits has only "dequantized".
    onto: Annotated[
        Onto,
        Option(
            "Which base weights the adapter is added to: auto measures both and keeps the closer; a 4-bit base has only dequantized."
        ),
    ] = "auto"
    dtype: Annotated[
        Literal["auto", "bfloat16", "float16", "float32"],
        Option("The merged model's dtype.", default="the base's"),
    ] = "auto"
    #: The type in which the merged model's linear weights are finally stored, as bitsandbytes packs them; None: `dtype`.
    quantize: Annotated[
        Literal["nf4"] | None,
        IF_SET,
        Option("Store the merged model's linear weights in 4 bits, as bitsandbytes packs them.", default="no"),
    ] = None
    #: Whether fixed texts go through the base as trained with the adapter, and through the written folder. Without it, the
    #: bytes are read back all the same, and the report says that the predictions were not measured.
    measure: Annotated[
        bool,
        Field(exclude_if=lambda value: value is True),
        Option("Compare predictions on fixed texts before and after; without it, only the written bytes are checked."),
    ] = True


#: What a report says of the fixed prompts if the merge was not to measure.
UNMEASURED = "not run: measure is off"


class ReadBack(Wire):
    """What was read back from a merged model's files and found correct."""

    #: All tensors, and how many of them are the base's byte for byte.
    tensors: int
    copied: int
    #: Rows of the other tensors that were computed again in float64.
    rows: int
    #: Whether the fixed prompts went through the written model: "run", or "not run: " and why.
    prompts: str


class FourBitWeights(Wire):
    """What a merged model stores in 4 bits, read back."""

    type: Literal["nf4"]
    #: Whether the scales are quantised to 8 bits.
    double_quant: bool
    #: Weights that share one scale.
    block_size: int
    #: How many weights are in 4 bits, and which linear modules are not.
    weights: int
    kept: list[str] = []
    #: ‖W − W₄‖/‖W‖ of the weight where it is largest.
    furthest: float


class MergeReport(Wire):
    """What a merge did, and how far the merged model is from base-as-trained + adapter."""

    onto: Literal["original", "dequantized"]
    dtype: Literal["bfloat16", "float16", "float32"]
    #: logit_kl_original, logit_kl_dequantized, logit_kl_nf4 (nats per token), max_abs_logit_diff, max_abs_logit_diff_nf4,
    #: merged_modules, merge_s, peak_memory_bytes …
    metrics: dict[str, float]
    libraries: dict[str, str] = {}
    #: Weight file to the SHA-256 over the digests (XXH3, 128 bits) of its tensors, as computed and as found on the disk.
    digests: Annotated[dict[str, Sha256], IF_ANY] = {}
    #: Module to ‖W' − W‖, the Frobenius norm, from the bytes on the disk; left out if there are more than 4096 modules.
    norms: Annotated[dict[str, float], IF_ANY] = {}
    #: None from a release that read nothing back.
    read_back: Annotated[ReadBack | None, IF_ANY] = None
    #: None if the model is stored as it was merged; what was read back is the merged model from which this was made.
    quantized: Annotated[FourBitWeights | None, IF_ANY] = None
    #: What one should know before using the model, each a sentence.
    warnings: Annotated[list[str], IF_ANY] = []
