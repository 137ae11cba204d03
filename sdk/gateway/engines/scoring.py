"""The log-probabilities of given tokens, of an engine that gives only those of tokens that it writes.

It writes greedily, which mostly is what is to be scored, so that one request scores many tokens. The token at which it goes on otherwise
is scored by a request of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from sdk.gateway.engines.engine import Upstream

#: Return the scores of a continuation's first tokens after a context, as far as the engine writes it by itself; perhaps none.
AsWritten = Callable[[Upstream, Sequence[int], Sequence[int]], Awaitable[list[float]]]
#: Return the score of one token after a context, whatever the engine would write.
Forced = Callable[[Upstream, Sequence[int], int], Awaitable[float]]


async def score_by_writing(
    as_written: AsWritten, forced: Forced, upstream: Upstream, prompt: Sequence[int], continuation: Sequence[int]
) -> list[float]:
    """Return the log-probability, in nats, of each token of a continuation after a prompt. Raises what the two raise."""
    scores: list[float] = []
    while len(scores) < len(continuation):
        context, left = [*prompt, *continuation[: len(scores)]], continuation[len(scores) :]
        scores += await as_written(upstream, context, left) or [await forced(upstream, context, left[0])]
    return scores
