"""A sweep in words and tables: each setting beside the best, what to take, and what became of its members."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from sdk.cli.support.curves import drawn_lines
from sdk.cli.support.output import filled, human_bytes, human_duration, plain, render
from sdk.cli.support.records import print_facts, print_remark, print_table
from sdk.errors import JobFailed, NotFound
from sdk.nouns.sweeps import error_of, winner_ref
from sdk.plotting.sweeps.settings import COSTS, SettingRow, between, name_of, rows_of, shown, with_error
from sdk.schemas.sweep_axes import Axis, Values
from sdk.schemas.sweeps import SweepMember, SweepView

#: How many members without a result are named.
_NAMED = 3
_ENDED_WITHOUT = ("failed", "cancelled")
#: The names of `COSTS` for programs.
_COST_FIELDS = ("size_bytes", "train_s", "peak_memory_bytes", "best_step")
#: The ending of the name of a score that the base has, before the training.
_OF_BASE = "_base"


def setting_table(view: SweepView) -> str:
    """Lay out the settings: score, by how much it is worse than the best, and what it costs."""
    rows = rows_of(view)
    options = list(view.request.settings)
    score = name_of(view.request.choose).removeprefix("held-out ")
    headers = [*options, f"{score} ± error", "worse by", "verdict", "size", "time", "memory", "step"]
    cells = [[*(shown(row.setting.get(name)) for name in options), *_numbers(row)] for row in rows]
    spare = [headers.index(name) for name in ("memory", "step", "size", "time")]
    return render(headers, cells, spare=spare)


def _numbers(row: SettingRow) -> list[Any]:
    size, time, memory, step = (cost.of(row) for cost in COSTS)
    return [
        with_error(row.score, row.standard_error),
        between(row.low, row.high),
        row.outcome,
        None if size is None else human_bytes(size),
        None if time is None else _duration(time),
        None if memory is None else human_bytes(memory),
        None if step is None else round(step),
    ]


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else human_duration(seconds)


def member_table(view: SweepView) -> str:
    """Lay out the members with their jobs."""
    choose, options = view.request.choose, list(view.request.settings)
    score = name_of(choose).removeprefix("held-out ")
    headers = ["member", *options, *(["seed"] if view.request.seeds > 1 else []), score, "state", "job", "ref"]
    cells = [
        [
            f"sweep:{view.id}/{member.number}",
            *(shown(member.setting.get(name)) for name in options),
            *([member.seed] if view.request.seeds > 1 else []),
            member.metrics.get(choose),
            member.outcome or member.state,
            member.job or None,
            member.ref,
        ]
        for member in view.members
    ]
    spare = [headers.index("ref"), headers.index("job")]
    return render(headers, cells, spare=spare)


def print_sweep_fields(view: SweepView) -> None:
    """Print for a program what the tables and sentences of a sweep say: settings, members, what to take, and notes."""
    options = list(view.request.settings)
    if view.verdict is not None:
        print_facts([("recommendation", view.verdict.recommendation)])
    print_table(
        "settings",
        [*options, "score", "error", "low", "high", "verdict", *_COST_FIELDS],
        [
            [
                *(row.setting.get(name) for name in options),
                *(row.score, row.standard_error, row.low, row.high, row.outcome),
                *(cost.of(row) for cost in COSTS),
            ]
            for row in rows_of(view)
        ],
    )
    print_table(
        "members",
        ["id", *options, "seed", "score", "state", "outcome", "reason", "job", "ref"],
        [
            [
                f"sweep:{view.id}/{member.number}",
                *(member.setting.get(name) for name in options),
                *(member.seed, member.metrics.get(view.request.choose), member.state, member.outcome),
                *(member.reason, member.job, member.ref),
            ]
            for member in view.members
        ],
    )
    notes = [] if view.verdict is None else [_tested(view.verdict.test), *view.verdict.notes]
    for note in (*notes, view.message):
        if note:
            print_remark(note)


def said_of(view: SweepView) -> Iterator[str]:
    """Yield what is to be known besides the table, in lines of at most 80 columns."""
    verdict = view.verdict
    if verdict is not None:
        yield filled(verdict.recommendation)
        if (tested := _tested(verdict.test)) is not None:
            yield filled(tested)
        yield from (filled(note) for note in verdict.notes)
    if view.message:
        yield filled(view.message)
    ended = _ended_without(view)
    for member in ended[:_NAMED]:
        why = f": {member.reason}" if member.reason else ""
        yield filled(f"sweep:{view.id}/{member.number} ({setting_said(member)}) {member.state}{why}")
    if len(ended) > _NAMED:
        yield f"and {len(ended) - _NAMED} more; see: adapterctl sweep show {view.id} --members"


def _tested(scores: Mapping[str, float]) -> str | None:
    """Return the scores of the winner on test rows, each beside that of the base where that is known."""
    said = [
        f"{name} {value:.4g}"
        + (f" (its base {base:.4g})" if (base := scores.get(f"{name}{_OF_BASE}")) is not None else "")
        for name, value in scores.items()
        if not name.endswith(_OF_BASE)
    ]
    return f"On rows by which nothing was chosen, the winner has {', '.join(said)}." if said else None


def setting_said(member: SweepMember) -> str:
    """Return the setting of a member in words."""
    return plain(", ".join(f"{name} {shown(value)}" for name, value in member.setting.items()))


def settings_said(view: SweepView) -> str:
    """Return what varies, as it may be written: "rank 1,2,4; lr 0.0001..0.001:log[5]"."""
    return plain("; ".join(f"{name} {_written(axis)}" for name, axis in view.request.settings.items()))


def _written(axis: Axis) -> str:
    if isinstance(axis, Values):
        return ",".join(shown(value) for value in axis.values)
    count = "" if axis.count is None else f"[{axis.count}]"
    return f"{axis.low:g}..{axis.high:g}{':log' if axis.log else ''}{count}"


def _ended_without(view: SweepView) -> list[SweepMember]:
    return [member for member in view.members if member.state in _ENDED_WITHOUT]


def picture_lines(view: SweepView, stream: TextIO) -> list[str]:
    """Return the lines of a small picture for a stream: none if it is not a terminal, or no member has a score."""
    from sdk.plotting.sweeps.panels import picture_of
    from sdk.plotting.sweeps.terminal import rows_of as drawn

    try:
        picture = picture_of(view)
    except NotFound:
        return []
    return drawn_lines(stream, lambda width, plain: drawn(picture, width=width, plain=plain))


def document_of(view: SweepView) -> dict[str, Any]:
    """Return a sweep as JSON has it: each member with its options beside its job and its numbers."""
    spec = view.request.training.spec
    return {
        "sweep": view.adapter,
        "id": view.id,
        "state": view.state.value,
        "members": [
            {"rank": spec.rank, "lr": spec.lr}
            | member.setting
            | member.model_dump(mode="json", exclude={"setting"})
            | {"member": f"sweep:{view.id}/{member.number}", "ref": member.ref}
            for member in view.members
        ],
        "winner": winner_ref(view),
        "verdict": None if view.verdict is None else view.verdict.model_dump(mode="json"),
        "message": view.message,
    }


def failure_of(view: SweepView) -> JobFailed | None:
    """Return why a sweep that has ended is not a success for a command: `error_of`, or a member ended without a result."""
    if (error := error_of(view)) is not None:
        return error
    if not (ended := _ended_without(view)):
        return None
    first = ended[0]
    which = "all" if len(ended) == len(view.members) else f"{len(ended)} of {len(view.members)}"
    look_at = f"adapterctl jobs show {first.job}" if first.job else f"adapterctl sweep show {view.id} --members"
    return JobFailed(f"{which} members of sweep {view.id} ended without a result; see: {look_at}")
