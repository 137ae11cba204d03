"""Score a language model: by the losses of tokens, by completions, and by what an adapter changed on general texts.

Rows of each shape are a `TokenRows`, which has the scores of that shape alone. Texts and answers are made here; another
shape is a function in a file of its own, and a line in `workers.pipelines.scoring.evaluate`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

from sdk.schemas.events import Progress
from sdk.schemas.failures import FailureReason
from workers.pipelines.data.batches import example_token_losses
from workers.pipelines.data.conversation import RowRefused
from workers.pipelines.data.digests import generation_of
from workers.pipelines.data.examples import Example, ExampleMaker
from workers.pipelines.data.fixed_texts import GENERAL_DIGEST
from workers.pipelines.data.rows import Row, by_first_reference
from workers.pipelines.data.thoughts import Answer, Scaffold, read_answer
from workers.pipelines.data.tokenise import Tokenised, tokenise
from workers.pipelines.data.tokenizer import all_stops, configured_stops, longest_row
from workers.pipelines.data.vocabulary import require_embedded, words_of
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.precision import measured
from workers.pipelines.scoring.forgetting import general_scores
from workers.pipelines.scoring.generation import GeneratedText, generate
from workers.pipelines.scoring.loss_parts import loss_parts
from workers.pipelines.scoring.row_scores import RowScores, Written
from workers.pipelines.scoring.scorers import grading_of, require_scorable
from workers.pipelines.scoring.target import Scored, Target
from workers.pipelines.scoring.thought_limit import thought_limits

#: Increased with every change of what of a rendered answer is its content, and of which tokens `bits_per_byte` is over.
CONTENTS_VERSION, BYTES_VERSION = 1, 2
#: Examples, each with its summed loss in nats.
Losses = Sequence[tuple[Example, float]]


@dataclass(frozen=True)
class TokenRows:
    """Rows of one shape."""

    given: Sequence[Row]
    tokenised: Tokenised
    #: The expected answers: the loss is theirs, and completions start from their prompts.
    expected: Sequence[Example]
    #: All examples whose loss is computed: of several choices, each.
    examples: Sequence[Example]
    #: A row's number → its references besides the first.
    further_references: Mapping[int, Sequence[str]] = field(default_factory=dict)
    #: What defines the shape's own scores and those of its losses, for their conditions.
    definitions: Mapping[str, str] = field(default_factory=dict)
    #: Whether rows have a prediction although nothing is generated.
    predicts: bool = False
    #: Returns the shape's own scores by the losses of all examples; those of single rows are added to `RowScores`.
    grade: Callable[[Losses, RowScores], dict[str, float]] = lambda losses, rows: {}
    #: Returns those that need further passes of the model, which is given second.
    compare: Callable[[RowScores, Any], dict[str, float]] = lambda rows, model: {}


def tokenise_texts(given: Sequence[Row], target: Target) -> TokenRows:
    """Return rows that have a loss of their answers, or of their whole texts. Raises PipelineError ("data")."""
    answered, further_references = by_first_reference(given)
    how: dict[str, Any] = {"day": date.fromisoformat(target.item.template_date), "contents": True}
    stops = configured_stops(target.item.base)
    tokenised = tokenise(
        answered,
        target.tokenizer,
        loss_on=target.spec.loss_on,
        max_length=target.max_length,
        stop_ids=stops,
        **how,
    )
    definitions = {"bytes": str(BYTES_VERSION)}
    if any(example.scaffold is not None for example in tokenised.examples):
        definitions["contents"] = str(CONTENTS_VERSION)
        maker = ExampleMaker(target.tokenizer, tokenised.loss_on, stop_ids=stops, **how)
        scaffolds = {example.row: example.scaffold for example in tokenised.examples if example.scaffold is not None}
        contents = {
            number: [_content_of(text, answered[number], maker, scaffolds.get(number)) for text in texts]
            for number, texts in further_references.items()
        }
        # A thought alone is no answer that another one could match.
        further_references = {number: [text for text in texts if text.strip()] for number, texts in contents.items()}
    return TokenRows(given, tokenised, tokenised.examples, tokenised.examples, further_references, definitions)


def _content_of(reference: str, row: Row, maker: ExampleMaker, scaffold: Scaffold | None) -> str:
    """Return a further reference as its row's template would write it; most templates write a content as it is."""
    if scaffold is None or not scaffold.thoughts.appear_in(reference):
        return reference
    completion = [{"role": "assistant", "content": reference}]
    try:
        (*_, example) = maker.examples(replace(row, fields={**row.fields, "completion": completion}))
    except RowRefused:
        return reference
    return example.reference


class LanguageModelScoring:
    """The scores of one target as a language model.

    The loss is in nats per supervised token, each counted once; perplexity is exp(loss), and content_loss is the mean over
    the tokens of contents and calls alone. bits_per_byte is the loss without that of the ends, by the length of the
    texts, so that models with other tokenizers can be compared. The completions of the first `generate_rows` rows that
    have a prompt, decoded greedily, are compared with all references of their rows, by what they say without reasoning
    and scaffold; they end at the item's `stop_ids`, at the tokens that end the rows' own answers, and at those of the
    base.
    """

    def __init__(self, target: Target, shape: TokenRows) -> None:
        """Raises PipelineError ("spec") for completions that can't be generated or scored."""
        spec, item, tokenised = target.spec, target.item, shape.tokenised
        self.target, self.shape, self.tokenised, self.predicts = target, shape, tokenised, shape.predicts
        self.grading = grading_of(spec, target.wordnet)
        self.answered = answered = [example for example in shape.expected if example.prompt_ids][: spec.generate_rows]
        self.samples = len(answered)
        require_scorable(spec, len(answered))
        self.metrics = list(self.grading.metrics) if answered else []
        self.references = [[each.reference, *shape.further_references.get(each.row, ())] for each in answered]
        taught = [*item.stop_ids, *tokenised.rendering.stop_ids]
        taught += [] if item.adapter is None else configured_stops(item.adapter)
        self.stop_ids = all_stops(item.base, target.tokenizer, taught)
        self.limits = thought_limits(spec, answered, target.tokenizer, self.stop_ids)
        most_tokens = max((limit.most_tokens for limit in self.limits), default=spec.max_new_tokens)
        self.prompt_tokens = _prompt_tokens(target, most_tokens) if answered else 0
        self.rows = RowScores(
            unscored=tokenised.left_out,
            shortened=tokenised.cut - sum(reason == "too_long" for reason in tokenised.left_out.values()),
            shortened_prompts=sum(len(example.prompt_ids) > self.prompt_tokens for example in answered),
            longer_references=sum(_are_longer(texts, target) for texts in self.references),
        )
        self.conditions: dict[str, Any] = {"general_texts": GENERAL_DIGEST, "metrics": shape.definitions}
        if answered:
            self.conditions |= {
                "generated_rows": len(answered),
                "max_new_tokens": spec.max_new_tokens,
                "max_thought_tokens": spec.max_thought_tokens,
                "stop_ids": self.stop_ids,
                "prompt_tokens": self.prompt_tokens,
                "generation": generation_of(item.base),
                "metrics": {**self.grading.definitions(), **shape.definitions},
            }

    def run(self) -> Scored:
        """Score the target. Raises PipelineError."""
        target, shape, rows = self.target, self.shape, self.rows
        with target.in_memory() as (loaded, model, bare):
            require_embedded([*self.tokenised.examples, *shape.examples], target.tokenizer, words=words_of(model))
            target.report(Progress(phase="evaluate", step=0, total=len(shape.examples), unit="rows"))
            batches = map(loss_parts, example_token_losses(model, shape.examples, *target.batches))
            parts, loss_s = target.collect(batches, len(shape.examples))
            losses = [(part.example, part.whole) for part in parts]
            expected = set(map(id, shape.expected))
            own = [each for each in losses if id(each[0]) in expected]
            rows.add_losses(own, "evaluate the bare base to see whether the base or the adapter is at fault")
            rows.add_parts(part for part in parts if id(part.example) in expected)
            rows.add_bytes(shape.expected, target.tokenizer)
            graded, compared = shape.grade(losses, rows), shape.compare(rows, model)
            started = time.perf_counter()
            # The question is at the end of a prompt: a long one loses its beginning.
            prompts = [example.prompt_ids[-self.prompt_tokens :] for example in self.answered]
            completions = generate(model, prompts, target, self.stop_ids, self.limits)
            generate_s = time.perf_counter() - started
            general = general_scores(bare, None if target.item.adapter is None else model)
        if not general:
            message = "no general_loss and general_kl: on the general texts these are not numbers"
            target.report(Progress(phase="evaluate", message=message))
        metrics = self._of_losses(loss_s) | compared | measured(loaded.shares) | general | graded | self._per_byte()
        answers, errors = list(map(self._read, self.answered, completions)), dict[str, str]()
        written = list(map(_written, completions, answers))
        if answers:
            fields = [shape.given[example.row].fields for example in self.answered]
            scores = self.grading.score([answer.content for answer in answers], self.references, fields)
            rows.add_answers([example.row for example in self.answered], written, scores)
            rows.unfinished_thoughts = sum(answer.unfinished for answer in answers)
            rows.ended_thoughts = sum(completion.ended_thought for completion in completions)
            metrics |= {**scores.metrics, "generate_s": generate_s}
            # An error may quote its row.
            errors = {
                name: error if target.spec.keep_samples else error.partition(":")[0]
                for name, error in scores.errors.items()
            }
        metrics |= {**rows.counted(), "generated_rows": float(len(answers))}
        return Scored(loaded, metrics, list(zip(self.answered, written, strict=True)), errors)

    def _read(self, example: Example, completion: GeneratedText) -> Answer:
        if example.scaffold is None:
            return Answer(completion.text)
        return read_answer(completion.ids, self.target.tokenizer, example.scaffold, ended=completion.ended)

    def _of_losses(self, loss_s: float) -> dict[str, float]:
        loss, tokens = self.rows.mean_loss, sum(len(example.input_ids) for example in self.shape.examples)
        return {
            "loss": loss,
            # Above e^709 a float overflows; such a model predicts nothing anyway.
            "perplexity": math.exp(min(loss, 709.0)),
            "supervised_tokens": float(self.rows.supervised_tokens),
            "tokens": float(tokens),
            "tokens_per_s": tokens / loss_s,
        }

    def _per_byte(self) -> dict[str, float]:
        rows = self.rows
        content_tokens = sum(rows.content_tokens.values())
        metrics = {"content_loss": math.fsum(rows.content_sums.values()) / content_tokens} if content_tokens else {}
        if (size_bytes := sum(rows.text_bytes.values())) <= 0:
            return metrics
        nats = math.fsum((*rows.loss_sums.values(), *(-end for end in rows.end_sums.values())))
        return {**metrics, "bits_per_byte": nats / size_bytes / math.log(2)}


def _written(completion: GeneratedText, answer: Answer) -> Written:
    text, content = completion.text.strip(), answer.content.strip()
    return Written(text, None if content == text else content, answer.reasoning or None)


def _prompt_tokens(target: Target, most_tokens: int) -> int:
    """The most tokens of a prompt before a completion of so many tokens. Raises PipelineError if the base has no position
    left for one.
    """
    spec = target.spec
    positions = longest_row(target.item.base, spec.max_length + most_tokens)
    if positions <= most_tokens:
        limited = spec.max_thought_tokens is not None
        thought = f" with max_thought_tokens {spec.max_thought_tokens}" if limited else ""
        raise PipelineError(
            FailureReason.SPEC,
            f"The base has {positions} positions, so max_new_tokens {spec.max_new_tokens}{thought} leaves none for a prompt; "
            "lower it, or let generate_rows be 0.",
        )
    return positions - most_tokens


def _are_longer(references: Sequence[str], target: Target) -> bool:
    """Whether each of a row's references has more tokens than a completion, so that no completion can be one of them."""
    lengths = (len(target.tokenizer(text.strip(), add_special_tokens=False)["input_ids"]) for text in references)
    return all(length > target.spec.max_new_tokens for length in lengths)
