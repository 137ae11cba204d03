"""The check of a blob that was sent: it is streamed once from storage, hashed, and inspected on the way.

>>> stream = Passing(iter([b"abc", b"defg"]))
>>> stream.read(4), stream.tell(), stream.read()
(b'abcd', 4, b'efg')
>>> stream.sha256 == hashlib.sha256(b"abcdefg").hexdigest()
True
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple, cast

from registry.artifacts.facts import Facts
from registry.artifacts.long_facts import TurnNeededError, take_turn
from registry.errors import Verification
from registry.storage import BlobCorrupt, Storage
from sdk.schemas.artifacts import BlobSpec


class Inspection(NamedTuple):
    """How to look into a file: `look` says what is in it, or raises Verification if its content is wrong."""

    kind: type[Facts]
    look: Callable[[IO[bytes]], Facts]
    #: The part of the kept facts that `look` would find; None if it would find others.
    of: Callable[[Facts], Facts | None] = lambda facts: facts

    def known(self, kept: Any) -> Facts | None:
        """Return what was kept of a file; None if it has to be looked into."""
        facts = self.kind.from_json(kept)
        return None if facts is None else self.of(facts)


class Passing:
    """Chunks as a file that can be read forward once; all that is read is hashed."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._hasher = hashlib.sha256()
        self._held = memoryview(b"")
        self._position = 0
        #: How many bytes have come from storage so far.
        self.size_bytes = 0

    @property
    def sha256(self) -> str:
        """The digest of what has come from storage so far."""
        return self._hasher.hexdigest()

    def read(self, size: int = -1) -> bytes:
        """Return the next `size` bytes, fewer only at the end; all that is left if it is negative."""
        pieces = []
        wanted = size if size >= 0 else None
        while wanted is None or wanted > 0:
            if not self._held and not self._more():
                break
            piece = self._held if wanted is None else self._held[:wanted]
            self._held = self._held[len(piece) :]
            pieces.append(piece)
            self._position += len(piece)
            if wanted is not None:
                wanted -= len(piece)
        return bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)

    def seek(self, position: int) -> int:
        """Go forward. Raises ValueError for a place that has passed already."""
        if position < self._position:
            raise ValueError("what has passed can't be read again")
        while self._position < position and self.read(min(position - self._position, 1 << 20)):
            pass
        return self._position

    def tell(self) -> int:
        """Return the position of the next byte."""
        return self._position

    def drain(self) -> None:
        """Read the rest, for the hash."""
        self._held = memoryview(b"")
        while self._more():
            pass

    def _more(self) -> bool:
        chunk = next(self._chunks, b"")
        self._hasher.update(chunk)
        self.size_bytes += len(chunk)
        self._held = memoryview(chunk)
        return bool(chunk)


def read_blob(storage: Storage, stored_as: str, blob: BlobSpec, inspection: Inspection | None) -> Facts | None:
    """Stream what is stored under `stored_as` once, and say what is in it.

    Raises BlobMissing if nothing is, BlobCorrupt if it is not `blob`, Verification if its content is wrong,
    StorageError, and what `take_turn` does.
    """
    try:
        return _read(storage, stored_as, blob, inspection)
    except TurnNeededError as needed:
        size_bytes = needed.size_bytes
    # Nothing is held of the storage while others have their turn, so the bytes are read from the beginning again.
    take_turn(size_bytes)
    return _read(storage, stored_as, blob, inspection)


def _read(storage: Storage, stored_as: str, blob: BlobSpec, inspection: Inspection | None) -> Facts | None:
    facts: Facts | None = None
    refused: Verification | None = None
    with storage.open(stored_as) as chunks:
        passing = Passing(chunks)
        try:
            facts = None if inspection is None else inspection.look(cast(IO[bytes], passing))
        except Verification as error:
            # The first question is whether these are the right bytes at all, and only their hash answers it.
            refused = error
        passing.drain()
    if passing.sha256 != blob.sha256 or passing.size_bytes != blob.size_bytes:
        raise BlobCorrupt(
            f"storage has other bytes than were announced: expected sha256 {blob.sha256} of "
            f"{blob.size_bytes} bytes, found {passing.sha256} of {passing.size_bytes}; push again"
        )
    if refused is not None:
        raise refused
    return facts
