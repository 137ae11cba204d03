"""Rows to token ids, with the tokens that the loss is taken on marked and counted before any weights are loaded."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sdk.schemas.evaluation import EvaluationSpec
from sdk.schemas.failures import FailureReason
from sdk.schemas.training import TrainingSpec
from workers.pipelines.data.rows import Row, Shape, read_rows
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.references import require_self_contained

LossOn = Literal["completion", "assistant", "all"]

#: The label of a token that no loss is taken on, as torch's cross-entropy takes it.
IGNORED = -100

_DEFAULT_LOSS_ON: dict[Shape, LossOn] = {"prompt": "completion", "messages": "assistant", "text": "all"}
_POSSIBLE_LOSS_ON: dict[Shape, tuple[LossOn, ...]] = {
    "prompt": ("completion", "all"),
    "messages": ("assistant", "all"),
    "text": ("all",),
}


@dataclass(frozen=True)
class Example:
    """One row as tokens. `input_ids` and `labels` are (seq,) and unshifted; labels[0] is always IGNORED."""

    input_ids: list[int]
    labels: list[int]
    #: What generation starts from, (prompt_seq,); empty for rows without a prompt.
    prompt_ids: list[int]
    prompt: str
    reference: str

    @property
    def supervised_tokens(self) -> int:
        """Tokens that the loss is taken on."""
        return sum(label != IGNORED for label in self.labels)


@dataclass(frozen=True)
class Tokenised:
    """The usable rows of a dataset."""

    examples: list[Example]
    shape: Shape
    loss_on: LossOn
    #: Rows left out because `max_length` cut off all that the loss would have been taken on.
    dropped: int
    #: Rows cut at `max_length`.
    cut: int

    @property
    def supervised_tokens(self) -> int:
        """Tokens that the loss is taken on, in one pass."""
        return sum(example.supervised_tokens for example in self.examples)

    @property
    def tokens(self) -> int:
        """All tokens of all rows, without padding."""
        return sum(len(example.input_ids) for example in self.examples)


@dataclass(frozen=True)
class DataSummary:
    """What a dataset holds for one base and spec."""

    rows: int
    dropped: int
    cut: int
    tokens: int
    supervised_tokens: int
    longest: int
    shape: Shape
    loss_on: LossOn


def inspect(data: Path, tokenizer_dir: Path, spec: TrainingSpec | EvaluationSpec) -> DataSummary:
    """Count what the rows of `data` give under the tokenizer in `tokenizer_dir`; no weights are read.

    Raises PipelineError ("data") for bad rows, or when nothing is left that a loss could be taken on.
    """
    max_length = longest_row(tokenizer_dir, spec.max_length)
    found = tokenise(read_rows(data), load_tokenizer(tokenizer_dir), loss_on=spec.loss_on, max_length=max_length)
    return DataSummary(
        rows=len(found.examples),
        dropped=found.dropped,
        cut=found.cut,
        tokens=found.tokens,
        supervised_tokens=found.supervised_tokens,
        longest=max(len(example.input_ids) for example in found.examples),
        shape=found.shape,
        loss_on=found.loss_on,
    )


def load_tokenizer(base: Path) -> Any:
    """Return the tokenizer of a base's folder, with a token for padding and without any network.

    Raises PipelineError ("base") when there is none, or it refers to files elsewhere.
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
    if tokenizer.eos_token is None:
        raise PipelineError(
            FailureReason.BASE, "The tokenizer has no end-of-text token; set `eos_token` in its config."
        )
    if tokenizer.pad_token is None:
        # Padding is masked everywhere, so that any token will do.
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def longest_row(base: Path, max_length: int) -> int:
    """Return `max_length`, or the positions that the base's config counts where those are fewer.

    Past its last position a base with learnt positions fails, and one with rotary positions only guesses.
    """
    try:
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return max_length
    positions = config.get("max_position_embeddings") or config.get("n_positions")
    return min(max_length, positions) if isinstance(positions, int) else max_length


def tokenise(rows: Sequence[Row], tokenizer: Any, *, loss_on: LossOn | None, max_length: int) -> Tokenised:
    """Tokenise rows and mark what the loss is taken on.

    Prompt and completion are texts that are joined as they are, with the end-of-text token after the completion, or
    lists of messages, which the base's chat template renders. Rows are cut at `max_length` tokens at the end.
    Raises PipelineError ("data") when no token is left that a loss could be taken on.
    """
    shape = rows[0].shape
    resolved = resolve_loss_on(shape, loss_on)
    examples, dropped, cut = [], 0, 0
    for row in rows:
        example = _example(row, tokenizer, resolved)
        # The first token has no predecessor that could predict it.
        labels = [IGNORED, *example.labels[1:max_length]]
        cut += len(example.input_ids) > max_length
        if all(label == IGNORED for label in labels):
            dropped += 1
            continue
        examples.append(
            Example(example.input_ids[:max_length], labels, example.prompt_ids, example.prompt, example.reference)
        )
    if not examples:
        raise PipelineError(
            FailureReason.DATA,
            f"No row has a token that the loss could be taken on (loss on {resolved}, {dropped} rows, cut at"
            f" {max_length} tokens); raise max_length or shorten the prompts.",
        )
    return Tokenised(examples, shape, resolved, dropped, cut)


def resolve_loss_on(shape: Shape, loss_on: LossOn | None) -> LossOn:
    """Return what the loss is taken on for rows of a shape. Raises PipelineError ("data") where that can't be."""
    if loss_on is None:
        return _DEFAULT_LOSS_ON[shape]
    if loss_on not in _POSSIBLE_LOSS_ON[shape]:
        possible = " or ".join(_POSSIBLE_LOSS_ON[shape])
        raise PipelineError(
            FailureReason.DATA,
            f"Rows of shape {shape!r} have nothing for a loss on {loss_on!r}; set loss_on to {possible}.",
        )
    return loss_on


def _example(row: Row, tokenizer: Any, loss_on: LossOn) -> Example:
    if row.shape == "text":
        ids = _ended(tokenizer(row.fields["text"])["input_ids"], tokenizer)
        return Example(ids, list(ids), [], "", row.fields["text"])
    if row.shape == "prompt" and isinstance(row.fields["prompt"], str):
        return _prompt_example(row.fields["prompt"], row.fields["completion"], tokenizer, loss_on)
    if row.shape == "prompt":
        prompt, completion = row.fields["prompt"], row.fields["completion"]
        return _chat_example(row.where, prompt + completion, len(prompt), tokenizer, loss_on)
    messages = row.fields["messages"]
    last = max((i for i, message in enumerate(messages) if message["role"] == "assistant"), default=None)
    if last is None and loss_on == "assistant":
        raise PipelineError(
            FailureReason.DATA, f"{row.where} has no assistant message to learn from; add one or remove the row."
        )
    return _chat_example(row.where, messages, last, tokenizer, loss_on)


def _prompt_example(prompt: str, completion: str, tokenizer: Any, loss_on: LossOn) -> Example:
    prompt_ids = _unended(tokenizer(prompt)["input_ids"], tokenizer)
    ids = _ended(tokenizer(prompt + completion)["input_ids"], tokenizer)
    if ids[: len(prompt_ids)] != prompt_ids:
        # Tokens grew together across the border. Generation starts from the prompt's own tokens, so training does too.
        ids = prompt_ids + _ended(tokenizer(completion, add_special_tokens=False)["input_ids"], tokenizer)
    masked = [IGNORED] * len(prompt_ids) + ids[len(prompt_ids) :]
    return Example(ids, list(ids) if loss_on == "all" else masked, prompt_ids, prompt, completion)


def _chat_example(
    where: str, messages: list[dict[str, str]], answer: int | None, tokenizer: Any, loss_on: LossOn
) -> Example:
    """Render a conversation; `answer` is the index of the message from which on a completion is generated."""
    if tokenizer.chat_template is None:
        raise PipelineError(
            FailureReason.DATA,
            "The rows are conversations and the base has no chat template; use {prompt, completion} rows.",
        )
    text = _render(tokenizer, messages)
    if loss_on == "all":
        spans = [(0, len(text))]
    elif loss_on == "completion":
        assert answer is not None
        spans = [_span(where, tokenizer, messages, answer, len(messages), text)]
    else:
        spans = [
            _span(where, tokenizer, messages, i, i + 1, text)
            for i, message in enumerate(messages)
            if message["role"] == "assistant"
        ]
    # The template writes the special tokens itself.
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = encoded["input_ids"]
    labels = [
        token if any(start <= first < end for start, end in spans) else IGNORED
        for token, (first, _) in zip(ids, encoded["offset_mapping"], strict=True)
    ]
    if answer is None:
        return Example(ids, labels, [], "", "")
    prompt = _render(tokenizer, messages[:answer], add_generation_prompt=True) if answer else ""
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"] if prompt else []
    asked = messages[answer - 1]["content"] if answer else ""
    return Example(ids, labels, prompt_ids, asked, messages[answer]["content"])


def _span(
    where: str, tokenizer: Any, messages: list[dict[str, str]], first: int, after: int, text: str
) -> tuple[int, int]:
    """Return where messages[first:after] stand in the rendered text, in characters, end-of-turn token included."""
    before = _render(tokenizer, messages[:first], add_generation_prompt=True) if first else ""
    through = _render(tokenizer, messages[:after])
    if not text.startswith(before) or not text.startswith(through.rstrip()):
        raise PipelineError(
            FailureReason.DATA,
            f"The chat template renders the beginning of the conversation in {where} differently from the whole, so"
            " that the answers can't be found in it; set loss_on to all.",
        )
    return len(before), len(through.rstrip())


def _render(tokenizer: Any, messages: list[dict[str, str]], *, add_generation_prompt: bool = False) -> str:
    from jinja2 import TemplateError

    try:
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
    except (TemplateError, TypeError, ValueError) as error:
        raise PipelineError(
            FailureReason.DATA,
            f"The base's chat template refuses a conversation ({error}); change the order of its roles.",
        ) from error
    return str(rendered)


def _ended(ids: list[int], tokenizer: Any) -> list[int]:
    """Add the end-of-text token unless it stands there already, so that the model learns to stop."""
    return ids if ids and ids[-1] == tokenizer.eos_token_id else [*ids, tokenizer.eos_token_id]


def _unended(ids: list[int], tokenizer: Any) -> list[int]:
    """Take off an end-of-text token that the tokenizer itself puts after every text."""
    return ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids
