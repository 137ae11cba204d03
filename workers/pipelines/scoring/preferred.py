"""How a version rates preferences, compared with its base."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection
from typing import Any

from peft import PeftModel

from sdk.formats.peft_unusable import changes_base
from sdk.schemas.evaluation import MOST_SCORE
from workers.pipelines.data.batches import example_losses, longest_first
from workers.pipelines.data.preferences import Pair, judged, preference_scores
from workers.pipelines.data.tokenise import Tokenised
from workers.pipelines.model.device import Device
from workers.pipelines.scoring.row_scores import RowScores


def preferred_by(
    model: Any, rows: Tokenised, pad_id: int, batch_size: int, device: Device, scored: RowScores
) -> dict[str, float]:
    """Return the loss of rejected answers, and how much more an adapter prefers the chosen ones than its base; empty
    for other rows.

    For a bare base, and for an adapter that began by changing its base, there is nothing to compare with. Each score is
    over the rows for which it can be computed; those on which it failed are added to `scored`, and a score that failed
    on all is left out.
    """
    if rows.shape != "preference":
        return {}
    how = (pad_id, batch_size, device.torch_device)
    if not isinstance(model, PeftModel) or any(
        changes_base(config.init_lora_weights) for config in model.peft_config.values()
    ):
        rejected = list(itertools.chain.from_iterable(example_losses(model, rows.examples[1::2], *how)))
        good = [(example, loss) for example, loss in rejected if abs(loss) <= MOST_SCORE]
        scored.add_failed(["rejected_loss"], _others(rows, {example.row for example, _ in good}), len(good))
        tokens = sum(example.supervised_tokens for example, _ in good)
        return {"rejected_loss": math.fsum(loss for _, loss in good) / tokens} if good else {}
    pairs = itertools.chain.from_iterable(judged(model, rows.examples, *how))
    order = longest_first(rows.examples, 2)
    judged_rows = {rows.examples[2 * at].row: pair for at, pair in zip(order, pairs, strict=True)}
    found: dict[str, float] = {}
    for names, can_be in (
        (("rejected_loss",), _has_rejected),
        (("preference_accuracy", "preference_margin"), _has_both),
    ):
        of = {row: pair for row, pair in judged_rows.items() if can_be(pair)}
        scored.add_failed(names, _others(rows, of), len(of))
        if of:
            scores = preference_scores(list(of.values()))
            found |= {name: scores[name] for name in names}
    return found


def _has_rejected(pair: Pair) -> bool:
    return abs(pair.rejected + pair.rejected_ratio) <= MOST_SCORE


def _has_both(pair: Pair) -> bool:
    return _has_rejected(pair) and abs(pair.chosen + pair.chosen_ratio) <= MOST_SCORE


def _others(rows: Tokenised, having: Collection[int]) -> list[int]:
    """The numbers of the rows that are not among these."""
    return [example.row for example in rows.examples[::2] if example.row not in having]
