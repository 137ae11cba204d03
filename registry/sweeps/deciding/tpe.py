"""Settings by what earlier ones scored: tree-structured Parzen estimators (arXiv:2304.11127), as optuna computes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from registry.errors import Invalid
from registry.sweeps.deciding.drawing import number_of
from registry.sweeps.deciding.tried import Tried
from sdk.schemas.sweep_axes import Axis, Range, Setting, Values
from sdk.schemas.sweep_grid import readable
from sdk.schemas.wire import JsonScalar

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

#: Shares of a training's steps become whole steps of a trial.
_STEPS = 10_000


def require_tpe() -> None:
    """Raise Invalid if this installation can't propose settings by TPE."""
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise Invalid(
            "this registry can't sample tpe, for which optuna is not installed; install adapterctl[sweeps] where it runs, or"
            " sample random",
            param="sample",
        ) from None


def proposed(
    settings: Mapping[str, Axis],
    past: Sequence[Tried],
    *,
    seed: str,
    trial: int,
    lower_is_better: bool = True,
) -> Setting:
    """Return the setting of a trial, from a study of all earlier ones that is made anew, in their order.

    Options whose values are numbers are ordered, those with other values are not. The setting is near to those with good scores
    and away from the others; pruned trials count as worse than finished ones, and as the better, the further they came;
    running ones as bad until they have a score, so that several proposals at once differ. Failed ones count as
    bad for good. Until ten trials have ended with a score or were pruned, settings are drawn at random.

    Raises Invalid if optuna is not installed.
    """
    require_tpe()
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {name: _distribution(axis) for name, axis in settings.items()}
    sampler = optuna.samplers.TPESampler(seed=number_of(seed, trial, bits=32))
    study = optuna.create_study(sampler=sampler, direction="minimize" if lower_is_better else "maximize")
    study.add_trials(_trial(tried, settings, distributions) for tried in sorted(past, key=lambda tried: tried.trial))
    params = study.ask(distributions).params
    return {name: _value(axis, params[name]) for name, axis in settings.items()}


def _is_ordered(values: Sequence[JsonScalar]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _ordered(axis: Values) -> list[Any]:
    return sorted(axis.values, key=lambda value: value if isinstance(value, int | float) else 0)


def _distribution(axis: Axis) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(axis, Range):
        if axis.whole:
            return IntDistribution(int(axis.low), int(axis.high), log=axis.log)
        return FloatDistribution(axis.low, axis.high, log=axis.log)
    if _is_ordered(axis.values):
        return IntDistribution(0, len(axis.values) - 1)
    return CategoricalDistribution(axis.values)


def _param(axis: Axis, value: JsonScalar) -> Any:
    """Return what a study has for a value: its place among ordered ones."""
    return _ordered(axis).index(value) if isinstance(axis, Values) and _is_ordered(axis.values) else value


def _value(axis: Axis, param: Any) -> JsonScalar:
    if isinstance(axis, Range):
        return readable(axis, param)
    value: JsonScalar = _ordered(axis)[param] if _is_ordered(axis.values) else param
    return value


def _trial(tried: Tried, settings: Mapping[str, Axis], distributions: Mapping[str, BaseDistribution]) -> FrozenTrial:
    from optuna.trial import TrialState, create_trial

    params = {name: _param(axis, tried.setting[name]) for name, axis in settings.items()}
    steps = {round(share * _STEPS): loss for share, loss in tried.steps.items() if math.isfinite(loss)}
    scored = tried.score is not None and math.isfinite(tried.score)
    # A running trial counts as bad and is never among the best, which is also what is known of a failed one.
    state = TrialState.RUNNING
    if tried.state == "finished" and scored:
        state = TrialState.COMPLETE
    elif tried.state == "pruned" and steps:
        state = TrialState.PRUNED
    return create_trial(
        state=state,
        value=tried.score if state == TrialState.COMPLETE else None,
        params=params,
        distributions=dict(distributions),
        intermediate_values=steps,
    )
