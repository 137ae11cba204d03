"""What is asked of vLLM to score tokens: what it would write once for all texts, and the rest at once."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from sdk.gateway.engines.engine import EngineRefused, Upstream
from sdk.gateway.engines.vllm_scores import VllmScores

#: Of each token, and how many tokens the engine says are likely.
VOCABULARY, LIKELY = 50, 20


def logprob(context: list[int], token: int) -> float:
    """What this engine thinks of a token after others: token 7 × (the last one) is the likeliest, and so on in a circle."""
    return -0.25 * ((token - 7 * context[-1]) % VOCABULARY)


class CountedEngine:
    """Answers as vLLM does, and counts requests and how many of them were open at once."""

    def __init__(self) -> None:
        self.requests = self.most_open = self._open = 0
        self.fails = False

    async def answer(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        self._open += 1
        self.most_open = max(self.most_open, self._open)
        await asyncio.sleep(0.001)
        self._open -= 1
        if self.fails:
            return httpx.Response(500)
        body = json.loads(request.content)
        context, logprobs = list(body["prompt"]), dict[str, list[Any]](tokens=[], top_logprobs=[], token_logprobs=[])
        ends, bias = body.get("stop_token_ids", []), body.get("logit_bias", {})
        for at in range(body["max_tokens"]):
            best = sorted(range(VOCABULARY), key=lambda token: -logprob(context, token))
            allowed = set(body.get("allowed_token_ids", best))
            if at < body.get("min_tokens", 0):
                allowed -= set(ends)
            written = max(allowed, key=lambda token: logprob(context, token) + bias.get(str(token), 0))
            logprobs["tokens"].append(f"token_id:{written}")
            logprobs["token_logprobs"].append(logprob(context, written))
            shown = best[: body["logprobs"]]
            logprobs["top_logprobs"].append({f"token_id:{token}": logprob(context, token) for token in shown})
            context.append(written)
            if written in ends:
                break
        return httpx.Response(200, json={"choices": [{"logprobs": logprobs}]})

    def score(self, prompt: list[int], *continuations: list[int]) -> list[list[float]]:
        async def scored() -> list[list[float]]:
            async with httpx.AsyncClient(
                transport=httpx.MockTransport(self.answer), base_url="http://engine"
            ) as client:
                scores, upstream = VllmScores(), Upstream(client, {"model": "sql@v1"})
                return await asyncio.gather(*(scores.score(upstream, prompt, each) for each in continuations))

        return asyncio.run(scored())


def expected(prompt: list[int], continuation: list[int]) -> list[float]:
    context = [*prompt, *continuation]
    return [logprob(context[: len(prompt) + at], token) for at, token in enumerate(continuation)]


@pytest.mark.parametrize(
    ("continuation", "requests"),
    [
        # As it writes itself.
        ([21, 47, 29, 3], 1),
        # Another token that is likely at the second place; it is made to write both after it.
        ([21, 48, 36, 2], 2),
        # One that isn't among the likely ones is first; a pair of the same, and a last one alone.
        ([20, 40, 40, 40, 3], 4),
    ],
)
def test_scores_are_the_engine_s_whatever_it_would_write(continuation: list[int], requests: int) -> None:
    engine = CountedEngine()
    assert engine.score([1, 3], continuation) == [expected([1, 3], continuation)]
    assert engine.requests == requests


def test_what_it_writes_is_asked_once_for_all_texts_after_a_prompt() -> None:
    engine = CountedEngine()
    continuations = [21, 47, 29, 3], [21, 48, 36, 2]
    assert engine.score([1, 3], *continuations) == [expected([1, 3], each) for each in continuations]
    assert engine.requests == 2


def test_what_it_writes_outlives_one_that_waits_and_is_asked_again_after_a_failure_or_many_others() -> None:
    engine = CountedEngine()

    async def body() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(engine.answer), base_url="http://engine") as client:
            scores, upstream = VllmScores(), Upstream(client, {"model": "sql@v1"})
            leaves, stays = (asyncio.create_task(scores.score(upstream, [1, 3], [21, 47])) for _ in range(2))
            while not engine.requests:
                await asyncio.sleep(0)
            leaves.cancel()
            assert await stays == expected([1, 3], [21, 47])
            assert engine.requests == 1
            engine.fails = True
            with pytest.raises(httpx.HTTPStatusError):
                await scores.score(upstream, [2], [14])
            engine.fails = False
            assert await scores.score(upstream, [2], [14]) == expected([2], [14])
            assert engine.requests == 3
            # Memory stays bounded: the oldest text is forgotten.
            for last in range(64):
                await scores.score(upstream, [9, last], [7 * last % VOCABULARY])
            await scores.score(upstream, [1, 3], [21, 47])
            assert engine.requests == 3 + 64 + 1

    asyncio.run(body())


def test_what_it_would_not_have_written_is_asked_for_at_once() -> None:
    engine = CountedEngine()
    continuation = [(5 * at + 2) % VOCABULARY for at in range(16)]
    assert engine.score([1, 3], continuation) == [expected([1, 3], continuation)]
    assert engine.most_open >= 7


def test_an_engine_that_writes_another_token_than_the_one_allowed_is_refused() -> None:
    class Other(CountedEngine):
        async def answer(self, request: httpx.Request) -> httpx.Response:
            answered = (await super().answer(request)).json()
            answered["choices"][0]["logprobs"]["tokens"] = ["token_id:1"]
            answered["choices"][0]["logprobs"]["top_logprobs"] = [{"token_id:1": -1.0}]
            return httpx.Response(200, json=answered)

    with pytest.raises(EngineRefused, match="version's base"):
        Other().score([1, 3], [20, 40])
