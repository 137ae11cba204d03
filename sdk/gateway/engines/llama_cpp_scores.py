"""The log-probabilities of given tokens, of llama.cpp, which gives only those of tokens that it chooses.

It writes greedily, which mostly is what is to be scored, and says which other tokens were likely at each step. Where it writes
something else, and the token isn't among those, it is made to choose it: the probabilities that it says are those before that.

Where a slot is the text's own, it goes through the text a token at a time and reads each but once. Elsewhere it reads all of the text
before each token anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sdk.gateway.engines.engine import EngineRefused, Upstream

#: So many likely tokens are asked for at each step.
_LIKELY = 64
#: What is added to the logit of a token that is to be chosen.
_CERTAIN = 1e4
#: More than any vocabulary has.
_ALL = 1_000_000
#: The logarithm of the least probability: llama.cpp has them in 32 bits, and says something else of 0.
_LEAST = -103.3


async def score(
    upstream: Upstream, prompt: Sequence[int], continuation: Sequence[int], *, slot: int | None = None
) -> list[float]:
    """Return the log-probability, in nats, of each token. Raises httpx.HTTPError, EngineRefused.

    `slot`: one that nobody else uses meanwhile, in a process that nobody else asks.
    """
    scores: list[float] = []
    if slot is not None:
        fresh = {**upstream.fields, "id_slot": slot}
        again = replace(upstream, fields={**fresh, "cache_prompt": True})
        for at, token in enumerate(continuation):
            one = again if at else replace(upstream, fields=fresh)
            context = [*prompt, *continuation[:at]]
            scores += await _as_written(one, context, [token]) or [await _forced(again, context, token)]
        return scores
    while len(scores) < len(continuation):
        context, left = [*prompt, *continuation[: len(scores)]], continuation[len(scores) :]
        scores += await _as_written(upstream, context, left) or [await _forced(upstream, context, left[0])]
    return scores


async def _as_written(upstream: Upstream, context: Sequence[int], left: Sequence[int]) -> list[float]:
    """Return the scores of tokens up to the first that it would not have written, or that isn't among the likely ones."""
    answer = await _complete(upstream, context, n_predict=len(left), n_probs=_LIKELY)
    scores = []
    for token, written, step in zip(left, answer["tokens"], answer["completion_probabilities"], strict=False):
        # For a part of a character it gives none, and the steps after it are others.
        likely = {each["id"]: each["logprob"] for each in step["top_logprobs"]} if step["id"] == written else {}
        if token not in likely:
            break
        scores.append(max(_LEAST, float(likely[token])))
        if token != written:
            break
    return scores


async def _forced(upstream: Upstream, context: Sequence[int], token: int) -> float:
    answer = await _complete(upstream, context, n_predict=1, n_probs=1, logit_bias=[[token, _CERTAIN]])
    for step in answer["completion_probabilities"]:
        if step["id"] == token:
            return max(_LEAST, float(step["logprob"]))
    # A part of a character: looked up among all, at a step for which another is chosen.
    other = await _whole_token(upstream)
    answer = await _complete(upstream, context, n_predict=1, n_probs=_ALL, logit_bias=[[other, _CERTAIN]])
    for step in answer["completion_probabilities"]:
        for each in step["top_logprobs"]:
            if each["id"] == token:
                return max(_LEAST, float(each["logprob"]))
    raise EngineRefused(f"llama.cpp gives no probability of the token {token}; start it with the version's base")


async def _whole_token(upstream: Upstream) -> int:
    answer = await upstream.client.post("/tokenize", json={"content": "a", "add_special": False})
    tokens = answer.raise_for_status().json()["tokens"]
    return int(tokens[-1])


async def _complete(upstream: Upstream, context: Sequence[int], **more: Any) -> dict[str, Any]:
    body = {
        "prompt": list(context),
        "temperature": 0,
        "return_tokens": True,
        "cache_prompt": False,
        **more,
        **upstream.fields,
    }
    answer = await upstream.client.post("/completion", json=body)
    found: dict[str, Any] = answer.raise_for_status().json()
    return {"tokens": [], "completion_probabilities": [], **found}
