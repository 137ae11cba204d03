"""Rows as a training would learn them, in a process of its own: `python -m workers.pipelines.data.preview`.

Standard input is a `PreviewRequest`; the last line of standard output is a `Preview`, or `{"refused", "reason"}` with a
sentence. The rows go through the same code as a training's rows, and what is shown is made from its tokens and labels.
Only a tokenizer is loaded. It and its template may be untrusted, so the process has limits, and no network if the
system allows that.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from sdk.formats.objectives import objective_of
from sdk.schemas.failures import FailureReason
from sdk.schemas.preview import Preview, PreviewRequest, PreviewText, PreviewTotals
from sdk.schemas.version_records import SpecialTokens
from workers.pipelines.data.added_tokens import extend_tokenizer
from workers.pipelines.data.answering import answer_about
from workers.pipelines.data.conversation import RowRefused
from workers.pipelines.data.decoded import Decoded
from workers.pipelines.data.encoding import Encoder
from workers.pipelines.data.examples import Example, ExampleMaker, learnt_runs
from workers.pipelines.data.label_rows import class_names, label_rows, pad_token_id, refuse_loss_on
from workers.pipelines.data.rows import Row, read_split
from workers.pipelines.data.template_choice import choose_template, require_rendered
from workers.pipelines.data.tokenise import (
    Tokenised,
    cut_example,
    require_usable,
    resolve_loss_on,
    split_text,
    tokenise,
)
from workers.pipelines.data.tokenizer import configured_stops, load_tokenizer, longest_row
from workers.pipelines.errors import PipelineError, named
from workers.pipelines.orders import Host, PreviewOrder

#: A file with more rows is not counted: each conversation is rendered several times, which takes milliseconds.
_MOST_COUNTED_ROWS = 2_000
#: Memory besides the libraries; TRL's, which some templates need, are loaded later.
_SPARE_BYTES = 4 * 1024**3
#: How much memory Python needs per byte of a dataset, rendered and as tokens.
_BYTES_PER_BYTE = 50


def preview(request: PreviewRequest) -> Preview:
    """Return what a training would learn from the requested rows; nothing for a row past the last one.

    Raises PipelineError ("base", "data") as the training would, with the rows and keys named.
    """
    base, day = Path(request.base), date.fromisoformat(request.day)
    # A training doesn't learn held-out rows.
    rows = list(read_split(Path(request.data), request.hold_out, columns=request.columns).training)
    if (shape := rows[0].shape) == "text-label":
        return _of_labels(request, rows)
    loss_on = resolve_loss_on(shape, request.loss_on)
    assert shape != "choices"  # nothing is learnt of these
    assert shape != "references"
    tokenizer = load_tokenizer(base)
    extend_tokenizer(tokenizer, request.added)
    choose_template(tokenizer, request, day)
    max_length, stops = longest_row(base, request.max_length), configured_stops(base)
    special_tokens = request.special_tokens or "once"
    chosen = list(enumerate(rows, start=1))
    chosen = chosen[: request.rows] if request.row is None else chosen[request.row - 1 : request.row]
    totals = None
    if len(rows) <= _MOST_COUNTED_ROWS:
        how: dict[str, Any] = {"max_length": max_length, "day": day, "stop_ids": stops, "split_texts": True}
        found = tokenise(rows, tokenizer, loss_on=loss_on, special_tokens=special_tokens, **how)
        totals = _totals(found)
    maker = ExampleMaker(tokenizer, loss_on, day, stops, special_tokens)
    made = _made(maker, chosen, max_length)
    require_rendered(maker.template, request)
    rendering = maker.rendering([example for _, _, example in made]) if totals is None else found.rendering
    return Preview(
        shape=shape,
        objective=objective_of(shape),
        loss_on=loss_on,
        max_length=max_length,
        file_rows=len(rows),
        totals=totals,
        rendering=rendering.model_copy(update={"columns": request.columns}),
        had_special=maker.encoder.had_already() if totals is None else found.had_special,
        template=maker.template,
        rows=[shown_text(number, row.where, example, tokenizer, max_length) for number, row, example in made],
    )


def carry_out(order: PreviewOrder, host: Host) -> Preview:
    """Return what a training would learn from the rows."""
    del host
    found = preview(order.asked)
    if not found.rows:
        raise PipelineError(
            FailureReason.DATA,
            f"the dataset has {found.file_rows} rows and no row {order.asked.row}; give one from 1 to {found.file_rows}",
        )
    return found


def _of_labels(request: PreviewRequest, rows: Sequence[Row]) -> Preview:
    """Return what a classification would get from rows, using the training's own code."""
    base = Path(request.base)
    refuse_loss_on(request.loss_on)
    names = class_names(rows)
    tokenizer = load_tokenizer(base, ends=False)
    extend_tokenizer(tokenizer, request.added)
    pad_token_id(_config(base), tokenizer)
    max_length = longest_row(base, request.max_length)
    first = 0 if request.row is None else request.row - 1
    chosen = rows[first : request.rows if request.row is None else request.row]
    counted = len(rows) <= _MOST_COUNTED_ROWS
    special_tokens = request.special_tokens or "once"
    found = label_rows(
        rows if counted else chosen, tokenizer, names, max_length=max_length, special_tokens=special_tokens
    )
    shown = found.examples[first : first + len(chosen)] if counted else found.examples
    return Preview(
        shape="text-label",
        objective=objective_of("text-label"),
        loss_on="label",
        labels=list(names),
        max_length=max_length,
        file_rows=len(rows),
        totals=_totals(found) if counted else None,
        rendering=found.rendering.model_copy(update={"columns": request.columns}),
        had_special=found.had_special,
        rows=[
            _shown_label(number, row, example, tokenizer, special_tokens)
            for number, (row, example) in enumerate(zip(chosen, shown, strict=True), start=first + 1)
        ],
    )


def _config(base: Path) -> Any:
    from transformers import AutoConfig

    said = "The base's config can't be used ({first}); choose another base."
    with named(FailureReason.BASE, said, OSError, ValueError, KeyError, TypeError):
        return AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False)


def _totals(found: Tokenised) -> PreviewTotals:
    return PreviewTotals(
        samples=len(found.examples),
        tokens=found.tokens,
        supervised_tokens=found.supervised_tokens,
        rows_cut=found.cut,
        rows_dropped=found.dropped,
    )


def _shown_label(number: int, row: Row, example: Example, tokenizer: Any, special_tokens: SpecialTokens) -> PreviewText:
    whole, kept = Encoder(tokenizer, special_tokens).whole(example.prompt), example.input_ids
    while whole and whole[-1] == tokenizer.pad_token_id:
        # The model gets none of it.
        whole.pop()
    same = next((at for at, (one, other) in enumerate(zip(whole, kept, strict=False)) if one != other), len(kept))
    own = tokenizer(example.prompt, add_special_tokens=False, return_offsets_mapping=True)
    ids = list(own["input_ids"])
    first = next((at for at in range(len(whole)) if whole[at : at + len(ids)] == ids), 0)
    return PreviewText(
        row=number,
        where=row.where,
        text=str(tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)),
        tokens=len(kept),
        supervised_tokens=1,
        supervised=[],
        supervised_text="",
        stop=None,
        cut_tokens=len(whole) - len(kept),
        cut_text=example.prompt[own["offset_mapping"][same - first][0] :] if len(kept) < len(whole) else "",
        method=None,
        label=example.reference,
    )


def _made(maker: ExampleMaker, chosen: Sequence[tuple[int, Row]], max_length: int) -> list[tuple[int, Row, Example]]:
    made, refused = [], []
    for number, row in chosen:
        try:
            texts = maker.examples(row)
            if row.shape == "text":
                texts = [piece for text in texts for piece in split_text(text, max_length)]
            made += [(number, row, example) for example in texts]
        except RowRefused as error:
            refused.append((row.where, str(error)))
    require_usable(refused, len(chosen))
    return made


def shown_text(row: int, where: str, example: Example, tokenizer: Any, max_length: int) -> PreviewText:
    """Return an example as text, with the parts that are still learnt after the cut at `max_length` tokens."""
    whole = Decoded(example.input_ids, tokenizer)
    kept = cut_example(example, max_length)
    tokens = min(len(example.input_ids), max_length)
    end = whole.end(tokens)
    spans = [] if kept is None else [[whole.start(first), whole.end(last)] for first, last in learnt_runs(kept.labels)]
    return PreviewText(
        row=row,
        where=where,
        text=whole.text[:end],
        tokens=tokens,
        supervised_tokens=0 if kept is None else kept.supervised_tokens,
        supervised=spans,
        supervised_text="".join(whole.text[first:last] for first, last in spans),
        stop=None if kept is None or kept.stop is None else str(tokenizer.convert_ids_to_tokens(kept.stop)),
        cut_tokens=len(example.input_ids) - tokens,
        cut_text=whole.text[end:],
        method=example.method,
        desirable=example.desirable,
    )


if __name__ == "__main__":
    sys.exit(
        answer_about(
            PreviewRequest,
            preview,
            data=lambda request: request.data,
            spare_bytes=lambda size_bytes: _SPARE_BYTES + _BYTES_PER_BYTE * size_bytes,
            processor_s=lambda size_bytes: 240 + size_bytes // 1_000_000,
        )
    )
