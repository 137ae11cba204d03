"""Attention over several rows in one sequence: torch's kernel computes each separately, so no mask is needed.

transformers separates packed rows by a mask of all tokens by all tokens, with which attention on a CPU is several times
slower. Here that mask is read once per pass: if each token attends exactly to its own row up to itself, attention needs
only the lengths of the rows. Any other mask is used as it is.

>>> mask = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
>>> row_lengths(mask).tolist()
[2, 1]
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

#: Its name in transformers, next to transformers' own "sdpa".
ROW_ATTENTION = "sdpa_row_by_row"
_PLAIN = "sdpa"
#: Packed rows that attention computes one by one still have a mask of all tokens by all tokens, which separates them:
#: for this many tokens, about 256 MiB without its copies. Longer passes save nothing more.
MOST_MASKED = 8192


def row_lengths(mask: Any) -> Any | None:
    """Return the lengths of the rows that a mask separates, (rows,); None if it means anything else.

    `mask` is (tokens, tokens), true where a token attends to another.
    """
    tokens = len(mask)
    at = torch.arange(tokens, device=mask.device)
    first = mask.view(torch.uint8).argmax(dim=1)
    begins = first == at
    begun = torch.where(begins, at, 0).cummax(dim=0).values
    own = (at >= begun[:, None]) & (at <= at[:, None])
    if not torch.equal(mask, own):
        return None
    starts = begins.nonzero().squeeze(1)
    return torch.diff(starts, append=starts.new_tensor([tokens]))


def take_rows_alone(model: Any, wanted: bool = True) -> bool:
    """Switch a transformers model to attention row by row, or back. Return whether it is switched."""
    said = model.config.get_text_config()._attn_implementation
    if said not in (_PLAIN, ROW_ATTENTION):
        return False
    if wanted != (said == ROW_ATTENTION):
        model.set_attn_implementation(ROW_ATTENTION if wanted else _PLAIN)
    return bool(model.config.get_text_config()._attn_implementation == ROW_ATTENTION)


def passes_of_packs(model: Any, rows: int, longest: int) -> dict[str, bool | int]:
    """Return how packed rows are computed: one by one in attention, in passes with room for several of the longest
    ones, or in short passes if a model has another kind of attention.

    Attention over a long sequence with a mask takes longer on a CPU than many short passes.
    """
    if take_rows_alone(model):
        take_rows_alone(model, False)
        return {"row_attention": True, "micro_rows": max(1, min(rows, MOST_MASKED // longest))}
    return {"micro_rows": 1}


def _mask(**asked: Any) -> Any | None:
    """Return the mask for `_attend`: lengths of rows, (rows,), or transformers' own mask; None: each token attends to
    all before it.
    """
    mask = sdpa_mask(**asked)
    if mask is None or mask.dtype != torch.bool or mask.shape[:2] != (1, 1) or mask.shape[2] != mask.shape[3]:
        return mask
    lengths = row_lengths(mask[0, 0])
    return mask if lengths is None else lengths


def _attend(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any | None, **rest: Any
) -> tuple[Any, Any | None]:
    """Return (1, tokens, heads, width) for queries, keys and values, (1, heads, tokens, width) each."""
    if attention_mask is None or attention_mask.ndim > 1:
        found: tuple[Any, Any | None] = sdpa_attention_forward(module, query, key, value, attention_mask, **rest)
        return found
    lengths = attention_mask.tolist()
    rows = zip(*(each.split(lengths, dim=2) for each in (query, key, value)), strict=True)
    alone = [sdpa_attention_forward(module, *row, None, **{**rest, "is_causal": True})[0] for row in rows]
    return torch.cat(alone, dim=1), None


AttentionInterface.register(ROW_ATTENTION, _attend)
AttentionMaskInterface.register(ROW_ATTENTION, _mask)
