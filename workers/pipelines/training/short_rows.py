"""The rows that a model is tested with before it learns: the ends of two, since all their logits are in memory at once."""

from __future__ import annotations

from dataclasses import replace

from workers.pipelines.data.batches import Batch, example_batches, of_sequences
from workers.pipelines.data.examples import IGNORED, Example
from workers.pipelines.data.stored_examples import shortest_of
from workers.pipelines.training.inputs import Inputs

#: Tokens of each row. With a vocabulary of 262,144, two rows of 2,048 tokens would have logits of 4 GB, and as much
#: again without the adapter.
MOST_TOKENS = 32


def short_rows(given: Inputs) -> Batch:
    """Return the two shortest rows as a batch; only their ends if tokens are predicted."""
    rows = shortest_of(given.rows.examples, 2)
    if given.objective.name != "classify":
        rows = [_end_of(row) for row in rows]
    pad_id, place = given.tokenizer.pad_token_id, given.device.torch_device
    return next(example_batches(rows, of_sequences(given.objective), pad_id, 2, place))


def _end_of(example: Example) -> Example:
    """Return some tokens of an example, up to the last supervised one."""
    last = max((at for at, label in enumerate(example.labels) if label != IGNORED), default=len(example.labels) - 1)
    kept = slice(max(0, last + 1 - MOST_TOKENS), last + 1)
    return replace(example, input_ids=example.input_ids[kept], labels=example.labels[kept])
