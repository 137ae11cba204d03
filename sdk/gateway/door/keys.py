"""Who may ask: the holder of the gateway's own key, or of a token that the registry knows. No key and no token is kept, only hashes.

>>> key = OwnKey.of("sk-" + "x" * 40)
>>> key.is_it("sk-" + "x" * 40), key.is_it("sk-" + "y" * 40)
(True, False)
>>> CallerRights.of([GrantView(namespace="team", role="reader")]).may_use("team/review")
True
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from sdk.formats.hosts import neighbourhood
from sdk.gateway.door.refusals import Declined
from sdk.schemas.access import GrantView
from sdk.schemas.serving import TokenStanding

#: A registry's answer about a token counts for so long at most, and with the registry away for so long.
FRESH_S, STALE_S = 5.0, 15 * 60.0
#: The most tokens that are remembered, and the longest that is looked at.
MOST_REMEMBERED, LONGEST_KEY = 10_000, 512
#: Wrong or unknown keys that one client may send at once, how fast it may send more, and of how many clients that is counted.
WRONG_AT_ONCE, WRONG_PER_S, MOST_CLIENTS = 20, 0.5, 10_000
#: The shortest key that is taken from a file, in characters.
SHORTEST_KEY = 16

#: When somebody whose key couldn't be looked up may try again, in seconds.
_AGAIN_S = 5

_log = logging.getLogger(__name__)

#: Asks the registry what the holder of a token may do, by its hash. Raises OSError while it can't be asked.
AskStanding = Callable[[str], Awaitable[TokenStanding]]


@dataclass(frozen=True)
class CallerRights:
    """The namespaces whose adapters somebody may use; None: all that are served. "-" is that of names without one."""

    namespaces: frozenset[str] | None

    @classmethod
    def of(cls, grants: Iterable[GrantView]) -> CallerRights:
        """Return what grants allow: every role reads."""
        found = frozenset(grant.namespace for grant in grants)
        return cls(None if "*" in found else found)

    def may_use(self, adapter: str) -> bool:
        """Whether they allow an adapter, by its name."""
        return self.namespaces is None or (adapter.rpartition("/")[0] or "-") in self.namespaces

    @property
    def may_use_base(self) -> bool:
        """Whether they allow the base: whoever may use any adapter can do without it too."""
        return self.namespaces is None or bool(self.namespaces)


EVERYTHING = CallerRights(None)


@dataclass(frozen=True)
class OwnKey:
    """The gateway's own key, as a hash."""

    hash: bytes

    @classmethod
    def of(cls, key: str) -> OwnKey:
        """Return that of a key."""
        return cls(_hash(key))

    def is_it(self, text: str) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(self.hash, _hash(text))


def make_key() -> str:
    """Return a new key."""
    return f"sk-{secrets.token_urlsafe(32)}"


@dataclass(frozen=True)
class KeyHolder:
    """Who is asking: what they may do, and who counts as the same one, in whatever many requests."""

    rights: CallerRights
    #: A token's hash, or the neighbourhood of an address for those who share a key or need none.
    identity: str


class WrongKeys:
    """How many wrong keys clients have sent: each may send some, and then one now and then."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: Client → how many it has sent, and when that was counted; the last one to send is the last.
        self._sent: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def require_room(self, client: str) -> None:
        """Raise Declined if a client has sent too many."""
        count, at = self._sent.get(client, (0.0, 0.0))
        if count - (self._clock() - at) * WRONG_PER_S >= WRONG_AT_ONCE:
            raise Declined(
                429,
                "rate_limited",
                "this address has sent too many wrong keys; wait a minute, then send the right one",
                headers={"Retry-After": "60"},
            )

    def note(self, client: str) -> None:
        """Count one."""
        now = self._clock()
        count, at = self._sent.pop(client, (0.0, now))
        self._sent[client] = (max(0.0, count - (now - at) * WRONG_PER_S) + 1, now)
        if len(self._sent) > MOST_CLIENTS:
            self._sent.popitem(last=False)

    def take_back(self, client: str) -> None:
        """Count one less: it was right after all."""
        count, at = self._sent.get(client, (0.0, 0.0))
        self._sent[client] = (max(0.0, count - 1), at)


@dataclass(frozen=True)
class _Known:
    rights: CallerRights
    asked_s: float
    valid_for_s: float

    @property
    def stale_s(self) -> float:
        """For how long it counts with the registry away: a token that ends sooner than an answer does has ended by then."""
        return STALE_S if self.valid_for_s >= FRESH_S else self.valid_for_s


class RegistryAway(Exception):  # noqa: N818 - it reads as what happened
    """The registry can't be asked about a token, and hasn't been lately."""


class TokenRights:
    """What holders of the registry's tokens may do, as the registry last said."""

    def __init__(self, ask: AskStanding, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask, self._clock = ask, clock
        self._known: OrderedDict[str, _Known] = OrderedDict()
        #: Wrong ones are remembered apart: however many come, no right one is forgotten for them.
        self._wrong: OrderedDict[str, float] = OrderedDict()
        self._asking: dict[str, asyncio.Task[CallerRights | None]] = {}
        #: When the registry last couldn't be asked. Those who come right after don't wait for it again.
        self._away_s = -FRESH_S

    def remembered(self, token: str) -> CallerRights | None:
        """Return the rights of a token about which the registry needn't be asked now."""
        known, now = self._known.get(_hash(token).hex()), self._clock()
        if known is None:
            return None
        counts_s = known.stale_s if now - self._away_s < FRESH_S else min(known.valid_for_s, FRESH_S)
        return known.rights if now - known.asked_s < counts_s else None

    def was_right(self, token: str) -> bool:
        """Whether the registry has known this token in the last quarter of an hour."""
        known = self._known.get(_hash(token).hex())
        return known is not None and self._clock() - known.asked_s < known.stale_s

    def is_asking(self, token: str) -> bool:
        """Whether the registry is just being asked about this token."""
        return _hash(token).hex() in self._asking

    async def find(self, token: str) -> CallerRights | None:
        """Return the rights of a token; None for a wrong one. Raises RegistryAway if nobody says which it is."""
        digest = _hash(token).hex()
        if self._clock() - self._wrong.get(digest, -FRESH_S) < FRESH_S:
            return None
        if (found := self.remembered(token)) is not None:
            return found
        if self._clock() - self._away_s < FRESH_S:
            raise RegistryAway
        task = self._asking.get(digest)
        if task is None:
            task = self._asking[digest] = asyncio.create_task(self._find(digest))
            task.add_done_callback(lambda done: self._asked(digest, done))
        # It goes on for the others if this request ends.
        return await asyncio.shield(task)

    def _asked(self, digest: str, done: asyncio.Task[CallerRights | None]) -> None:
        self._asking.pop(digest, None)
        if not done.cancelled():
            # Whoever waited for it may have gone: an error that nobody fetches would be logged.
            done.exception()

    async def _find(self, digest: str) -> CallerRights | None:
        now = self._clock()
        try:
            standing = await self._ask(digest)
        except OSError:
            self._away_s = self._clock()
            known = self._known.get(digest)
            if known is not None and now - known.asked_s < known.stale_s:
                return known.rights
            raise RegistryAway from None
        if not standing.grants:
            self._known.pop(digest, None)
            self._wrong[digest] = now
            _bound(self._wrong)
            return None
        rights = CallerRights.of(standing.grants)
        self._known.pop(digest, None)
        self._known[digest] = _Known(rights, now, standing.valid_for_s)
        _bound(self._known)
        return rights


class Keys:
    """The one check of who is asking."""

    def __init__(self, own: OwnKey | None, tokens: TokenRights | None, *, wrong: WrongKeys | None = None) -> None:
        self._own, self._tokens = own, tokens
        self._wrong = wrong or WrongKeys()

    async def caller(self, authorization: str | None, address: str) -> KeyHolder:
        """Return who sends a header `Authorization` from an address. Raises Declined."""
        client = neighbourhood(address)
        if self._own is None and self._tokens is None:
            return KeyHolder(EVERYTHING, client)
        scheme, _, key = (authorization or "").partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            raise _unauthenticated("this gateway needs a key; send it as Authorization: Bearer KEY")
        if len(key) <= LONGEST_KEY:
            if self._own is not None and self._own.is_it(key):
                return KeyHolder(EVERYTHING, client)
            if self._tokens is not None and (found := self._tokens.remembered(key)) is not None:
                return KeyHolder(found, _hash(key).hex())
        # Many requests with one new token are one question to the registry, and count as one.
        known = self._tokens is not None and (self._tokens.was_right(key) or self._tokens.is_asking(key))
        if not known:
            self._wrong.require_room(client)
            # Counted before the registry is asked, so that many at once are no way around it.
            self._wrong.note(client)
        try:
            found = await self._tokens.find(key) if self._tokens is not None and len(key) <= LONGEST_KEY else None
        except RegistryAway:
            if not known:
                # It may be right.
                self._wrong.take_back(client)
            raise Declined(
                503,
                "unavailable",
                "the registry can't be asked about this key at the moment; try again in some seconds",
                headers={"Retry-After": str(_AGAIN_S)},
            ) from None
        if found is None:
            _log.info("refused a wrong key from %s", client)
            raise _unauthenticated("this key is not right, or no longer; send another one as Authorization: Bearer KEY")
        if not known:
            self._wrong.take_back(client)
        return KeyHolder(found, _hash(key).hex())


def _unauthenticated(message: str) -> Declined:
    return Declined(401, "unauthenticated", message, headers={"WWW-Authenticate": "Bearer"})


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _bound(remembered: OrderedDict[str, _Known] | OrderedDict[str, float]) -> None:
    while len(remembered) > MOST_REMEMBERED:
        remembered.popitem(last=False)
