"""The norms that were asked for last are held up to a number of modules, however many versions they belong to."""

from __future__ import annotations

from registry.catalog.versions.norms import MOST_MODULES, FoundNorms, Latest

MANY = MOST_MODULES // 3


def found(modules: int) -> FoundNorms:
    return FoundNorms(dict.fromkeys(map(str, range(modules - 1)), 1.0), [])


def test_the_oldest_results_make_room_for_the_next_ones() -> None:
    latest, long = Latest(), found(MANY)
    for number in range(7):
        latest.put((str(number), ""), long)
        assert latest.modules <= MOST_MODULES
    assert [number for number in range(7) if latest.get((str(number), "")) is long] == [4, 5, 6]
    # Short ones leave others where they are.
    latest.put(("short", ""), found(2))
    assert latest.get(("6", "")) is long


def test_a_result_that_is_too_long_is_not_held() -> None:
    latest, short = Latest(), found(1)
    latest.put(("short", ""), short)
    latest.put(("long", ""), found(MOST_MODULES + 1))
    assert latest.get(("long", "")) is None
    assert latest.get(("short", "")) is short


def test_the_same_result_counts_once() -> None:
    latest = Latest()
    for _ in range(2):
        latest.put(("a", ""), found(3))
    assert latest.modules == 3
