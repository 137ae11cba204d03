"""Writing the header of a safetensors file; `sdk.formats.safetensors` reads it.

>>> written_header([TensorEntry("a", "F16", (1, 2), 4)])[8:]
b'{"a":{"dtype":"F16","shape":[1,2],"data_offsets":[0,4]}}'
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

#: The data begins at a multiple of this many bytes.
_ALIGNED = 8


class TensorEntry(NamedTuple):
    """A tensor of a file; its bytes follow those of the one before."""

    name: str
    #: The format's name for it: F32, BF16, U8 …
    dtype: str
    shape: Sequence[int]
    size_bytes: int


def written_header(tensors: Iterable[TensorEntry], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the header of a file with its length, padded with blanks; the bytes of the tensors follow it."""
    fields: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    begin = 0
    for each in tensors:
        end = begin + each.size_bytes
        fields[each.name] = {"dtype": each.dtype, "shape": list(each.shape), "data_offsets": [begin, end]}
        begin = end
    raw = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    return with_length(raw + b" " * (-len(raw) % _ALIGNED))


def with_length(raw: bytes) -> bytes:
    """Return a header's JSON, already padded, after its length."""
    return struct.pack("<Q", len(raw)) + raw
