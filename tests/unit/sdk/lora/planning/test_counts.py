"""Parameters of bases and adapters, as cards, papers and PEFT have them."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from sdk.lora.planning import tables as configs
from sdk.lora.planning.adapter import adapter_of
from sdk.lora.planning.blueprint import UnknownFamilyError, blueprint_of
from sdk.lora.planning.families import ConfigError
from sdk.lora.targets import TargetsError
from sdk.schemas.training import TrainingSpec

#: Of the model as a whole where the card or the weights' index says it; that of Gemma is its text part, by the meta model alone.
PARAMETERS = {
    "LLAMA_2_7B": 6_738_415_616,
    "LLAMA_2_13B": 13_015_864_320,
    "LLAMA_3_8B": 8_030_261_248,
    "LLAMA_3_70B": 70_553_706_496,
    "MISTRAL_7B": 7_241_732_096,
    "QWEN3_30B_A3B": 30_532_122_624,
    "GPT_2_MEDIUM": 354_823_168,
    "MIXTRAL_8X7B": 46_702_792_704,
    "LLAMA_3_2_1B": 1_235_814_400,
    "SMOLLM2_135M": 134_515_008,
    "QWEN2_5_7B": 7_615_616_512,
    "QWEN3_8B": 8_190_735_360,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_base_has_as_many_parameters_as_its_card_says(name: str) -> None:
    assert blueprint_of(getattr(configs, name)).parameters == PARAMETERS[name]


@pytest.mark.parametrize(
    ("targets", "trainable", "of_base", "of_both"),
    [
        ("qv", 4_194_304, "0.0622", "0.0622"),
        ("attention", 8_388_608, "0.1245", "0.1243"),
        ("all-linear", 19_988_480, "0.2966", "0.2958"),
    ],
)
def test_an_adapter_over_llama_2_7b(targets: str, trainable: int, of_base: str, of_both: str) -> None:
    base = blueprint_of(configs.LLAMA_2_7B)
    found = adapter_of(base, TrainingSpec(rank=8, targets=targets)).trainable
    assert found == trainable
    assert (f"{100 * found / base.parameters:.4f}", f"{100 * found / (base.parameters + found):.4f}") == (
        of_base,
        of_both,
    )


@pytest.mark.parametrize(("rank", "trainable"), [(32, 49_152), (8, 12_288)])
def test_one_matrix(rank: int, trainable: int) -> None:
    """r·(N + D) of N = 1024 and D = 512: 9.4 % at r = 32, 2.34 % at r = 8."""
    config = configs.LLAMA_2_7B | {"num_hidden_layers": 1, "hidden_size": 512, "intermediate_size": 1024}
    found = adapter_of(blueprint_of(config), TrainingSpec(rank=rank, targets="up_proj"))
    assert found.trainable == trainable


def test_ranks_layers_and_what_is_left_out() -> None:
    base = blueprint_of(configs.LLAMA_2_7B)

    def count(**options: Any) -> int:
        return adapter_of(base, TrainingSpec.model_validate(options)).trainable

    one = 8192 * 8 * 32
    assert count(targets="qv", rank_pattern="q_proj=16") == 3 * one
    assert count(targets="qv", rank_pattern="layers.0.self_attn.q_proj=16") == 2 * one + 8192 * 8
    assert count(targets="qv", layers_to_transform="0-7") == 2 * one // 4
    assert count(targets="attention", exclude="k_proj,o_proj") == 2 * one
    assert count(targets="qv", use_dora=True) == 2 * one + 2 * 32 * 4096
    assert count(targets="qv", use_rslora=True, alpha=4.0) == 2 * one
    assert count(targets="qv", modules_to_save="lm_head") == 2 * one + 32000 * 4096
    assert count(targets="qv", trainable_token_indices="5,100-103") == 2 * one + 5 * 4096
    # In the embedding and in the head, which is not tied to it.
    assert count(targets="qv", add_tokens="<a>,<b>", trainable_token_indices="5") == 2 * one + (3 + 2) * 4096
    assert count(targets="qv", add_tokens="<a>", objective="classify") == 2 * one + 4096


def test_a_tied_head_that_is_trained_whole_is_a_matrix_of_its_own() -> None:
    base = blueprint_of(configs.GPT_2_MEDIUM)
    plain, saved = (adapter_of(base, TrainingSpec(modules_to_save=name)) for name in (None, "lm_head"))
    assert saved.trainable - plain.trainable == 50257 * 1024
    assert adapter_of(base, TrainingSpec(add_tokens="<a>,<b>")).trainable - plain.trainable == 2 * 1024


def test_stacked_experts_have_an_a_and_a_b_each() -> None:
    base = blueprint_of(configs.QWEN3_30B_A3B)
    found = adapter_of(base, TrainingSpec(rank=8, targets="experts.down_proj", dropout=0.0))
    assert found.trainable == 48 * 128 * 8 * (2048 + 768)
    assert "gate" not in adapter_of(base, TrainingSpec(targets="all-linear")).by_target()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"targets": "nope"}, "'nope'"),
        ({"modules_to_save": "nope"}, "'nope'"),
        ({"trainable_token_indices": "32000"}, "32000"),
    ],
)
def test_what_the_base_lacks(options: dict[str, Any], said: str) -> None:
    with pytest.raises(TargetsError, match=said):
        adapter_of(blueprint_of(configs.LLAMA_2_7B), TrainingSpec.model_validate(options))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"num_hidden_layers": None}, "says no num_hidden_layers"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0"),
        ({"num_hidden_layers": 10**6}, "1000000 layers"),
        ({"hidden_size": "4096"}, "hidden_size = '4096', which is not a whole number from 1 to 2147483648"),
        ({"vocab_size": 10**30}, "vocab_size = 10{30}, which is not a whole number from 1 to 2147483648"),
        ({"hidden_size": 4097}, "which does not divide"),
        ({"vocab_size": float("nan")}, "vocab_size = nan"),
    ],
)
def test_a_config_that_lacks_a_number(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        blueprint_of(configs.LLAMA_2_7B | changed)


def test_what_a_stranger_writes_is_no_crash() -> None:
    for changed in (
        {"mlp_only_layers": 3},
        {"decoder_sparse_step": "2"},
        {"num_experts_per_tok": -1},
        {"head_dim": []},
    ):
        with contextlib.suppress(ConfigError):
            blueprint_of(configs.QWEN3_30B_A3B | changed)


def test_an_unknown_family_needs_its_files() -> None:
    config = configs.LLAMA_2_7B | {"model_type": "brandnew"}
    with pytest.raises(UnknownFamilyError, match="'brandnew'"):
        blueprint_of(config)
    with pytest.raises(UnknownFamilyError):
        blueprint_of({"model_type": "brandnew", "text_config": configs.LLAMA_2_7B})
    found = blueprint_of(config, {"model.layers.0.attn.q_proj.weight": [16, 8], "lm_head.weight": [4, 8]})
    assert (found.known, found.parameters) == (False, 160)


def test_what_a_model_computes_for_itself_is_no_parameter() -> None:
    """Earlier releases of transformers have saved masks and frequencies beside the weights."""
    config = configs.GPT_2_MEDIUM | {"n_layer": 1}
    held = dict(blueprint_of(config).tensors)
    saved = {
        "transformer.h.0.attn.bias": [1, 1, 1024, 1024],
        "transformer.h.0.attn.masked_bias": [],
        "transformer.h.0.attn.rotary_emb.inv_freq": [32],
        "transformer.position_ids": [1, 1024],
    }
    found = blueprint_of(config, held | saved)
    assert (found.tensors, found.parameters) == (held, blueprint_of(config).parameters)
    assert adapter_of(found, TrainingSpec(bias="all")) == adapter_of(blueprint_of(config), TrainingSpec(bias="all"))


@pytest.mark.parametrize("said", [["llama"], {"name": "llama"}, 7, True])
@pytest.mark.parametrize("where", ["model_type", "text_config"])
def test_a_family_that_is_no_text_is_refused(said: Any, where: str) -> None:
    config = configs.LLAMA_2_7B | ({"model_type": said} if where == "model_type" else {where: {"model_type": said}})
    for tensors in (None, {"model.layers.0.mlp.up_proj.weight": [8, 4]}):
        with pytest.raises(ConfigError, match=r"says model_type = .* which is not text"):
            blueprint_of(config, tensors)


def test_layers_of_several_widths_have_the_widest_of_their_files() -> None:
    config = configs.LLAMA_2_7B | {"num_hidden_layers": 1}
    held = dict(blueprint_of(config).tensors)
    for part in ("gate_proj", "up_proj"):
        held[f"model.layers.1.mlp.{part}.weight"] = [16384, 4096]
    held["model.layers.1.mlp.down_proj.weight"] = [4096, 16384]
    widths = {"num_hidden_layers": 2, "intermediate_size": [11008, 16384]}
    assert blueprint_of(config | widths, held).inner == 16384
    with pytest.raises(ConfigError, match="intermediate_size"):
        blueprint_of(config | widths)


def test_a_width_that_a_config_lacks_is_the_familys() -> None:
    lacking = {name: value for name, value in configs.LLAMA_2_7B.items() if name != "intermediate_size"}
    assert blueprint_of(lacking).inner == 11008
    assert blueprint_of(lacking | {"model_type": "mistral"}).inner == 14336
    assert blueprint_of(configs.GPT_2_MEDIUM | {"n_inner": None}).inner == 4096
    with pytest.raises(ConfigError, match="says intermediate_size = null"):
        blueprint_of(configs.LLAMA_2_7B | {"intermediate_size": None})


@pytest.mark.parametrize("name", ["MIXTRAL_8X7B", "QWEN3_30B_A3B"])
def test_experts_that_files_hold_one_by_one_are_those_of_the_config(name: str) -> None:
    config = getattr(configs, name) | {"num_hidden_layers": 2}
    by_config = blueprint_of(config)
    mixtral = config["model_type"] == "mixtral"
    names = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
    files: dict[str, list[int]] = {}
    for key, shape in by_config.tensors.items():
        owner, _, last = key.replace("mlp.", "block_sparse_moe." if mixtral else "mlp.").rpartition(".")
        if last == "gate_up_proj":
            parts = [(names[0], [shape[1] // 2, shape[2]]), (names[1], [shape[1] // 2, shape[2]])]
        elif last == "down_proj":
            parts = [(names[2], [shape[1], shape[2]])]
        else:
            files[f"{owner}.{last}"] = list(shape)
            continue
        files |= {f"{owner}.{n}.{part}.weight": size for n in range(shape[0]) for part, size in parts}
    found = blueprint_of(config, files)
    assert (found.tensors, found.stacked, found.linear) == (by_config.tensors, by_config.stacked, by_config.linear)
