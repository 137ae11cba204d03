"""The log-probabilities of given tokens, of vLLM: by what it writes, never by the prompt's own.

A request for the log-probabilities of a prompt ends a vLLM that runs requests for adapters beside it (seen with 0.32 on a CPU). So it
writes greedily, which mostly is what is to be scored, and says which other tokens were likely at each step; where it writes something
else, and the token isn't among those, it is allowed to write that token alone. The probabilities that it says are those before that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from sdk.gateway.engines.engine import EngineRefused, Upstream
from sdk.gateway.engines.scoring import score_by_writing

#: So many likely tokens are asked for at each step; vLLM gives no more by default.
_LIKELY = 20
_TOKEN = "token_id:"  # noqa: S105 - how vLLM writes a token


async def score(upstream: Upstream, prompt: Sequence[int], continuation: Sequence[int]) -> list[float]:
    """Return the log-probability, in nats, of each token. Raises httpx.HTTPError, EngineRefused."""
    return await score_by_writing(_as_written, _forced, upstream, prompt, continuation)


async def _as_written(upstream: Upstream, context: Sequence[int], left: Sequence[int]) -> list[float]:
    """Return the scores of tokens up to the first that it would not have written, or that isn't among the likely ones."""
    found = await _complete(upstream, context, max_tokens=len(left), logprobs=_LIKELY, ignore_eos=True)
    scores = []
    for token, written, likely in zip(left, found["tokens"], found["top_logprobs"], strict=False):
        if (value := likely.get(f"{_TOKEN}{token}")) is None:
            break
        scores.append(float(value))
        if written != f"{_TOKEN}{token}":
            break
    return scores


async def _forced(upstream: Upstream, context: Sequence[int], token: int) -> float:
    found = await _complete(upstream, context, max_tokens=1, logprobs=0, allowed_token_ids=[token], ignore_eos=True)
    if found["tokens"] != [f"{_TOKEN}{token}"]:
        raise EngineRefused(f"vLLM doesn't write the token {token}; start it with the version's base")
    value = found["token_logprobs"][0]
    return math.nan if value is None else float(value)


async def _complete(upstream: Upstream, context: Sequence[int], **more: Any) -> Mapping[str, Any]:
    body = {"prompt": list(context), "temperature": 0, "return_tokens_as_token_ids": True, **more, **upstream.fields}
    answer = await upstream.client.post("/v1/completions", json=body)
    if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
        answer.raise_for_status()
    if answer.status_code != httpx.codes.OK:
        raise EngineRefused(f"vLLM doesn't score tokens: {answer.text[:300]}")
    found: Mapping[str, Any] = answer.json()["choices"][0]["logprobs"]
    return found
