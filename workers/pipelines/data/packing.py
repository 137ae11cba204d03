"""Several rows in one sequence, without padding: packed by best fit, and separated by the positions of their tokens.

>>> best_fit([5, 4, 3, 2], 7)
[[0, 3], [1, 2]]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from workers.pipelines.data.batches import micro_batches
from workers.pipelines.data.examples import IGNORED
from workers.pipelines.data.objective import Batch, TokenLosses
from workers.pipelines.model.device import is_out_of_memory
from workers.pipelines.model.rotary import follows_each_length, parts

#: The losses of rows, packed and alone, may differ by this many roundings of the largest.
_ROUNDINGS = 16
#: And by this many if other tokens go through the same experts.
_BESIDE = 4
#: Kinds of layers that compute the same wherever a row is in a sequence. Others attend in chunks or to chosen keys, or
#: do something only beyond two short rows: Llama 4 scales queries by their place in the whole sequence, in steps of
#: 8192.
_ALIKE_ANYWHERE = frozenset({"full_attention", "sliding_attention"})


def best_fit(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Return which of these lengths, the longest first, share a bin of `room`: each goes where it leaves the least room.

    A length above `room` has a bin of its own. Best-fit decreasing needs at most 11/9 of the fewest bins, plus one.
    """
    packs: list[list[int]] = []
    left: list[int] = []
    for number, length in enumerate(lengths):
        fits = [pack for pack, free in enumerate(left) if free >= length]
        if fits:
            best = min(fits, key=lambda pack: left[pack])
            packs[best].append(number)
            left[best] -= length
        else:
            packs.append([number])
            left.append(room - length)
    return packs


def packed(batch: Batch, room: int, turns: int | None = None) -> Iterator[Batch]:
    """Yield the rows of a batch, the longest first, in sequences of up to `room` tokens: input_ids, labels, and
    position_ids if there are several rows, each (1, tokens), as are the numbers of rows, if the batch has them. Rows of `turns` tokens or more don't share a sequence with
    shorter ones (see `turns_at`).

    The first token of a row is not learnt, as for a row alone.
    """
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    alike = [range(len(lengths))[chosen] for chosen in parts(lengths, len(lengths), turns)]
    for rows in (
        [some[row] for row in pack] for some in alike for pack in best_fit([lengths[row] for row in some], room)
    ):
        beside = [(row, lengths[row]) for row in rows]
        joined = {
            name: torch.cat([batch[name][row, :length] for row, length in beside])[None]
            for name in ("input_ids", "labels")
        }
        if len(beside) > 1:
            joined["position_ids"] = torch.cat([torch.arange(length) for _, length in beside])[None].to(
                joined["input_ids"].device
            )
            joined["labels"] = joined["labels"].masked_fill(joined["position_ids"] == 0, IGNORED)
        if "row" in batch:
            joined["row"] = torch.cat([batch["row"][row].expand(length) for row, length in beside])[None]
        yield joined


def keeps_apart(model: Any, batch: Batch, losses: TokenLosses, rounding: float, *, experts: bool = False) -> bool:
    """Whether a model has the same losses for the first two rows of a batch in one sequence as for each alone.

    Anything that leaks from the first row into the second would change with it: with another first row, the second
    row's losses must be the same bit by bit. Only experts multiply its tokens together with others, so there they may
    differ by roundings. Also False if the config names layers that two short rows can't test, or frequencies that
    depend on the length of a sequence.
    """
    if follows_each_length(model) or not _ALIKE_ANYWHERE.issuperset(
        getattr(model.config.get_text_config(), "layer_types", None) or ()
    ):
        return False
    was = model.training
    model.eval()
    pair = {name: tensor[:2] for name, tensor in batch.items()}
    other = {**pair, "input_ids": pair["input_ids"].clone()}
    other["input_ids"][0] = (pair["input_ids"][0] + 1) % (pair["input_ids"].max() + 1)
    room = int(pair["attention_mask"].sum())
    try:
        with torch.no_grad():
            alone = torch.cat([losses(model, row)[0] for row in micro_batches(pair, 1)])
            together, moved = (losses(model, next(packed(each, room)))[0] for each in (pair, other))
    except Exception as error:
        # It takes no positions, or positions of another shape.
        if is_out_of_memory(error):
            raise
        return False
    finally:
        model.train(was)
    second = int((pair["labels"][1, 1:] != IGNORED).sum())
    largest = max(1.0, float(alone.abs().max()))
    leak = float((together - moved)[-second:].abs().max())
    allowed = _BESIDE * rounding * largest if experts else 0.0
    return leak <= allowed and float((together - alone).abs().max()) <= _ROUNDINGS * rounding * largest


def computed(
    lengths: Sequence[int], *, batch: int, rows: int, room: int, linear: int, attention: int, masked: bool = True
) -> tuple[float, float]:
    """Return the cost of passes over rows, sorted into passes of `rows` rows each, and packed into `room` tokens.

    A step has `batch` rows, in the given order. A token costs the `linear` numbers that it is multiplied by, and
    `attention` ones for each token that it attends to: all of its sequence if packed rows are separated by a mask
    (`masked`), and half of its row otherwise.
    """
    apart = together = 0.0
    for start in range(0, len(lengths), batch):
        step = sorted(lengths[start : start + batch], reverse=True)
        for at in range(0, len(step), rows):
            apart += step[at] * len(step[at : at + rows]) * (linear + attention * step[at] / 2)
        for pack in best_fit(step, room):
            tokens = sum(step[row] for row in pack)
            under_mask = masked and len(pack) > 1
            held_against = tokens**2 if under_mask else sum(step[row] ** 2 for row in pack) / 2
            together += tokens * linear + attention * held_against
    return apart, together
