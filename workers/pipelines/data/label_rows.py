"""From rows of {text, label} to token ids with the number of their label, before any weights are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sdk.formats.labels import classes_of
from sdk.formats.objectives import LearntOn
from sdk.schemas.failures import FailureReason
from sdk.schemas.recorded import Rendering
from sdk.schemas.version_records import SpecialTokens
from workers.pipelines.data.encoding import Encoder
from workers.pipelines.data.examples import Example
from workers.pipelines.data.rows import Rows
from workers.pipelines.data.tokenise import Tokenised
from workers.pipelines.errors import PipelineError, named

if TYPE_CHECKING:
    from workers.pipelines.data.stored_examples import StoredExamples


def class_names(rows: Rows) -> tuple[str, ...]:
    """Return the labels that a training on rows distinguishes, in the order of their numbers. Raises PipelineError ("data")."""
    with named(FailureReason.DATA, "The rows can't be used: {error}.", ValueError):
        return tuple(classes_of({row.fields["label"] for row in rows}))


def refuse_loss_on(loss_on: LearntOn | None) -> None:
    """Raise PipelineError ("spec") if part of a text is to be learnt: a classification learns none of it."""
    if loss_on is not None:
        raise PipelineError(
            FailureReason.SPEC, "The loss of a classification is always on its labels; leave loss_on out."
        )


def pad_token_id(config: Any, tokenizer: Any) -> int:
    """Return the token that pads rows: the one in the base's config, which other programs use, or else the tokenizer's.

    The tokenizer pads with it from then on.
    """
    said = config.get_text_config().pad_token_id
    if type(said) is int and 0 <= said < len(tokenizer) and said != tokenizer.pad_token_id:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(said)
    rows = getattr(config.get_text_config(), "vocab_size", None)
    if type(rows) is int and tokenizer.pad_token_id >= rows and tokenizer.eos_token is not None:
        # It was added only to the tokenizer: the base has no embedding for it.
        tokenizer.pad_token = tokenizer.eos_token
    return int(tokenizer.pad_token_id)


def label_rows(
    rows: Rows,
    tokenizer: Any,
    names: Sequence[str],
    *,
    max_length: int,
    special_tokens: SpecialTokens = "once",
    into: StoredExamples | None = None,
) -> Tokenised:
    """Return texts as the tokenizer encodes them, including special tokens, each with the number of its label; the
    examples are put `into` a file if one is given.

    A text of more than `max_length` tokens is cut at its end, before a special token if there is one. Raises
    PipelineError ("data") for texts of which nothing is left, and for labels that are not among the names.
    """
    numbers = {name: number for number, name in enumerate(names)}
    examples: list[Example] | StoredExamples = [] if into is None else into
    cut, empty = 0, []
    encoder = Encoder(tokenizer, special_tokens)
    for number, row in enumerate(rows):
        text, label = row.fields["text"], row.fields["label"]
        if label not in numbers:
            raise PipelineError(
                FailureReason.DATA,
                f"{row.where} has the label {label!r}, which no training row has; correct it, or train on rows that have it.",
            )
        ids = encoder.whole(text)
        if len(ids) > max_length:
            ids = encoder.whole(text, most=max_length)
            cut += 1
        encoder.note_row()
        # A decoder reads its answer from the last token that is not padding, whichever program runs it.
        while ids and ids[-1] == tokenizer.pad_token_id:
            ids = ids[:-1]
        if not ids:
            empty.append(row.where)
            continue
        examples.append(Example(ids, [numbers[label]], [], text, label, row=number))
    if empty:
        raise PipelineError(
            FailureReason.DATA,
            f"{len(empty)} texts give no tokens with this base (first: {empty[0]}); remove their rows.",
        )
    return Tokenised(
        examples, "text-label", "label", len(examples), 0, cut, Rendering(), None, had_special=encoder.had_already()
    )
