"""A curve in characters: as wide as there is room, with each spike, in braille or in ASCII."""

from __future__ import annotations

import pytest
from support.series import series_of, usual

from sdk.plotting.curves import Curve
from sdk.plotting.terminal import rows_of

FALLING = Curve("sql@v1", usual(60, spike=40), best_step=36, kept=True)

PLAIN = [
    " 7.5 |                                                 *",
    "     |                                                 *",
    "     |                                                **",
    "     |                                                **",
    "     |o***                                            * *",
    "     |    ****                                        * *",
    "     |        *******o******** ** *o                 *  *",
    "1.07 |                        *  * ***************@***  ********o**************o",
    "      0                                                                  step 60",
    "      * loss   o held-out   @ best, kept",
]
BRAILLE = [
    " 7.5 │                                                 ⡇",
    "     │                                                 ⡇",
    "     │                                                ⢸⢸",
    "     │                                                ⢸⢸",
    "     │●⣀                                              ⢸⢸",
    "     │  ⠉⠑⠤⡀                                          ⡸⠘⡄",
    "     │     ⠈⠉⠉⠑⠢⠤⠢⠤⠤●⣀⣀⣀    ⣀                         ⡇ ⡇",
    "1.07 │                  ⠉⠉⠉⠉ ⠉⠑⠉⠑⠒⠒●⠒⠒⠒⠒⠤⠤⠤⠤⠤⠤⠤⠔⠢⠤◆⠤⢄⡠⠇ ⠓⠤⠤⠤⠤⠤⣀⠤⠤●⠤⣀⣀⠤⠤⠤⣀⣀⠤⠤⠤⠤⠤●",
    "      0                                                                  step 60",
    "      ⠒ loss   ● held-out   ◆ best, kept",
]


def shown(curve: Curve, **how: object) -> list[str]:
    return ["".join(text for text, _ in row) for row in rows_of(curve, **how)]  # type: ignore[arg-type]


def test_a_curve_in_80_columns_of_ascii() -> None:
    assert shown(FALLING, width=80, plain=True) == PLAIN


def test_a_curve_in_80_columns_of_braille() -> None:
    assert shown(FALLING, width=80) == BRAILLE


@pytest.mark.parametrize("width", [24, 40, 80, 200])
@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize(
    "series",
    [usual(1, looks=1), usual(10_000), series_of(loss=[(1, -1.234e-300)]), series_of(loss=[(1, -1e308), (10_000_000, 1e308)]),
     series_of(eval_loss=[(0, 2.0), (400, 1.0)]), series_of(loss=[(1, 1e5), (2, 1e-5)])],
)  # fmt: skip
def test_no_row_is_wider_than_there_is_room(series: object, plain: bool, width: int) -> None:
    rows = shown(Curve("x@v1", series, best_step=400), width=width, plain=plain)  # type: ignore[arg-type]
    assert len(rows) == 10
    assert all(len(row) <= max(width, 40) for row in rows)
    assert all(row.isascii() for row in rows) == plain


@pytest.mark.parametrize("plain", [True, False])
def test_a_spike_of_one_step_in_ten_thousand_is_in_the_top_row(plain: bool) -> None:
    with_spike = shown(Curve("x@v1", usual(10_000, spike=7001)), width=80, plain=plain)
    label, _, top = with_spike[0].partition("|" if plain else "│")
    assert (label.strip(), len(top.strip())) == ("7.5", 1)
    assert top.index(top.strip()) == pytest.approx(0.7 * (80 - len(label)), abs=1.5)


def test_pieces_say_what_they_are() -> None:
    roles = {role for row in rows_of(FALLING, width=80) for _, role in row}
    assert roles == {"axis", "loss", "held-out", "best"}


def test_a_job_without_a_loss_has_no_rows() -> None:
    assert rows_of(Curve("x@v1", series_of(lr=[(1, 1.0)])), width=80) == []
