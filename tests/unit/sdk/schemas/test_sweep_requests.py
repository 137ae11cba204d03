"""What a sweep is asked for: settings that can be compared, all of them known to be possible, and not too many."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sdk.schemas.job_requests import BaseChoice, TrainingRequest
from sdk.schemas.sweep_axes import MOST_MEMBERS, Range, Values
from sdk.schemas.sweep_grid import at, grid
from sdk.schemas.sweeps import SweepRequest
from sdk.schemas.training import TrainingSpec
from sdk.schemas.varied_options import parse_axis


def request(
    settings: dict[str, Any], *, spec: TrainingSpec | None = None, eval_data: str | None = None, **options: Any
) -> SweepRequest:
    base = BaseChoice(id="b", fingerprint="b" * 64)
    training = TrainingRequest(adapter="a", base=base, data="d" * 64, eval_data=eval_data, spec=spec or TrainingSpec())
    axes = {
        name: axis if isinstance(axis, Values | Range) else parse_axis(name, axis) for name, axis in settings.items()
    }
    return SweepRequest(training=training, settings=axes, **options)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"choose": "speed"}, "is not a score by which members can be chosen"),
        ({"choose": "regex"}, "is not a score by which members can be chosen"),
        ({"choose": "rouge_l", "stop_early": "halving"}, "leave stop_early or choose out"),
        ({"choose": "rouge_l", "spec": TrainingSpec(holdout=0.1)}, "give them as eval_data"),
    ],
)
def test_a_score_by_which_nothing_can_be_chosen_is_refused(asked: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        request({"rank": "1,2"}, **asked)


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    log, whole = draw(st.booleans()), draw(st.booleans())
    number = st.integers(1, 1024) if whole else st.floats(1e-6, 1e3) if log else st.floats(-1e3, 1e3)
    low, high = sorted(draw(st.lists(number, min_size=2, max_size=2, unique=True)))
    return Range(low=low, high=high, log=log, whole=whole)


@given(ranges(), st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_values_of_a_range_lie_within_it_in_order_and_are_short(axis: Range, shares: list[float]) -> None:
    values = [at(axis, share) for share in sorted({0.0, 1.0, *shares})]
    assert (values[0], values[-1]) == (axis.low, axis.high)
    assert values == sorted(values)
    assert all(isinstance(value, int if axis.whole else float) for value in values)
    if axis.log and not axis.whole:
        assert all(value in (axis.low, axis.high, float(f"{value:.2e}")) for value in values)


@pytest.mark.parametrize(
    ("axis", "values"),
    [
        (parse_axis("lr", "1e-4..1e-3:log[5]"), [1e-4, 1.78e-4, 3.16e-4, 5.62e-4, 1e-3]),
        (parse_axis("rank", "1..64:log[7]"), [1, 2, 4, 8, 16, 32, 64]),
        (parse_axis("rank", "1..4"), [1, 2, 3, 4]),
        (parse_axis("dropout", "0..0.1[4]"), [0, 0.0333, 0.0667, 0.1]),
        (parse_axis("lr", "0.00012345..0.9:log[3]"), [0.00012345, 0.0105, 0.9]),
        (parse_axis("lr", "0.0001..0.0012345:log[3]"), [0.0001, 0.000351, 0.0012345]),
    ],
)
def test_a_grid_has_values_that_a_table_can_show(axis: Range, values: list[float]) -> None:
    assert [setting["x"] for setting in grid({"x": axis})] == values


def test_the_first_option_of_a_grid_changes_slowest() -> None:
    found = grid({"rank": Values(values=[4, 1]), "bias": Values(values=["none", "all"])})
    assert found == [{"rank": rank, "bias": bias} for rank in (4, 1) for bias in ("none", "all")]


def test_settings_come_back_from_json_as_the_options_have_them() -> None:
    asked = request({"rank": "1,2", "lr": "1e-4,1"})
    sent = json.loads(asked.model_dump_json().replace("[1,2]", "[1.0,2.0]").replace("1.0]", "1]"))
    read = SweepRequest.model_validate_json(json.dumps(sent))
    assert repr(read.settings) == repr(asked.settings)
    assert (asked.most_members, request({"lr": "1e-4..1e-3"}, sample="tpe", trials=20, seeds=3).most_members) == (4, 60)


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        (
            {"lr": "1e-4..1e-3:log"},
            {},
            "lr: a grid needs to know how many values 0.0001..0.001:log has; write their number",
        ),
        ({"rank": "1..2000:log"}, {}, "rank can't be 2000; use a whole number from 1 to 1024"),
        ({"rank": "1..8:log[8]"}, {}, "rank: 1..8:log in 8 values has 1 twice once they are rounded; ask for fewer"),
        ({"dropout": "0..0.5", "rank": "1,2"}, {}, "dropout: a grid needs to know how many values 0..0.5 has"),
        ({"rank": "1..1024"}, {}, "rank: 1..1024 has 1,024 values; write fewer after it, as 1..1024[5]"),
        (
            {"rank": "1..100", "lr": "1e-4..1e-3:log[100]"},
            {},
            "the grid has 10,000 settings (100 of rank · 100 of lr), and a sweep at most 1,000; give fewer values, or",
        ),
        (
            {"rank": "1..500"},
            {"seeds": 3},
            "there are 1,500 members with 3 seeds, and a sweep has at most 1,000; give fewer",
        ),
        ({"rank": "1,2"}, {"trials": 4}, "a grid tries all of its settings; leave trials out"),
        ({"rank": "1..9"}, {"sample": "tpe"}, "tpe goes on as long as it is asked; give trials"),
        ({"max_length": "64,128"}, {}, "max_length changes what the held-out loss measures"),
        ({"seed": "1,2"}, {}, "seeds are not a setting"),
        ({"rnk": Values(values=[1])}, {}, "there is no option 'rnk'; did you mean rank?"),
        (
            {"alpha": "none,4,16"},
            {},
            "alpha null is the same training as alpha 16.0; leave one of them out",
        ),
        (
            {"epochs": "1,2"},
            {"spec": TrainingSpec(max_steps=10)},
            "epochs 1.0 is the same training as epochs 2.0; leave one of them out",
        ),
        ({"rank": Values(values=["4"])}, {}, "rank can't be '4'; use a whole number from 1 to 1024"),
        ({"alpha": Values(values=["none"])}, {}, "alpha can't be 'none'; use a number above 0 and at most 65536"),
        ({"rank": Values(values=[0])}, {}, "rank can't be 0; use a whole number from 1 to 1024"),
        (
            {"use_dora": "false,true", "use_rslora": "false,true"},
            {},
            "with use_dora false, use_rslora true: use_rslora scales the update by alpha/√rank",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused_before_there_is_a_member(
    settings: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises((ValidationError, ValueError)) as refused:
        request(settings, **options)
    assert message in str(refused.value)


def test_options_of_the_loss_are_asked_for_where_an_evaluation_chooses() -> None:
    assert request({"max_length": "64,128"}, choose="rouge_l", eval_data="e" * 64).most_members == 2


def test_as_many_members_as_a_sweep_has_can_be_asked_for() -> None:
    assert request({"rank": "1..1000"}).most_members == MOST_MEMBERS
