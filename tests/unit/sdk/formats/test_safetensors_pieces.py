"""The header of a safetensors file that comes in small pieces, as from a network."""

from __future__ import annotations

import io
import time

import pytest

from sdk.formats.safetensors import SafetensorsError, read_exactly


class Pieces(io.BytesIO):
    """A file that gives a few bytes at a time."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(64, size or 0))


def test_header_in_pieces_is_read_in_time_proportional_to_its_length() -> None:
    raw = bytes(range(256)) * (1 << 14)
    begin = time.process_time()
    assert read_exactly(Pieces(raw), len(raw)) == raw
    # Adding each piece to those before it copied 137 GB.
    assert time.process_time() - begin < 2


def test_header_that_ends_early_is_refused() -> None:
    with pytest.raises(SafetensorsError, match=r"empty or cut off; save the adapter again"):
        read_exactly(Pieces(bytes(100)), 101)
    assert read_exactly(Pieces(b""), 0) == b""
