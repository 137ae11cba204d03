"""Very many rows are split as few are, whatever decides it, and in little memory."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fixtures import Limits
from support.held_out_rows import held_out

from sdk.rows import holdout, sorting, splitting
from sdk.rows.holdout import HoldoutError, Splittable, Unit
from sdk.rows.splitting import Splitter
from sdk.schemas.held_out import HoldOut


def digest(text: object) -> bytes:
    return hashlib.sha256(str(text).encode()).digest()


def by_both(units: Sequence[Unit], how: HoldOut) -> list[list[bool] | str]:
    """What the split of few rows says, and that of many: which rows, or why none."""
    found: list[list[bool] | str] = []
    try:
        found.append(held_out(units, how))
    except HoldoutError as error:
        found.append(str(error))
    splitter = Splitter(how)
    for unit in units:
        splitter.add(unit)
    try:
        found.append(splitter.out().tolist())
    except HoldoutError as error:
        found.append(str(error))
    return found


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=40),
    st.booleans(),
    st.booleans(),
    st.floats(0.01, 0.99),
    st.integers(0, 2**32 - 1),
)
def test_both_splits_are_one(
    rows: list[tuple[int, int, int]], grouped: bool, labelled: bool, share: float, seed: int
) -> None:
    units = [
        Unit(digest(text), f"group {group}" if grouped else None, f"label {label}" if labelled else None)
        for text, group, label in rows
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorting, "_RUN_KEYS", 4)
        patch.setattr(sorting, "_SAMPLED", 2)
        patch.setattr(splitting, "_BATCH", 3)
        patch.setattr(splitting, "_CHUNK", 5)
        few, many = by_both(units, HoldOut(share, seed, "group" if grouped else None))
    assert many == few


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 5)), max_size=30), *[st.booleans()] * 2)
def test_whether_any_row_can_be_held_out_is_known_without_all_of_them(
    rows: list[tuple[int, int, int]], grouped: bool, labelled: bool
) -> None:
    units = [
        Unit(digest(text), f"group {group}" if grouped else None, f"label {label}" if labelled else None)
        for text, group, label in rows
    ]
    how = HoldOut(0.3, by="group" if grouped else None)
    splittable = Splittable(how)
    for unit in units:
        splittable.add(unit)
    found: list[list[bool] | str] = []
    for look in (lambda: held_out(units, how), splittable.require):
        try:
            look()
            found.append("")
        except HoldoutError as error:
            found.append(str(error))
    labels = {(unit.key, unit.label) for unit in units}
    if labelled and not grouped and len(labels) > len({unit.key for unit in units}):
        # A label that a text has in a later row, too, may be the only one: then the training says so.
        assert found[1] in ("", found[0])
    else:
        assert found[0] == found[1]


def test_what_is_looked_at_before_a_training_stays_little(limits: Limits) -> None:
    limits(holdout, MOST_GROUPED=50)
    kinds: dict[str, Callable[[int], Unit]] = {
        "texts": lambda n: Unit(digest(n)),
        "one text": lambda n: Unit(digest(0)),
        "labels": lambda n: Unit(digest(n), None, f"label {n % 7}"),
        "a text for each label": lambda n: Unit(digest(n % 7), None, f"label {n % 7}"),
        "groups": lambda n: Unit(digest(n), f"group {n % 3}"),
    }
    for unit_of in kinds.values():
        splittable = Splittable(HoldOut(0.3))
        most = 0
        for number in range(300):
            splittable.add(unit_of(number))
            most = max(most, len(splittable._units))
        assert most <= 50
    splittable.require()


@pytest.mark.slow
@pytest.mark.parametrize("labelled", [False, True], ids=["", "labelled"])
@pytest.mark.parametrize("kind", ["no groups", "chain", "star", "apart", "as many groups as rows", "one text"])
def test_many_rows_take_little_memory(limits: Limits, kind: str, labelled: bool) -> None:
    """Groups that share texts in a chain, by one among a thousand, not at all, or all alike. Python's objects take some 450 bytes a row."""
    group: dict[str, Callable[[int], int]] = {
        "chain": lambda n: n // 2,
        "star": lambda n: n if n % 2 else n // 1000,
        "apart": lambda n: n // 30,
    }
    text: dict[str, Callable[[int], int]] = {
        "chain": lambda n: (n + 1) // 2,
        "star": lambda n: n // 2,
        "one text": lambda n: 0,
    }
    numbers = [n for n in range(12_000) if kind not in ("chain", "star") or n % 50 > 1]
    units = [
        Unit(
            digest(text.get(kind, int)(n)),
            None if kind == "no groups" else f"group {group.get(kind, int)(n)}",
            f"label {n % 7}" if labelled else None,
        )
        for n in numbers
    ]
    how = HoldOut(0.1, 3, None if kind == "no groups" else "group")
    few, many = by_both(units, how)
    assert many == few
    assert isinstance(few, str) == (kind == "one text")
    assert isinstance(few, str) or 0 < sum(few) <= 0.1 * len(units)
    limits(sorting, _RUN_KEYS=500, _SAMPLED=16)
    limits(splitting, _BATCH=100, _CHUNK=500)
    out = None
    # What the first one imports is not counted.
    for some in (units[:600], units):
        tracemalloc.start()
        splitter = Splitter(how)
        for unit in some:
            splitter.add(unit)
        with suppress(HoldoutError):
            out = splitter.out()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert (None if out is None else out.tolist()) == (None if kind == "one text" else many)
    assert most < (16 if kind == "no groups" else 50) * len(units)
