"""Aliases that a signer vouches for: a registry alone can't make `production` name another version, nor an earlier one again.

A statement is taken if a given key has signed it, if it is about this alias and exactly these bytes, if it is no older than
asked for, and if no later move of the alias was seen before. What was seen is remembered in the cache, by registry.

>>> AliasMemory(Cache(Path("/tmp/none")), "https://registry.example").read("code-review", "production") is None
True
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sdk.config import user_path
from sdk.errors import InvalidInput, NotFound, VerificationFailed, disk_explained
from sdk.formats.refs import Ref
from sdk.pulling.cache import Cache
from sdk.pulling.source import StoredStatement, read_statement
from sdk.schemas.policies import seconds_of
from sdk.schemas.statements import AHEAD_S, MOST_SIGNERS, AliasStatement
from sdk.signing import STATEMENT_FILE, PublicKey, find_signer, read_public_keys
from sdk.whole_files import write_whole


@dataclass(frozen=True)
class AliasSigner:
    """Whose statements of what an alias names are believed, and for how long."""

    path: Path
    keys: tuple[PublicKey, ...]
    max_age_s: float

    @classmethod
    def of(cls, key: str | Path, max_age: str) -> AliasSigner:
        """Read a PEM file, or a folder of them; `max_age` is such as "7d".

        Raises InvalidInput, NotFound, Unavailable without `[signing]`.
        """
        try:
            max_age_s = seconds_of(max_age)
        except ValueError as error:
            raise InvalidInput(str(error), param="max_age") from None
        path = user_path(key)
        return cls(path, tuple(read_public_keys(path)), max_age_s)


@dataclass(frozen=True)
class VerifiedStatement:
    """A statement that one of the keys has signed."""

    statement: AliasStatement
    key_id: str
    bundle: str


@dataclass(frozen=True)
class SeenMove:
    """The newest move of an alias that this client has seen a signed statement of."""

    move: int
    digest: str
    #: By the signer's key.
    statements: dict[str, StoredStatement]


class AliasMemory:
    """The newest moves of one registry's aliases that were seen, in one cache."""

    def __init__(self, cache: Cache, url: str) -> None:
        self._cache, self._url = cache, url
        self._folder = cache.root / "aliases" / hashlib.sha256(url.encode()).hexdigest()[:32]

    def accept(self, ref: Ref, digest: str, offered: Sequence[StoredStatement], signer: AliasSigner) -> None:
        """Return if a statement can be believed that the alias names the version with this digest now; remember its move.

        Raises VerificationFailed.
        """
        newest = _newest(ref, _verified(ref, offered, signer))
        _require_fresh(ref, newest, signer)
        adapter, alias = ref.adapter, ref.selector
        # From reading to writing: another process may see a later move meanwhile.
        with self._cache.lock(f"alias {self._url} {ref}"):
            seen = self.read(adapter, alias)
            said = newest[0].statement
            if seen is not None and said.move < seen.move:
                raise VerificationFailed(
                    f"the statement of {ref} is of move {said.move}, but this client has seen move {seen.move}: it is an old "
                    f"one; ask the signer, or if the registry was restored from a backup, remove {self.path(adapter, alias)}",
                    param="ref",
                )
            if seen is not None and said.move == seen.move and said.digest != seen.digest:
                raise VerificationFailed(
                    f"two statements of move {said.move} of {ref} name {seen.digest[:12]} and {said.digest[:12]}; ask the signer",
                    param="ref",
                )
            if said.digest != digest:
                raise VerificationFailed(
                    f"{ref} names {digest[:12]} now, but the statement of move {said.move} names {said.digest[:12]}; wait until "
                    "the last move is signed, or ask the signer",
                    param="ref",
                )
            self._remember(adapter, alias, newest, seen)

    def recall(self, ref: Ref, signer: AliasSigner) -> str:
        """Return the digest that the newest statement which was seen names, if that can still be believed.

        Raises NotFound if none was seen, VerificationFailed.
        """
        seen = self.read(ref.adapter, ref.selector)
        if seen is None:
            raise NotFound(
                f"no signed statement of {ref} was seen before, so it can't be pulled offline; pull it once without --offline",
                param="ref",
            )
        newest = _newest(ref, _verified(ref, list(seen.statements.values()), signer))
        said = newest[0].statement
        if (said.move, said.digest) != (seen.move, seen.digest):
            raise self._damaged(ref.adapter, ref.selector)
        _require_fresh(ref, newest, signer)
        return seen.digest

    def read(self, adapter: str, alias: str) -> SeenMove | None:
        """Return what was seen; None if nothing was. Raises VerificationFailed for a file that can't be read.

        It is not taken for nothing seen: then a damaged file would let old moves through.
        """
        try:
            with disk_explained("reading what was seen of an alias"):
                value = json.loads(self.path(adapter, alias).read_bytes())
            move, digest = value["move"], value["digest"]
            if (value["url"], value["adapter"], value["alias"]) != (self._url, adapter, alias):
                raise ValueError("another alias")
            if type(move) is not int or not isinstance(digest, str):
                raise TypeError
            return SeenMove(move, digest, {str(key): read_statement(one) for key, one in value["statements"].items()})
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise self._damaged(adapter, alias) from None

    def path(self, adapter: str, alias: str) -> Path:
        """Where it is remembered."""
        return self._folder / adapter.replace("/", "@") / f"{alias}.json"

    def _damaged(self, adapter: str, alias: str) -> VerificationFailed:
        return VerificationFailed(
            f"what was seen of {adapter}@{alias} is damaged; see that it names what it should, then remove "
            f"{self.path(adapter, alias)}"
        )

    def _remember(self, adapter: str, alias: str, newest: Sequence[VerifiedStatement], seen: SeenMove | None) -> None:
        said = newest[0].statement
        kept = dict(seen.statements) if seen is not None and seen.move == said.move else {}
        # Newer ones take the place of older ones by the same key, and come last.
        for one in sorted(newest, key=lambda one: one.statement.at):
            kept[one.key_id] = StoredStatement(one.statement.model_dump(), one.bundle)
        if seen is not None and (seen.move, seen.statements) == (said.move, kept):
            return
        shown = {key: {"statement": one.statement, "bundle": one.bundle} for key, one in kept.items()}
        content: dict[str, Any] = {
            "url": self._url,
            "adapter": adapter,
            "alias": alias,
            "move": said.move,
            "digest": said.digest,
            "statements": shown,
        }
        path = self.path(adapter, alias)
        # Unlike other things in the cache it is not made again if it is lost, so a pull that can't write it fails.
        with disk_explained("remembering which move of an alias was seen"):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(content, indent=1), durable=True)


def _verified(ref: Ref, offered: Sequence[StoredStatement], signer: AliasSigner) -> list[VerifiedStatement]:
    """The statements about this alias that one of the keys has signed. Raises VerificationFailed if there is none."""
    if len(offered) > MOST_SIGNERS:
        raise VerificationFailed(f"{ref} has {len(offered)} statements, more than a registry keeps; tell an admin")
    found = []
    refused: VerificationFailed | None = None
    for one in offered:
        try:
            statement = AliasStatement.model_validate(one.statement)
        except ValidationError:
            refused = VerificationFailed(f"a statement of {ref} can't be read by this release; upgrade adapterctl")
            continue
        if (statement.adapter, statement.alias) != (ref.adapter, ref.selector):
            refused = VerificationFailed(
                f"the registry shows a statement of {statement.adapter}@{statement.alias} as one of {ref}; tell an admin"
            )
            continue
        try:
            key = find_signer(statement, one.bundle, signer.keys, file=STATEMENT_FILE)
        except VerificationFailed as error:
            refused = error
        else:
            found.append(VerifiedStatement(statement, key.key_id, one.bundle))
    if found:
        return found
    if len(offered) == 1 and refused is not None:
        raise refused
    shown = f"{len(offered)} signed statements, but none" if offered else "no signed statement"
    raise VerificationFailed(
        f"{ref} has {shown} that {signer.path} verifies; ask for one: adapterctl promote "
        f"{ref} {ref.selector} --renew --sign KEY",
        param="require_signed_alias",
    )


def _newest(ref: Ref, verified: Sequence[VerifiedStatement]) -> list[VerifiedStatement]:
    """The statements of the last move that any is about, newest first. Raises VerificationFailed if they disagree."""
    last = max(one.statement.move for one in verified)
    newest = [one for one in verified if one.statement.move == last]
    if len({one.statement.digest for one in newest}) > 1:
        raise VerificationFailed(f"two signers state different versions for move {last} of {ref}; ask them")
    return sorted(newest, key=lambda one: one.statement.at, reverse=True)


def _require_fresh(ref: Ref, newest: Sequence[VerifiedStatement], signer: AliasSigner) -> None:
    """Raise VerificationFailed unless one of these is neither too old nor from the future."""
    now_s = time.time()
    ages_s = [now_s - one.statement.at_s for one in newest]
    if any(-AHEAD_S <= age_s <= signer.max_age_s for age_s in ages_s):
        return
    at = newest[0].statement.at
    if ages_s[0] < -AHEAD_S:
        raise VerificationFailed(
            f"the statement of {ref} is from {at}, which is in the future; check the clocks of this machine and of the signer's"
        )
    now = datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    raise VerificationFailed(
        f"the statement of {ref} is from {at}, too old at {now}; ask for a new one: adapterctl promote "
        f"{ref.adapter}@sha256:{newest[0].statement.digest[:12]} {ref.selector} --renew --sign KEY"
    )
