from __future__ import annotations

import pytest

from workers.pipelines.training.optimising import Schedule


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
@pytest.mark.parametrize(("warmup", "total"), [(0, 1), (0, 10), (3, 10), (9, 10)])
def test_no_step_has_the_rate_zero_and_the_peak_is_reached(kind: str, warmup: int, total: int) -> None:
    shares = [Schedule(kind, warmup, total).share(step) for step in range(total)]
    assert all(share > 0 for share in shares)
    assert max(shares) == shares[warmup] == 1.0
    assert shares[: warmup + 1] == sorted(shares[: warmup + 1])
    assert shares[warmup:] == sorted(shares[warmup:], reverse=True)
