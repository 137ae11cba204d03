"""What refs named when they were pulled, so that a version's number or digest can be pulled again without the registry.

Only what can't move is remembered: `code-review@v3` is one version for ever, `code-review@production` is not.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from sdk.errors import VerificationFailed
from sdk.formats.manifest import is_sha256
from sdk.formats.refs import MemberRef, Ref
from sdk.pulling.cache import Cache
from sdk.whole_files import write_whole


class Pins:
    """The refs of one registry in one cache."""

    def __init__(self, cache: Cache, url: str) -> None:
        self._cache, self._url = cache, url
        self._folder = cache.root / "refs" / hashlib.sha256(url.encode()).hexdigest()[:32]

    def remember(self, adapter: str, number: int | None, digest: str) -> None:
        """Remember which version has a number, or only that a digest belongs to the adapter."""
        known = self.of(adapter)
        name = f"v{number}" if number is not None else digest
        if known.get(name) == digest:
            return
        with self._cache.lock(f"refs {self._url} {adapter}"):
            refs = {**self.of(adapter), name: digest}
            path = self._path(adapter)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps({"url": self._url, "adapter": adapter, "refs": refs}, indent=1), durable=True)

    def of(self, adapter: str) -> dict[str, str]:
        """The digests of an adapter's versions: by number ("v3"), or by digest for a version without a number."""
        return _read(self._path(adapter)).get(adapter, {})

    def digest(self, ref: Ref) -> str | None:
        """Return the digest that a ref with a number or digest names; None for a ref that may move.

        None also if no such version was pulled, or a shortened digest fits several.
        """
        known = self.of(ref.adapter)
        if ref.number is not None:
            return known.get(f"v{ref.number}")
        if ref.digest_prefix is None:
            return None
        found = {digest for digest in known.values() if digest.startswith(ref.digest_prefix)}
        return found.pop() if len(found) == 1 else None

    def newest(self, adapter: str) -> str | None:
        """Return the ref with the highest number that was pulled, to show as an example."""
        numbers = [int(name[1:]) for name in self.of(adapter) if name[1:].isdigit() and name[0] == "v"]
        return f"{adapter}@v{max(numbers)}" if numbers else None

    def _path(self, adapter: str) -> Path:
        return self._folder / f"{adapter.replace('/', '@')}.json"


def require_pinned(ref: Ref | MemberRef, adapter: str, number: int | None, digest: str) -> None:
    """Raise VerificationFailed if a registry's answer has another adapter, number or digest than the ref names. The member of
    a sweep has a number of its own, and only the registry says what it has kept.
    """
    if isinstance(ref, MemberRef):
        return
    named = adapter == ref.adapter and digest.startswith(ref.digest_prefix or "") and ref.number in (None, number)
    if not named:
        shown = "without a number" if number is None else f"v{number}"
        raise VerificationFailed(
            f"the registry returned another version for {ref} ({adapter[:129]}, {shown}, sha256:{digest[:12]}); tell an admin",
            param="ref",
        )


def all_refs(cache: Cache) -> dict[str, list[str]]:
    """The refs of every registry by digest."""
    found: dict[str, list[str]] = {}
    for path in sorted((cache.root / "refs").glob("*/*.json")):
        for adapter, refs in _read(path).items():
            for name, digest in refs.items():
                shown = f"{adapter}@{name}" if name != digest else f"{adapter}@sha256:{digest[:12]}"
                found.setdefault(digest, []).append(shown)
    return {digest: sorted(set(refs)) for digest, refs in found.items()}


def _read(path: Path) -> dict[str, dict[str, str]]:
    """The refs in a file, by adapter; empty if it is missing or damaged, since the next pulls write it again."""
    try:
        known: Any = json.loads(path.read_bytes())
        refs = {str(name): digest for name, digest in known["refs"].items() if is_sha256(digest)}
        return {str(known["adapter"]): refs}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
