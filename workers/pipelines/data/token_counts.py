"""How many tokens rows have, and how many of them a cut removes: `python -m workers.pipelines.data.token_counts`.

Rows become tokens through the same code as a training's rows; one is in memory at a time.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from sdk.formats.columns import parse_columns
from sdk.formats.rows import BadRow, Row, RowsError, judge_rows
from sdk.rows.data_files import file_values
from sdk.schemas.data_audit import AuditExample, LengthBucket, TokenCountRequest, TokenCounts
from sdk.schemas.failures import FailureReason
from workers.pipelines.data.added_tokens import extend_tokenizer
from workers.pipelines.data.answering import answer_about
from workers.pipelines.data.conversation import RowRefused
from workers.pipelines.data.encoding import Encoder
from workers.pipelines.data.examples import ExampleMaker
from workers.pipelines.data.template_choice import choose_template
from workers.pipelines.data.tokenise import kept_of_row, resolve_loss_on
from workers.pipelines.data.tokenizer import configured_stops, load_tokenizer, longest_row
from workers.pipelines.errors import named

#: Memory besides the libraries; TRL's, which some templates need, are loaded later.
_SPARE_BYTES = 4 * 1024**3


class _Texts(NamedTuple):
    """The texts of a row."""

    #: The number of tokens of each.
    tokens: list[int]
    #: The supervised tokens in what is kept of all of them; 0 if the row is dropped.
    supervised_tokens: int


def count_tokens(request: TokenCountRequest) -> TokenCounts:
    """Return the counts of tokens for the requested rows. Raises PipelineError ("base", "data", "spec")."""
    base = Path(request.base)
    max_length = longest_row(base, request.max_length)
    texts_of: Callable[[Row], _Texts] | None = None
    encoder: Encoder | None = None
    lengths: Counter[int] = Counter()
    longest = rows = tokens = supervised = cut = lost = dropped = split = refused = 0
    refusals: list[AuditExample] = []
    too_long: list[AuditExample] = []
    for row in _sampled(request):
        if texts_of is None:
            texts_of, encoder = _maker(row, request, base, max_length)
        try:
            texts = texts_of(row)
        except RowRefused as error:
            refused += 1
            if len(refusals) < request.examples:
                refusals.append(AuditExample(rows=[row.where], detail=str(error)))
            continue
        length = max(texts.tokens)
        beyond = 0 if row.shape == "text" else sum(max(0, each - max_length) for each in texts.tokens)
        rows += 1
        lengths[max(0, length - 1).bit_length()] += 1
        longest = max(longest, length)
        tokens += sum(texts.tokens)
        supervised += texts.supervised_tokens
        split += row.shape == "text" and length > max_length
        dropped += not texts.supervised_tokens
        cut += beyond > 0
        lost += beyond
        if beyond and len(too_long) < request.examples:
            too_long.append(AuditExample(rows=[row.where], detail=f"is {length} tokens long, {beyond} more than fit"))
    return TokenCounts(
        rows=rows,
        of_rows=request.of_rows,
        max_length=max_length,
        tokens=tokens,
        supervised_tokens=supervised,
        longest=longest,
        rows_cut=cut,
        tokens_lost=lost,
        rows_dropped=dropped,
        rows_split=split,
        lengths=[LengthBucket(up_to=1 << power, rows=count) for power, count in sorted(lengths.items())],
        refusals=refusals,
        rows_refused=refused,
        too_long=too_long,
        had_special={} if encoder is None else encoder.had_already(),
    )


def _sampled(request: TokenCountRequest) -> Iterator[Row]:
    """Yield the usable rows to be counted: all, or as many as requested, spread evenly over the file."""
    keys = None if request.columns is None else parse_columns(request.columns)
    sample = min(request.sample, request.of_rows)
    number = taken = 0
    with named(FailureReason.DATA, "{error}", RowsError):
        for row in judge_rows(file_values(Path(request.data), keys), columns=keys, group_by=request.group_by):
            if isinstance(row, BadRow):
                continue
            # The n-th row of the sample is at n · of_rows / sample.
            if taken < sample and number >= taken * request.of_rows // sample:
                taken += 1
                yield row
            number += 1


def _maker(
    first: Row, request: TokenCountRequest, base: Path, max_length: int
) -> tuple[Callable[[Row], _Texts], Encoder]:
    """Return a function that makes texts from rows with the shape of the first one, and what encodes them."""
    if first.shape == "text-label":
        plain = load_tokenizer(base, ends=False)
        extend_tokenizer(plain, request.added)
        labels = Encoder(plain)

        def labelled(row: Row) -> _Texts:
            ids = labels.whole(row.fields["text"])
            labels.note_row()
            return _Texts([len(ids)], 1)

        return labelled, labels
    loss_on = resolve_loss_on(first.shape, request.loss_on)
    tokenizer: Any = load_tokenizer(base)
    extend_tokenizer(tokenizer, request.added)
    day = date.fromisoformat(request.day)
    choose_template(tokenizer, request, day)
    maker = ExampleMaker(tokenizer, loss_on, day, configured_stops(base))

    def made(row: Row) -> _Texts:
        examples = maker.examples(row)
        kept = kept_of_row(examples, row.shape, max_length, split_texts=True)
        return _Texts([len(each.input_ids) for each in examples], sum(each.supervised_tokens for each in kept))

    return made, maker.encoder


if __name__ == "__main__":
    sys.exit(
        answer_about(
            TokenCountRequest,
            count_tokens,
            data=lambda request: request.data,
            spare_bytes=lambda _size_bytes: _SPARE_BYTES,
            processor_s=lambda size_bytes: 1200 + size_bytes // 100_000,
        )
    )
