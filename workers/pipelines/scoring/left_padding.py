"""Whether padding before a prompt, to the length of a longer one, affects what is generated after it."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from workers.pipelines.model.causality import fixed_texts
from workers.pipelines.model.packed import multiplies_in_eight_bits

#: Logits may change by this many roundings of the largest: experts multiply the tokens of a pass together.
_ROUNDINGS = 4
#: And by this share of it if matrices are multiplied in 8 bits.
_IN_EIGHT_BITS = 0.05


def reads_left_padding(model: Any, pad_id: int) -> bool:
    """Whether a model reads tokens that its mask leaves out, so that a prompt next to a longer one becomes another prompt.

    Some that carry a state from token to token do (RWKV, RecurrentGemma); others don't change it there.
    """
    texts = fixed_texts(model)[:1]
    mask = torch.ones_like(texts)
    mask[:, : texts.shape[1] // 2] = 0
    padded, other = (_next(model, ids, mask, pad_id) for ids in (texts.masked_fill(mask == 0, pad_id), texts))
    share = _IN_EIGHT_BITS if multiplies_in_eight_bits(model) else _ROUNDINGS * torch.finfo(model.dtype).eps
    # Also true for NaN.
    return not float((padded - other).abs().max()) <= share * float(padded.abs().max())


def _next(model: Any, ids: Any, mask: Any, pad_id: int) -> Any:
    """Return the logits of the first generated token, (1, vocabulary) in float32."""
    with torch.no_grad(), warnings.catch_warnings():
        # Some bases store sampling settings; greedy decoding doesn't use them, but warns about them.
        warnings.simplefilter("ignore", UserWarning)
        found = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            num_beams=1,
            max_new_tokens=1,
            pad_token_id=pad_id,
            output_logits=True,
            return_dict_in_generate=True,
        )
    return found.logits[0].float()
