"""What a sweep is asked for, checked before anything is trained; and what each of its members is asked for."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from itertools import product
from typing import Any

from pydantic import ValidationError

from registry.db.stored_json import read_stored
from registry.errors import Invalid, Unavailable
from registry.sweeps.models import Member, Sweep
from registry.sweeps.proposing import grid_of
from sdk.schemas.codes import explain_validation
from sdk.schemas.evaluation import EvaluationSpec, is_of_texts, is_score
from sdk.schemas.held_out import HoldoutFields
from sdk.schemas.job_requests import EvaluationRequest, EvaluationTarget, SweepPlace, TrainingRequest
from sdk.schemas.jobs import JobSubmission
from sdk.schemas.option_types import options_of
from sdk.schemas.sweep_axes import MOST_MEMBERS, Axis, Range, Setting
from sdk.schemas.sweeps import HELD_OUT_LOSS, StopEarly, SweepRequest, SweepSubmission
from sdk.schemas.training import OF_LOSS, TrainingSpec

#: The shares of its steps after which a member asks whether it goes on. Halving has its third rung at the end, with η = 4.
RUNGS: dict[StopEarly, list[float]] = {
    "none": [],
    "halving": [0.1, 0.4],
    "median": [share / 10 for share in range(1, 10)],
}
#: How many settings are examined before a sweep is accepted.
_MOST_EXAMINED = 64
_OPTIONS = options_of(TrainingSpec)


def submission_of(sweep: Sweep) -> SweepSubmission:
    """Return what a sweep was asked for. Raises Unreadable."""
    return read_stored(SweepSubmission, sweep.submission, of=f"sweep {sweep.id}")


def needs_scoring(request: SweepRequest) -> bool:
    """Whether members are scored by an evaluation, and not by their trainings alone."""
    return request.choose != HELD_OUT_LOSS


def trials_of(request: SweepRequest) -> int:
    """Return how many settings are tried. Raises Invalid as `grid_of` does."""
    return request.trials if request.trials is not None else len(grid_of(request.settings))


def require_sweepable(request: SweepRequest) -> None:
    """Raise Invalid for what can't be swept over, or would say nothing; Unavailable if a library is missing."""
    _require_alone(request.training)
    _require_options(request)
    _require_choice(request)
    if request.sample == "grid" and request.trials is not None:
        raise Invalid(
            "a grid tries all of its settings; leave trials out, or choose sample random or tpe", param="trials"
        )
    if request.sample != "grid" and request.trials is None:
        raise Invalid(f"{request.sample} needs to know how many settings to try; give trials", param="trials")
    if request.sample == "tpe" and importlib.util.find_spec("optuna") is None:
        raise Unavailable(
            "tpe needs optuna, which this registry lacks; install it with: pip install 'adapterctl[sweeps]', or choose sample random",
            param="sample",
        )
    if (members := trials_of(request) * request.seeds) > MOST_MEMBERS:
        raise Invalid(
            f"{trials_of(request):,} settings with {request.seeds} seeds are {members:,} trainings, and a sweep has "
            f"{MOST_MEMBERS:,} at most; vary less, or sample some with trials",
            param="settings",
        )
    for setting in _corners(request.settings):
        spec_of(request, setting, seed=request.training.spec.seed)


def _require_alone(training: TrainingRequest) -> None:
    """Raise Invalid for a training that is no ordinary one."""
    if training.sweep is not None:
        raise Invalid("only the registry places members in a sweep; leave sweep out", param="training.sweep")
    for name in ("from_checkpoint", "like"):
        if getattr(training, name) is not None:
            raise Invalid(
                f"members of a sweep begin anew, each with its own options; leave {name} out", param=f"training.{name}"
            )
    if training.eval_data is None and training.spec.hold_out is None:
        raise Invalid(
            "a sweep compares its members on held-out rows, and there are none; give eval_data, or a share as holdout",
            param="training.eval_data",
        )


def _require_options(request: SweepRequest) -> None:
    """Raise Invalid for an option that can't vary."""
    for name in request.settings:
        param = f"settings.{name}"
        if name == "seed":
            raise Invalid(
                "the seeds of a sweep are those from the training's seed on; say how many with seeds", param=param
            )
        if name not in _OPTIONS:
            raise Invalid(
                f"{name[:80]!a} is no option of a training; see them with: adapterctl train --help", param=param
            )
        if name in HoldoutFields.model_fields:
            raise Invalid(
                f"members with another {name} have other held-out rows, so they can't be compared", param=param
            )
        if name in OF_LOSS and request.choose == HELD_OUT_LOSS:
            raise Invalid(
                f"members with another {name} have losses of another kind, so they can't be compared by it; choose a score of their "
                "answers, such as rouge_l",
                param=param,
            )


def _require_choice(request: SweepRequest) -> None:
    """Raise Invalid for a metric by which nothing can be chosen."""
    choose = request.choose
    if choose == HELD_OUT_LOSS:
        return
    if not is_score(choose) or choose in ("loss", "perplexity"):
        raise Invalid(
            f"{choose[:80]!a} is no score by which members can be chosen; choose {HELD_OUT_LOSS}, or a score of an evaluation such as rouge_l",
            param="choose",
        )
    if request.stop_early != "none":
        raise Invalid(
            f"members are stopped early by their held-out loss, and the best is chosen by {choose}; leave one of stop_early and choose out",
            param="stop_early",
        )
    if request.training.eval_data is None:
        raise Invalid(
            f"{choose} is scored by an evaluation, which needs held-out rows of their own; give eval_data in place of holdout",
            param="training.eval_data",
        )


def spec_of(request: SweepRequest, setting: Mapping[str, Any], *, seed: int) -> TrainingSpec:
    """Return the options of a member. Raises Invalid for a setting that they don't go with."""
    try:
        return TrainingSpec.model_validate({**request.training.spec.model_dump(), **setting, "seed": seed})
    except ValidationError as error:
        why, name = explain_validation(list(error.errors()), TrainingSpec)
        shown = ", ".join(f"{name} {value}" for name, value in setting.items())
        raise Invalid(f"the setting {shown[:200]} can't be trained: {why}", param=f"settings.{name}") from error


def member_submission(asked: SweepSubmission, sweep_id: str, member: Member) -> JobSubmission:
    """Return the job that trains a member. Raises Invalid for a setting that its options don't go with."""
    request = asked.request
    place = SweepPlace(sweep=sweep_id, number=member.number, rungs=RUNGS[request.stop_early])
    spec = spec_of(request, member.setting, seed=member.seed)
    return _job(asked, request.training.model_copy(update={"spec": spec, "sweep": place}))


def scoring_submission(asked: SweepSubmission, sweep_id: str, number: int) -> JobSubmission:
    """Return the job that scores what a member has made on the held-out rows."""
    request = asked.request
    target = EvaluationTarget(ref=f"sweep:{sweep_id}/{number}")
    assert request.training.eval_data is not None
    metrics = [request.choose] if is_of_texts(request.choose) else []
    spec = EvaluationSpec.model_validate({"metrics": metrics})
    return _job(asked, EvaluationRequest(targets=[target], only=True, data=request.training.eval_data, spec=spec))


def _job(asked: SweepSubmission, request: TrainingRequest | EvaluationRequest) -> JobSubmission:
    return JobSubmission(request=request, priority=asked.priority, needs=asked.needs, timeout_s=asked.timeout_s)


def examined_first(asked: SweepSubmission) -> list[JobSubmission]:
    """Return trainings of which one doesn't fit, or can't be trained over the base, if any of the sweep doesn't: those at the ends
    of all ranges, with each value that isn't a number.
    """
    request = asked.request
    found = []
    for setting in _corners(request.settings)[:_MOST_EXAMINED]:
        spec = spec_of(request, setting, seed=request.training.spec.seed)
        found.append(_job(asked, request.training.model_copy(update={"spec": spec})))
    return found


def _corners(settings: Mapping[str, Axis]) -> list[Setting]:
    """Return the settings at the ends of all axes, the largest numbers first."""
    ends = [_ends(axis) for axis in settings.values()]
    return [dict(zip(settings, values, strict=True)) for values in product(*ends)]


def _ends(axis: Axis) -> list[Any]:
    if isinstance(axis, Range):
        return [round(axis.high), round(axis.low)] if axis.whole else [axis.high, axis.low]
    numbers = [value for value in axis.values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    others = [value for value in axis.values if value not in numbers or isinstance(value, bool)]
    return list(dict.fromkeys([*([max(numbers), min(numbers)] if numbers else []), *others]))
