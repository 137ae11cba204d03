"""Packed weights are looked into with few reads, and not without end."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from support.fixtures import Limits
from support.packed_files import PACKED, write_packed_base

from sdk.formats import packed_weights
from sdk.formats.base_files import BadBaseError
from sdk.formats.packed_weights import WeightFile, read_states, read_weights, require_few_states
from sdk.formats.safetensors import read_header


@pytest.fixture
def raw(tmp_path: Path) -> bytes:
    return (write_packed_base(tmp_path / "base") / "model.safetensors").read_bytes()


def looked_into(raw: bytes) -> WeightFile:
    return read_weights(read_header(io.BytesIO(raw), len(raw), any_dtype=True))


@pytest.mark.parametrize(
    ("near", "most", "reads"), [(64 * 1024, 1024 * 1024, 1), (0, 1024 * 1024, len(PACKED)), (64 * 1024, 1, len(PACKED))]
)
def test_states_that_lie_near_each_other_are_read_together(
    raw: bytes, limits: Limits, near: int, most: int, reads: int
) -> None:
    limits(packed_weights, _NEAR_BYTES=near, _MAX_READ_BYTES=most)
    read: list[tuple[int, int]] = []

    def part(begin: int, end: int) -> bytes:
        read.append((begin, end))
        return raw[begin:end]

    assert read_states(looked_into(raw), part) == PACKED
    assert len(read) == reads


def test_so_many_packed_weights_of_a_base_are_not_looked_into(raw: bytes, limits: Limits) -> None:
    limits(packed_weights, _MAX_STATES=2 * len(PACKED) - 1)
    file = looked_into(raw)
    require_few_states([file])
    with pytest.raises(BadBaseError, match=f"^{2 * len(PACKED)} of its weights are packed; a base may have at most"):
        require_few_states([file, file])
    limits(packed_weights, _MAX_STATES=len(PACKED) - 1)
    with pytest.raises(BadBaseError, match="a base may have at most"):
        looked_into(raw)
