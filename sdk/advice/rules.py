"""The rules, each a function of a training's course; `benchmarks.once.advice_bars` measures how often they are right.

>>> points = [Point(step=step, values={"loss": 4.0 - step / 50}) for step in range(1, 101)]
>>> (advice,) = advice_of(TrainingRecord(lr=1e-3, total_steps=100, warmup_steps=99), points, [])
>>> advice.rule, advice.changes
('warmup', {'warmup_ratio': 0.03})
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sdk.advice.broken_rows import RowRun
from sdk.advice.course import Course
from sdk.schemas.advice import BROKEN_ROWS, BY_HEART, DIVERGING, FLAT, SPIKES, WARMUP, Advice
from sdk.schemas.looks import LookRecord
from sdk.schemas.series import Point
from sdk.schemas.training_warnings import MOST_UPDATE, update_said
from sdk.schemas.version_records import TrainingRecord, value_said
from sdk.schemas.wire import JsonScalar

#: With fewer steps, a loss says more of their rows than of what was learnt.
LEAST_STEPS = 20


def advice_of(
    record: TrainingRecord,
    points: Sequence[Point],
    looks: Sequence[LookRecord],
    *,
    labels: int = 0,
    update: float | None = None,
    run: RowRun | None = None,
) -> list[Advice]:
    """Return what a training is advised by its points and looks so far, the most important first.

    `labels` is the number of labels of a classification, `update` the largest ‖ΔW‖/‖W‖ of its modules, if that is known, and
    `run` the rows whose losses `run_of_rows` finds unlike the others. It takes time in proportion to the steps.
    """
    course = Course.of(record, points, looks, labels=labels, update=update, run=run)
    if course.steps < LEAST_STEPS:
        return []
    found = _diverging(course) or _by_heart(course) or _flat(course)
    odd = _broken_rows(course) or _spikes(course)
    return [one for one in (found, odd, _warmup(course)) if one is not None]


def checks_every(total: int) -> int:
    """Return after how many steps of a training its losses are judged, besides at its looks.

    >>> checks_every(4000), checks_every(30)
    (500, 20)
    """
    return max(LEAST_STEPS, total // _CHECKS)


#: How often a training's losses are judged, at most.
_CHECKS = 8


def advice_so_far(
    record: TrainingRecord, losses: Sequence[float], looks: Sequence[LookRecord], *, labels: int = 0
) -> list[Advice]:
    """Return what a training is advised in the middle of it, the most important first: by the losses of its first steps,
    and by its looks so far if the last one is at the last of these.

    What may pass is only said if the check before it found the same. That nothing is learnt, and that the update is too
    large, is not said before the end.
    """
    course = Course.so_far(record, losses, looks, labels=labels)
    if course.steps < LEAST_STEPS:
        return []
    earlier = course.until(course.steps - checks_every(course.total))
    worse = _rising(course) if earlier.steps >= LEAST_STEPS and _rising(earlier) else None
    if worse is None and len(course.looks) > 1 and course.looks[-1].step == course.steps:
        earlier = course.until(course.looks[-2].step)
        rules = [rule for rule in (_not_learning, _by_heart) if earlier.steps >= LEAST_STEPS and rule(earlier)]
        worse = next((one for rule in rules if (one := rule(course)) is not None), None)
    when = f"at step {course.steps} of {course.total}"
    return [
        one.model_copy(update={"message": f"{when}, {one.message}"})
        for one in (worse, _spikes(course), _warmup(course))
        if one is not None
    ]


def merged(told: Sequence[Advice], found: Sequence[Advice], *, newer: bool = True) -> list[Advice]:
    """Return one advice for each rule: what is found now comes first, in place of what was told by the same rule; unless
    `newer`, what was told stays, before what other rules find.
    """
    first, then = (found, told) if newer else (told, found)
    return [*first, *(one for one in then if one.rule not in {other.rule for other in first})]


def advice_after_divergence(record: TrainingRecord, losses: Sequence[float], *, rate: float) -> Advice:
    """Return what a training is advised whose numbers are no longer finite after steps with these losses, at least one, the
    last of them at `rate`.
    """
    lowest = min(range(len(losses)), key=lambda at: losses[at])
    said = f"step {len(losses)} of {record.total_steps or len(losses)} was the last with finite numbers, at a rate of {rate:.3g}"
    before = f"the loss was {losses[0]:.4g} at step 1"
    if 0 < lowest < len(losses) - 1:
        before += f", lowest at step {lowest + 1} ({losses[lowest]:.4g})"
    if len(losses) > 1:
        before += f", {losses[-1]:.4g} at step {len(losses)}"
    lr = lower_rate(record.lr)
    return Advice(rule=DIVERGING, message=f"{said}: {before}; try --lr {lr:g}", changes={"lr": lr})


#: By how much, as a share, the loss must be higher than it was, and how surely, in standard errors.
_RISEN, _SURELY = 0.05, 4.0
#: By what the rate is divided where the loss rises, and where the update is far too large.
_LOWER, _FAR_LOWER = 3.0, 10.0


def _diverging(course: Course) -> Advice | None:
    """The loss rises, of the training's rows or of the held-out ones, and not because rows are learnt by heart."""
    return _too_large(course) or _rising(course) or _not_learning(course)


def _too_large(course: Course) -> Advice | None:
    """A module's update is far larger than its weights."""
    if course.update is None or course.update <= MOST_UPDATE:
        return None
    return _slower(course, f"{update_said(course.update)}; ", _FAR_LOWER)


def _rising(course: Course) -> Advice | None:
    """The loss of the training's rows rises."""
    low, end = course.lowest(), course.end()
    if end.mean <= (1 + _RISEN) * low.mean or end.mean - low.mean <= _SURELY * math.hypot(end.error, low.error):
        return None
    said = (
        f"the training's loss was lowest around step {low.step} of {course.total} ({low.mean:.4g}) and is"
        f" {end.mean / low.mean - 1:.0%} higher {_now(course)} ({end.mean:.4g}), so it diverges; "
    )
    return _slower(course, said, _LOWER)


def _not_learning(course: Course) -> Advice | None:
    """Held-out rows are predicted worse than at an earlier look, and the training's own no better."""
    rise = course.held_out_rise()
    if rise is None or course.fell_since(rise.step):
        return None
    said = f"{_rise_said(course, rise.step, rise.mean)}, and the training's loss doesn't fall either; "
    return _slower(course, said, _LOWER)


def _slower(course: Course, said: str, divisor: float) -> Advice:
    lr = lower_rate(course.record.lr, divisor)
    return Advice(rule=DIVERGING, message=f"{said}try --lr {lr:g}", changes={"lr": lr})


def lower_rate(lr: float, divisor: float = _FAR_LOWER) -> float:
    """Return the rate to try after one that was too high, with two digits."""
    return _rounded(lr / divisor)


#: How often rows are seen before they can be known by heart, and how far their loss is then below that of held-out rows.
_PASSES, _GAP = 4.0, 1.6
#: At which share of the steps the best look was, at most, and by which share the training's loss fell since.
_STALLED, _FELL = 0.7, 0.08


def _by_heart(course: Course) -> Advice | None:
    """The training's loss falls, and held-out rows are predicted worse than at an earlier look, or far worse than those."""
    rise, record = course.held_out_rise(), course.record
    if rise is not None:
        changes = _shorter(course, rise.step)
        return Advice(
            rule=BY_HEART,
            message=f"{_rise_said(course, rise.step, rise.mean)}{_patience_said(course)}, while the training's loss falls;"
            f" try {_options_said(changes)}",
            changes=changes,
        )
    passes = course.steps * (record.effective_batch or 0) / max(1, record.samples or course.steps)
    end, held_out, best = course.end().mean, course.held_out(), course.best_look()
    if passes < _PASSES or held_out is None or best is None:
        return None
    fell = 1 - end / course.around(best.step).mean
    if 0 < best.step <= _STALLED * course.steps and fell >= _FELL:
        changes = _shorter(course, best.step)
        return Advice(
            rule=BY_HEART,
            message=f"the held-out loss has not fallen since step {best.step} of {course.total}{_patience_said(course)}, while that of the"
            f" training's rows fell by {fell:.0%}; try {_options_said(changes)}",
            changes=changes,
        )
    if held_out < _GAP * end:
        return None
    dropout: dict[str, JsonScalar] = {"dropout": 0.1} if record.dropout < 0.1 else {}
    return Advice(
        rule=BY_HEART,
        message=f"after {passes:.0f} passes the loss of the training's {record.samples} rows is {end:.4g} and that of the held-out"
        f" ones {held_out:.4g}, so the model memorises them (overfitting); take more rows"
        + (f", or try {_options_said(dropout)}" if dropout else ""),
        changes=dropout,
    )


#: What share of the loss before the first step must be learnt, at least; and at which share of the loss by chance nothing
#: is, by objective.
_LEARNT = 0.005
_OF_CHANCE = {"dpo": 0.9, "classify": 0.99}
#: A change to the rate that is seen, where nothing is learnt.
_FASTER = 3.0


def _flat(course: Course) -> Advice | None:
    """The loss doesn't fall, or no further than to that of guesses."""
    record, chance = course.record, course.chance()
    first, end, held_out = course.level(0), course.end(), course.held_out()
    now = end.mean if held_out is None else held_out
    lr = min(1.0, _rounded(_FASTER * record.lr))
    change = f"see with: adapterctl data preview whether the rows say what is to be learnt, or try --lr {lr:g}"
    if chance is not None and now >= _OF_CHANCE[str(record.objective)] * chance:
        return Advice(
            rule=FLAT,
            message=f"the {'training' if held_out is None else 'held-out'} loss is {now:.4g} after {course.steps} steps, and"
            f" {chance:.4g} by chance, so nothing was learnt; {change}",
            changes={"lr": lr},
        )
    fall = course.fall()
    if fall is None or fall >= _LEARNT:
        return None
    return Advice(
        rule=FLAT,
        message=f"the loss hardly changed in {course.steps} steps ({first.mean:.4g} → {end.mean:.4g}), so nothing was learnt;"
        f" {change}",
        changes={"lr": lr},
    )


#: At how many steps the loss must jump, and the norm to which their gradients are then cut.
_LEAST_SPIKES, _CUT = 3, 0.3


def _broken_rows(course: Course) -> Advice | None:
    """Rows that follow each other have a far higher loss than the others."""
    run = course.run
    if run is None:
        return None
    option, changes = _clipping(course)
    return Advice(
        rule=BROKEN_ROWS,
        message=f"rows {run.first + 1} to {run.last + 1} of the dataset have a loss of {run.loss:.4g}, and half of all rows"
        f" one below {run.usual:.4g}, so something may have broken there; mend them or leave them out{option}",
        changes=changes,
    )


def _clipping(course: Course) -> tuple[str, dict[str, JsonScalar]]:
    """Return what to try against rows unlike the others, in words and as options."""
    if 0 < course.record.max_grad_norm <= _CUT:
        return "", {}
    return f", or try --max-grad-norm {_CUT:g}", {"max_grad_norm": _CUT}


def _spikes(course: Course) -> Advice | None:
    """A few steps have a far higher loss than those around them."""
    found = course.spikes()
    if len(found) < _LEAST_SPIKES:
        return None
    step, loss, around = max(found, key=lambda spike: spike.loss - spike.around)
    option, changes = _clipping(course)
    return Advice(
        rule=SPIKES,
        message=f"the loss jumped at {len(found)} of {course.steps} steps, most at step {step}, from {around:.4g} to {loss:.4g}, so some"
        f" rows are unlike the others; look for them with: adapterctl data check{option}",
        changes=changes,
    )


#: The share of all steps that a warm-up may take.
_MOST_WARMUP = 0.5


def _warmup(course: Course) -> Advice | None:
    """The rate still rises when most of the training is over."""
    total, warmup = course.record.total_steps or course.steps, course.record.warmup_steps or 0
    if warmup <= _MOST_WARMUP * total:
        return None
    return Advice(
        rule=WARMUP,
        message=f"the warm-up takes {warmup} of {total} steps, so lr reaches {course.record.lr:g} only at step"
        f" {min(warmup + 1, total)}; try --warmup-ratio 0.03",
        changes={"warmup_ratio": 0.03},
    )


def _rise_said(course: Course, step: int, by: float) -> str:
    best = next(look for look in course.looks if look.step == step)
    share = by / best.scores["loss"]
    when = f"at step {step} of {course.total}" if step else "before the first step"
    return f"the held-out loss was lowest {when} and is {share:.0%} higher now"


def _patience_said(course: Course) -> str:
    """Say where a patience of two looks would have ended the training, if that is before its end."""
    steps = [look.step for look in course.looks]
    losses = [look.scores["loss"] for look in course.looks]
    for at in range(2, len(steps) - 1):
        best = min(range(at + 1), key=lambda index: losses[index])
        if at - best >= 2:
            return f": --patience 2 would have ended at {steps[at]}"
    return ""


def _shorter(course: Course, step: int) -> dict[str, JsonScalar]:
    """Return the option that ends a training near its best step; where that is its beginning, with a lower rate."""
    share = step / course.total
    if not step:
        return {"lr": _rounded(course.record.lr / _LOWER)}
    if course.record.max_steps is not None or course.record.epochs is None:
        return {"max_steps": step}
    epochs = course.record.epochs * share
    return {"epochs": float(max(1, round(epochs))) if course.record.epochs > 1 else _rounded(epochs)}


def _now(course: Course) -> str:
    return "at its end" if course.steps == course.total else "now"


def _options_said(changes: Mapping[str, JsonScalar]) -> str:
    return " ".join(f"--{name.replace('_', '-')} {value_said(value)}" for name, value in changes.items())


def _rounded(value: float) -> float:
    """Return a number with two significant digits."""
    return float(f"{value:.2g}")
