"""What the page of a sweep shows: its settings with their numbers, its picture, and what became of its members.

>>> with_error(1.36012, 0.0042), with_error(1.36, None), with_error(None, None)
('1.3601 ± 0.0042', '1.36', '–')
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from markupsafe import Markup

from sdk.errors import NotFound
from sdk.plotting.sweeps.panels import picture_of
from sdk.plotting.sweeps.settings import COSTS, SettingRow, name_of, rows_of, shown
from sdk.plotting.sweeps.svg import svg_of
from sdk.schemas.sweep_axes import Axis, Values
from sdk.schemas.sweeps import SweepMember, SweepState, SweepView

#: The most digits after the point of a score.
_DIGITS = 6
#: How many members are listed, and of how many curves are drawn.
_MOST_MEMBERS = 200
_MOST_DRAWN = 32
_DONE = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class SettingOnPage:
    """One setting as a row of the table."""

    values: list[str]
    outcome: str
    score: str
    #: By how much it is worse than the best, at least and at most.
    worse_by: str
    size_bytes: float | None
    train_s: float | None
    memory_bytes: float | None
    members: int


@dataclass(frozen=True)
class SweepOnPage:
    """A sweep, with what its page has beside it."""

    varies: str
    options: list[str]
    score_name: str
    settings: list[SettingOnPage]
    #: The picture as SVG, which this program has drawn; None: no member has a score yet.
    picture: Markup | None
    members: list[tuple[SweepMember, list[str]]]
    #: The jobs whose curves are drawn.
    drawn: list[str]
    ended: int
    most: int
    may_pause: bool
    may_go: bool
    may_be_cancelled: bool


def shown_sweep(view: SweepView) -> SweepOnPage:
    """Lay out a sweep."""
    options = list(view.request.settings)
    return SweepOnPage(
        varies=varies(view),
        options=options,
        score_name=name_of(view.request.choose),
        settings=[_setting(row, options) for row in rows_of(view)],
        picture=_picture(view),
        members=[
            (member, [shown(member.setting.get(name)) for name in options]) for member in view.members[:_MOST_MEMBERS]
        ],
        drawn=[member.job for member in view.members if member.job and member.state != "queued"][:_MOST_DRAWN],
        ended=sum(count for state, count in view.counts.items() if state in _DONE),
        most=view.most_members or sum(view.counts.values()),
        may_pause=view.state in (SweepState.RUNNING, SweepState.CHOOSING),
        may_go=view.state == SweepState.PAUSED,
        may_be_cancelled=view.state not in (SweepState.ENDED, SweepState.CANCELLED),
    )


def varies(view: SweepView) -> str:
    """Return what varies, as it may be written: "rank 1, 2, 4; lr 0.0001..0.001:log[5]"."""
    return "; ".join(f"{name} {_written(axis)}" for name, axis in view.request.settings.items())


def with_error(score: float | None, error: float | None) -> str:
    """Return a score with as many digits as its error has, of which two count."""
    if score is None:
        return "–"
    if not error:
        return f"{score:.5g}"
    digits = min(_DIGITS, max(0, 1 - math.floor(math.log10(error))))
    return f"{score:.{digits}f} ± {error:.{digits}f}"


def _written(axis: Axis) -> str:
    if isinstance(axis, Values):
        return ", ".join(shown(value) for value in axis.values)
    count = "" if axis.count is None else f"[{axis.count}]"
    return f"{axis.low:g}..{axis.high:g}{':log' if axis.log else ''}{count}"


def _setting(row: SettingRow, options: list[str]) -> SettingOnPage:
    size_bytes, train_s, memory_bytes, _ = (cost.of(row) for cost in COSTS)
    return SettingOnPage(
        values=[shown(row.setting.get(name)) for name in options],
        outcome=row.outcome,
        score=with_error(row.score, row.standard_error),
        worse_by="–" if row.low is None or row.high is None else f"{row.low:.2g}…{row.high:.2g}",
        size_bytes=size_bytes,
        train_s=train_s,
        memory_bytes=memory_bytes,
        members=len(row.members),
    )


def _picture(view: SweepView) -> Markup | None:
    try:
        # All text in it is escaped where it is drawn.
        return Markup(svg_of(picture_of(view)))  # noqa: S704
    except NotFound:
        return None
