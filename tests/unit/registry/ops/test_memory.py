"""Large pieces that were freed are returned to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: Frees large pieces, between which small ones stay, and prints how much more memory it has then than before.
PROGRAM = """
from pathlib import Path

def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

{begin}
bytes(3 << 20)
before, kept = resident_bytes(), []
pieces = []
for number in range(30):
    pieces.append(b"x" * (2 << 20))
    kept += [bytes(1000 + number) for _ in range(200)]
del pieces
print(resident_bytes() - before)
"""


def kept_bytes(begin: str) -> int:
    return int(
        subprocess.run([sys.executable, "-c", PROGRAM.format(begin=begin)], capture_output=True, check=True).stdout
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, and is about glibc")
def test_freed_pieces_are_returned_although_small_ones_stay_between_them() -> None:
    assert kept_bytes("from registry.ops.server_process import map_large_pieces; map_large_pieces()") < 16 << 20
