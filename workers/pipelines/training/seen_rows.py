"""The first rows that the steps of a training take, as text: made from the tokens and labels that batches are made of, so that
no other way of rendering or cutting can show something else.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from sdk.formats.cut_texts import storable
from sdk.schemas.training_rows import (
    MOST_MEMBER_BYTES,
    MOST_SEEN_BYTES,
    MOST_SEEN_ROWS,
    SeenPiece,
    SeenText,
    TrainingRows,
)
from workers.pipelines.data.decoded import Decoded
from workers.pipelines.data.examples import Example, learnt_runs
from workers.pipelines.training.inputs import Inputs
from workers.pipelines.training.loop import shuffled

#: How many tokens of a text are shown at most; fewer if the whole record would be too long otherwise.
_SHOWN_TOKENS = (1024, 512, 256, 128, 64, 32)
#: No character takes more tokens than bytes.
_CHARACTER_TOKENS = 4
#: Parts of a piece that are marked at most: the others aren't shown.
_MOST_PARTS = 256
_ANSWERS: tuple[Literal["chosen"], Literal["rejected"]] = ("chosen", "rejected")


def first_rows(given: Inputs) -> TrainingRows:
    """Return the first rows that the steps of a training take in its first epoch, as far as they fit the record."""
    most_bytes = MOST_SEEN_BYTES if given.order.sweep is None else MOST_MEMBER_BYTES
    taken = list(_taken(given))
    where = _places(given, [example.row for _, examples in taken for example in examples])
    for most in _SHOWN_TOKENS:
        found = TrainingRows(
            loss_on=given.rows.loss_on,
            rows=given.training_rows,
            texts=[text for step, examples in taken for text in _texts(given, step, examples, where, most)],
        )
        if _size(found) <= most_bytes:
            return found
    while len(found.texts) > given.objective.sequences and _size(found) > most_bytes:
        # Both answers of a row, or none.
        found = found.model_copy(update={"texts": found.texts[: -given.objective.sequences]})
    return found


def seen_by(rows: TrainingRows, steps: int) -> TrainingRows:
    """Return those rows that were taken by the first steps, of which there is at least one."""
    return rows.model_copy(update={"texts": [text for text in rows.texts if text.step <= steps]})


def _size(rows: TrainingRows) -> int:
    return len(rows.model_dump_json().encode())


def _taken(given: Inputs) -> Iterator[tuple[int, list[Example]]]:
    """Yield the step, from 1, and the examples of each of the first rows."""
    spec, sequences, left = given.spec, given.objective.sequences, min(MOST_SEEN_ROWS, given.training_rows)
    order = shuffled(given.training_rows, batch=spec.effective_batch, seed=spec.seed)
    for step, batch in enumerate(itertools.islice(order, given.schedule.total_steps), start=1):
        for row in batch[:left]:
            yield step, list(given.rows.examples[row * sequences : (row + 1) * sequences])
        left -= len(batch)
        if left <= 0:
            return


def _places(given: Inputs, numbers: Sequence[int]) -> dict[int, str]:
    """Return how messages refer to rows with these numbers; the files are read up to the last of them."""
    wanted, last = set(numbers), max(numbers)
    rows = itertools.islice(given.learnt, last + 1)
    return {number: row.where for number, row in enumerate(rows) if number in wanted}


def _texts(
    given: Inputs, step: int, examples: Sequence[Example], where: dict[int, str], most: int
) -> Iterator[SeenText]:
    for at, example in enumerate(examples):
        of_label: dict[str, Any] = {}
        if given.classes is not None:
            of_label = {"label": storable(given.classes.names[example.labels[0]]), "supervised_tokens": 1}
        yield SeenText(
            **{
                "where": where[example.row][:400],
                "step": step,
                "tokens": len(example.input_ids),
                "supervised_tokens": example.supervised_tokens,
                "pieces": _pieces(example, given.tokenizer, most, labelled=given.classes is not None),
                "stop": _token(given.tokenizer, example.stop),
                "answer": _ANSWERS[at] if len(examples) == len(_ANSWERS) else None,
                "desirable": example.desirable,
                **of_label,
            }
        )


def _token(tokenizer: Any, token: int | None) -> str | None:
    return None if token is None else storable(str(tokenizer.convert_ids_to_tokens(token)))[:400]


def _pieces(example: Example, tokenizer: Any, most: int, *, labelled: bool) -> list[SeenPiece]:
    """Return up to `most` tokens of an example as text: its beginning, and what is around the first token that is learnt."""
    runs = [] if labelled else list(learnt_runs(example.labels))
    length = len(example.input_ids)
    if length <= most:
        ranges = [(0, length)]
    else:
        head = most // 4
        # A long text that is learnt from its beginning has only one piece.
        first = runs[0][0] if runs else 0
        begin = min(first - head // 2, length - (most - head))
        ranges = [(0, most)] if begin <= head else [(0, head), (begin, begin + most - head)]
    whole = [_of_whole_characters(example.input_ids, each, tokenizer) for each in ranges]
    return [_piece(example.input_ids, each, runs, tokenizer) for each in whole]


def _of_whole_characters(ids: Sequence[int], tokens: tuple[int, int], tokenizer: Any) -> tuple[int, int]:
    """Return [first, last) with the tokens before and after that belong to the same characters."""
    first, last = tokens
    earliest, latest = max(0, first - _CHARACTER_TOKENS), min(len(ids), last + _CHARACTER_TOKENS)
    while first > earliest and Decoded(ids[first : first + _CHARACTER_TOKENS], tokenizer).text.startswith("\ufffd"):
        first -= 1
    while last < latest and Decoded(ids[first:last], tokenizer).text.endswith("\ufffd"):
        last += 1
    return first, last


def _piece(ids: Sequence[int], tokens: tuple[int, int], runs: Sequence[tuple[int, int]], tokenizer: Any) -> SeenPiece:
    first, last = tokens
    inside = [(max(begin, first), min(end, last)) for begin, end in runs if begin < last and end > first]
    if len(inside) > _MOST_PARTS:
        # Finding where each begins takes as long as the piece is.
        last, inside = inside[_MOST_PARTS][0], inside[:_MOST_PARTS]
    found = Decoded(ids[first:last], tokenizer)
    spans: list[list[int]] = []
    for begin, end in inside:
        start, stop = found.start(begin - first), found.end(end - first)
        if spans and start < spans[-1][1]:
            # Both end inside the same character.
            start = spans[-1][1]
        if start < stop:
            spans.append([start, stop])
    return SeenPiece(first_token=first, tokens=last - first, text=storable(found.text), supervised=spans)
