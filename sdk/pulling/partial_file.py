"""A partially fetched file: which parts have been written, remembered so that a killed process loses no byte.

Beside the target are `NAME.partial`, with bytes where they belong, and `NAME.partial.json`, which says where bytes have
been written and which object of the storage they come from. The latter is written after each piece, in one call.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sdk.file_locks import locked
from sdk.whole_files import give_name

#: The length of the note: one call writes all of it, so that a kill can't leave half of it.
_NOTE_BYTES = 4096


class Partial:
    """The bytes so far of one blob. Only one thread at a time may call its methods, apart from `write`."""

    def __init__(self, target: Path, descriptor: int, sha256: str, size_bytes: int) -> None:
        self.target = target
        self.descriptor = descriptor
        self.size_bytes = size_bytes
        self.etag: str | None = None
        self._sha256 = sha256
        self._finished = False
        self._note = os.open(_note_of(target), os.O_RDWR | os.O_CREAT, 0o600)
        #: What has been written: [begin, end), sorted, none touching the next.
        self.ranges: list[list[int]] = []
        self._recall()

    @property
    def frontier(self) -> int:
        """How many bytes there are from the beginning without a gap."""
        return self.ranges[0][1] if self.ranges and self.ranges[0][0] == 0 else 0

    @property
    def written_bytes(self) -> int:
        """How many bytes there are."""
        return sum(end - begin for begin, end in self.ranges)

    def gaps(self) -> list[list[int]]:
        """What is missing: [begin, end), sorted."""
        edges = [0, *(edge for written in self.ranges for edge in written), self.size_bytes]
        return [[begin, end] for begin, end in zip(edges[::2], edges[1::2], strict=True) if begin < end]

    def write(self, data: bytes, at: int) -> None:
        """Write bytes where they belong; `note` must follow."""
        view = memoryview(data)
        while view:
            count = os.pwrite(self.descriptor, view, at)
            view, at = view[count:], at + count

    def note(self, begin: int, end: int) -> None:
        """Remember that [begin, end) has been written."""
        ranges = self.ranges
        place = next((i for i, known in enumerate(ranges) if known[0] > begin), len(ranges))
        if place and ranges[place - 1][1] == begin:
            place -= 1
            ranges[place][1] = end
        else:
            ranges.insert(place, [begin, end])
        if place + 1 < len(ranges) and ranges[place + 1][0] == ranges[place][1]:
            ranges[place][1] = ranges.pop(place + 1)[1]
        self._remember()

    def _remember(self) -> None:
        known = {"sha256": self._sha256, "size_bytes": self.size_bytes, "etag": self.etag, "ranges": self.ranges}
        text = json.dumps(known).encode()
        if len(text) <= _NOTE_BYTES:
            os.pwrite(self._note, text.ljust(_NOTE_BYTES), 0)

    def _recall(self) -> None:
        try:
            known = json.loads(os.pread(self._note, _NOTE_BYTES, 0))
            ranges = [[int(begin), int(end)] for begin, end in known["ranges"]]
            size_bytes = self.size_bytes
            fits = (known["sha256"], known["size_bytes"]) == (self._sha256, size_bytes)
            edges = [edge for written in ranges for edge in written]
            there = os.fstat(self.descriptor).st_size
            if (
                fits
                and edges == sorted(set(edges))
                and (not edges or (edges[0] >= 0 and edges[-1] <= min(there, size_bytes)))
            ):
                self.ranges, self.etag = ranges, known["etag"] if isinstance(known["etag"], str) else None
        except (ValueError, KeyError, TypeError):
            # Nothing was remembered, or it was damaged: the blob is fetched from the beginning.
            pass
        if not self.ranges:
            self.reset()

    def reset(self) -> None:
        """Forget everything, and drop the bytes."""
        self.ranges, self.etag = [], None
        os.ftruncate(self.descriptor, 0)
        os.ftruncate(self._note, 0)

    def finish(self, mode: int | None) -> None:
        """Give the file its name; its bytes are on the disk, and what loses its name in a power cut is fetched again."""
        if mode is not None:
            # Only now, since a read-only partial file could not be continued. A power cut may undo this.
            os.fchmod(self.descriptor, mode)
        # The note is removed first: after renaming, another process may use both names.
        _note_of(self.target).unlink(missing_ok=True)
        give_name(_partial_of(self.target), self.target, durable=False)
        self._finished = True

    def discard(self) -> None:
        """Remove the partial file and its note."""
        _note_of(self.target).unlink(missing_ok=True)
        _partial_of(self.target).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the note; if nothing was written, leave neither it nor the partial file."""
        os.close(self._note)
        if not self.ranges and not self._finished:
            self.discard()


def _partial_of(target: Path) -> Path:
    return target.with_name(f"{target.name[:100]}.partial")


def _note_of(target: Path) -> Path:
    return target.with_name(f"{target.name[:100]}.partial.json")


@contextmanager
def open_partial(target: Path, sha256: str, size_bytes: int) -> Iterator[Partial]:
    """The partial file of `target`, locked against other processes; waits while one of them is writing it."""
    with (
        locked(_partial_of(target), mode=0o666) as descriptor,
        closing(Partial(target, descriptor, sha256, size_bytes)) as partial,
    ):
        yield partial


def is_leaving(name: str) -> bool:
    """Tell whether a file in the cache was left by an interrupted download."""
    return name.endswith((".partial", ".partial.json"))
