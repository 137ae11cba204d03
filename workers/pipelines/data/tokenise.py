"""Rows to token ids, with the tokens that the loss is taken on marked and counted before any weights are loaded."""

from __future__ import annotations

import hashlib
import itertools
import json
import warnings
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from sdk.formats import objectives
from sdk.formats.adapter_files import GENERATION_FILE, MAX_SERVING_BYTES, TEMPLATE_FILE
from sdk.formats.base_files import CONFIG_FILE, positions_of
from sdk.formats.objectives import ObjectiveError
from sdk.formats.rows import Row, Shape, name_faults
from sdk.schemas.failures import FailureReason
from sdk.schemas.training import Rendering
from workers.pipelines.data.conversation import Conversation, RowRefused
from workers.pipelines.data.rows import Rows
from workers.pipelines.data.spans import ChatTemplate, Method, Sample
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.references import require_self_contained

if TYPE_CHECKING:
    from workers.pipelines.data.stored_examples import StoredExamples

#: "label" of a row, and none of its tokens.
LossOn = Literal["completion", "assistant", "all", "label"]

#: The label of a token that no loss is taken on, as torch's cross-entropy takes it.
IGNORED = -100


@dataclass(frozen=True)
class Example:
    """One text as tokens. `input_ids` and `labels` are (seq,) and unshifted; labels[0] is always IGNORED."""

    input_ids: list[int]
    labels: list[int]
    #: What generation starts from, (prompt_seq,); empty for rows without a prompt, and for all but the last text of a row.
    prompt_ids: list[int]
    prompt: str
    reference: str
    #: The token that ends what is learnt; None if it was cut off, or where all of a conversation is learnt.
    stop: int | None = None
    #: How it was found what of a rendered conversation is learnt; None of plain texts.
    method: Method | None = None
    #: The number of its row in the dataset, from 0.
    row: int = 0

    @property
    def supervised_tokens(self) -> int:
        """Tokens that the loss is taken on."""
        return sum(label != IGNORED for label in self.labels)


@dataclass(frozen=True)
class Tokenised:
    """The usable rows of a dataset."""

    #: One of each row, or of a conversation one for each answer.
    examples: list[Example] | StoredExamples
    shape: Shape
    loss_on: LossOn
    #: Rows that there are examples of.
    rows: int
    #: Rows left out because `max_length` cut off all that the loss would have been taken on.
    dropped: int
    #: Rows cut at `max_length`.
    cut: int
    rendering: Rendering
    #: The chat template that rendered conversations, the base's own before one of its others; None of plain texts.
    template: str | None
    #: Texts longer than `max_length` that became several examples.
    split: int = 0

    @property
    def supervised_tokens(self) -> int:
        """Tokens that the loss is taken on, in one pass."""
        if not isinstance(self.examples, list):
            return self.examples.supervised_tokens
        return sum(example.supervised_tokens for example in self.examples)

    @property
    def tokens(self) -> int:
        """All tokens of all examples, without padding."""
        if not isinstance(self.examples, list):
            return self.examples.tokens
        return sum(len(example.input_ids) for example in self.examples)


def load_tokenizer(base: Path, *, ends: bool = True) -> Any:
    """Return the tokenizer of a base's folder, with a token for padding and without any network.

    `ends`: whether it must have a token that ends texts; an encoder's has none. Raises PipelineError ("base") when
    there is none, or it refers to files elsewhere.
    """
    from transformers import AutoTokenizer

    require_self_contained(base)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise PipelineError(
            FailureReason.BASE, f"The base has no tokenizer that can be loaded ({first}); add its tokenizer files."
        ) from error
    if not set(tokenizer.get_vocab().values()) - {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}:
        # A library makes one of nothing where the file with its words is missing.
        raise PipelineError(
            FailureReason.BASE,
            "The base's tokenizer has no vocabulary, because the file with it is missing; add its tokenizer files, such as"
            " tokenizer.json, vocab.txt or spm.model.",
        )
    if tokenizer.eos_token is None and (ends or tokenizer.pad_token is None):
        raise PipelineError(
            FailureReason.BASE, "The tokenizer has no end-of-text token; set `eos_token` in its config."
        )
    if tokenizer.pad_token is None:
        # Padding is masked everywhere, so that any token will do.
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def configured_stops(base: Path) -> list[int]:
    """Return the ids that the generation of a base, or of an adapter's folder, stops at, sorted; none where it names none.

    As for transformers that is what its `generation_config.json` says, or, without one, its `config.json`.
    """
    named = next(
        (found for name in (GENERATION_FILE, CONFIG_FILE) if (found := read_object(base / name)) is not None), {}
    )
    listed = named.get("eos_token_id")
    ids = listed if isinstance(listed, list) else [listed]
    return sorted({token for token in ids if type(token) is int and token >= 0})


def read_object(path: Path) -> dict[str, Any] | None:
    """Return the object in a small JSON file of a stranger; {} where it is none, None if there is no file."""
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(MAX_SERVING_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def serve_by(tokenizer: Any, adapter: Path) -> None:
    """Let a tokenizer render by the chat template that travels with an adapter, where one does. Raises PipelineError."""
    try:
        with (adapter / TEMPLATE_FILE).open("rb") as file:
            tokenizer.chat_template = file.read(MAX_SERVING_BYTES).decode()
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise PipelineError(
            FailureReason.ADAPTER, f"The adapter's {TEMPLATE_FILE} is not text in UTF-8; push the adapter without it."
        ) from error


def all_stops(base: Path, tokenizer: Any, taught: Sequence[int]) -> list[int]:
    """Return the ids that end a completion, sorted: those taught, the tokenizer's, and those of the base's generation
    config.
    """
    named = [*taught, *configured_stops(base)]
    return sorted({tokenizer.eos_token_id, *known_ids(tokenizer, named)})


def known_ids(tokenizer: Any, ids: Iterable[int]) -> list[int]:
    """Return those of some token ids that the tokenizer has: a base's files may name any number."""
    return [token for token in ids if token < len(tokenizer)]


def longest_row(base: Path, max_length: int) -> int:
    """Return `max_length`, or the positions that the base's config counts where those are fewer.

    Past its last position a base with learnt positions fails, and one with rotary positions only guesses.
    """
    try:
        config = json.loads((base / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return max_length
    return min(max_length, positions_of(config) or max_length)


def tokenise(
    rows: Rows,
    tokenizer: Any,
    *,
    loss_on: LossOn | None,
    max_length: int,
    day: date | None = None,
    stop_ids: Sequence[int] = (),
    split_texts: bool = False,
    into: StoredExamples | None = None,
) -> Tokenised:
    """Return rows as tokens, each with the tokens that the loss is taken on; the examples are put `into` a file where one is given.

    Prompt and completion are texts that are joined as they are, with the end-of-text token after the completion, or
    lists of messages, which the base's chat template renders as on `day`. Generation stops at `stop_ids` and at the end of
    text: an answer that ends in neither gets the latter. Rows are cut at `max_length` tokens at the end; with `split_texts`, rows of
    {text} become as many examples as they need.
    Raises PipelineError ("data") that names the rows that can't be used, or when no token is left that a loss could be
    taken on.
    """
    shape = next(iter(rows)).shape
    resolved = resolve_loss_on(shape, loss_on)
    maker = ExampleMaker(tokenizer, resolved, day, stop_ids)
    examples: list[Example] | StoredExamples = [] if into is None else into
    used, dropped, cut, split, refused = 0, 0, 0, 0, list[tuple[str, str]]()
    for number, row in enumerate(rows):
        try:
            made = maker.examples(row)
        except RowRefused as error:
            refused.append((row.where, str(error)))
            continue
        kept = kept_of_row(made, shape, max_length, split_texts=split_texts)
        longer = any(len(example.input_ids) > max_length for example in made)
        whole = split_texts and shape == "text"
        split += longer and whole
        cut += longer and not whole
        used += bool(kept)
        dropped += not kept
        for example in kept:
            examples.append(replace(example, row=number))
    require_usable(refused, len(rows))
    if not examples:
        raise PipelineError(
            FailureReason.DATA,
            f"No row has a token to compute the loss on (loss on {resolved}, {dropped} rows, cut at"
            f" {max_length} tokens); raise max_length or shorten the prompts.",
        )
    return Tokenised(examples, shape, resolved, used, dropped, cut, maker.rendering(examples), maker.template, split)


def require_usable(refused: Sequence[tuple[str, str]], rows: int) -> None:
    """Raise PipelineError ("data") that names rows that were refused, (where, fault), of so many that were looked at."""
    if refused:
        raise PipelineError(
            FailureReason.DATA,
            f"{len(refused)} of {rows} rows can't be used over this base: {name_faults(refused, len(refused))}.",
        )


def kept_of_row(made: Sequence[Example], shape: Shape, max_length: int, *, split_texts: bool) -> list[Example]:
    """Return what is kept of the examples of a row, of at most `max_length` tokens each; none where the row is dropped.

    A text alone is split with `split_texts`, and everything else is cut. Of a pair of answers both are kept, or none.
    """
    if split_texts and shape == "text":
        made = [piece for each in made for piece in split_text(each, max_length)]
    kept = [example for each in made if (example := cut_example(each, max_length)) is not None]
    if shape == "preference" and (len(kept) < 2 or kept[0].input_ids == kept[1].input_ids):
        # The answers differ only in what was cut off.
        return []
    return kept


def split_text(example: Example, max_length: int) -> list[Example]:
    """Return a text as pieces of at most `max_length` tokens. A piece begins with the last token of the one before, which
    predicts its second: so each token but the text's first is learnt once, and the end of text in the last piece. In pieces
    of one token nothing is learnt.
    """
    ids = example.input_ids
    pieces = []
    for start in range(0, max(1, len(ids) - 1), max(1, max_length - 1)):
        end = start + max_length
        labels = [IGNORED, *example.labels[start + 1 : end]]
        stop = example.stop if end >= len(ids) else None
        pieces.append(replace(example, input_ids=ids[start:end], labels=labels, stop=stop))
    return pieces


def cut_example(example: Example, max_length: int) -> Example | None:
    """Return an example of at most `max_length` tokens, without a stop where that was cut off; None if nothing is
    learnt.
    """
    # The first token has no predecessor that could predict it.
    labels = [IGNORED, *example.labels[1:max_length]]
    if all(label == IGNORED for label in labels):
        return None
    learnt_to = max(place for place, label in enumerate(example.labels) if label != IGNORED)
    stop = example.stop if learnt_to < max_length else None
    return replace(example, input_ids=example.input_ids[:max_length], labels=labels, stop=stop)


def resolve_loss_on(shape: Shape, loss_on: LossOn | None) -> LossOn:
    """Return what the loss is taken on for rows of a shape. Raises PipelineError ("data") where that can't be."""
    if shape == "text-label":
        raise PipelineError(
            FailureReason.DATA,
            "Rows of {text, label} teach labels of whole texts, not the texts themselves; give rows of another shape.",
        )
    if shape in objectives.ONLY_SCORED:
        raise PipelineError(
            FailureReason.DATA,
            f"Rows of {objectives.ONLY_SCORED[shape]} are for evaluations, and nothing is learnt of them; give rows of another shape.",
        )
    try:
        return cast("LossOn", objectives.resolve_loss_on(loss_on, shape))
    except ObjectiveError as error:
        raise PipelineError(FailureReason.DATA, f"The rows can't be used: {error}.") from error


class ExampleMaker:
    """Makes examples of rows, and knows afterwards how it did."""

    def __init__(self, tokenizer: Any, loss_on: LossOn, day: date | None, stop_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._loss_on = loss_on
        self._day = day
        self._template = ChatTemplate(tokenizer, day, known_ids(tokenizer, stop_ids))
        self._methods: Counter[str] = Counter()
        self._templates: set[str] = set()
        self._dated = False

    def examples(self, row: Row) -> list[Example]:
        """Return the examples of one row. Raises RowRefused, PipelineError if the base has no chat template."""
        fields = row.fields
        if row.shape == "preference":
            return [self._alone(row, key) for key in ("chosen", "rejected")]
        if row.shape == "text":
            ids = _ended(self._tokenizer(fields["text"])["input_ids"], self._tokenizer)
            return [Example(ids, list(ids), [], "", fields["text"], ids[-1])]
        if row.shape == "prompt" and isinstance(fields["prompt"], str):
            return [_prompt_example(fields["prompt"], fields["completion"], self._tokenizer, self._loss_on)]
        if self._tokenizer.chat_template is None:
            raise PipelineError(
                FailureReason.DATA,
                "The rows are conversations, but the base has no chat template; use {prompt, completion} rows.",
            )
        samples = [self._note(sample) for sample in self._samples(row)]
        return [self._of_sample(row, sample, last=sample is samples[-1]) for sample in samples]

    def _alone(self, row: Row, key: str) -> Example:
        """Return one of the two answers of a preference as an example. Raises RowRefused where it takes several."""
        fields = {name: value for name, value in row.fields.items() if name in ("prompt", "tools")}
        made = self.examples(Row(row.where, "prompt", {**fields, "completion": row.fields[key]}))
        if len(made) > 1:
            raise RowRefused(
                f"has a `{key}` of several answers, which the base's chat template renders one by one; move all but the last "
                "of them into `prompt`"
            )
        return made[0]

    @property
    def template(self) -> str | None:
        """The template of those so far: the one that the base has for conversations without tools, where it was used."""
        own = self._tokenizer.chat_template
        default = own.get("default") if isinstance(own, dict) else own
        return default if default in self._templates else min(self._templates, default=None)

    def rendering(self, examples: Sequence[Example]) -> Rendering:
        """Return how all rows so far were rendered, of which these examples were kept."""
        return Rendering(
            templates=sorted(hashlib.sha256(template.encode()).hexdigest() for template in self._templates),
            methods=dict(sorted(self._methods.items())),
            template_date=self._day.isoformat() if self._dated and self._day is not None else None,
            stop_ids=sorted({example.stop for example in examples if example.stop is not None}),
        )

    def _samples(self, row: Row) -> list[Sample]:
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

    def _note(self, sample: Sample) -> Sample:
        self._methods[sample.method] += 1
        self._templates.add(sample.template)
        self._dated |= sample.dated
        return sample

    def _of_sample(self, row: Row, sample: Sample, *, last: bool) -> Example:
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
        if sample.answer is None or not last:
            return Example(ids, labels, [], "", "", stop, sample.method)
        messages, _ = _messages(row)
        asked = messages[sample.answer - 1].get("content", "") if sample.answer else ""
        # What is generated is decoded in the same way: with the reasoning and the calls as the template writes them.
        if sample.method == "all":
            reference = messages[sample.answer].get("content", "")
        else:
            reference = str(tokenizer.decode(final, skip_special_tokens=True)).strip()
        prompt_ids = tokenizer(sample.prompt, add_special_tokens=False)["input_ids"] if sample.prompt else []
        return Example(ids, labels, prompt_ids, asked, reference, stop, sample.method)


def _messages(row: Row) -> tuple[list[dict[str, Any]], int]:
    """Return a row's messages, and the index of the first that may be learnt."""
    if row.shape == "messages":
        return row.fields["messages"], 0
    return row.fields["prompt"] + row.fields["completion"], len(row.fields["prompt"])


def _encoded(tokenizer: Any, text: str, borders: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the tokens of a text and where each begins in it, in characters; no token lies across one of the borders.

    Answers are generated from the tokens of what is before them alone, so training takes them apart there, too. Raises
    RowRefused where the tokenizer makes another text of the parts.
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
        # Tokens stand in the order of what they are of.
        learnt = slice(bisect_left(starts, start), bisect_left(starts, end))
        labels[learnt] = ids[learnt]
    return labels


def _prompt_example(prompt: str, completion: str, tokenizer: Any, loss_on: LossOn) -> Example:
    prompt_ids = unended(tokenizer(prompt)["input_ids"], tokenizer)
    ids = _ended(tokenizer(prompt + completion)["input_ids"], tokenizer)
    if ids[: len(prompt_ids)] != prompt_ids:
        # Tokens grew together across the border. Generation starts from the prompt's own tokens, so training does too.
        ids = prompt_ids + _ended(continued(tokenizer, prompt_ids, prompt, completion), tokenizer)
    masked = [IGNORED] * len(prompt_ids) + ids[len(prompt_ids) :]
    return Example(ids, list(ids) if loss_on == "all" else masked, prompt_ids, prompt, completion, ids[-1])


def continued(tokenizer: Any, prompt_ids: list[int], prompt: str, completion: str) -> list[int]:
    """Return the tokens of a completion that follow those of its prompt. Raises RowRefused if no tokens make that text.

    Some tokenizers put a blank before every text. They put none in the middle of one, such as after a line break.
    """
    wanted = tokenizer.decode(unended(tokenizer(prompt + completion)["input_ids"], tokenizer))
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


def _ended(ids: list[int], tokenizer: Any) -> list[int]:
    """Add the end-of-text token unless it stands there already, so that the model learns to stop."""
    return ids if ids and ids[-1] == tokenizer.eos_token_id else [*ids, tokenizer.eos_token_id]


def unended(ids: list[int], tokenizer: Any) -> list[int]:
    """Take off an end-of-text token that the tokenizer itself puts after every text."""
    return ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids
