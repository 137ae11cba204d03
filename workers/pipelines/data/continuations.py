"""What a base and an adapter on it write after fixed prompts, and with which log-probabilities: the record by which an engine
is proved to serve them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sdk.schemas.failures import FailureReason
from sdk.schemas.serving import CONTINUATION_TOKENS, Continuation, ServedProbe, ServedPrompt
from workers.pipelines.data.encoding import Encoder
from workers.pipelines.data.fixed_texts import PROMPT_TEXTS, PROMPT_TOKENS, PROMPTS_DIGEST
from workers.pipelines.data.tokenizer import longest_row
from workers.pipelines.data.vocabulary import embedded, words_of
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.single_precision import in_float32
from workers.pipelines.model.trained_whole import without_adapter

#: Digits of a log-probability after the point: far below what arithmetics differ by.
_DIGITS = 6


def served_probe(model: Any, tokenizer: Any, base: Path, device: Any) -> ServedProbe:
    """Return the record of a PeftModel that predicts tokens, in evaluation mode, over the base in a folder.

    Prompts have the same number of tokens, so that no row is padded; weights in 16 bits are widened while they are used. The
    state of random number generators is not changed. Raises PipelineError ("diverged") for log-probabilities that are not finite.
    """
    prompts = _prompts(model, tokenizer, base)
    ids = torch.tensor(prompts, device=device)
    model.eval()
    with torch.no_grad(), in_float32(model):
        by_adapter = _greedy(model, ids)
        with without_adapter(model):
            by_base = _greedy(model, ids)
        both = torch.cat([by_base, by_adapter])
        adapter = _scored(model, ids.repeat(2, 1), both)
        with without_adapter(model):
            bare = _scored(model, ids.repeat(2, 1), both)
    rows = [
        Continuation(tokens=tokens, base=of_base, adapter=of_adapter)
        for tokens, of_base, of_adapter in zip(both.tolist(), bare, adapter, strict=True)
    ]
    return ServedProbe(
        prompts_digest=PROMPTS_DIGEST,
        prompts=[
            ServedPrompt(tokens=tokens, by_base=rows[at], by_adapter=rows[len(prompts) + at])
            for at, tokens in enumerate(prompts)
        ],
    )


def _prompts(model: Any, tokenizer: Any, base: Path) -> list[list[int]]:
    """Return the fixed prompts as tokens, each as long as the shortest."""
    words, encoder = words_of(model), Encoder(tokenizer)
    rows = [embedded(encoder.open(text), words=words) for text in PROMPT_TEXTS]
    most = max(1, min(PROMPT_TOKENS, longest_row(base, PROMPT_TOKENS + CONTINUATION_TOKENS) - CONTINUATION_TOKENS))
    length = min(most, *map(len, rows))
    return [row[:length] for row in rows]


def _greedy(model: Any, prompts: Any) -> Any:
    """Return the likeliest next tokens, one after another, (batch, CONTINUATION_TOKENS), for prompts of (batch, seq)."""
    found, past, given = [], None, prompts
    whole = prompts
    for _ in range(CONTINUATION_TOKENS):
        made = model(input_ids=given, attention_mask=torch.ones_like(whole), past_key_values=past, use_cache=True)
        past = getattr(made, "past_key_values", None)
        token = made.logits[:, -1].float().argmax(dim=-1, keepdim=True)
        found.append(token)
        whole = torch.cat([whole, token], dim=1)
        # A model without a cache reads everything again.
        given = whole if past is None else token
    return torch.cat(found, dim=1)


def _scored(model: Any, prompts: Any, continuations: Any) -> list[list[float]]:
    """Return the log-probability in nats of each token of continuations, (batch, CONTINUATION_TOKENS), in one pass."""
    whole = torch.cat([prompts, continuations], dim=1)
    logits = model(input_ids=whole, attention_mask=torch.ones_like(whole), use_cache=False).logits
    start, found = prompts.shape[1] - 1, []
    for row, tokens in zip(logits, continuations, strict=True):
        # One row at a time is widened: with a large vocabulary all would take a gigabyte.
        predicted = row[start:-1].float().log_softmax(dim=-1)
        chosen = predicted.gather(1, tokens.unsqueeze(1)).squeeze(1)
        if not bool(chosen.isfinite().all()):
            raise PipelineError(
                FailureReason.DIVERGED,
                "The log-probabilities after a fixed prompt are not finite; lower lr, and see whether the base computes in this"
                " precision.",
            )
        found.append([round(float(each), _DIGITS) for each in chosen])
    return found
