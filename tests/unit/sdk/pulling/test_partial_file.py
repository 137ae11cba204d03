"""What is there of a file that was not fetched to its end, and for which file it counts."""

from __future__ import annotations

from pathlib import Path

from sdk.pulling.partial_file import open_partial

SIZE = 100


def test_bytes_of_another_file_count_for_nothing(tmp_path: Path) -> None:
    with open_partial(tmp_path / "weights", "a" * 64, SIZE) as partial:
        partial.write(b"x" * 10, 0)
        partial.note(0, 10)
    for sha256, size_bytes in (("b" * 64, SIZE), ("a" * 64, SIZE + 1)):
        with open_partial(tmp_path / "weights", sha256, size_bytes) as partial:
            assert (partial.ranges, partial.written_bytes) == ([], 0)
            partial.write(b"x" * 10, 0)
            partial.note(0, 10)
