"""The scores of each row of a dataset, collected from losses and answers, and written to a file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sdk.formats.canonical_json import digest_of
from sdk.formats.cut_texts import cut_text, json_bytes, longest_that_fit
from sdk.schemas.evaluation import (
    COUNTED,
    ENDED_THOUGHT_ROWS,
    LONGER_REFERENCE_ROWS,
    MOST_JOB_ROWS,
    MOST_PREDICTION_BYTES,
    MOST_SCORE,
    MOST_TARGET_ROWS,
    NO_CONTENT_ROWS,
    SHORTENED_PROMPT_ROWS,
    SHORTENED_ROWS,
    UNFINISHED_THOUGHT_ROWS,
    UNSCORED_ROWS,
    RowFile,
    RowScore,
    Unscored,
)
from sdk.schemas.failures import FailureReason
from sdk.schemas.row_file import row_file_name, write_rows
from workers.pipelines.data.digests import file_digest
from workers.pipelines.data.examples import Example, learnt_ends, learnt_runs
from workers.pipelines.errors import PipelineError
from workers.pipelines.scoring.loss_parts import LossParts
from workers.pipelines.scoring.texts import TextScores

#: The most bytes of all predictions in a file.
MOST_TEXT_BYTES = 256 * 1024**2


class Written(NamedTuple):
    """What a model wrote, or the label that it predicted."""

    #: All of it, without blanks around.
    text: str
    #: What of it is scored, if that isn't all of it; and its reasoning, if it has any.
    content: str | None = None
    reasoning: str | None = None


@dataclass
class RowScores:
    """The scores of one target's rows, by their numbers."""

    #: Summed loss in nats, if it is a number that can be stored.
    loss_sums: dict[int, float] = field(default_factory=dict)
    #: Supervised tokens.
    tokens: dict[int, int] = field(default_factory=dict)
    #: Nats on contents and calls, on how many tokens, and nats on what comes after them.
    content_sums: dict[int, float] = field(default_factory=dict)
    content_tokens: dict[int, int] = field(default_factory=dict)
    end_sums: dict[int, float] = field(default_factory=dict)
    #: The bytes of the texts of rows with a loss, without what comes after the contents.
    text_bytes: dict[int, int] = field(default_factory=dict)
    predictions: dict[int, str] = field(default_factory=dict)
    contents: dict[int, str] = field(default_factory=dict)
    reasonings: dict[int, str] = field(default_factory=dict)
    #: The rows' own labels, and the probabilities of the predicted ones.
    expected: dict[int, str] = field(default_factory=dict)
    confidences: dict[int, float] = field(default_factory=dict)
    scores: dict[int, Mapping[str, float]] = field(default_factory=dict)
    #: "loss" or a metric → the rows on which it failed.
    failed: dict[str, list[int]] = field(default_factory=dict)
    #: Metrics without scores by row that failed on some → the number of rows that each is over.
    over: dict[str, int] = field(default_factory=dict)
    #: Rows that can't be scored, and why.
    unscored: Mapping[int, Unscored] = field(default_factory=dict)
    #: How many rows were scored on what was left after cutting.
    shortened: int = 0
    #: How many completions start from a cut prompt.
    shortened_prompts: int = 0
    #: How many answered rows expect more tokens than an answer may have.
    longer_references: int = 0
    #: How many answers begin a thought and don't end it.
    unfinished_thoughts: int = 0
    #: How many thoughts were ended at their limit.
    ended_thoughts: int = 0

    def add_losses(self, losses: Sequence[tuple[Example, float]], advice: str) -> None:
        """Add the summed loss of each example; a row has the sum over its examples. Raises PipelineError, which ends with
        `advice`, if no row has one.
        """
        sums: dict[int, list[float]] = {}
        for example, loss in losses:
            sums.setdefault(example.row, []).append(loss)
            self.tokens[example.row] = self.tokens.get(example.row, 0) + example.supervised_tokens
        found = {row: math.fsum(parts) for row, parts in sums.items()}
        self.loss_sums |= {row: loss for row, loss in found.items() if abs(loss) <= MOST_SCORE}
        if bad := sorted(found.keys() - self.loss_sums.keys()):
            self.failed["loss"] = bad
        if not self.loss_sums:
            raise PipelineError(FailureReason.DIVERGED, f"The loss on these rows is {losses[0][1]}; {advice}.")

    def add_parts(self, parts: Iterable[LossParts]) -> None:
        """Add the losses on parts of the rows that have a loss."""
        for part in parts:
            row = part.example.row
            if row in self.loss_sums and part.example.contents:
                self.content_sums[row] = self.content_sums.get(row, 0.0) + part.content
                self.content_tokens[row] = self.content_tokens.get(row, 0) + part.content_tokens
            if row in self.loss_sums and part.end is not None:
                self.end_sums[row] = self.end_sums.get(row, 0.0) + part.end

    def add_bytes(self, examples: Iterable[Example], tokenizer: Any) -> None:
        """Add the length of the supervised texts of the rows that have a loss."""
        for example in examples:
            if example.row in self.loss_sums:
                size_bytes = supervised_bytes(example, tokenizer)
                self.text_bytes[example.row] = self.text_bytes.get(example.row, 0) + size_bytes

    def add_answers(self, rows: Sequence[int], answers: Sequence[Written], found: TextScores) -> None:
        """Add the generated texts of some rows, and their scores."""
        for row, written in zip(rows, answers, strict=True):
            self.predictions[row] = written.text
            self.contents |= {} if written.content is None else {row: written.content}
            self.reasonings |= {} if written.reasoning is None else {row: written.reasoning}
        self.scores |= dict(zip(rows, found.rows, strict=True))
        self.failed |= {name: sorted(rows[place] for place in places) for name, places in found.failed.items()}

    def add_failed(self, names: Iterable[str], failed: Sequence[int], over: int) -> None:
        """Add the rows on which metrics without scores by row failed, and the number of the others."""
        for name in names if failed else ():
            self.failed[name], self.over[name] = sorted(failed), over

    @property
    def supervised_tokens(self) -> int:
        """The supervised tokens of rows with a loss."""
        return sum(self.tokens[row] for row in self.loss_sums)

    @property
    def mean_loss(self) -> float:
        """Nats per supervised token, each token counted once; NaN if no row has a loss."""
        return math.fsum(self.loss_sums.values()) / self.supervised_tokens if self.loss_sums else math.nan

    @property
    def failed_rows(self) -> int:
        """The number of rows without a loss, which are not in its mean."""
        return len(self.failed.get("loss", ()))

    def counted(self) -> dict[str, float]:
        """How many rows the loss is over, on how many it failed, how many are scored in part or not at all, and for
        each metric that failed on some, how many rows it is over.
        """
        over = {
            f"{name}{COUNTED}": float(self.over.get(name, sum(name in scores for scores in self.scores.values())))
            for name in self.failed
            if name != "loss"
        }
        rows = {"rows": float(len(self.loss_sums)), "failed_rows": float(self.failed_rows)}
        counts = {UNFINISHED_THOUGHT_ROWS: self.unfinished_thoughts, ENDED_THOUGHT_ROWS: self.ended_thoughts}
        thoughts = {name: float(count) for name, count in counts.items() if count}
        return {**rows, **self.long, **thoughts, **over}

    @property
    def long(self) -> dict[str, float]:
        """The numbers of rows scored in part or not at all, of cut prompts, and of references longer than any answer; those
        that are not 0. They are known before anything is scored.

        >>> RowScores(shortened=1).long
        {'shortened_rows': 1.0}
        """
        counts = {
            UNSCORED_ROWS: len(self.unscored),
            NO_CONTENT_ROWS: sum(why == "no_content" for why in self.unscored.values()),
            SHORTENED_ROWS: self.shortened,
            SHORTENED_PROMPT_ROWS: self.shortened_prompts,
            LONGER_REFERENCE_ROWS: self.longer_references,
        }
        return {name: float(count) for name, count in counts.items() if count}

    def failed_digests(self) -> dict[str, str]:
        """`Conditions.failed`: means over other rows can't be compared."""
        return {name: digest_of(rows) for name, rows in self.failed.items()}

    def rows(self, *, texts: bool) -> list[RowScore]:
        """Return the scores in the order of the rows, with predictions and labels if `texts`."""
        found = [
            RowScore(
                row=row,
                loss_sum=self.loss_sums.get(row),
                tokens=tokens,
                content_loss_sum=self.content_sums.get(row),
                content_tokens=self.content_tokens.get(row),
                end_loss=self.end_sums.get(row),
                text_bytes=self.text_bytes.get(row),
                prediction=_writable(self.predictions.get(row)) if texts else None,
                content=_writable(self.contents.get(row)) if texts else None,
                reasoning=_writable(self.reasonings.get(row)) if texts else None,
                expected=_writable(self.expected.get(row)) if texts else None,
                confidence=self.confidences.get(row),
                scores=dict(self.scores.get(row, {})),
            )
            for row, tokens in self.tokens.items()
        ]
        found += [RowScore(row=row, unscored=why) for row, why in self.unscored.items()]
        return sorted(found, key=lambda each: each.row)


def require_few_rows(rows: Sized, most: int) -> None:
    """Raise PipelineError ("data") for more rows of one target than a registry stores, before any is scored."""
    if len(rows) > most:
        raise PipelineError(
            FailureReason.DATA,
            f"There are {len(rows):,} rows, and {most:,} of this target can be scored: a job stores the scores of "
            f"{MOST_TARGET_ROWS:,} rows of a target, and of {MOST_JOB_ROWS:,} of all its targets. Evaluate on fewer rows, or fewer targets.",
        )


def _writable(text: str | None) -> str | None:
    """Half a surrogate pair, which a label may contain, can't be written as UTF-8."""
    return None if text is None else text.encode("utf-8", "replace").decode()


def store_rows(folder: Path, rows: Sequence[RowScore]) -> tuple[RowFile, int]:
    """Write rows to a file in `folder` named by its digest; also return how many predictions were too long and were cut."""
    kept, cut = _within(rows, MOST_TEXT_BYTES)
    written = folder / "rows.partial"
    with written.open("wb") as file:
        count = write_rows(file, kept)
    digest = file_digest(written)
    size_bytes = written.stat().st_size
    written.rename(folder / row_file_name(digest))
    return RowFile(digest=digest, size_bytes=size_bytes, rows=count), cut


def _within(rows: Sequence[RowScore], most_bytes: int) -> tuple[list[RowScore], int]:
    """Return the rows with their longest texts cut, and how many rows that are."""
    sizes = [json_bytes(text) for row in rows for text in _texts(row).values()]
    share = longest_that_fit(sizes, most_bytes)
    longest = MOST_PREDICTION_BYTES if share is None else min(share, MOST_PREDICTION_BYTES)
    kept = [_cut(row, longest) for row in rows]
    return kept, sum(cut is not row for cut, row in zip(kept, rows, strict=True))


#: A row's texts, and the share of the longest length that each may have: a line of the file has them all.
_SHARES = {"prediction": 1, "content": 2, "reasoning": 2}


def _texts(row: RowScore) -> dict[str, str]:
    return {name: text for name in _SHARES if (text := getattr(row, name)) is not None}


def _cut(row: RowScore, longest: int) -> RowScore:
    cut = {
        name: cut_text(text, longest // _SHARES[name])
        for name, text in _texts(row).items()
        if json_bytes(text) > longest // _SHARES[name]
    }
    return row.model_copy(update=cut) if cut else row


#: How many preceding tokens are decoded together with a text: a character may span several.
_BEFORE = 4


def supervised_bytes(example: Example, tokenizer: Any) -> int:
    """Return the bytes of UTF-8 that the supervised tokens of an example add to the text before them, whatever the
    tokenizer, without what comes after the contents; special tokens add none.
    """
    ids = example.input_ids
    ends = {last: first for first, last in learnt_ends(example)}
    added = 0
    for start, last in learnt_runs(example.labels):
        end = ends.get(last, last)
        first = max(0, start - _BEFORE)
        # An incomplete character counts where it is completed.
        before = _text(ids[first:start], tokenizer).rstrip("\ufffd")
        added += _length(_text(ids[first:end], tokenizer)) - _length(before)
    return added


def _text(ids: Sequence[int], tokenizer: Any) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def _length(text: str) -> int:
    return len(text.encode("utf-8", "replace"))
