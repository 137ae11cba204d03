"""Options of a training that a base can't be trained with, by its tensors."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sdk.lora.variants import unfit_options, unfit_variant
from sdk.schemas.job_requests import TrainingRequest, known_fields, used_fields
from sdk.schemas.training import TrainingSpec
from sdk.schemas.wire import BY_HAND
from sdk.validation import build

LAYER = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
LLAMA = {
    "model.embed_tokens.weight": [300, 8],
    **{f"model.layers.{n}.{rest}.weight": [8, 8] for n in (0, 1) for rest in LAYER},
    **{f"model.layers.{n}.input_layernorm.weight": [8] for n in (0, 1)},
    "model.norm.weight": [8],
    "lm_head.weight": [300, 8],
}
TIED = {name: shape for name, shape in LLAMA.items() if name != "lm_head.weight"}
EXPERTS = {**LLAMA, "model.layers.1.mlp.experts.down_proj": [4, 8, 8]}


@pytest.mark.parametrize(
    ("shapes", "options", "param", "said"),
    [
        (LLAMA, {"layers_to_transform": "1-2"}, "layers_to_transform", "names the layer 2, and the base has 0-1"),
        (LLAMA, {"rank_pattern": "nope=4"}, "rank_pattern", "names nope, which is not a module"),
        (LLAMA, {"alpha_pattern": "self_attn.nope=4"}, "alpha_pattern", "names self_attn.nope"),
        (LLAMA, {"bias": "all"}, "bias", "is 'all', and the base's text part has no such biases"),
        (LLAMA, {"bias": "lora_only"}, "bias", "text part has no such biases"),
        ({**LLAMA, "model.vision_tower.fc1.bias": [8]}, {"bias": "all"}, "bias", "text part has no such biases"),
        ({**LLAMA, "model.norm.bias": [8]}, {"bias": "lora_only"}, "bias", "text part has no such biases"),
        (LLAMA, {"modules_to_save": "down_proj"}, "modules_to_save", "down_proj, which is held in 4 bits"),
        (LLAMA, {"modules_to_save": "nope"}, "modules_to_save", "names nope, which is not a module"),
        (
            LLAMA,
            {"modules_to_save": "norm"},
            "modules_to_save",
            "which PEFT takes for model.layers.0.input_layernorm too",
        ),
        (TIED, {"modules_to_save": "lm_head"}, "modules_to_save", "ties to its embedding"),
        (TIED, {"modules_to_save": "embed_tokens"}, "modules_to_save", "ties to its head"),
        (
            LLAMA,
            {"trainable_token_indices": "5,300"},
            "trainable_token_indices",
            "trains the token 300, and the base has 300",
        ),
        (EXPERTS, {"targets": "experts.down_proj", "use_dora": True}, "use_dora", "stacked parameters"),
        (
            EXPERTS,
            {"targets": "q_proj,experts.down_proj", "rank_pattern": "q_proj=4"},
            "rank_pattern",
            "stacked parameters",
        ),
        (EXPERTS, {"targets": "experts.down_proj", "layers_to_transform": "1"}, "layers_to_transform", "stacked"),
    ],
)
def test_what_a_base_can_not_be_trained_with_is_said(
    shapes: dict[str, list[int]], options: dict[str, Any], param: str, said: str
) -> None:
    unfit = unfit_options(TrainingSpec(**options), shapes, {})
    assert unfit.param == param
    assert said in unfit.said


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layers_to_transform": "1", "rank_pattern": "q_proj=4,layers.0.self_attn.v_proj=2", "use_dora": True},
        {"modules_to_save": "model.norm,lm_head,embed_tokens"},
        {"modules_to_save": "down_proj", "method": "lora"},
        {"alpha_pattern": "q_proj=11.313708498984761"},
        {"trainable_token_indices": "0,299"},
    ],
)
def test_what_it_can_be_trained_with_is_not(options: dict[str, Any]) -> None:
    assert unfit_options(TrainingSpec(**options), LLAMA, {}) is None
    assert unfit_variant(TrainingSpec(**options), LLAMA, exact=True, tied=False) is None
    # Nothing is known of the base.
    assert unfit_options(TrainingSpec(**options), {}, {}) is None


GPT2 = {"model_type": "gpt2", "n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 16, "vocab_size": 300}
CONFIG = {
    "model_type": "llama",
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "vocab_size": 300,
}


@pytest.mark.parametrize(
    ("options", "param", "said"),
    [
        ({"targets": "qv", "rank_pattern": "down_proj=64"}, "rank_pattern", "names down_proj, which is not among"),
        ({"targets": "qv", "alpha_pattern": "down_proj=64"}, "alpha_pattern", "names down_proj, which is not among"),
        (
            {"targets": "q_proj", "layers_to_transform": "1", "rank_pattern": "layers.0.self_attn.q_proj=4"},
            "rank_pattern",
            "names layers.0.self_attn.q_proj, which is not among",
        ),
        (
            {"targets": "all-linear", "modules_to_save": "down_proj", "method": "lora"},
            "modules_to_save",
            "names down_proj, which the targets adapt too",
        ),
    ],
)
def test_what_is_beside_the_targets_is_said_where_the_config_says_the_modules(
    options: dict[str, Any], param: str, said: str
) -> None:
    unfit = unfit_options(TrainingSpec(**options), LLAMA, CONFIG)
    assert (unfit.param, said in unfit.said) == (param, True), unfit
    # The model's own names are only known to the worker.
    assert unfit_options(TrainingSpec(**options), LLAMA, {**CONFIG, "model_type": "strange"}) is None


def test_patterns_of_targets_are_taken_by_the_names_of_the_model() -> None:
    spec = TrainingSpec(targets="attention", rank_pattern="model.layers.0.self_attn.q_proj=4,v_proj=2")
    assert unfit_options(spec, LLAMA, CONFIG) is None
    spec = TrainingSpec(targets="c_attn", rank_pattern="transformer.h.0.attn.c_attn=4")
    assert unfit_options(spec, {"h.0.attn.c_attn.weight": [8, 24]}, GPT2) is None


def test_files_may_lack_what_a_library_puts_before_their_names() -> None:
    spec = TrainingSpec(rank_pattern="transformer.h.0.attn.c_attn=4", modules_to_save="transformer.ln_f")
    assert unfit_options(spec, {"h.0.attn.c_attn.weight": [8, 24], "ln_f.weight": [8], "ln_f.bias": [8]}, {}) is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"use_rslora": True, "rank": 64}, "give alpha, such as 16"),
        ({"rank_pattern": "q_proj"}, "write them as 'q_proj=16"),
        ({"rank_pattern": "q_proj=1.5"}, "a whole number from 1 to 1024"),
        ({"rank_pattern": "q_proj=2000"}, "a whole number from 1 to 1024"),
        ({"rank_pattern": "q_proj=4,q_proj=5"}, "two values"),
        ({"rank_pattern": "q_proj=4,layers.0.q_proj=3"}, "mean the same module"),
        ({"rank_pattern": {".*q_proj": 4}}, "not a module and its value"),
        ({"alpha_pattern": "q_proj=0"}, "a number above 0"),
        ({"rank_pattern": "q_proj=4", "alpha_pattern": "layers.0.q_proj=4"}, "use one name in both, or give alpha"),
        ({"layers_to_transform": "3-1"}, "neither a number nor a range"),
        ({"layers_to_transform": "0-999999999"}, "more than 65536 numbers"),
        ({"layers_to_transform": True}, "valid string"),
        ({"bias": "some"}, "'none', 'all' or 'lora_only'"),
        ({"bias": "all", "modules_to_save": "norm"}, "saves biases of modules_to_save twice"),
        ({"bias": "all", "objective": "classify"}, "leave bias 'all' out"),
        ({"method": "lora", "quant_type": "fp4"}, "the method is lora"),
        ({"method": "lora", "double_quant": False}, "the method is lora"),
        ({"method": "lora", "quant_type": "nf4"}, "the method is lora"),
        ({"method": "lora", "double_quant": True}, "the method is lora"),
        ({"loraplus_lr_ratio": 0.5}, "greater than or equal to 1"),
        ({"quant_type": "int8", "double_quant": False}, "leave double_quant out"),
        ({"quant_type": "int8", "method": "lora"}, "the method is lora"),
        ({"eva_rho": 2.0}, "give init_lora_weights eva, or leave eva_rho out"),
        (
            {"eva_rho": 4.0, "init_lora_weights": "eva", "rank": 1},
            "each module has the rank 1: none may have less than 1",
        ),
        ({"eva_rho": 1.1, "init_lora_weights": "eva", "rank": 4}, "or more than 4; give a larger rank or eva_rho"),
        ({"eva_rho": 0.5, "init_lora_weights": "eva"}, "greater than or equal to 1"),
        ({"eva_rho": 2.0, "init_lora_weights": "eva", "rank_pattern": "q_proj=4"}, "give one of the two"),
        ({"adam_beta2": 1.0}, "less than 1"),
        ({"weight_decay": -0.1}, "greater than or equal to 0"),
        ({"neftune_noise_alpha": 0.0}, "greater than 0"),
        ({"packing": "always"}, "'off', 'auto' or 'on'"),
        ({"packing": True}, "'off', 'auto' or 'on'"),
        ({"packing": "auto", "objective": "dpo"}, "dpo looks at whole sequences"),
        ({"packing": "auto", "objective": "orpo"}, "orpo looks at whole sequences"),
        (
            {"simpo_gamma": 0.7, "objective": "dpo"},
            "simpo_gamma is an option of simpo, and the objective is dpo; leave it out",
        ),
        ({"simpo_gamma": 0.5, "objective": "dpo"}, "simpo_gamma is an option of simpo"),
        ({"desirable_weight": 2.0, "objective": "simpo"}, "desirable_weight is an option of kto"),
        ({"beta": 0.3, "objective": "classify"}, "beta is an option of dpo, ipo, orpo, simpo, kto"),
        ({"undesirable_weight": 0.0}, "greater than 0"),
        ({"neftune_noise_alpha": 5.0, "objective": "ipo"}, "puts noise on what ipo compares with the base"),
        ({"batch_size": 1, "grad_accum": 1, "objective": "kto"}, "batch_size · grad_accum is 1; give at least 2"),
        ({"packing": "on", "objective": "classify"}, "classify looks at whole sequences"),
        ({"packing": "on", "neftune_noise_alpha": 5.0}, "leave one of the two out"),
        ({"modules_to_save": ".*norm"}, "is a pattern; give names"),
        ({"modules_to_save": "embed_tokens", "trainable_token_indices": 3}, "give one of the two"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=r"Value error|Input should") as refused:
        TrainingSpec.model_validate(options, context=BY_HAND)
    assert said in str(refused.value)


def test_what_a_program_writes_may_say_the_defaults() -> None:
    """As other clients and releases write them out; it is taken as it would be without them."""
    spec = TrainingSpec.model_validate({"method": "lora", "quant_type": "nf4", "double_quant": True})
    assert spec == TrainingSpec(method="lora")


def test_a_request_has_the_text_alone() -> None:
    for options in ({"targets": ["q_proj"]}, {"rank_pattern": {"q_proj": 4}}, {"layers_to_transform": 3}):
        with pytest.raises(ValidationError, match="valid string"):
            TrainingSpec.model_validate(options)


def test_options_are_written_in_one_way_and_sent_only_where_they_are_used() -> None:
    spec = build(
        TrainingSpec,
        rank_pattern={"v_proj": 4, "q_proj": 16},
        layers_to_transform=[2, 0, 1],
        targets=["v_proj", "q_proj"],
    )
    same = TrainingSpec(rank_pattern="v_proj=4, q_proj=16.0", layers_to_transform="1,2,0", targets="q_proj,v_proj")
    assert spec == same == TrainingSpec.model_validate_json(spec.model_dump_json())
    assert (spec.rank_pattern, spec.layers_to_transform) == ("q_proj=16,v_proj=4", "0-2")
    assert spec.alphas == {"q_proj": 32.0, "v_proj": 8.0}
    assert spec.model_copy(update={"alpha": 5.0}).alphas == {}
    assert set(TrainingSpec().model_dump()) == {
        *("method", "rank", "alpha", "dropout", "targets", "loss_on", "epochs", "max_steps", "lr", "warmup_ratio"),
        *("schedule", "batch_size", "grad_accum", "max_length", "seed"),
    }


def test_a_worker_that_does_not_know_the_floor_gets_no_training_with_one() -> None:
    asked = {"adapter": "a", "base": {"id": "b"}, "data": "0" * 64}
    with_one = TrainingRequest.model_validate({**asked, "spec": {"lr_floor": 0.1}})
    assert "training.spec.lr_floor" in used_fields(with_one) <= known_fields()
    assert "training.spec.lr_floor" not in used_fields(TrainingRequest.model_validate(asked))
