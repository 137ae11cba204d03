"""What a sweep may vary, and over what: values as the options have them, refused as the options refuse them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdk.schemas.codes import plain_type
from sdk.schemas.option_types import options_of
from sdk.schemas.sweep_axes import Range, Values
from sdk.schemas.training import OF_LOSS, TrainingSpec
from sdk.schemas.varied_options import checked_axis, first_setting, parse_axis, separator_of, why_fixed, with_setting

OPTIONS = options_of(TrainingSpec)
#: What no option says of itself: which of them change how a training learns, and nothing else.
LEARNING = [
    "method",
    "rank",
    "alpha",
    "dropout",
    "targets",
    "exclude",
    "quant_type",
    "double_quant",
    "use_rslora",
    "use_dora",
    "init_lora_weights",
    "eva_rho",
    "rank_pattern",
    "alpha_pattern",
    "layers_to_transform",
    "bias",
    "modules_to_save",
    "trainable_token_indices",
    "epochs",
    "max_steps",
    "lr",
    "warmup_ratio",
    "schedule",
    "lr_floor",
    "cycles",
    "decay_share",
    "optim",
    "loraplus_lr_ratio",
    "weight_decay",
    "max_grad_norm",
    "adam_beta1",
    "adam_beta2",
    "neftune_noise_alpha",
    "batch_size",
    "grad_accum",
    "packing",
]


def test_options_that_vary_are_those_that_change_learning_and_nothing_that_is_compared() -> None:
    assert [name for name in OPTIONS if why_fixed(name) is None] == LEARNING
    assert set(OPTIONS) == set(TrainingSpec.model_fields)


def test_options_of_the_loss_vary_where_an_evaluation_chooses() -> None:
    more = {name for name in OPTIONS if why_fixed(name, by_loss=False) is None} - set(LEARNING)
    assert more == {"beta", "simpo_gamma", "desirable_weight", "undesirable_weight", "loss_on", "max_length"}
    assert more < set(OF_LOSS)


@pytest.mark.parametrize("name", [*sorted(set(OPTIONS) - set(LEARNING)), "rnak", "?"])
def test_an_option_that_stays_as_it_is_has_a_sentence_of_why(name: str) -> None:
    said = why_fixed(name)
    assert said is not None
    assert "; " in said


def test_an_unknown_option_is_answered_with_the_nearest() -> None:
    assert why_fixed("learning_rat") == "there is no option 'learning_rat'; see: adapterctl train --help"
    with pytest.raises(ValueError, match=r"^there is no option 'rnak'; did you mean rank\?$"):
        parse_axis("rnak", "1,2")


@pytest.mark.parametrize(
    ("name", "given", "read"),
    [
        ("rank", "1,2,4,8,16", Values(values=[1, 2, 4, 8, 16])),
        ("rank", range(1, 4), Values(values=[1, 2, 3])),
        ("rank", "1..64:log", Range(low=1, high=64, log=True, whole=True)),
        ("rank", Range(low=1, high=64), Range(low=1, high=64, whole=True)),
        ("lr", "1e-4..1e-3:log[5]", Range(low=1e-4, high=1e-3, log=True, count=5)),
        ("lr", ["1e-4", 1], Values(values=[1e-4, 1.0])),
        ("lr", {"low": "1e-4", "high": 1e-3}, Range(low=1e-4, high=1e-3)),
        ("dropout", "0..0.1[3]", Range(low=0, high=0.1, count=3)),
        ("alpha", "none,16", Values(values=[None, 16.0])),
        ("use_dora", "true,false", Values(values=[True, False])),
        ("packing", [True, False], Values(values=["on", "off"])),
        ("bias", "none,all", Values(values=["none", "all"])),
        ("targets", "v_proj,q_proj;all-linear", Values(values=["q_proj,v_proj", "all-linear"])),
        ("targets", [["v_proj", "q_proj"], "qv"], Values(values=["q_proj,v_proj", "qv"])),
        ("rank_pattern", [{"q_proj": 4}, "q_proj=8"], Values(values=["q_proj=4", "q_proj=8"])),
        ("layers_to_transform", "0-3,8;0,1", Values(values=["0-3,8", "0-1"])),
        ("rank", "8", 8),
        ("lr", 1, 1.0),
        ("targets", "v_proj,q_proj", "q_proj,v_proj"),
    ],
)
def test_values_are_read_as_the_option_has_them(name: str, given: Any, read: Any) -> None:
    found = parse_axis(name, given)
    assert repr(found) == repr(read)
    if isinstance(read, Values | Range):
        assert repr(checked_axis(name, read)) == repr(read)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("rank", "64..1", "rank: the range 64..1 does not go up; write the smaller number first"),
        ("dropout", "0..0.1:log", "dropout: a log range begins above 0, and 0..0.1 doesn't; begin above 0"),
        ("lr", "0..1e-3:log", "lr can't be 0; use a number above 0 and at most 1"),
        ("rank", "1..5000", "rank can't be 5000; use a whole number from 1 to 1024"),
        ("rank", "1,two", "rank: 'two' is not a number; give a whole number from 1 to 1024"),
        ("rank", "1.5,2", "rank can't be 1.5; use a whole number from 1 to 1024"),
        ("rank", [True, 2], "rank can't be True; use a whole number from 1 to 1024"),
        ("rank", "1,2,2", "rank: 2 is given twice; leave one"),
        ("lr", "1e-4,0.0001", "lr: 0.0001 is given twice; leave one"),
        ("lr", [float("nan")], "lr can't be nan; use a number above 0 and at most 1"),
        ("lr", "nan,1e-4", "lr: 'nan' is not a number; give a number above 0 and at most 1"),
        ("rank", [], "rank: there is no value; give one, or several"),
        ("rank", "", "rank: there is no value; give one, or several as 1,2,4"),
        ("rank", list(range(1, 10_001)), "rank: there are 10,000 values; give at most 1,000"),
        ("rank", {"low": 1, "high": 4, "lgo": True}, "rank: there is no field lgo; leave it out"),
        ("bias", "none..all", "bias can't be 'none..all'; use none, all or lora_only"),
        (
            "bias",
            Range(low=1, high=2),
            "bias: there is no range of it, since it is none, all or lora_only; give values, separated by ,",
        ),
        (
            "targets",
            "q proj;qv",
            "targets: 'q proj' is not a module name; give one of qv, attention, all-linear, names separated by commas or one"
            " pattern",
        ),
        ("rank_pattern", "q=0;q=4", "rank_pattern: q can't be 0; use a whole number from 1 to 1024"),
    ],
)
def test_values_are_refused_in_one_sentence(name: str, given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}(: | can't be )") as refused:
        parse_axis(name, given)
    assert str(refused.value) == message


@pytest.mark.parametrize("name", LEARNING)
def test_an_option_takes_its_own_default_as_a_value(name: str) -> None:
    default = getattr(TrainingSpec(), name)
    read = parse_axis(name, [default])
    assert read == Values(values=[default])
    assert separator_of(name) == (";" if plain_type(TrainingSpec.model_fields[name].annotation) is str else ",")
    text = "none" if default is None else str(default).lower()
    assert parse_axis(name, f"{text}") == default


@given(st.lists(st.floats(1e-7, 1, exclude_min=True), min_size=2, max_size=6, unique=True))
def test_numbers_are_the_same_from_text_and_list(values: list[float]) -> None:
    assert parse_axis("lr", ",".join(map(repr, values))) == parse_axis("lr", values) == Values(values=values)


def test_a_spec_with_a_setting_is_checked_as_a_whole() -> None:
    settings = {"rank": Values(values=[4, 1]), "lr": Range(low=1e-4, high=1e-3)}
    spec = TrainingSpec(init_lora_weights="eva", eva_rho=2.0, rank=8)
    assert first_setting(settings) == {"rank": 4, "lr": 1e-4}
    assert with_setting(spec, first_setting(settings)) == spec.model_copy(update={"rank": 4, "lr": 1e-4})
    with pytest.raises(ValueError, match=r"^with use_rslora true, rank 1: use_rslora scales .*; give alpha"):
        with_setting(TrainingSpec(), {"use_rslora": True, "rank": 1})
