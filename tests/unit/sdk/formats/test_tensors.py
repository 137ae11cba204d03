"""Weights that belong to no adapter: each is refused in one sentence, and nothing else comes of it."""

from __future__ import annotations

import io
import json
import math
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.loras import Q, compare, entry, lora, packed, put

from sdk.errors import NotFound, VerificationFailed
from sdk.formats.adapter_files import WEIGHTS_FILE
from sdk.formats.safetensors import SafetensorsError, read_exactly

QA, QB = f"base_model.model.{Q}.lora_A.weight", f"base_model.model.{Q}.lora_B.weight"
GOOD = {QA: entry([3, 2], 0, 24), QB: entry([2, 3], 24, 48)}
DATA = np.arange(1, 13, dtype="<f4").tobytes()


def with_data(**changed: Any) -> bytes:
    return packed({**GOOD, **changed}, DATA)


class TestHostileFiles:
    def test_the_file_that_is_spoilt_below_is_good(self, tmp_path: Path) -> None:
        folder = put(tmp_path / "a", with_data(__metadata__={"format": "pt"}))
        assert compare(folder, folder).cosine == pytest.approx(1.0, abs=1e-15)

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"", "empty or cut"),
            (b"\x01\x00", "empty or cut"),
            (struct.pack("<Q", 2**63) + b"{}", "header longer than"),
            (struct.pack("<Q", 100) + b"{}", "header longer than"),
            (packed(b"\xff\xfe"), "not a JSON"),
            (packed(b"{"), "not a JSON"),
            (packed(b"[" * 100_000), "not a JSON"),
            (packed(b'{"a": ' + b"9" * 5000 + b"}"), "is described wrongly"),
            (packed(json.dumps(GOOD).replace("lora_B", "lora_A").encode(), DATA), "appears twice in the header"),
            (packed([]), "not a JSON object"),
            (packed({}), "no LoRA weights"),
            (packed({"lora_A.weight": entry([3, 2], 0, 24)}, DATA[:24]), "no LoRA weights"),
            (with_data(x=None), "is described wrongly"),
            (with_data(x={"dtype": "F32", "shape": [1]}), "is described wrongly"),
            (with_data(x=entry([0], 48, 48, "I64")), "has the type 'I64'"),
            (with_data(x=entry([0], 48, 48, "\x1b[2J")), "is described wrongly"),
            (with_data(x={**entry([0], 48, 48), "dtype": ["F32"]}), "is described wrongly"),
            (with_data(**{"\x1b[2J": entry([0], 48, 48)}), "is not one that PEFT writes"),
            (with_data(x=entry([-1], 48, 44)), "is described wrongly"),
            (with_data(x=entry([True], 48, 48)), "is described wrongly"),
            (with_data(x=entry([1.0], 48, 48)), "is described wrongly"),
            (with_data(x=entry([0] * 9, 48, 48)), "impossible shape"),
            (with_data(x=entry("3", 48, 48)), "is described wrongly"),
            (with_data(x={**entry([0], 48, 48), "data_offsets": [48]}), "is described wrongly"),
            (with_data(x=entry([1], 48, 52)), "outside the file"),
            (with_data(x=entry([2**62, 2**62], 48, 2**126)), "is described wrongly"),
            (with_data(x=entry([2], 0, 4)), "does not fit its bytes"),
            (with_data(x=entry([0], 48, 44)), "is empty"),
            (with_data(x=entry([1], 0, 4)), "overlaps another"),
            (packed({**GOOD, "x": entry([1], 52, 56)}, DATA + bytes(8)), "leaves a gap"),
            (packed({QA: GOOD[QA]}, DATA[:24]), "only one of A and B"),
            (packed({QA: entry([3, 2], 0, 24), QB: entry([3, 2], 24, 48)}, DATA), "A of 3×2 and B of 3×2"),
            (packed({QA: entry([6], 0, 24), QB: entry([2, 3], 24, 48)}, DATA), "A of 6 and B of 2×3"),
            (packed({QA: entry([], 0, 4), QB: entry([2, 3], 24, 48)}, DATA), "impossible shape"),
            (packed({QA: entry([0, 2], 0, 0), QB: entry([2, 0], 0, 0)}, DATA), "is empty"),
            (
                packed({**GOOD, QA.replace("A.weight", "embedding_A"): entry([3, 2], 48, 72)}, DATA + DATA[:24]),
                f"{Q} has A or B twice",
            ),
            (
                packed(
                    {
                        f"base_model.model.{Q}.lora_embedding_A": entry([3, 2, 1], 0, 24),
                        f"base_model.model.{Q}.lora_embedding_B": entry([2, 3, 1], 24, 48),
                    },
                    DATA,
                ),
                "A of 3×2×1",
            ),
            (
                packed({QA: entry([5000, 1], 0, 20000), QB: entry([1, 5000], 20000, 40000)}, bytes(40000)),
                "has the rank 5000",
            ),
            (packed(GOOD, b"\x00\x00\xc0\x7f" + DATA[4:]), "holds NaN, infinity"),
            # A NaN that signals.
            (packed(GOOD, b"\x01\x00\x80\x7f" + DATA[4:]), "holds NaN, infinity"),
            (packed(GOOD, DATA[:44] + b"\x00\x00\x80\xff"), "holds NaN, infinity"),
            (
                packed({QA: entry([1, 1], 0, 8, "F64"), QB: entry([1, 1], 8, 16, "F64")}, struct.pack("<dd", 1e200, 1)),
                "too large to compare",
            ),
        ],
    )
    def test_it_is_refused_in_one_sentence(self, tmp_path: Path, content: bytes, said: str) -> None:
        good = put(tmp_path / "good", with_data())
        bad = put(tmp_path / "bad", content)
        for one, two in ((good, bad), (bad, good)):
            with pytest.raises(VerificationFailed) as caught:
                compare(one, two)
            assert said in caught.value.message
            assert str(bad / WEIGHTS_FILE) in caught.value.message
            assert caught.value.message.isprintable()

    def test_a_header_beyond_the_bound_is_not_read(self, tmp_path: Path) -> None:
        folder = tmp_path / "a"
        folder.mkdir()
        length = 32 * 1024 * 1024 + 1
        with (folder / WEIGHTS_FILE).open("wb") as file:
            file.write(struct.pack("<Q", length))
            file.truncate(8 + length)
        with pytest.raises(VerificationFailed, match="than the 32 MiB"):
            compare(folder, folder)

    @pytest.mark.parametrize("key", ["(", "a{99999999999999999999}", "*"])
    def test_a_pattern_that_is_none(self, tmp_path: Path, key: str) -> None:
        folder = put(tmp_path / "a", with_data())
        with pytest.raises(VerificationFailed, match="is not a regular expression"):
            compare(folder, folder, lora(alpha_pattern={key: 1.0}))

    def test_an_alpha_beyond_all_bounds(self, tmp_path: Path) -> None:
        folder = put(tmp_path / "a", with_data())
        with pytest.raises(VerificationFailed, match="too large to compare"):
            compare(folder, folder, lora(alpha=1e300))

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(NotFound, match=r"has no adapter_model\.safetensors; pull"):
            compare(put(tmp_path / "a", with_data()), tmp_path)

    @given(at=st.integers(0, len(with_data()) - 1), value=st.integers(0, 255), cut=st.integers(0, 8))
    @settings(max_examples=300, deadline=None)
    def test_no_byte_brings_anything_but_a_refusal(
        self, tmp_path_factory: pytest.TempPathFactory, at: int, value: int, cut: int
    ) -> None:
        folder = tmp_path_factory.getbasetemp() / "spoilt"
        content = bytearray(with_data())
        content[at] = value
        put(folder, bytes(content[: len(content) - cut]))
        try:
            found = compare(folder, folder)
        except VerificationFailed:
            return
        assert math.isfinite(found.norm_a)


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
