"""What is asked of vLLM to score tokens: what it would write in one request, and the rest at once."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from sdk.gateway.engines.engine import EngineRefused, Upstream
from sdk.gateway.engines.vllm_scores import score

#: Of each token, and how many tokens the engine says are likely.
VOCABULARY, LIKELY = 50, 20


def logprob(context: list[int], token: int) -> float:
    """What this engine thinks of a token after others: token 7 × (the last one) is the likeliest, and so on in a circle."""
    return -0.25 * ((token - 7 * context[-1]) % VOCABULARY)


class CountedEngine:
    """Answers as vLLM does, and counts requests and how many of them were open at once."""

    def __init__(self) -> None:
        self.requests = self.most_open = self._open = 0

    async def answer(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        self._open += 1
        self.most_open = max(self.most_open, self._open)
        await asyncio.sleep(0.001)
        self._open -= 1
        body = json.loads(request.content)
        context, logprobs = list(body["prompt"]), dict[str, list[Any]](tokens=[], top_logprobs=[], token_logprobs=[])
        for _ in range(body["max_tokens"]):
            best = sorted(range(VOCABULARY), key=lambda token: -logprob(context, token))
            allowed = body.get("allowed_token_ids", best)
            written = next(token for token in best if token in allowed)
            logprobs["tokens"].append(f"token_id:{written}")
            logprobs["token_logprobs"].append(logprob(context, written))
            shown = best[: body["logprobs"]]
            logprobs["top_logprobs"].append({f"token_id:{token}": logprob(context, token) for token in shown})
            context.append(written)
        return httpx.Response(200, json={"choices": [{"logprobs": logprobs}]})

    def score(self, prompt: list[int], continuation: list[int]) -> list[float]:
        async def scored() -> list[float]:
            async with httpx.AsyncClient(
                transport=httpx.MockTransport(self.answer), base_url="http://engine"
            ) as client:
                return await score(Upstream(client, {"model": "sql@v1"}), prompt, continuation)

        return asyncio.run(scored())


def expected(prompt: list[int], continuation: list[int]) -> list[float]:
    context = [*prompt, *continuation]
    return [logprob(context[: len(prompt) + at], token) for at, token in enumerate(continuation)]


@pytest.mark.parametrize(
    ("continuation", "requests"),
    [
        # As it writes itself.
        ([21, 47, 29, 3], 1),
        # Another token that is likely at the second place; those after it are asked for alone.
        ([21, 48, 36, 2], 3),
        # One that isn't among the likely ones is forced.
        ([20, 40, 30, 10], 6),
    ],
)
def test_scores_are_the_engine_s_whatever_it_would_write(continuation: list[int], requests: int) -> None:
    engine = CountedEngine()
    assert engine.score([1, 3], continuation) == expected([1, 3], continuation)
    assert engine.requests == requests


def test_what_it_would_not_have_written_is_asked_for_at_once() -> None:
    engine = CountedEngine()
    continuation = [(5 * at + 2) % VOCABULARY for at in range(16)]
    assert engine.score([1, 3], continuation) == expected([1, 3], continuation)
    assert engine.most_open >= 12


def test_an_engine_that_writes_another_token_than_the_one_allowed_is_refused() -> None:
    class Other(CountedEngine):
        async def answer(self, request: httpx.Request) -> httpx.Response:
            answered = (await super().answer(request)).json()
            answered["choices"][0]["logprobs"]["tokens"] = ["token_id:1"]
            answered["choices"][0]["logprobs"]["top_logprobs"] = [{"token_id:1": -1.0}]
            return httpx.Response(200, json=answered)

    with pytest.raises(EngineRefused, match="version's base"):
        Other().score([1, 3], [20, 40])
