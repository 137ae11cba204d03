"""Greedy completions of prompts, in batches in which no prompt affects another's completion."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from sdk.schemas.events import Progress
from workers.pipelines.model.causality import fixed_texts
from workers.pipelines.model.packed import multiplies_in_eight_bits
from workers.pipelines.model.rotary import parts, turns_at
from workers.pipelines.scoring.target import Target
from workers.pipelines.scoring.thought_limit import LimitedCompletion, ThoughtLimit, limiting

#: Logits may change by this many roundings of the largest if other prompts are beside: experts multiply the tokens of a
#: pass together.
_ROUNDINGS = 4
#: And by this share of it if matrices are multiplied in 8 bits.
_IN_EIGHT_BITS = 0.05


class GeneratedText(NamedTuple):
    """What a model wrote."""

    #: All of it, without special tokens.
    text: str
    #: Its tokens, without the one at which it stopped.
    ids: tuple[int, ...]
    #: Whether it stopped by itself, with tokens left.
    ended: bool
    #: Whether its thought was ended at its limit.
    ended_thought: bool = False


def generate(
    model: Any,
    prompts: Sequence[list[int]],
    target: Target,
    stop_ids: list[int],
    limits: Sequence[ThoughtLimit] = (),
) -> list[GeneratedText]:
    """Return one completion per prompt, given as tokens, in their order; `limits` are those of their thoughts, if they have any.

    Prompts of similar length share a batch and are padded on the left, so the next token of each comes right after it.
    """
    completions, pad_id, batch_size = dict[int, GeneratedText](), target.tokenizer.pad_token_id, target.spec.batch_size
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    lengths, total, started = [len(prompts[index]) for index in order], len(order), time.perf_counter()
    if order:
        target.report(Progress(phase="generate", step=0, total=total, unit="rows"))
    # A growing completion may reach a length with other rotary frequencies, which would affect the other rows too.
    most_tokens = max((limit.most_tokens for limit in limits), default=target.spec.max_new_tokens)
    turns = None if (whole := turns_at(model)) is None else whole - most_tokens
    if batch_size > 1 and len(set(lengths)) > 1 and reads_left_padding(model, pad_id):
        batch_size = 1
        message = "prompts are answered one at a time: this base reads what they are padded with"
        target.report(Progress(phase="generate", message=message))
    for batch in parts(lengths, batch_size, turns, beyond=1):
        input_ids, mask = _left_padded([prompts[index] for index in order[batch]], pad_id, target.device.torch_device)
        limited = [LimitedCompletion(limits[index], target.tokenizer, stop_ids) for index in order[batch] if limits]
        how = limiting(limited) if limited else {}
        output = _generate(model, input_ids, mask, pad_id, most_tokens, eos_token_id=stop_ids, **how)
        written = output[:, input_ids.shape[1] :]
        if limited:
            # What comes after an end is padding, which may be the token at which generation stops.
            written = [ids[: len(one)] for ids, one in zip(written, limited, strict=True)]
        texts = target.tokenizer.batch_decode(written, skip_special_tokens=True)
        for place, (index, text) in enumerate(zip(order[batch], texts, strict=True)):
            ids = written[place].tolist()
            stop = next((place for place, token in enumerate(ids) if token in stop_ids), len(ids))
            ended_thought = bool(limited) and limited[place].ended_thought
            completions[index] = GeneratedText(text, tuple(ids[:stop]), stop < len(ids), ended_thought)
        left_s = (time.perf_counter() - started) / batch.stop * (total - batch.stop)
        target.report(Progress(phase="generate", step=batch.stop, total=total, unit="rows", eta_s=left_s))
    return [completions[index] for index in range(len(prompts))]


def _left_padded(prompts: Sequence[list[int]], pad_id: int, device: Any) -> tuple[Any, Any]:
    """Return input_ids and attention_mask, (batch, seq), of prompts, the longest first."""
    input_ids = torch.full((len(prompts), len(prompts[0])), pad_id)
    mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, -len(prompt) :] = torch.tensor(prompt)
        mask[row, -len(prompt) :] = 1
    return input_ids.to(device), mask.to(device)


def _generate(model: Any, input_ids: Any, mask: Any, pad_id: int, max_new_tokens: int, **how: Any) -> Any:
    with torch.no_grad(), warnings.catch_warnings():
        # Some bases store sampling settings; greedy decoding doesn't use them, but warns about them.
        warnings.simplefilter("ignore", UserWarning)
        return model.generate(
            input_ids=input_ids,
            attention_mask=mask,
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            pad_token_id=pad_id,
            **how,
        )


def reads_left_padding(model: Any, pad_id: int) -> bool:
    """Whether a model reads tokens that its mask leaves out, so that a prompt next to a longer one becomes another prompt.

    Some that carry a state from token to token do (RWKV, RecurrentGemma); others don't change it there.
    """
    texts = fixed_texts(model)[:1]
    mask = torch.ones_like(texts)
    mask[:, : texts.shape[1] // 2] = 0
    padded, other = (_next_logits(model, ids, mask, pad_id) for ids in (texts.masked_fill(mask == 0, pad_id), texts))
    share = _IN_EIGHT_BITS if multiplies_in_eight_bits(model) else _ROUNDINGS * torch.finfo(model.dtype).eps
    # Also true for NaN.
    return not float((padded - other).abs().max()) <= share * float(padded.abs().max())


def _next_logits(model: Any, ids: Any, mask: Any, pad_id: int) -> Any:
    """Return the logits of the first generated token, (1, vocabulary) in float32."""
    output = _generate(model, ids, mask, pad_id, 1, output_logits=True, return_dict_in_generate=True)
    return output.logits[0].float()
