"""A small curve of the loss in characters: braille, which has eight dots to a character, or plain ASCII.

>>> from sdk.schemas.series import Series
>>> steps, falling = list(range(1, 9)), [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
>>> loss = Buckets(first=steps, step=steps, count=[1] * 8, min=falling, max=falling, mean=falling, last=falling)
>>> curve = Curve("a@v1", Series(job=None, last_step=8, series={"loss": loss}))
>>> for row in rows_of(curve, width=20, height=4, plain=True):
...     print("".join(text for text, _ in row))
8 |****
  |    ****
  |        *****
1 |             ****
   1          step 8
   * loss
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from sdk.plotting.canvas import SIGNS, Canvas, Role, Row
from sdk.plotting.curves import HELD_OUT, LOSS, Curve, middle, reduced, stretches
from sdk.plotting.scales import Scale, scale_of, scale_of_steps, spans_widely
from sdk.schemas.series import Buckets


def rows_of(curve: Curve, *, width: int, height: int = 8, plain: bool = False) -> list[Row]:
    """Return the rows of a curve, each not wider than `width` columns, with axes and a legend below; none without a loss."""
    trained, held_out = curve[LOSS], curve[HELD_OUT]
    found = [one for one in (trained, held_out) if one is not None]
    if not found:
        return []
    scale = _exactly([value for one in found for value in (*one.min, *one.max)])
    first, last = min(one.first[0] for one in found), max(one.step[-1] for one in found)
    steps = scale_of_steps(first, last)
    labels = [f"{scale.high:.4g}", *[""] * (height - 2), f"{scale.low:.4g}"]
    room = max(map(len, labels))
    canvas = Canvas(max(1, width - room - 2), height, plain=plain)
    if trained is not None:
        _draw(canvas, reduced(trained, canvas.columns), steps, scale)
    for at in range(len(held_out.step) if held_out is not None else 0):
        assert held_out is not None
        best = curve.best_step is not None and held_out.first[at] <= curve.best_step <= held_out.step[at]
        place = (steps.place(middle(held_out, at)), scale.place(held_out.mean[at]))
        canvas.sign(*place, "best" if best else "held-out")
    side = SIGNS["axis"][plain]
    rows: list[Row] = [
        [(f"{label:>{room}} {side}", "axis"), *row] for label, row in zip(labels, canvas.rows(), strict=True)
    ]
    margin = " " * (room + 2)
    rows.append([(f"{margin}{first}{f'step {last}':>{max(1, width - len(margin) - len(str(first)))}}", "axis")])
    rows.append([(margin, "axis"), *_legend(curve, plain=plain)])
    return rows


def _exactly(values: list[float]) -> Scale:
    """An axis from the least to the greatest value, without a margin."""
    log, low, high = spans_widely(values), min(values), max(values)
    found = scale_of(values, log=log)
    return found if high / 2 - low / 2 <= 0 else Scale(low, high, (), log=log)


def _draw(canvas: Canvas, found: Buckets, steps: Scale, scale: Scale) -> None:
    xs = [steps.place(middle(found, at)) for at in range(len(found.step))]
    for at, x in enumerate(xs):
        canvas.line(x, scale.place(found.min[at]), x, scale.place(found.max[at]))
    for part in stretches(found):
        for a, b in pairwise(part):
            canvas.line(xs[a], scale.place(found.mean[a]), xs[b], scale.place(found.mean[b]))


def _legend(curve: Curve, *, plain: bool) -> Iterator[tuple[str, Role]]:
    shown: list[tuple[Role, str]] = []
    if curve[LOSS] is not None:
        shown.append(("loss", "loss"))
    if curve[HELD_OUT] is not None:
        shown.append(("held-out", "held-out"))
        if curve.best_step is not None:
            shown.append(("best", f"best{', kept' if curve.kept else ''}"))
    for at, (role, text) in enumerate(shown):
        yield f"{'   ' if at else ''}{SIGNS[role][plain]} ", role
        yield text, "axis"
