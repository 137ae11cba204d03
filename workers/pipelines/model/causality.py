"""The check that a language model predicts each token without seeing it.

A model that sees the whole text, like an encoder, sees the answer in its input: its loss on the next token falls and
nothing is learnt. A config may not say so; changing the last token of a text does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sdk.schemas.failures import FailureReason
from workers.pipelines.errors import PipelineError

#: How much logits before a changed token may move, as a share of their change at that token. In float32, a causal model
#: moves them only by rounding, at most 1e-6 of it; random encoders with two layers were seen to move them by 3e-3.
TOLERANCE = 1e-4
#: The number of tokens in the text, and of other last tokens to try: some pairs of tokens have equal embeddings.
_TOKENS, _OTHERS = 12, 4
_SIXTEEN_BIT = (torch.bfloat16, torch.float16)


class Influence(NamedTuple):
    """How far logits move when the last token changes, at most."""

    #: At the positions before it, where a causal model changes nothing.
    before: float
    #: At the last position.
    last: float


def require_causal(model: Any) -> None:
    """Raise PipelineError if a model's logits depend on later tokens, or don't depend on the text at all.

    `model` is in evaluation mode; its 4-bit modules must not repack their weights in it, which `load_base` sees to.
    """
    found = influence(model)
    kind = getattr(model.config, "model_type", "model")
    if not found.last > 0:
        # Also true for NaN. A head of zeros passes no gradient on, so nothing below it could be learnt either.
        raise PipelineError(
            FailureReason.UNTRAINED,
            f"This {kind} predicts the same after any token, so nothing could be learnt over it; check the base's weights.",
        )
    if not found.before <= TOLERANCE * found.last:
        raise PipelineError(
            FailureReason.UNTRAINED,
            f"This {kind} sees the tokens that it should predict: changing the last token moves the predictions before it, by"
            f" {found.before / found.last:.1g} of the change at that token; choose a causal base.",
        )


def influence(model: Any) -> Influence:
    """Change the last token of a random text; return how far logits move, in float32.

    Of several changes, the one that moves the last position most counts.
    """
    texts = fixed_texts(model)
    try:
        with _Widened():
            logits = logits_of(model, texts)
    except (RuntimeError, NotImplementedError):
        # Some operations don't mix float32 with 16-bit weights; in a causal model equal inputs give equal numbers anyway.
        logits = logits_of(model, texts)
    moved = (logits[1:] - logits[:1]).abs().amax(dim=-1)
    most = moved[int(moved[:, -1].argmax())]
    return Influence(float(most[:-1].max()), float(most[-1]))


def fixed_texts(model: Any) -> Any:
    """Return (1 + others, seq) token ids that differ in the last one. None of them stands for a picture or the like."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    special = _special_ids(model.config)
    plain = torch.tensor([token for token in range(vocabulary) if token not in special] or list(range(vocabulary)))
    generator = torch.Generator().manual_seed(0)
    drawn = plain[torch.randint(len(plain), (_TOKENS + _OTHERS,), generator=generator)]
    texts = drawn[:_TOKENS].repeat(1 + _OTHERS, 1)
    texts[1:, -1] = drawn[_TOKENS:]
    return texts.to(model.device)


def _special_ids(config: Any) -> set[int]:
    """Return the token ids in a config, ignoring other values under such names."""
    found: set[int] = set()
    for part in (config, config.get_text_config()):
        for name, value in vars(part).items():
            if "_token_i" in name:
                found.update(each for each in (value if isinstance(value, list) else [value]) if type(each) is int)
    return found


def logits_of(model: Any, texts: Any) -> Any:
    """Return (batch, seq, vocabulary) logits in float32."""
    with torch.no_grad():
        return model(input_ids=texts, use_cache=False).logits.float()


class _Widened(TorchDispatchMode):  # type: ignore[misc]  # torch's types are not followed
    """Computes a 16-bit model in float32, widening one operation's weights at a time."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch for each operation."""
        if func is torch.ops.aten.embedding.default:
            # Only the looked-up rows are widened.
            return _widened(func(*args, **(kwargs or {})))
        return func(*_widened(args), **_widened(kwargs or {}))


def _widened(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _widened(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(map(_widened, value))
    if isinstance(value, torch.Tensor):
        return value.float() if value.dtype in _SIXTEEN_BIT else value
    return torch.float32 if isinstance(value, torch.dtype) and value in _SIXTEEN_BIT else value
