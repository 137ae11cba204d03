"""Who reads pages, as the gate puts it into the scope of a request, and what their forms have to hold.

>>> mine = SignedIn.of("what the cookie holds", Principal("ada"), "its digest")
>>> mine.csrf == mine.csrf, mine.has_made(mine.csrf), mine.has_made("x")
(False, True, False)
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field

from registry.principal import Principal

_KEY_BYTES = 32


@dataclass(frozen=True)
class SignedIn:
    """Who has signed in. `digest` is that of their session, by which `Sessions.standing` finds it again."""

    who: Principal
    digest: str
    #: It follows from the cookie, which no other site can read, and says nothing about it.
    _key: bytes = field(repr=False)

    @classmethod
    def of(cls, secret: str, who: Principal, digest: str) -> SignedIn:
        """Return the session of a cookie."""
        return cls(who, digest, hmac.digest(secret.encode("utf-8", "replace"), b"csrf", hashlib.sha256))

    @property
    def csrf(self) -> str:
        """What a form has to hold: another text each time, so that the size of compressed pages says nothing about it."""
        mask = secrets.token_bytes(_KEY_BYTES)
        return urlsafe_b64encode(mask + _masked(self._key, mask)).decode()

    def has_made(self, given: str) -> bool:
        """Whether a form's `csrf` is one of this session's."""
        try:
            raw = urlsafe_b64decode(given.encode("ascii"))
        except ValueError:
            return False
        mask, masked = raw[:_KEY_BYTES], raw[_KEY_BYTES:]
        return len(raw) == 2 * _KEY_BYTES and hmac.compare_digest(_masked(masked, mask), self._key)


def _masked(text: bytes, mask: bytes) -> bytes:
    return bytes(one ^ other for one, other in zip(text, mask, strict=True))
