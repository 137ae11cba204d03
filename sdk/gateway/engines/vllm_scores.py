"""The log-probabilities of given tokens, of vLLM: by what it writes, never by the prompt's own.

A request for the log-probabilities of a prompt ends a vLLM that runs requests for adapters beside it (seen with 0.32 on a CPU). So it
writes greedily, which mostly is what is to be scored, and says which other tokens were likely at each step. From where it writes something
else, each token is asked for by a request of its own, after all tokens before it, and all of these at once: one pass of the engine. Where the token
isn't among the likely ones, vLLM is allowed to write that token alone. The probabilities that it says are those before that.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from sdk.gateway.engines.engine import EngineRefused, Upstream

#: So many likely tokens are asked for at each step; vLLM gives no more by default.
_LIKELY = 20
_TOKEN = "token_id:"  # noqa: S105 - how vLLM writes a token


async def score(upstream: Upstream, prompt: Sequence[int], continuation: Sequence[int]) -> list[float]:
    """Return the log-probability, in nats, of each token. Raises httpx.HTTPError, EngineRefused."""
    scores = await _as_written(upstream, prompt, continuation)
    context = [*prompt, *continuation]
    tasks = [
        asyncio.create_task(_alone(upstream, context[: len(prompt) + at], continuation[at]))
        for at in range(len(scores), len(continuation))
    ]
    try:
        return scores + list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


async def _as_written(upstream: Upstream, context: Sequence[int], left: Sequence[int]) -> list[float]:
    """Return the scores of tokens up to the first that it would not have written, or that isn't among the likely ones."""
    found = await _complete(upstream, context, max_tokens=len(left), logprobs=_LIKELY)
    scores = []
    for token, written, likely in zip(left, found["tokens"], found["top_logprobs"], strict=False):
        if (value := likely.get(f"{_TOKEN}{token}")) is None:
            break
        scores.append(float(value))
        if written != f"{_TOKEN}{token}":
            break
    return scores


async def _alone(upstream: Upstream, context: Sequence[int], token: int) -> float:
    found = await _complete(upstream, context, max_tokens=1, logprobs=_LIKELY)
    likely = found["top_logprobs"][0].get(f"{_TOKEN}{token}")
    return await _forced(upstream, context, token) if likely is None else float(likely)


async def _forced(upstream: Upstream, context: Sequence[int], token: int) -> float:
    found = await _complete(upstream, context, max_tokens=1, logprobs=0, allowed_token_ids=[token])
    if found["tokens"] != [f"{_TOKEN}{token}"]:
        raise EngineRefused(f"vLLM doesn't write the token {token}; start it with the version's base")
    value = found["token_logprobs"][0]
    return math.nan if value is None else float(value)


async def _complete(upstream: Upstream, context: Sequence[int], **more: Any) -> Mapping[str, Any]:
    body = {
        "prompt": list(context),
        "temperature": 0,
        "ignore_eos": True,
        "return_tokens_as_token_ids": True,
        **more,
        **upstream.fields,
    }
    answer = await upstream.client.post("/v1/completions", json=body)
    if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
        answer.raise_for_status()
    if answer.status_code != httpx.codes.OK:
        raise EngineRefused(f"vLLM doesn't score tokens: {answer.text[:300]}")
    found: Mapping[str, Any] = answer.json()["choices"][0]["logprobs"]
    return found
