"""Expected calibration error by hand, and as Guo et al. (2017) define it."""

from __future__ import annotations

from random import Random

import pytest

from sdk.statistics.calibration import Calibration


def of(*rows: tuple[float, bool]) -> Calibration:
    found = Calibration()
    for confidence, right in rows:
        found.add(confidence, right)
    return found


def test_by_hand() -> None:
    # (0.6, 0.7]: 0.65 sure on average, one of two right; (0.9, 1]: 0.96, three of three.
    found = of((0.62, True), (0.68, False), (0.92, True), (0.96, True), (1.0, True))
    assert found.error == pytest.approx((2 * 0.15 + 3 * 0.04) / 5, abs=1e-12)
    assert [(one.above, one.rows) for one in found.bins()] == [(0.6, 2), (0.9, 3)]


def test_an_end_is_in_the_bin_below() -> None:
    for tenth in range(1, 11):
        (one,) = of((tenth / 10, True)).bins()
        assert one.above == (tenth - 1) / 10
    (one,) = of((0.0, False)).bins()
    assert one.above == 0.0


def test_as_sure_as_right_is_no_error_and_nothing_is_none() -> None:
    assert of(*[(0.75, number % 4 != 0) for number in range(40)]).error == 0.0
    assert (of().error, of().bins(), of().rows) == (0.0, [], 0)
    # Sure of what is always wrong.
    assert of((1.0, False), (1.0, False)).error == 1.0


def test_the_definition_over_arrays() -> None:
    import numpy as np

    random = Random(4)
    rows = [(random.uniform(0.2, 1.0), random.random() < 0.6) for _ in range(500)]
    sure, right = np.array([row[0] for row in rows]), np.array([row[1] for row in rows], dtype=float)
    places = np.digitize(sure, np.linspace(0, 1, 11), right=True)
    expected = sum(
        abs(right[places == place].mean() - sure[places == place].mean()) * (places == place).sum() / len(rows)
        for place in set(places.tolist())
    )
    assert of(*rows).error == pytest.approx(expected, abs=1e-12)
