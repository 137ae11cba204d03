"""Weights in 4 bits widened again, some rows at a time: a base's that are stored so, and those that a QLoRA was trained over.

Both hold the 4-bit codes of one weight at a time, an eighth of its size in 32 bit, and give the same numbers as
bitsandbytes with the whole weight: a block of 64 weights doesn't depend on its neighbours, except for the offset of
quantised scales, which is computed from all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from bitsandbytes.functional import QuantState, dequantize_4bit, dequantize_blockwise, quantize_4bit, quantize_blockwise

from sdk.schemas.lora_config import QuantizationRecipe
from workers.pipelines.merging.stored_base import StoredBase

#: How many weights are quantised at a time; a multiple of every block size.
_AT_ONCE = 2**20
#: How many scales share a scale of their own, if they are quantised too.
_NESTED_BLOCK = 256


@dataclass
class FourBits:
    """A weight of (out, in) in 4 bits."""

    #: Two weights per byte, in the order of the rows.
    codes: Any
    #: One scale for each block, in float32.
    scales: Any
    block_size: int
    kind: str
    shape: tuple[int, int]
    #: The type of the widened numbers.
    dtype: Any

    def rows(self, begin: int, end: int) -> Any:
        """Return the rows [begin, end) as widened by bitsandbytes."""
        width, total = self.shape[1], math.prod(self.shape)
        if width % self.block_size:
            # Its kernel for CPUs uses the scales of other blocks if a row isn't a whole number of blocks, and which
            # ones depends on all rows; a loaded model has these numbers.
            return self._dequantised(self.codes, self.scales, self.shape)[begin:end]
        first, last = begin * width, end * width
        low = first // self.block_size * self.block_size
        high = min(total, -(-last // self.block_size) * self.block_size)
        scales = self.scales[low // self.block_size : -(-high // self.block_size)].contiguous()
        wide = self._dequantised(self.codes[low // 2 : -(-high // 2)], scales, (1, high - low))
        return wide.reshape(-1)[first - low : last - low].reshape(end - begin, width)

    def _dequantised(self, codes: Any, scales: Any, shape: tuple[int, int]) -> Any:
        state = QuantState(
            absmax=scales, shape=torch.Size(shape), dtype=self.dtype, blocksize=self.block_size, quant_type=self.kind
        )
        return dequantize_4bit(codes.reshape(-1, 1), state)


def stored_in_four_bits(base: StoredBase, name: str) -> FourBits:
    """Return a weight as stored in a base."""
    packed = base.packed[name]
    parts = {part: base.read(part) for part in packed.parts}
    state = QuantState.from_dict(parts, device=torch.device("cpu"))
    scales = state.absmax
    if state.nested:
        scales = dequantize_blockwise(state.absmax, state.state2)
        scales += state.offset
    codes = base.read(name).view(torch.uint8).reshape(-1)
    return FourBits(codes, scales.float(), state.blocksize, state.quant_type, packed.shape, state.dtype)


def quantised(weight: Any, recipe: QuantizationRecipe, dtype: Any) -> FourBits:
    """Return a weight of (out, in) as a training loads it with a recipe; `weight` may be a view of a mapped file."""
    size = recipe.four_bit_block
    shape = (weight.shape[0], weight.shape[1])
    # Whole rows with whole blocks.
    step = size // math.gcd(size, shape[1]) * 2
    step *= max(1, _AT_ONCE // (step * shape[1]))
    codes, scales = [], []
    for begin in range(0, shape[0], step):
        piece = weight[begin : begin + step].to(dtype).contiguous()
        packed, state = quantize_4bit(piece, blocksize=size, compress_statistics=False, quant_type=recipe.type)
        codes.append(packed.reshape(-1))
        scales.append(state.absmax.reshape(-1))
    joined = torch.cat(scales).float()
    if recipe.double_quant:
        offset = joined.mean()
        packed, nested = quantize_blockwise(joined - offset, blocksize=_NESTED_BLOCK)
        joined = dequantize_blockwise(packed, nested)
        joined += offset
    return FourBits(torch.cat(codes), joined, size, recipe.type, shape, dtype)
