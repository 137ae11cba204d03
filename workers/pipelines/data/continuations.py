"""What a base and an adapter on it write after fixed prompts, and with which log-probabilities: the record by which an engine
is proved to serve them.
"""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

import torch

from sdk.schemas.failures import FailureReason
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.serving import CONTINUATION_TOKENS, Continuation, DtypeName, ServedProbe, ServedPrompt
from workers.pipelines.data.encoding import Encoder
from workers.pipelines.data.fixed_texts import PROMPT_TEXTS, PROMPT_TOKENS, PROMPTS_DIGEST
from workers.pipelines.data.tokenizer import longest_row
from workers.pipelines.data.vocabulary import embedded, words_of
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.blueprint import read_config
from workers.pipelines.model.device import dtype_name, is_out_of_memory
from workers.pipelines.model.single_precision import in_float32
from workers.pipelines.model.trained_whole import without_adapter

#: Digits of a log-probability after the point: far below what arithmetics differ by.
_DIGITS = 6
#: The argument by which models take what they have read already, and the field in which they return it.
_CACHES = ("cache", "past_key_values")


def served_probe(
    model: Any, tokenizer: Any, base: Path, device: Any, *, quantization: QuantizationRecipe | None
) -> ServedProbe:
    """Return the record of a PeftModel that predicts tokens, in evaluation mode, over the base in a folder.

    Prompts have the same number of tokens, so that no row is padded. Weights in 16 bits are widened while they are used, unless a
    module uses another's, as few do. The state of random number generators is not changed. Raises PipelineError ("diverged") for
    log-probabilities that are not finite.
    """
    words = min(words_of(model), read_config(base).get_text_config().vocab_size)
    prompts = _prompts(tokenizer, base, words)
    ids = torch.tensor(prompts, device=device)
    model.eval()
    dtype: DtypeName = "float32"
    with torch.no_grad():
        try:
            with in_float32(model):
                rows = _continued(model, ids, words)
        except RuntimeError as error:
            dtype = dtype_name(model.dtype)
            if is_out_of_memory(error) or dtype == "float32":
                raise
            rows = _continued(model, ids, words)
    return ServedProbe(
        prompts_digest=PROMPTS_DIGEST,
        prompts=[
            ServedPrompt(tokens=tokens, by_base=rows[at], by_adapter=rows[len(prompts) + at])
            for at, tokens in enumerate(prompts)
        ],
        dtype=dtype,
        quantized=None if quantization is None else quantization.type,
    )


def _continued(model: Any, prompts: Any, words: int) -> list[Continuation]:
    """Return the base's continuations of prompts, (batch, seq), then the adapter's."""
    by_adapter = _greedy(model, prompts, words)
    with without_adapter(model):
        by_base = _greedy(model, prompts, words)
    both, twice = torch.cat([by_base, by_adapter]), prompts.repeat(2, 1)
    adapter = _scored(model, twice, both)
    with without_adapter(model):
        bare = _scored(model, twice, both)
    return [
        Continuation(tokens=tokens, base=of_base, adapter=of_adapter)
        for tokens, of_base, of_adapter in zip(both.tolist(), bare, adapter, strict=True)
    ]


def _prompts(tokenizer: Any, base: Path, words: int) -> list[list[int]]:
    """Return the fixed prompts as tokens, each as long as the shortest."""
    encoder = Encoder(tokenizer)
    rows = [embedded(encoder.open(text), words=words) for text in PROMPT_TEXTS]
    most = max(1, longest_row(base, PROMPT_TOKENS + CONTINUATION_TOKENS) - CONTINUATION_TOKENS)
    length = min(most, *map(len, rows))
    return [row[:length] for row in rows]


def _greedy(model: Any, prompts: Any, words: int) -> Any:
    """Return the likeliest next tokens among the base's `words`, one after another, (batch, CONTINUATION_TOKENS), for prompts of
    (batch, seq).
    """
    found, whole, given = [], prompts, prompts
    last = _of_last(model)
    if not last and len(prompts) > 1:
        # Its logits are of all that it reads: those of one prompt are there at a time.
        return torch.cat([_greedy(model, prompt, words) for prompt in prompts.split(1)])
    past: dict[str, Any] = {}
    for _ in range(CONTINUATION_TOKENS):
        made = model(input_ids=given, attention_mask=torch.ones_like(whole), use_cache=True, **past, **last)
        past = _cached(model, made)
        token = made.logits[:, -1, :words].float().argmax(dim=-1, keepdim=True)
        found.append(token)
        whole = torch.cat([whole, token], dim=1)
        # A model without such a cache reads everything again.
        given = token if past else whole
    return torch.cat(found, dim=1)


def _of_last(model: Any) -> dict[str, int]:
    """Return the argument that lets a model make logits of the last token alone, if it has one."""
    takes = signature(model.get_base_model().forward).parameters
    return {"logits_to_keep": 1} if "logits_to_keep" in takes else {}


def _cached(model: Any, made: Any) -> dict[str, Any]:
    """Return the argument that lets a model go on from where it was, if it has one; releases of transformers name it differently."""
    takes = signature(model.get_base_model().forward).parameters
    name = next((name for name in _CACHES if name in takes), None)
    past = None if name is None else made.get(name)
    return {} if past is None else {str(name): past}


def _scored(model: Any, prompts: Any, continuations: Any) -> list[list[float]]:
    """Return the log-probability in nats of each token of continuations, (batch, CONTINUATION_TOKENS). One row is read at a time:
    with a large vocabulary the logits of all would take gigabytes.
    """
    start, found = prompts.shape[1] - 1, []
    for whole, tokens in zip(torch.cat([prompts, continuations], dim=1), continuations, strict=True):
        row = whole.unsqueeze(0)
        logits = model(input_ids=row, attention_mask=torch.ones_like(row), use_cache=False).logits[0]
        predicted = logits[start:-1].float().log_softmax(dim=-1)
        chosen = predicted.gather(1, tokens.unsqueeze(1)).squeeze(1)
        if not bool(chosen.isfinite().all()):
            raise PipelineError(
                FailureReason.DIVERGED,
                "The log-probabilities after a fixed prompt are not finite; lower lr, and see whether the base computes in this"
                " precision.",
            )
        found.append([round(min(0.0, float(each)), _DIGITS) for each in chosen])
    return found
