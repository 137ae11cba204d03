"""What an objective must answer: how rows become batches, what is minimised, and what held-out rows are scored by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sdk.formats.objectives import OBJECTIVES, ObjectiveTraits
from workers.pipelines.data.examples import Example

#: `input_ids` and `labels` of an example; `desirable`, 0 or 1, of those that say it.
Tokens = dict[str, list[int]]
#: Tensors by name, of int64: input_ids, attention_mask, labels and position_ids are (batch, seq), labels of whole rows, `desirable`
#: and the numbers of rows, `row`, (batch,).
Batch = dict[str, Any]
#: From a model and a batch to the loss of each supervised token in nats, (supervised,) in float32, and the tokens' places.
TokenLosses = Callable[[Any, Batch], tuple[Any, Any]]


@dataclass(frozen=True)
class Passes:
    """How the batch of a step goes through a model."""

    #: Yields the parts of a batch, whose longest row comes first and whose rows have several sequences each.
    parts: Callable[[Batch, int], Iterator[Batch]]
    losses: TokenLosses
    #: Decides what is drawn for the step.
    seed: int = 0


@dataclass(frozen=True)
class Look:
    """A look at held-out rows."""

    model: Any
    examples: Sequence[Example]
    pad_id: int
    #: Rows in one forward pass.
    rows: int
    device: Any
    losses: TokenLosses
    #: Is told how many rows have been scored.
    done: Callable[[int], None] = lambda count: None
    #: What a reference is: "base" or "parent".
    reference: str = "base"
    seed: int = 0


@dataclass(frozen=True)
class HeldOut:
    """What a look found."""

    #: By name; "loss" is the one that is minimised.
    scores: dict[str, float]
    #: The loss of each row, the longest first, and what it weighs: their sums' ratio is the loss of all.
    losses: list[float]
    weights: list[float]


def _anything(examples: Sequence[Example]) -> None:
    """Take any rows."""


@dataclass(frozen=True)
class Objective:
    """What is learnt from rows: how they become a batch, what is minimised, and how held-out ones are scored.

    The loss of a step is a mean over it, whatever the parts in which it is computed: `of_step` says what their losses are
    divided by, and `loss` gives each part's share.
    """

    #: The name in a spec.
    name: str
    #: Makes a batch from examples, padded with a token; the longest comes first.
    collate: Callable[[Sequence[Tokens], int], Batch]
    #: From a model, the batch of a whole step and its passes to what `loss` must know of the step.
    of_step: Callable[[Any, Batch, Passes], Any]
    #: From a model, a part of a batch, what `of_step` returned and a function for the losses of tokens to the part's share of
    #: the step's mean loss, a float32 scalar with its graph.
    loss: Callable[[Any, Batch, Any, TokenLosses], Any]
    #: Scores held-out rows.
    scores: Callable[[Look], HeldOut]
    #: All logits of a model for a batch.
    logits: Callable[[Any, Batch], Any]
    #: Raises PipelineError ("data") for rows from which nothing can be learnt.
    require: Callable[[Sequence[Example]], None] = _anything

    @property
    def traits(self) -> ObjectiveTraits:
        """What it is besides: whether it has a reference and pairs, and what drops nothing."""
        return OBJECTIVES[self.name]

    @property
    def sequences(self) -> int:
        """Examples per row, one after the other."""
        return self.traits.sequences
