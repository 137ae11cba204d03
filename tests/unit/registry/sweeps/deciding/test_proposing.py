"""Settings at random and by TPE: the same numbers give the same one, whoever asks, and as optuna itself would."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from registry.errors import Invalid
from registry.sweeps.deciding.drawing import drawn, number_of
from registry.sweeps.deciding.tpe import proposed, require_tpe
from registry.sweeps.deciding.tried import Tried, alike
from sdk.schemas.sweep_axes import Axis, Range, Setting, Values
from sdk.schemas.sweep_grid import readable
from sdk.schemas.varied_options import checked_axis, parse_axis

HAS_OPTUNA = importlib.util.find_spec("optuna") is not None
needs_optuna = pytest.mark.skipif(not HAS_OPTUNA, reason="optuna is not installed")
AXES: dict[str, Axis] = {
    "lr": Range(low=1e-5, high=1e-2, log=True),
    "dropout": Range(low=0, high=0.3),
    "epochs": Values(values=[1.0, 3.0, 2.0]),
    "rank": Range(low=1, high=64, log=True, whole=True),
    "max_steps": Range(low=10, high=12, whole=True),
    "bias": Values(values=["none", "all"]),
    "alpha": Values(values=[None, 16.0]),
    "method": Values(values=["lora"]),
}
#: Those that are the same before and after they are rounded.
EXACT = {name: AXES[name] for name in ("epochs", "rank", "max_steps", "bias", "alpha", "method")}


def fits(setting: Setting, axes: Mapping[str, Axis]) -> bool:
    """Whether each value is one that the option has, as `parse_axis` would give it."""
    for name, axis in axes.items():
        value = setting[name]
        if isinstance(axis, Values):
            fit = any(value is one or (value == one and type(value) is type(one)) for one in axis.values)
        else:
            fit = isinstance(value, int if axis.whole else float) and value == readable(axis, value)
        if not fit or parse_axis(name, [value]) != Values(values=[value]):
            return False
    return list(setting) == list(axes)


@st.composite
def histories(draw: st.DrawFn, axes: Mapping[str, Axis] = AXES) -> list[Tried]:
    """Some trials, as many of them running, pruned and failed as may be."""
    states = st.sampled_from(["finished", "finished", "finished", "running", "pruned", "failed"])
    found = []
    for trial in range(1, draw(st.integers(0, 30)) + 1):
        state, loss = draw(states), draw(st.floats(0.5, 5))
        steps = {0.1: loss + 1, 0.4: loss + 0.5} if state != "failed" else {}
        setting = drawn(axes, seed=draw(st.sampled_from("ab")), trial=trial)
        found.append(Tried(trial, setting, state, loss if state == "finished" else None, steps))
    return found


@settings(max_examples=20, deadline=None)
@given(st.text(max_size=8), st.integers(1, 1000))
def test_a_drawn_setting_has_values_of_the_options_and_depends_on_seed_and_trial_alone(seed: str, trial: int) -> None:
    setting = drawn(AXES, seed=seed, trial=trial)
    assert fits(setting, AXES)
    assert drawn(dict(reversed(AXES.items())), seed=seed, trial=trial) == setting
    assert {"lr": setting["lr"]} == drawn({"lr": AXES["lr"]}, seed=seed, trial=trial)


def test_all_values_are_drawn_equally_often() -> None:
    settings_ = [drawn(AXES, seed="sweep", trial=trial) for trial in range(1, 3001)]
    # Of 3000, with more than five standard deviations to each side.
    for name, share in (("epochs", 1 / 3), ("max_steps", 1 / 3), ("bias", 1 / 2)):
        counts = Counter(setting[name] for setting in settings_)
        assert all(abs(count - 3000 * share) < 150 for count in counts.values()), counts
    decades = Counter(math.floor(math.log10(float(setting["lr"] or 0))) for setting in settings_)
    assert all(abs(decades[decade] - 1000) < 150 for decade in (-5, -4, -3))
    ranks = Counter(setting["rank"] for setting in settings_)
    assert abs(ranks[1] - 3000 * math.log(3) / math.log(129)) < 150
    assert 0 < ranks[64] < 30


@needs_optuna
# Each history takes a study: one that shows a fault is shown as it is, not made small.
@settings(max_examples=25, deadline=None, phases=[Phase.generate])
@given(histories(), st.integers(31, 200), st.randoms(use_true_random=False))
def test_the_same_numbers_give_the_same_proposal(past: list[Tried], trial: int, order: Any) -> None:
    setting = proposed(AXES, past, seed="s", trial=trial)
    assert fits(setting, AXES)
    rebuilt = [Tried(**{**asdict(one), "setting": json.loads(json.dumps(one.setting))}) for one in past]
    order.shuffle(rebuilt)
    assert proposed(AXES, rebuilt, seed="s", trial=trial) == setting


@needs_optuna
def test_another_process_proposes_and_draws_the_same() -> None:
    past = [
        Tried(trial, drawn(AXES, seed="p", trial=trial), "finished", abs(math.log(trial / 7))) for trial in range(1, 25)
    ]
    script = (
        "import json, sys\n"
        "from registry.sweeps.deciding import drawing, tpe, tried\n"
        "from sdk.schemas.sweep_axes import Range, Values\n"
        "axes, past = json.load(sys.stdin)\n"
        "axes = {name: (Values if 'values' in axis else Range)(**axis) for name, axis in axes.items()}\n"
        "past = [tried.Tried(**one) for one in past]\n"
        "found = [tpe.proposed(axes, past, seed='p', trial=trial) for trial in range(25, 30)]\n"
        "print(json.dumps([found, drawing.drawn(axes, seed='p', trial=30)]))\n"
    )
    given_ = json.dumps([{name: axis.model_dump() for name, axis in AXES.items()}, [asdict(one) for one in past]])
    done = subprocess.run([sys.executable, "-c", script], input=given_, capture_output=True, text=True, check=True)
    here = [proposed(AXES, past, seed="p", trial=trial) for trial in range(25, 30)]
    assert json.loads(done.stdout) == [here, drawn(AXES, seed="p", trial=30)]
    assert done.stderr == ""
    assert len({json.dumps(one) for one in here}) > 1


def _distributions() -> dict[str, Any]:
    from optuna.distributions import CategoricalDistribution, IntDistribution

    return {
        "epochs": IntDistribution(0, 2),
        "rank": IntDistribution(1, 64, log=True),
        "max_steps": IntDistribution(10, 12),
        "bias": CategoricalDistribution(["none", "all"]),
        "alpha": CategoricalDistribution([None, 16.0]),
        "method": CategoricalDistribution(["lora"]),
    }


def _loss(setting: Setting) -> float:
    return (
        abs(math.log(float(setting["rank"] or 1) / 12))
        + (setting["bias"] == "all") / 2
        + float(setting["epochs"] or 0) / 9
    )


@needs_optuna
@pytest.mark.parametrize("at_once", [1, 4])
def test_proposals_are_those_of_optunas_own_study(at_once: int) -> None:
    """A study that is driven directly, some of whose trials are pruned, or never told of, as those that failed are."""
    import optuna

    study = optuna.create_study(sampler=optuna.samplers.TPESampler())
    past: list[Tried] = []
    open_trials: list[tuple[int, Any]] = []
    for trial in range(1, 33):
        study.sampler = optuna.samplers.TPESampler(seed=number_of("peer", trial, bits=32))
        asked = study.ask(_distributions())
        setting = proposed(EXACT, past, seed="peer", trial=trial)
        assert setting == {**asked.params, "epochs": [1.0, 2.0, 3.0][asked.params["epochs"]]}
        past.append(Tried(trial, setting, "running"))
        open_trials.append((trial, asked))
        if len(open_trials) == at_once:
            number, ended = open_trials.pop(0)
            past[number - 1] = _end(past[number - 1], study, ended)
    assert {one.state for one in past} >= {"finished", "pruned", "failed"}
    assert sum(alike(one.setting, past[: one.trial - 1]) is not None for one in past) < 16


def _end(tried: Tried, study: Any, asked: Any) -> Tried:
    import optuna

    loss = _loss(tried.setting)
    if tried.trial % 7 == 3:
        return replace(tried, state="failed")
    if tried.trial % 5 == 4:
        asked.report(loss, 1000)
        study.tell(asked, state=optuna.trial.TrialState.PRUNED)
        return replace(tried, state="pruned", steps={0.1: loss})
    study.tell(asked, loss)
    return replace(tried, state="finished", score=loss)


@needs_optuna
def test_a_score_to_be_raised_is_raised() -> None:
    axes: dict[str, Axis] = {"lr": Range(low=1e-5, high=1e-2, log=True)}
    past = [
        Tried(trial, setting, "finished", math.log10(float(setting["lr"] or 0)))
        for trial in range(1, 31)
        for setting in [drawn(axes, seed="d", trial=trial)]
    ]
    for lower, far in ((True, 1e-4), (False, 1e-3)):
        rates = [float(_lr(axes, past, trial, lower=lower)) for trial in range(31, 41)]
        assert all((rate < far) == lower for rate in rates), rates


def _lr(axes: Mapping[str, Axis], past: Sequence[Tried], trial: int, *, lower: bool) -> Any:
    return proposed(axes, past, seed="d", trial=trial, lower_is_better=lower)["lr"]


def _failing(past: Sequence[Tried]) -> int:
    axes: dict[str, Axis] = {"rank": Range(low=1, high=1024, log=True, whole=True)}
    found = [proposed(axes, past, seed="f", trial=trial)["rank"] for trial in range(41, 61)]
    return sum(isinstance(rank, int) and rank > 200 for rank in found)


@needs_optuna
def test_settings_that_fail_are_proposed_more_rarely() -> None:
    rank: dict[str, Axis] = {"rank": Range(low=1, high=1024, log=True, whole=True)}
    drawn_ = [drawn(rank, seed="f", trial=trial) for trial in range(1, 41)]
    fits_ = [
        Tried(trial, setting, "finished", 1 + trial % 3)
        for trial, setting in enumerate(drawn_, 1)
        if int(setting["rank"] or 0) <= 200
    ]
    fails = [
        Tried(trial, setting, "failed") for trial, setting in enumerate(drawn_, 1) if int(setting["rank"] or 0) > 200
    ]
    assert len(fails) > 5
    assert _failing([*fits_, *fails]) < _failing(fits_)


@needs_optuna
@pytest.mark.parametrize("score", [math.nan, math.inf, None])
def test_a_score_that_is_no_number_is_bad_and_ends_nothing(score: float | None) -> None:
    setting = drawn(AXES, seed="n", trial=1)
    past = [Tried(trial, setting, "finished", score, {0.1: math.nan}) for trial in range(1, 20)]
    past.append(Tried(20, setting, "pruned", None, {0.1: math.nan}))
    assert fits(proposed(AXES, past, seed="n", trial=21), AXES)


def test_alike_is_the_first_trial_with_the_same_setting() -> None:
    past = [Tried(1, {"rank": 4}, "finished", 2.0), Tried(2, {"rank": 8}, "failed"), Tried(3, {"rank": 4}, "running")]
    assert alike({"rank": 4.0}, past) == past[0]
    assert alike({"rank": 16}, past) is None


@pytest.mark.skipif(HAS_OPTUNA, reason="optuna is installed")
def test_tpe_without_optuna_says_what_to_install() -> None:
    with pytest.raises(Invalid, match=r"install adapterctl\[sweeps\] where it runs, or sample random"):
        require_tpe()


def test_axes_of_these_tests_are_as_they_are_sent() -> None:
    assert {name: checked_axis(name, axis) for name, axis in AXES.items()} == AXES
