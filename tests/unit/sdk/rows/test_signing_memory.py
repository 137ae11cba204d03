"""How many rows are in memory while a file is signed follows from what they say, wherever in a row that stands."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

from sdk.rows.signature_file import SignatureFile, make_signatures

MIB = 1 << 20


def test_rows_of_long_conversations_are_signed_a_few_at_a_time(tmp_path: Path) -> None:
    data, target = tmp_path / "rows.jsonl", tmp_path / "signatures"
    with data.open("w") as file:
        for number in range(12):
            said = [{"role": "user", "content": "a " * (MIB // 2)}, {"role": "assistant", "content": str(number)}]
            file.write(json.dumps({"messages": said}) + "\n")
    tracemalloc.start()
    try:
        assert make_signatures(data, target) == 12
        assert tracemalloc.get_traced_memory()[1] < 120 * MIB
    finally:
        tracemalloc.stop()
    assert SignatureFile(target).rows == 12
