"""How many may watch jobs at once: each holds a connection, and asks the database again and again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from registry.auth.principal import Principal
from registry.errors import RateLimited


class Watchers:
    """The streams and long polls of one process: so many in all, and of one token."""

    def __init__(self, *, most: int, most_of_token: int) -> None:
        self._most = most
        self._most_of_token = most_of_token
        self._by_token: Counter[str] = Counter()

    def enter(self, who: Principal) -> Callable[[], None]:
        """Count one more; return what is to be called at its end, once or more often. Raises RateLimited."""
        key = who.token_id or who.name
        if self._by_token[key] >= self._most_of_token:
            raise RateLimited(
                f"this token watches {self._most_of_token} jobs at once already (REGISTRY_MAX_STREAMS_PER_TOKEN); end some, or "
                "ask again without wait_s"
            )
        if self._by_token.total() >= self._most:
            raise RateLimited(
                f"{self._most} streams are open already (REGISTRY_MAX_STREAMS); ask again without wait_s, or later"
            )
        self._by_token[key] += 1
        ended = False

        def leave() -> None:
            nonlocal ended
            if not ended:
                ended = True
                self._by_token[key] -= 1
                if not self._by_token[key]:
                    del self._by_token[key]

        return leave

    @contextmanager
    def entered(self, who: Principal) -> Iterator[None]:
        """Count one more until the end of the block. Raises RateLimited."""
        leave = self.enter(who)
        try:
            yield
        finally:
            leave()
