"""Numbers in the types of a GGUF file: each is the nearest one, by one rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sdk.errors import InvalidInput
from sdk.schemas.export import GgufDtype
from workers.pipelines.exporting.numbers import exact, rounded, rounding_error

#: Significant bits, the least exponent as `frexp` counts, and how large numbers may be.
TYPES: dict[GgufDtype, tuple[int, int, int]] = {"f32": (24, -125, 126), "f16": (11, -13, 14), "bf16": (8, -125, 126)}


def nearest(values: Any, dtype: GgufDtype) -> Any:
    """Round float64 to a type by shifting its bits before the point, ties to even."""
    bits, least, _ = TYPES[dtype]
    shift = bits - np.maximum(np.frexp(values)[1], least)
    return np.ldexp(np.rint(np.ldexp(values, shift)), -shift)


def numbers(dtype: GgufDtype) -> Any:
    """More than a million float64, half of them in the middle of two numbers of a type or just beside it."""
    bits, least, most = TYPES[dtype]
    random = np.random.default_rng(0)
    plain = np.ldexp(random.standard_normal(600_000), random.integers(least - bits - 3, most - 3, 600_000))
    middle = random.integers(2 ** (bits - 1), 2**bits, 600_000) + 0.5
    beside = middle + random.choice([0.0, 1e-3, 2.0**-20, 2.0**-27], 600_000) * random.choice([-1, 1], 600_000)
    return np.concatenate([plain, np.ldexp(beside, random.integers(least - bits, most - bits, 600_000)), [0.0, 1e-300]])


@pytest.mark.parametrize("dtype", TYPES)
def test_each_number_is_the_nearest(dtype: GgufDtype) -> None:
    values = numbers(dtype)
    for given in (values, -values, values.astype("<f4")):
        written = rounded(given, dtype, called="w")
        assert np.array_equal(exact(written).astype("<f8"), nearest(given.astype("<f8"), dtype))
        assert rounding_error(written, given, dtype) <= 1.0


@pytest.mark.parametrize(("dtype", "value"), [("bf16", 3.4e38), ("bf16", 1e39), ("f16", 65520.0), ("f32", 1e39)])
def test_what_rounds_to_infinity_is_refused(dtype: GgufDtype, value: float) -> None:
    with pytest.raises(InvalidInput, match=f"w holds numbers too large for {dtype}"):
        rounded(np.array([value]), dtype, called="w")
