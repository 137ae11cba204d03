"""From one row to its examples: token ids, with marks on the tokens that the loss is computed on."""

from __future__ import annotations

import hashlib
import itertools
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from sdk.formats.objectives import OF_REASONING, LearntOn
from sdk.formats.rows import Row
from sdk.schemas.failures import FailureReason
from sdk.schemas.recorded import Rendering
from sdk.schemas.version_records import SpecialTokens
from workers.pipelines.data.answer_tokens import AnswerTokens, answer_tokens
from workers.pipelines.data.conversation import Conversation, RowRefused
from workers.pipelines.data.encoding import Encoder
from workers.pipelines.data.spans import ChatTemplate, Method, SupervisedText
from workers.pipelines.data.thoughts import Scaffold
from workers.pipelines.data.tokenizer import known_ids
from workers.pipelines.errors import PipelineError

#: The label of a token without a loss, as torch's cross-entropy expects it.
IGNORED = -100


@dataclass(frozen=True)
class Example:
    """One text as tokens. `input_ids` and `labels` are (seq,) and unshifted; labels[0] is always IGNORED."""

    input_ids: list[int]
    labels: list[int]
    #: The tokens that generation starts from, (prompt_seq,); empty for rows without a prompt, and for all but the last
    #: text of a row.
    prompt_ids: list[int]
    prompt: str
    #: The completion, or content and calls of the last answer of a conversation, if they were asked for.
    reference: str
    #: The token that ends what is learnt; None if it was cut off, or if all of a conversation is learnt.
    stop: int | None = None
    #: How the learnt parts of a rendered conversation were found; None for plain texts.
    method: Method | None = None
    #: The number of its row in the dataset, from 0.
    row: int = 0
    #: Whether the answer is a desirable one; None for rows that don't say it.
    desirable: bool | None = None
    #: What the learnt answers say, content and calls, as [first, last) of the tokens: without reasoning, without what a
    #: template writes around it, and without the end. Empty if it wasn't asked for.
    contents: tuple[tuple[int, int], ...] = ()
    #: What a template writes around the content of the last answer; None for plain texts, or if it wasn't asked for.
    scaffold: Scaffold | None = None

    @property
    def supervised_tokens(self) -> int:
        """The number of tokens that the loss is computed on."""
        return sum(label != IGNORED for label in self.labels)


def learnt_runs(labels: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the runs of tokens that the loss is computed on, as [first, last)."""
    at = 0
    for learnt, run in itertools.groupby(label != IGNORED for label in labels):
        start, at = at, at + sum(1 for _ in run)
        if learnt:
            yield start, at


def learnt_ends(example: Example) -> Iterator[tuple[int, int]]:
    """Yield the runs of tokens, as [first, last), that the loss is computed on after a content."""
    for first, last in learnt_runs(example.labels):
        ends = [end for start, end in example.contents if first <= max(start, 1) < last]
        if ends and max(ends) < last:
            yield max(ends), last


class ExampleMaker:
    """Makes examples from rows, and records how. With `contents` it finds what answers say."""

    def __init__(
        self,
        tokenizer: Any,
        loss_on: LearntOn,
        day: date | None,
        stop_ids: Sequence[int],
        special_tokens: SpecialTokens = "once",
        *,
        contents: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        #: Encodes whole texts; conversations have the special tokens that their template writes.
        self.encoder = Encoder(tokenizer, special_tokens)
        self._loss_on = loss_on
        self._day = day
        self._contents = contents
        apart = contents or loss_on in OF_REASONING
        self._template = ChatTemplate(tokenizer, day, known_ids(tokenizer, stop_ids), contents=apart)
        self._methods: Counter[str] = Counter()
        self._templates: set[str] = set()
        self._dated = False

    def examples(self, row: Row) -> list[Example]:
        """Return the examples of one row. Raises RowRefused, PipelineError if the base has no chat template."""
        try:
            return self._examples(row)
        finally:
            self.encoder.note_row()

    def _examples(self, row: Row) -> list[Example]:
        fields = row.fields
        if row.shape == "preference":
            return [self._alone(row, key) for key in ("chosen", "rejected")]
        if row.shape == "unpaired-preference":
            return [replace(self._alone(row, "completion"), desirable=fields["label"])]
        if row.shape == "text":
            ids = self.encoder.ended(fields["text"])
            return [Example(ids, list(ids), [], "", fields["text"], ids[-1], contents=((0, len(ids) - 1),))]
        if row.shape == "prompt" and isinstance(fields["prompt"], str):
            return [self._prompt_example(fields["prompt"], fields["completion"])]
        if self._tokenizer.chat_template is None:
            raise PipelineError(
                FailureReason.DATA,
                "The rows are conversations, but the base has no chat template; use {prompt, completion} rows.",
            )
        samples = [self._note(sample) for sample in self._samples(row)]
        return [self._of_sample(row, sample, last=sample is samples[-1]) for sample in samples]

    def _alone(self, row: Row, key: str) -> Example:
        """Return one answer of a row as an example. Raises RowRefused if it needs several."""
        fields = {name: value for name, value in row.fields.items() if name in ("prompt", "tools")}
        made = self._examples(Row(row.where, "prompt", {**fields, "completion": row.fields[key]}))
        if len(made) > 1:
            raise RowRefused(
                f"has a `{key}` of several answers, which the base's chat template renders one by one; move all but the last "
                "of them into `prompt`"
            )
        return made[0]

    @property
    def template(self) -> str | None:
        """The template used so far: the base's one for conversations without tools, if it was used."""
        own = self._tokenizer.chat_template
        default = own.get("default") if isinstance(own, dict) else own
        return default if default in self._templates else min(self._templates, default=None)

    def rendering(self, examples: Sequence[Example]) -> Rendering:
        """Return how all rows so far were rendered; these of their examples were kept."""
        return Rendering(
            templates=sorted(hashlib.sha256(template.encode()).hexdigest() for template in self._templates),
            methods=dict(sorted(self._methods.items())),
            template_date=self._day.isoformat() if self._dated and self._day is not None else None,
            stop_ids=sorted({example.stop for example in examples if example.stop is not None}),
        )

    def _prompt_example(self, prompt: str, completion: str) -> Example:
        prompt_ids, ids = self.encoder.open(prompt), self.encoder.ended(prompt + completion)
        if ids[: len(prompt_ids)] != prompt_ids:
            # A token merged across the border. Generation starts from the prompt's own tokens, so training does too.
            own, end = continued(self.encoder, self._tokenizer, prompt_ids, prompt, completion), ids[-1]
            ids = [*prompt_ids, *own, *([] if own and own[-1] == end else [end])]
        masked = [IGNORED] * len(prompt_ids) + ids[len(prompt_ids) :]
        labels = list(ids) if self._loss_on == "all" else masked
        said = (len(prompt_ids), len(ids) - 1)
        return Example(ids, labels, prompt_ids, prompt, completion, ids[-1], contents=(said,))

    def _samples(self, row: Row) -> list[SupervisedText]:
        messages, first = _messages(row)
        if self._loss_on == "all":
            if any(message.get("weight") == 0 for message in messages):
                raise RowRefused("has a `weight` of 0, which a loss on all can't leave out; set loss_on to assistant")
            return [self._template.whole(Conversation(messages, row.fields.get("tools"), ()))]
        learnt = tuple(
            index
            for index, message in enumerate(messages)
            if index >= first and message["role"] == "assistant" and message.get("weight") != 0
        )
        if not learnt:
            raise RowRefused("has no assistant message to learn from; add one or remove the row")
        return self._template.learnt(Conversation(messages, row.fields.get("tools"), learnt))

    def _note(self, sample: SupervisedText) -> SupervisedText:
        self._methods[sample.method] += 1
        self._templates.add(sample.template)
        self._dated |= sample.dated
        return sample

    def _of_sample(self, row: Row, sample: SupervisedText, *, last: bool) -> Example:
        """Return a rendered conversation as tokens; a token is learnt where it begins in a learnt part of the text."""
        tokenizer = self._tokenizer
        # The template writes the special tokens itself.
        ids, starts = _encoded(tokenizer, sample.text, [start for start, _ in sample.spans])
        labels = _labels(ids, starts, sample.spans)
        final = [token for token in _labels(ids, starts, sample.spans[-1:]) if token != IGNORED]
        stop = None
        if sample.method != "all":
            stop = final[-1] if final else None
            if stop is None or stop not in {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}:
                raise RowRefused("ends with an end of turn that is not a token of the base's tokenizer")
        answers = answer_tokens(sample, ids, starts, tokenizer)
        if self._loss_on in OF_REASONING:
            labels = self._apart(ids, labels, answers)
        if not self._contents:
            answers = []
        contents = tuple(answer.content for answer in answers if answer.said)
        if sample.answer is None or not last:
            return Example(ids, labels, [], "", "", stop, sample.method, contents=contents)
        messages, _ = _messages(row)
        asked = messages[sample.answer - 1].get("content", "") if sample.answer else ""
        prompt_ids = tokenizer(sample.prompt, add_special_tokens=False)["input_ids"] if sample.prompt else []
        said, scaffold = (answers[-1].said, answers[-1].scaffold) if answers else ("", None)
        how: dict[str, Any] = {"stop": stop, "method": sample.method, "contents": contents, "scaffold": scaffold}
        return Example(ids, labels, prompt_ids, asked, said, **how)

    def _apart(self, ids: list[int], labels: list[int], answers: Sequence[AnswerTokens]) -> list[int]:
        """Return the labels of answers with their reasoning, or without. Raises RowRefused for one that lacks what is learnt."""
        if self._loss_on == "reasoning":
            for answer in answers:
                if not answer.scaffold.reasoning(self._tokenizer):
                    raise RowRefused(
                        f"has an answer, message {answer.message + 1}, that the base's chat template renders without reasoning; give "
                        "it `reasoning_content` or a `weight` of 0, or set loss_on to assistant"
                    )
            return labels
        without = [IGNORED] * len(ids)
        for answer in answers:
            if not (answer.said or self._contents):
                # An evaluation counts such rows.
                raise RowRefused(
                    f"has an answer, message {answer.message + 1}, with neither content nor calls, so without its reasoning nothing "
                    "is left to learn; give it a `weight` of 0, or set loss_on to assistant"
                )
            learnt = slice(*answer.after_reasoning)
            without[learnt] = ids[learnt]
        return without


def _messages(row: Row) -> tuple[list[dict[str, Any]], int]:
    """Return a row's messages, and the index of the first one that may be learnt."""
    if row.shape == "messages":
        return row.fields["messages"], 0
    return row.fields["prompt"] + row.fields["completion"], len(row.fields["prompt"])


def _encoded(tokenizer: Any, text: str, borders: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the tokens of a text and where each begins in it, in characters; no token crosses one of the borders.

    An answer is generated from the tokens of the text before it, so training splits the text there, too. Raises
    RowRefused if the parts' tokens make another text.
    """
    ids, starts, ends = _tokens(tokenizer, text)
    cut_ids: list[int] = []
    cut_starts: list[int] = []
    for begin, end in itertools.pairwise(sorted({0, *borders, len(text)})):
        part_ids, part_starts, _ = _tokens(tokenizer, text[begin:end])
        cut_ids += part_ids
        cut_starts += [begin + start for start in part_starts]
    if cut_ids == ids:
        return ids, starts
    if tokenizer.decode(cut_ids) == tokenizer.decode(ids):
        return cut_ids, cut_starts
    if any(start < border < end for border in borders for start, end in zip(starts, ends, strict=True)):
        raise RowRefused(
            "has an answer whose first token the base's tokenizer joins to the text before it; use a template whose prompt"
            " ends in a control token or a line break"
        )
    return ids, starts


def _tokens(tokenizer: Any, text: str) -> tuple[list[int], list[int], list[int]]:
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    offsets = encoded["offset_mapping"]
    return encoded["input_ids"], [start for start, _ in offsets], [end for _, end in offsets]


def _labels(ids: list[int], starts: list[int], spans: Sequence[tuple[int, int]]) -> list[int]:
    labels = [IGNORED] * len(ids)
    for start, end in spans:
        # Tokens are in the order of their text.
        learnt = slice(bisect_left(starts, start), bisect_left(starts, end))
        labels[learnt] = ids[learnt]
    return labels


def continued(encoder: Encoder, tokenizer: Any, prompt_ids: list[int], prompt: str, completion: str) -> list[int]:
    """Return the tokens of a completion that follow those of its prompt. Raises RowRefused if no tokens make that text.

    Some tokenizers put a blank before every text, but not in the middle of one, such as after a line break.
    """
    wanted = tokenizer.decode(encoder.open(prompt + completion))
    alone = tokenizer(completion, add_special_tokens=False)["input_ids"]
    if tokenizer.decode(prompt_ids + alone) == wanted:
        return list(alone)
    if tokenizer.is_fast:
        ids, starts, _ = _tokens(tokenizer, f"\n{completion}")
        later = [token for token, start in zip(ids, starts, strict=True) if start > 0]
        if tokenizer.decode(prompt_ids + later) == wanted:
            return later
    raise RowRefused(
        "has a prompt whose end the base's tokenizer joins to the completion; move the space at the end of the prompt to the"
        " beginning of the completion"
    )
