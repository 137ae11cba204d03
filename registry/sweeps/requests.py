"""What a sweep is asked for, checked before anything is trained; and what its jobs are asked for."""

from __future__ import annotations

import importlib.util
from itertools import islice, product
from typing import Any, Self

from pydantic import field_validator, model_validator

from registry.db.stored_json import read_stored
from registry.errors import Invalid, Unavailable
from registry.sweeps.models import Member, Sweep
from sdk.schemas.evaluation import better_is
from sdk.schemas.held_out import no_held_out
from sdk.schemas.job_requests import EvaluationRequest, EvaluationTarget, SweepPlace, TrainingRequest
from sdk.schemas.jobs import JobSubmission
from sdk.schemas.sweep_axes import Axis, Range, Setting
from sdk.schemas.sweeps import HELD_OUT_LOSS, RUNGS, SweepRequest, SweepSubmission, SweepView, evaluation_by
from sdk.schemas.training import TrainingSpec
from sdk.schemas.varied_options import with_setting

#: How many settings are examined before a sweep is accepted.
_MOST_EXAMINED = 64


class StoredSweep(SweepRequest):
    """A sweep that was accepted: its settings were looked at then, which takes long for a thousand, and are as they were."""

    @field_validator("settings")
    @classmethod
    def _values_are_the_options_own(cls, settings: dict[str, Axis]) -> dict[str, Axis]:
        return settings

    @model_validator(mode="after")
    def _settings_can_be_compared(self) -> Self:
        return self


class StoredSubmission(SweepSubmission):
    """A submission as it is stored."""

    request: StoredSweep


class ShownSweep(SweepView):
    """A view of what is stored."""

    request: StoredSweep


def submission_of(sweep: Sweep) -> SweepSubmission:
    """Return what a sweep was asked for. Raises Unreadable."""
    return read_stored(StoredSubmission, sweep.submission, of=f"sweep {sweep.id}")


def needs_scoring(request: SweepRequest) -> bool:
    """Whether members are scored by an evaluation, and not by their trainings alone."""
    return request.choose != HELD_OUT_LOSS


def lower_is_better(metric: str) -> bool:
    """Whether less of a metric by which the best is chosen is better."""
    return metric == HELD_OUT_LOSS or better_is(metric) == "less"


def require_sweepable(request: SweepRequest) -> None:
    """Raise Invalid for what says nothing when it is swept over; Unavailable if a library is missing."""
    training = request.training
    if training.sweep is not None:
        raise Invalid("only the registry places members in a sweep; leave sweep out", param="request.training.sweep")
    for name in ("from_checkpoint", "like"):
        if getattr(training, name) is not None:
            raise Invalid(
                f"members of a sweep start from scratch, each with its own options; leave {name} out",
                param=f"request.training.{name}",
            )
    if training.eval_data is None and training.spec.hold_out is None:
        raise Invalid(no_held_out(["a sweep"]), param="request.training.eval_data")
    if request.sample == "tpe" and importlib.util.find_spec("optuna") is None:
        raise Unavailable(
            "sample tpe needs optuna, which this registry lacks; install it there with: pip install 'adapterctl[sweeps]', or choose"
            " sample random"
        )


def member_submission(asked: SweepSubmission, sweep_id: str, member: Member) -> JobSubmission:
    """Return the job that trains a member, which hands in its best weights unless the sweep asks for the last ones. Raises
    Invalid for a setting that its options don't go with.
    """
    request = asked.request
    rungs = RUNGS[request.stop_early]
    place = SweepPlace(sweep=sweep_id, number=member.number, rungs=rungs, threads=request.threads)
    kept = request.training.spec.keep or "best"
    spec = _spec(request, {"keep": kept, **member.setting, "seed": member.seed})
    return _job(asked, request.training.model_copy(update={"spec": spec, "sweep": place}))


def scoring_submission(asked: SweepSubmission, sweep_id: str, number: int) -> JobSubmission:
    """Return the job that scores what a member has made on the held-out rows."""
    request = asked.request
    target = EvaluationTarget(ref=f"sweep:{sweep_id}/{number}")
    return _job(asked, scoring_of(request, target, request.training.eval_data))


def scoring_of(request: SweepRequest, target: EvaluationTarget, data: str | None) -> EvaluationRequest:
    """Return the evaluation that has the score by which members are chosen."""
    assert data is not None
    return EvaluationRequest(targets=[target], only=True, data=data, spec=evaluation_by(request.choose))


def _job(asked: SweepSubmission, request: TrainingRequest | EvaluationRequest) -> JobSubmission:
    return JobSubmission(request=request, priority=asked.priority, needs=asked.needs, timeout_s=asked.timeout_s)


def examined_first(asked: SweepSubmission) -> list[JobSubmission]:
    """Return trainings of which one doesn't fit, or can't be trained over the base, if any of the sweep doesn't: those at the ends
    of all ranges, with each value that isn't a number.
    """
    request = asked.request
    corners = islice(product(*map(_ends, request.settings.values())), _MOST_EXAMINED)
    settings = [dict(zip(request.settings, values, strict=True)) for values in corners]
    return [_job(asked, request.training.model_copy(update={"spec": _spec(request, each)})) for each in settings]


def _spec(request: SweepRequest, setting: Setting) -> TrainingSpec:
    try:
        return with_setting(request.training.spec, setting)
    except ValueError as error:
        raise Invalid(str(error), param="request.settings") from error


def _ends(axis: Axis) -> list[Any]:
    """Return the largest and the least of what an option may be, and each value that isn't a number."""
    if isinstance(axis, Range):
        ends = [axis.high, axis.low]
        return [int(end) for end in ends] if axis.whole else ends
    numbers = [value for value in axis.values if isinstance(value, int | float) and not isinstance(value, bool)]
    others = [value for value in axis.values if value is None or isinstance(value, bool | str)]
    return [*dict.fromkeys([max(numbers), min(numbers)] if numbers else []), *others]
