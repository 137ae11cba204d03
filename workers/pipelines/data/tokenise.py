"""From rows to token ids, with the tokens that the loss is computed on marked and counted before any weights are loaded.

What of this is stored with an adapter serves it: a base's template may change, and the tokenizer's end of text may differ
from the learnt end of turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdk.formats import objectives
from sdk.formats.adapter_files import GENERATION_FILE, RENDERING_FILE, TEMPLATE_FILE
from sdk.formats.objectives import LearntOn, ObjectiveError
from sdk.formats.rows import Shape, name_faults
from sdk.schemas.evaluation import Unscored
from sdk.schemas.failures import FailureReason
from sdk.schemas.recorded import Rendering
from sdk.schemas.version_records import SpecialTokens
from sdk.schemas.wire import canonical_json
from workers.pipelines.data.conversation import RowRefused
from workers.pipelines.data.examples import IGNORED, Example, ExampleMaker
from workers.pipelines.data.rows import Rows
from workers.pipelines.data.tokenizer import all_stops, read_object
from workers.pipelines.errors import PipelineError, named

if TYPE_CHECKING:
    from workers.pipelines.data.stored_examples import StoredExamples


@dataclass(frozen=True)
class Tokenised:
    """The usable rows of a dataset."""

    #: One for each row, or for each answer of a conversation.
    examples: list[Example] | StoredExamples
    shape: Shape
    loss_on: LearntOn
    #: Number of rows that have examples.
    rows: int
    #: Rows left out because `max_length` cut off everything that the loss would have been computed on.
    dropped: int
    #: Rows cut at `max_length`.
    cut: int
    rendering: Rendering
    #: The chat template that rendered conversations, preferring the base's default over its others; None for plain texts.
    template: str | None
    #: Texts longer than `max_length` that became several examples.
    split: int = 0
    #: The numbers of the rows left out, and why.
    left_out: dict[int, Unscored] = field(default_factory=dict)
    #: Special tokens that the tokenizer puts around every text, and how many rows had them already.
    had_special: dict[str, int] = field(default_factory=dict)

    @property
    def supervised_tokens(self) -> int:
        """Number of tokens that the loss is computed on in one pass."""
        if not isinstance(self.examples, list):
            return self.examples.supervised_tokens
        return sum(example.supervised_tokens for example in self.examples)

    @property
    def tokens(self) -> int:
        """Number of all tokens of all examples, without padding."""
        if not isinstance(self.examples, list):
            return self.examples.tokens
        return sum(len(example.input_ids) for example in self.examples)


def tokenise(
    rows: Rows,
    tokenizer: Any,
    *,
    loss_on: LearntOn | None,
    max_length: int,
    day: date | None = None,
    stop_ids: Sequence[int] = (),
    split_texts: bool = False,
    special_tokens: SpecialTokens = "once",
    contents: bool = False,
    into: StoredExamples | None = None,
) -> Tokenised:
    """Return rows as tokens, marking the tokens that the loss is computed on; the examples are put `into` a file if one
    is given.

    Prompt and completion are texts that are joined as they are, with the end-of-text token after the completion, or
    lists of messages, which the base's chat template renders with the date `day`. Generation stops at `stop_ids` and at
    the end of text: an answer that ends in neither gets the latter. Rows are cut at `max_length` tokens at the end;
    with `split_texts`, rows of {text} become as many examples as they need. With `contents`, what the answers say is
    found, and rows whose answer has neither content nor calls are left out. Raises PipelineError ("data"), naming the
    rows that can't be used, or if no token is left to compute a loss on.
    """
    shape = next(iter(rows)).shape
    resolved = resolve_loss_on(shape, loss_on)
    maker = ExampleMaker(tokenizer, resolved, day, stop_ids, special_tokens, contents=contents)
    examples: list[Example] | StoredExamples = [] if into is None else into
    used, cut, split, refused = 0, 0, 0, list[tuple[str, str]]()
    left_out: dict[int, Unscored] = {}
    for number, row in enumerate(rows):
        try:
            made = maker.examples(row)
        except RowRefused as error:
            refused.append((row.where, str(error)))
            continue
        if any(example.scaffold is not None and not example.reference for example in made):
            left_out[number] = "no_content"
            continue
        kept = kept_of_row(made, shape, max_length, split_texts=split_texts)
        longer = any(len(example.input_ids) > max_length for example in made)
        whole = split_texts and shape == "text"
        split += longer and whole
        cut += longer and not whole
        used += bool(kept)
        if not kept:
            left_out[number] = "too_long" if longer else "nothing_to_score"
        for example in kept:
            examples.append(replace(example, row=number))
    require_usable(refused, len(rows))
    if not examples:
        raise PipelineError(
            FailureReason.DATA,
            f"No row has a token to compute the loss on (loss on {resolved}, {len(left_out)} rows, truncated to"
            f" {max_length} tokens); raise max_length or shorten the prompts.",
        )
    rendering = maker.rendering(examples)
    return Tokenised(
        examples,
        shape,
        resolved,
        used,
        len(left_out),
        cut,
        rendering,
        maker.template,
        split=split,
        left_out=left_out,
        had_special=maker.encoder.had_already(),
    )


def require_usable(refused: Sequence[tuple[str, str]], rows: int) -> None:
    """Raise PipelineError ("data"), naming refused rows, (where, fault), out of the number that was checked."""
    if refused:
        raise PipelineError(
            FailureReason.DATA,
            f"{len(refused)} of {rows} rows can't be used over this base: {name_faults(refused, len(refused))}.",
        )


def kept_of_row(made: Sequence[Example], shape: Shape, max_length: int, *, split_texts: bool) -> list[Example]:
    """Return what is kept of a row's examples, of at most `max_length` tokens each; none if the row is dropped.

    With `split_texts` a plain text is split; everything else is cut. Both answers of a pair are kept, or none.
    """
    if split_texts and shape == "text":
        made = [piece for each in made for piece in split_text(each, max_length)]
    kept = [example for each in made if (example := cut_example(each, max_length)) is not None]
    if shape == "preference" and (len(kept) < 2 or kept[0].input_ids == kept[1].input_ids):
        # The answers differed only in what was cut off.
        return []
    return kept


def split_text(example: Example, max_length: int) -> list[Example]:
    """Return a text as pieces of at most `max_length` tokens. A piece begins with the last token of the one before,
    which predicts its second: so each token except the text's first is learnt once, and the end of text in the last
    piece. Pieces of one token would teach nothing.
    """
    ids = example.input_ids
    pieces = []
    for start in range(0, max(1, len(ids) - 1), max(1, max_length - 1)):
        end = start + max_length
        labels = [IGNORED, *example.labels[start + 1 : end]]
        stop = example.stop if end >= len(ids) else None
        pieces.append(replace(example, input_ids=ids[start:end], labels=labels, stop=stop, contents=()))
    return pieces


def cut_example(example: Example, max_length: int) -> Example | None:
    """Return an example of at most `max_length` tokens, without a stop token if that was cut off; None if nothing is
    learnt.
    """
    # The first token has no predecessor to predict it.
    labels = [IGNORED, *example.labels[1:max_length]]
    if all(label == IGNORED for label in labels):
        return None
    learnt_to = max(place for place, label in enumerate(example.labels) if label != IGNORED)
    stop = example.stop if learnt_to < max_length else None
    contents = tuple((first, min(last, max_length)) for first, last in example.contents if first < max_length)
    return replace(example, input_ids=example.input_ids[:max_length], labels=labels, stop=stop, contents=contents)


def resolve_loss_on(shape: Shape, loss_on: LearntOn | None) -> LearntOn:
    """Return what the loss is computed on for rows of a shape. Raises PipelineError ("data") if the rows don't allow it."""
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
    with named(FailureReason.DATA, "The rows can't be used: {error}.", ObjectiveError):
        return objectives.resolve_loss_on(loss_on, shape)


#: Keys of a generation config about how it was saved, or where it came from.
_OF_THE_FILE = ("transformers_version", "_from_model_config")


def write_serving(
    out: Path, *, base: Path, tokenizer: Any, rows: Tokenised, own: Mapping[str, bytes] | None = None
) -> None:
    """Write the files in `SERVING_FILES` that apply to the rows into `out`. Equal rows over an equal base give equal bytes.

    `chat_template.jinja` is the template that rendered conversations. `generation_config.json` has the settings of the
    base, and every token at which generation stops; not for a classification. `rendering.json` is the corresponding
    part of the version's record. `own` are the files of a tokenizer that has other tokens than the base's.
    """
    for name, content in (own or {}).items():
        (out / name).write_bytes(content)
    if rows.template is not None:
        (out / TEMPLATE_FILE).write_bytes(rows.template.encode("utf-8"))
    if rows.shape != "text-label":
        generation = {**_settings(base), "eos_token_id": all_stops(base, tokenizer, rows.rendering.stop_ids)}
        generation.setdefault("pad_token_id", tokenizer.pad_token_id)
        (out / GENERATION_FILE).write_bytes(canonical_json(generation))
    (out / RENDERING_FILE).write_bytes(rows.rendering.canonical())


def _settings(base: Path) -> dict[str, Any]:
    """Return the generation settings of a base's author; empty if the file can't be copied as it is."""
    found = read_object(base / GENERATION_FILE) or {}
    kept = {name: value for name, value in found.items() if name not in _OF_THE_FILE}
    try:
        canonical_json(kept)
    except (ValueError, RecursionError):
        return {}
    return kept
