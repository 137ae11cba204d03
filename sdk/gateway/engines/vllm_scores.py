"""The log-probabilities of given tokens, of vLLM: by what it writes, never by the prompt's own.

A request for the log-probabilities of a prompt ends a vLLM that runs requests for adapters beside it (seen with 0.32 on a CPU). So it
writes greedily, which mostly is what is to be scored, and says which other tokens were likely at each step. From where it writes something
else, it is made to write the tokens: two by each request, after all tokens before them, and all of these at once. A request may write these
two alone, and ends with the second, which is kept from being the first. The probabilities that vLLM says are those before that.

What is dear on a CPU is each token that an adapter reads, 20 ms for one of 50 MB, and most of them are read again by each request. So what a
model writes after a prompt is asked once for all texts after it.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from sdk.gateway.engines.engine import EngineRefused, Upstream

#: So many likely tokens are asked for at each step; vLLM gives no more by default.
_LIKELY = 20
_TOKEN = "token_id:"  # noqa: S105 - how vLLM writes a token
#: The most that a token is preferred by; vLLM takes no more.
_PREFERRED = 100
#: How many texts of models are held.
_MOST_WRITTEN = 64


class VllmScores:
    """Scores tokens by one vLLM, and remembers what each model there wrote until that is forgotten."""

    def __init__(self) -> None:
        self._written: OrderedDict[tuple[str, tuple[int, ...], int], asyncio.Task[Mapping[str, Any]]] = OrderedDict()

    async def score(self, upstream: Upstream, prompt: Sequence[int], continuation: Sequence[int]) -> list[float]:
        """Return the log-probability, in nats, of each token. Raises httpx.HTTPError, EngineRefused."""
        scores = _as_far_as_written(continuation, await self._write(upstream, prompt, len(continuation)))
        context = [*prompt, *continuation]
        tasks = [
            asyncio.create_task(_made(upstream, context[: len(prompt) + at], continuation[at : at + 2]))
            for at in range(len(scores), len(continuation), 2)
        ]
        try:
            return scores + [each for pair in await asyncio.gather(*tasks) for each in pair]
        finally:
            for task in tasks:
                task.cancel()

    def forget(self, model: str) -> None:
        """Ask anew what a model writes; who waits for it gets what was asked."""
        for key in [each for each in self._written if each[0] == model]:
            del self._written[key]

    def close(self) -> None:
        """End what nobody waits for."""
        for task in self._written.values():
            task.cancel()

    async def _write(self, upstream: Upstream, prompt: Sequence[int], count: int) -> Mapping[str, Any]:
        """Return what a model writes greedily. Who asks while it writes waits for the same answer."""
        key = (str(upstream.fields["model"]), tuple(prompt), count)
        task = self._written.get(key)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = asyncio.create_task(_complete(upstream, prompt, max_tokens=count, logprobs=_LIKELY))
            # Also where whoever waited for it has left.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._written[key] = task
            while len(self._written) > _MOST_WRITTEN:
                self._written.popitem(last=False)
        return await asyncio.shield(task)


def _as_far_as_written(continuation: Sequence[int], found: Mapping[str, Any]) -> list[float]:
    """Return the scores of tokens up to the first that it would not have written, or that isn't among the likely ones."""
    scores = []
    for token, written, likely in zip(continuation, found["tokens"], found["top_logprobs"], strict=False):
        if (value := likely.get(f"{_TOKEN}{token}")) is None:
            break
        scores.append(float(value))
        if written != f"{_TOKEN}{token}":
            break
    return scores


async def _made(upstream: Upstream, context: Sequence[int], tokens: Sequence[int]) -> list[float]:
    """Return the scores of one or two tokens that it is made to write."""
    more: dict[str, Any] = {"allowed_token_ids": sorted(set(tokens)), "max_tokens": len(tokens), "logprobs": 0}
    if len(set(tokens)) == 2:
        second = tokens[1]
        # No token that ends a text is written before the least number of tokens.
        more |= {"stop_token_ids": [second], "min_tokens": 1, "logit_bias": {str(second): _PREFERRED}}
    found = await _complete(upstream, context, **more)
    if found["tokens"] == [f"{_TOKEN}{each}" for each in tokens]:
        return [math.nan if each is None else float(each) for each in found["token_logprobs"]]
    if len(tokens) == 1:
        raise EngineRefused(f"vLLM doesn't write the token {tokens[0]}; start it with the version's base")
    first, then = await asyncio.gather(
        _made(upstream, context, tokens[:1]), _made(upstream, [*context, tokens[0]], tokens[1:])
    )
    return first + then


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
