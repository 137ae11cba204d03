"""Limits how many may watch jobs at once: each of them holds a connection, and asks the database again and again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from registry.errors import RateLimited
from registry.pools import Pool
from registry.principal import Principal

Pool(
    "watchers of jobs",
    waits="streams and long polls, until something happens to their job",
    at_once="`REGISTRY_MAX_STREAMS` (1,000), of which `REGISTRY_MAX_STREAMS_PER_TOKEN` (32) of one token",
    item="500 events at a time; a stream lasts as long as its job, a long poll 30 s",
    share="as many as it leaves to all others",
)


class Watchers:
    """Counts the streams and long polls of one process: there is a limit in all and one for each token, and a namespace
    may have no more than it leaves to the others.
    """

    def __init__(self, *, most: int, most_of_token: int) -> None:
        self._most = most
        self._most_of_token = most_of_token
        self._by_token: Counter[str] = Counter()
        self._by_payer: Counter[str] = Counter()

    @contextmanager
    def entered(self, who: Principal) -> Iterator[None]:
        """Count one more until the end of the block. Raises RateLimited."""
        token, payer = who.owner, who.payer(self._by_payer)
        left = self._most - self._by_token.total()
        if self._by_token[token] >= self._most_of_token:
            raise RateLimited(
                f"this token is already watching {self._most_of_token} jobs (REGISTRY_MAX_STREAMS_PER_TOKEN); end some, or "
                "ask again without wait_s"
            )
        if not left:
            raise RateLimited(
                f"{self._most} streams are already open (REGISTRY_MAX_STREAMS); ask again without wait_s, or later"
            )
        # So some are left for the next one, however many namespaces take all they can.
        if self._by_payer[payer] >= left:
            raise RateLimited(
                "this namespace's tokens are watching as many jobs as all others may together (REGISTRY_MAX_STREAMS); end some, or "
                "ask again without wait_s"
            )
        self._by_token[token] += 1
        self._by_payer[payer] += 1
        try:
            yield
        finally:
            for counter, key in ((self._by_token, token), (self._by_payer, payer)):
                counter[key] -= 1
                if not counter[key]:
                    del counter[key]
