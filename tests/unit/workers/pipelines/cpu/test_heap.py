"""What was freed goes back to the machine: pages between pieces in use, and large pieces at once."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import pytest
from support import processes

from workers.pipelines.model.device import give_back

pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="another library than glibc")

_PIECES = """
import sys
from workers.pipelines.cpu import heap
if sys.argv[1] == "mapped":
    heap.map_large_pieces()
largest = bytearray(24 * 2**20)  # freed, it has glibc take pieces of up to its size from the heap
del largest
pieces = [bytearray(4 * 2**20) for _ in range(64)]
kept = pieces[::8] + [bytearray(2**16)]
del pieces
with open("/proc/self/status", encoding="ascii") as status:
    print(next(int(line.split()[1]) // 1024 for line in status if line.startswith("RssAnon")))
"""


def test_what_was_freed_between_other_pieces_is_given_back() -> None:
    pieces = [bytearray(b"x" * 2**16) for _ in range(1024)]
    kept = pieces[::8]
    del pieces
    before = _anonymous_bytes()
    give_back()
    assert before - _anonymous_bytes() > 32 * 2**20
    assert all(piece[-1:] == b"x" for piece in kept)


def _anonymous_bytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))


def test_large_pieces_go_back_once_they_are_freed() -> None:
    """Of 256 MB in pieces an eighth is kept."""
    mapped, own = (
        int(processes.finished(sys.executable, "-c", _PIECES, how, check=True).stdout) for how in ("mapped", "as it is")
    )
    assert own - mapped > 150
