"""What exact refs were found to be a short while ago, so that asking the same version again needs no registry.

A version's number and digest name the same bytes for ever, but a version may be deleted, and a token revoked: so this is relied
on for a few minutes, by the same token alone.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

from sdk.asking.target import AskTarget
from sdk.config import Config
from sdk.formats.refs import Ref
from sdk.pulling.cache import Cache
from sdk.whole_files import write_whole

#: How long the registry isn't asked again.
_TRUSTED_S = 300.0
#: Files that are older than that are removed once there are so many.
_MOST_FILES = 1000


class Memory:
    """What refs meant, for one registry and one token, with a base held in one way."""

    def __init__(
        self, cache: Cache, config: Config, dtype: str | None, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._folder = cache.engines / "refs"
        self._cache = cache
        self._asker = [config.url, config.token, dtype]
        self._clock = clock

    def recall(self, ref: str) -> AskTarget | None:
        """Return what a ref was found to be; None if that is too long ago, or it may name something else by now."""
        try:
            found = json.loads(self._path(ref).read_bytes())
            if not 0 <= self._clock() - found["found_s"] <= _TRUSTED_S:
                return None
            return AskTarget.of_json(found["target"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def remember(self, ref: str, target: AskTarget) -> None:
        """Remember what an exact ref was found to be; others aren't remembered."""
        if not _is_exact(ref):
            return
        self._cache.keep_private()
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._tidy()
        said = {"found_s": self._clock(), "target": target.as_json()}
        write_whole(self._path(ref), json.dumps(said), durable=False, mode=0o600)

    def forget(self, ref: str) -> None:
        """Forget what a ref was found to be."""
        self._path(ref).unlink(missing_ok=True)

    def _path(self, ref: str) -> Path:
        # The token is in it as a hash alone.
        key = hashlib.sha256(json.dumps([*self._asker, ref]).encode()).hexdigest()[:32]
        return self._folder / f"{key}.json"

    def _tidy(self) -> None:
        files = list(self._folder.iterdir())
        if len(files) > _MOST_FILES:
            for path in files:
                if self._clock() - path.stat().st_mtime > _TRUSTED_S:
                    path.unlink(missing_ok=True)


def _is_exact(ref: str) -> bool:
    try:
        parsed = Ref.parse(ref)
    except ValueError:
        # A member of a sweep, or a base.
        return False
    return parsed.number is not None or parsed.digest_prefix is not None
