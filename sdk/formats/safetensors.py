"""The header of a safetensors file, read with its own grammar: it takes a few bytes of memory per tensor, and no tree.

Format: 8 bytes little-endian length N, N bytes of JSON `{name: {dtype, shape, data_offsets}}`, then the data.
Everything that the safetensors library refuses is refused, and also some that it accepts: duplicate names, other
fields, tensors without numbers, and names that PEFT doesn't write.

>>> import io
>>> raw = b'{"a":{"dtype":"F16","shape":[1,2],"data_offsets":[0,4]}}'
>>> header = read_header(io.BytesIO(struct.pack("<Q", len(raw)) + raw), len(raw) + 12)
>>> header.name(0), header.kinds, header.data_begin
('a', [Kind(dtype='F16', shape=(1, 2))], 64)
>>> read_header(io.BytesIO(b""), 0)
Traceback (most recent call last):
sdk.formats.safetensors.SafetensorsError: adapter_model.safetensors is empty or cut off; save the adapter again
"""

from __future__ import annotations

import codecs
import itertools
import json
import math
import struct
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, NamedTuple

from sdk.formats.adapter_files import WEIGHTS_FILE
from sdk.formats.safetensors_grammar import (
    ANY_KEY,
    ANY_NAME,
    BETWEEN,
    CLOSE,
    ENTRY,
    FIELD,
    KEY,
    METADATUM,
    NAME,
    NEXT,
    OPEN,
    TRAILING,
)

#: LoRAs of the largest published mixtures of experts have 140,000 matrices, which makes a header of 25 MiB.
MAX_HEADER_BYTES = 32 * 1024 * 1024
MAX_TENSORS = 262_144
#: How many types and shapes these may have. An adapter with another rank for each module of a large model has 2,000.
MAX_KINDS = 8192
_PIECE_BYTES = 1024 * 1024
_MAX_METADATA_BYTES = 1024 * 1024
_MAX_METADATA = 1024
MAX_DIMENSIONS = 8
ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
#: The sizes in bits of other types that a base may have.
_OTHER_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    "U16": 16,
    "I16": 16,
    "U32": 32,
    "I32": 32,
    "U64": 64,
    "I64": 64,
    "C64": 64,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}
_SAVE_AGAIN = "save the adapter again with PEFT"


class SafetensorsError(ValueError):
    """The file is not one contiguous, fully described block of tensors."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(f"{reason}; {advice}")
        #: What is wrong, as a clause.
        self.reason = reason
        #: What to do about it if the file is an adapter's.
        self.advice = advice


class Kind(NamedTuple):
    """What many tensors of an adapter have in common: there are few kinds for many tensors."""

    #: safetensors' name for it: F64, F32, F16, BF16.
    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Of one tensor."""
        if self.dtype in ITEM_BYTES:
            return math.prod(self.shape) * ITEM_BYTES[self.dtype]
        return -(-math.prod(self.shape) * _OTHER_BITS[self.dtype] // 8)


@dataclass
class Header:
    """The tensors of a file, in the order of their bytes, which follow each other without a gap."""

    raw: bytearray
    kinds: list[Kind]
    #: The offset in `raw` at which each name begins, and its length.
    name_at: array[int]
    name_length: array[int]
    #: Index into `kinds`.
    kind_of: array[int]
    #: The offset at which each tensor begins, from the end of the header.
    begin: array[int]
    #: The offset at which the data begin in the file.
    data_begin: int

    def __len__(self) -> int:
        return len(self.kind_of)

    def name(self, index: int) -> str:
        """Return the name of a tensor."""
        at = self.name_at[index]
        return self.raw[at : at + self.name_length[index]].decode("ascii")

    def kind(self, index: int) -> Kind:
        """Return the type and shape of a tensor."""
        return self.kinds[self.kind_of[index]]

    def end(self, index: int) -> int:
        """Return the offset at which a tensor ends, counted like `begin`."""
        return self.begin[index] + self.kind(index).size_bytes

    def shapes(self) -> dict[str, list[int]]:
        """Return the shape of each tensor by its name."""
        return {self.name(index): list(self.kind(index).shape) for index in range(len(self))}

    def names(self) -> bytearray:
        """Return all names in ASCII, a newline after each. Who needs the text drops the header before it is decoded."""
        joined = bytearray()
        for at, length in zip(self.name_at, self.name_length, strict=True):
            joined += self.raw[at : at + length]
            joined += b"\n"
        return joined


@dataclass
class _Found:
    """What has been read so far, in the order of the header."""

    data_bytes: int
    #: The file's name in messages.
    called: str
    #: Whether tensors may have any type, as in a base.
    any_dtype: bool = False
    kinds: dict[Kind, int] = field(default_factory=dict)
    name_at: array[int] = field(default_factory=lambda: array("I"))
    name_length: array[int] = field(default_factory=lambda: array("H"))
    kind_of: array[int] = field(default_factory=lambda: array("I"))
    begin: array[int] = field(default_factory=lambda: array("q"))
    #: Hashes of the names, to find duplicates.
    hashes: array[int] = field(default_factory=lambda: array("q"))

    def add(self, name: bytes, at: int, kind: Kind, begin: int) -> None:
        self.name_at.append(at)
        self.name_length.append(len(name))
        self.kind_of.append(self.kinds.setdefault(kind, len(self.kinds)))
        self.begin.append(begin)
        self.hashes.append(hash(name))


def read_header(
    file: IO[bytes],
    size_bytes: int,
    *,
    called: str = WEIGHTS_FILE,
    any_dtype: bool = False,
    before: Callable[[int], object] | None = None,
) -> Header:
    """Read the header of a file of `size_bytes`, which is left at the first byte of the data.

    An adapter has floating-point tensors; a base's, with `any_dtype`, may have any type. `before` gets the length of the
    header before that is read. Raises SafetensorsError if the
    file is not one contiguous, fully described block of tensors.
    """
    (length,) = struct.unpack("<Q", read_exactly(file, 8, called=called))
    if length > size_bytes - 8:
        raise SafetensorsError(f"{called} has a header longer than the file", "it is not a safetensors file")
    if length > MAX_HEADER_BYTES:
        raise SafetensorsError(
            f"{called} has a header of {length // 1024**2} MiB, longer than the {MAX_HEADER_BYTES // 1024**2} MiB allowed",
            "save the adapter with fewer tensors",
        )
    if before is not None:
        before(length)
    raw = _read_once(file, length, called)
    _require_utf8(raw, called)
    found = _parse(raw, _Found(size_bytes - 8 - length, called, any_dtype))
    _refuse_duplicates(raw, found)
    found.hashes = array("q")
    return _ordered(raw, found)


def read_exactly(file: IO[bytes], count: int, *, called: str = WEIGHTS_FILE) -> bytes:
    """Return the next `count` bytes. Raises SafetensorsError if the file has fewer."""
    pieces, left = [], count
    while left:
        pieces.append(file.read(left))
        if not pieces[-1]:
            raise SafetensorsError(f"{called} is empty or cut off", "save the adapter again")
        left -= len(pieces[-1])
    # A single piece is not copied.
    return b"".join(pieces)


def _read_once(file: IO[bytes], count: int, called: str) -> bytearray:
    """Like `read_exactly`, for bytes that should not be held twice, as pieces and joined."""
    raw = bytearray(count)
    for begin in range(0, count, _PIECE_BYTES):
        end = min(begin + _PIECE_BYTES, count)
        raw[begin:end] = read_exactly(file, end - begin, called=called)
    return raw


def _require_utf8(raw: bytearray, called: str) -> None:
    if raw.isascii():
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(raw), 65536):
            decoder.decode(raw[start : start + 65536], final=start + 65536 >= len(raw))
    except UnicodeDecodeError as error:
        raise _no_json(called) from error


def _no_json(called: str) -> SafetensorsError:
    return SafetensorsError(f"{called} has a header that is not a JSON object", "it is not a safetensors file")


def _parse(raw: bytearray, found: _Found) -> _Found:
    """Read all entries, each by one match."""
    if not raw.startswith(b"{"):
        raise _no_json(found.called)
    position, seen_metadata = 1, False
    if (end := BETWEEN.match(raw, position)) and end[1] == b"}":
        return _finished(raw, end.end(), found)
    while True:
        key = KEY.match(raw, position)
        if key is None:
            raise _no_key(raw, position, found.called)
        if key[1] == b"__metadata__":
            if seen_metadata:
                raise _twice("__metadata__", found.called)
            seen_metadata = True
            position = _skip_metadata(raw, key.end(), found.called)
        else:
            position = _read_entry(raw, key[1], key.start(1), key.end(), found)
        between = BETWEEN.match(raw, position)
        if between is None:
            raise _no_json(found.called)
        position = between.end()
        if between[1] == b"}":
            return _finished(raw, position, found)


def _no_key(raw: bytearray, position: int, called: str) -> SafetensorsError:
    """Say why there is no key here: a name with a backslash is valid JSON, but PEFT doesn't write such names."""
    text = ANY_KEY.match(raw, position, position + 4096)
    return _bad_name(text[1]) if text else _no_json(called)


def _bad_name(name: bytes) -> SafetensorsError:
    return SafetensorsError(f"tensor name {name[:80]!a} is not one that PEFT writes", _SAVE_AGAIN)


def _twice(name: str, called: str) -> SafetensorsError:
    return SafetensorsError(f"{name!a} appears twice in the header of {called}", _SAVE_AGAIN)


def _finished(raw: bytearray, position: int, found: _Found) -> _Found:
    trailing = TRAILING.match(raw, position)
    if trailing is None or trailing.end() != len(raw):
        raise _no_json(found.called)
    return found


def _read_entry(raw: bytearray, name: bytes, at: int, position: int, found: _Found) -> int:
    """Read what follows a name; return where it ends."""
    if not (ANY_NAME if found.any_dtype else NAME).fullmatch(name) or b".." in name:
        raise _bad_name(name)
    if match := ENTRY.match(raw, position):
        dtype, shape, begin, end = match.groups()
        position = match.end()
    else:
        (dtype, shape, begin, end), position = _read_fields(raw, name, position)
    kind = _kind(name, dtype, shape, any_dtype=found.any_dtype)
    first, last = int(begin), int(end)
    if last - first != kind.size_bytes or last > found.data_bytes:
        raise SafetensorsError(
            f"tensor {name.decode()!r} has a shape that does not fit its bytes, or lies outside the file",
            "save the adapter again",
        )
    if len(found.begin) == MAX_TENSORS:
        raise SafetensorsError(f"the adapter has more than {MAX_TENSORS} tensors", "save it with fewer target modules")
    if len(found.kinds) == MAX_KINDS and kind not in found.kinds:
        raise SafetensorsError(f"the adapter has more than {MAX_KINDS} different shapes", "save it with fewer ranks")
    found.add(name, at, kind, first)
    return position


def _read_fields(raw: bytearray, name: bytes, position: int) -> tuple[tuple[bytes, ...], int]:
    """Read an entry whose fields are in another order."""
    wrong = SafetensorsError(f"tensor {name.decode()!r} is described wrongly in the safetensors header", _SAVE_AGAIN)
    opened = OPEN.match(raw, position)
    values: list[bytes | None] = [None] * 4
    for number in range(3):
        separator = NEXT.match(raw, position) if number else opened
        matched = FIELD.match(raw, separator.end()) if separator else None
        if matched is None:
            raise wrong
        values = [new if old is None else old for old, new in zip(values, matched.groups(), strict=True)]
        position = matched.end()
    closed = CLOSE.match(raw, position)
    complete = tuple(value for value in values if value is not None)
    # If three fields give all four values, they are three different fields.
    if closed is None or len(complete) != 4:
        raise wrong
    return complete, closed.end()


def _kind(name: bytes, dtype: bytes, shape: bytes, *, any_dtype: bool) -> Kind:
    known = dtype.decode()
    if known not in ITEM_BYTES and not (any_dtype and known in _OTHER_BITS):
        raise SafetensorsError(
            f"tensor {name.decode()!r} has the type {known!a}", "an adapter may have only floating-point tensors"
        )
    if any_dtype and not shape:
        return Kind(known, ())
    if not shape or shape.count(b",") >= MAX_DIMENSIONS:
        raise SafetensorsError(f"tensor {name.decode()!r} has an impossible shape", _SAVE_AGAIN)
    numbers = tuple(map(int, shape.split(b",")))
    # A quantised base may have empty tensors.
    if 0 in numbers and not any_dtype:
        raise SafetensorsError(
            f"tensor {name.decode()!r} is empty, as happens when only one of many shards is saved",
            "gather the weights, then save again",
        )
    return Kind(known, numbers)


def _skip_metadata(raw: bytearray, position: int, called: str) -> int:
    """Check `__metadata__`, an object of strings; return where it ends."""
    wrong = SafetensorsError(
        f"{called} has metadata that is not text, has a key twice, or is longer than 1 MiB", _SAVE_AGAIN
    )
    last = position + _MAX_METADATA_BYTES
    opened = OPEN.match(raw, position)
    if opened is None:
        raise wrong
    position = opened.end()
    if closed := CLOSE.match(raw, position):
        return closed.end()
    seen: set[str] = set()
    while len(seen) < _MAX_METADATA:
        pair = METADATUM.match(raw, position, last)
        if pair is None or (name := json.loads(pair[1])) in seen:
            raise wrong
        seen.add(name)
        position = pair.end()
        if closed := CLOSE.match(raw, position):
            return closed.end()
        following = NEXT.match(raw, position)
        if following is None:
            raise wrong
        position = following.end()
    raise wrong


def _refuse_duplicates(raw: bytearray, found: _Found) -> None:
    """Raise SafetensorsError for a name that occurs twice. Hashes are compared first: a set of names would be many
    times larger.
    """
    same = {one for one, other in itertools.pairwise(sorted(found.hashes)) if one == other}
    if not same:
        return
    seen: set[bytes] = set()
    for at, length, hashed in zip(found.name_at, found.name_length, found.hashes, strict=True):
        if hashed in same:
            name = bytes(raw[at : at + length])
            if name in seen:
                raise _twice(name.decode(), found.called)
            seen.add(name)


def _ordered(raw: bytearray, found: _Found) -> Header:
    """Sort the tensors by their bytes. Raises SafetensorsError if these overlap, leave a gap, or are not all of the
    file.
    """
    columns = [found.name_at, found.name_length, found.kind_of, found.begin]
    if not all(one < other for one, other in itertools.pairwise(found.begin)):
        sizes = [kind.size_bytes for kind in found.kinds]
        # An empty tensor comes before the one that begins at the same offset.
        order = sorted(range(len(found.begin)), key=lambda index: (found.begin[index], sizes[found.kind_of[index]]))
        columns = [array(column.typecode, map(column.__getitem__, order)) for column in columns]
    name_at, name_length, kind_of, begins = columns
    header = Header(raw, list(found.kinds), name_at, name_length, kind_of, begins, data_begin=8 + len(raw))
    end = 0
    taken = map([kind.size_bytes for kind in header.kinds].__getitem__, header.kind_of)
    for index, (begin, size_bytes) in enumerate(zip(header.begin, taken, strict=True)):
        if begin != end:
            raise SafetensorsError(f"tensor {header.name(index)!r} overlaps another or leaves a gap", _SAVE_AGAIN)
        end = begin + size_bytes
    if end != found.data_bytes:
        raise SafetensorsError(
            f"{found.called} is cut off, or has bytes after its last tensor", "save the adapter again"
        )
    return header
