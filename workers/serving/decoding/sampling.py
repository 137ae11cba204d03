"""How the next token is chosen, and what it scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from workers.serving.decoding.requests import Token


class NotANumber(Exception):  # noqa: N818 - it is what the model computed
    """A model's logits are not finite."""


class Chooser:
    """Chooses tokens for one question: its random numbers are its own, so that no neighbour changes them.

    >>> Chooser(temperature=0).choose(torch.tensor([0.0, 2.0, 1.0]))
    1
    """

    def __init__(self, *, temperature: float, top_p: float = 1.0, seed: int | None = None) -> None:
        self._temperature, self._top_p = temperature, top_p
        self._generator: Any = None
        if temperature > 0:
            self._generator = torch.Generator()
            if seed is None:
                self._generator.seed()
            else:
                # A generator takes 64 bits; any number may be asked for.
                self._generator.manual_seed(seed % 2**63)

    def choose(self, logits: Any) -> int:
        """Return a token for (vocabulary,) logits: the likeliest, or one drawn from the tokens that together have `top_p` of
        the probability (nucleus sampling, arXiv:1904.09751). Raises NotANumber.
        """
        highest = logits.max()
        if not torch.isfinite(highest):
            raise NotANumber
        if self._generator is None:
            return int(logits.argmax())
        # The highest is subtracted first, so that a small temperature overflows nothing.
        weights = ((logits - highest).double().cpu() / self._temperature).exp()
        order = None
        if self._top_p < 1:
            weights, order = weights.sort(descending=True, stable=True)
            before = weights.cumsum(0) - weights
            # The likeliest has nothing before it, and stays.
            weights = weights[before < self._top_p * weights.sum()]
        reached = weights.cumsum(0)
        drawn = torch.rand((), generator=self._generator, dtype=torch.float64) * reached[-1]
        place = min(int(torch.searchsorted(reached, drawn, right=True)), len(weights) - 1)
        return place if order is None else int(order[place])


def scored(logits: Any, ids: Sequence[int], top: int) -> list[Token]:
    """Return tokens with their log-probabilities, in nats, and the `top` likeliest in their places.

    `logits` are (tokens, vocabulary), those from which each of `ids` would be chosen. Raises NotANumber.
    """
    logprobs = logits.float().log_softmax(-1)
    picked = logprobs.gather(1, torch.tensor(list(ids), device=logits.device)[:, None])[:, 0].tolist()
    if any(value != value for value in picked):
        raise NotANumber
    if not top:
        return [Token(token, value) for token, value in zip(ids, picked, strict=True)]
    best = logprobs.topk(min(top, logprobs.shape[1]), dim=-1)
    likeliest = [
        tuple(zip(tokens, values, strict=True))
        for tokens, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    return [Token(*each) for each in zip(ids, picked, likeliest, strict=True)]
